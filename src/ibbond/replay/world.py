"""The world of a recorded case, with our driver in the kernel's place: devices, segments, frames, virtual time.

Read first: tests/golden/kernel-6.1/README.md (`World`). The clock advances by what `wait_ms` says and by nothing else,
frames arrive at once, work that is due runs after each step. Left out: what the steps ask for (`replay/steps`), what
must agree with the recording (`conform`), and any real host, fabric or file.
"""

from __future__ import annotations

import errno
import ipaddress
from functools import partial

from ibbond.abi import kernel_log
from ibbond.abi.device_tree import DeviceTree, File, ModelFacts
from ibbond.abi.recording import Recording
from ibbond.bonding.bond import Bond
from ibbond.bonding.effects import (
    BondEffect,
    FailedOver,
    Log,
    NotifyPeers,
    Prepare,
    ProbeArp,
    ProbeNeighbor,
    ResendReports,
)
from ibbond.bonding.events import (
    AddressesChanged,
    ArpSeen,
    BondEvent,
    FrameSeen,
    MemberChanged,
    NeighborDiscoverySeen,
    Ready,
)
from ibbond.bonding.registry import Registry
from ibbond.bonding.snapshot import BondSnapshot, MemberSnapshot
from ibbond.errors import Refused
from ibbond.machine import MS, earliest
from ibbond.netdev.device import Device, NetdevEvent
from ibbond.netdev.namespace import Namespace
from ibbond.replay.clock import VirtualClock
from ibbond.replay.devices import RecordedDriver, make_device, make_loopback
from ibbond.replay.kernel_ip import KernelIp
from ibbond.replay.recorded_times import EARLY_MS, RecordedTimes
from ibbond.replay.segment import Frame, Segment
from ibbond.replay.trace import SeenFrame, SeenNotice, SeenVerdict, Trace, frame_facts
from ibbond.wire import arp, nd
from ibbond.wire.group_address import map_group
from ibbond.wire.hwaddr import parse_address_text
from ibbond.wire.ipoib import ETHERTYPE_ARP, ETHERTYPE_IPV6

PEER_ADDRESSES = {
    "infiniband": "80:00:04:0a:fe:80:00:00:00:00:00:00:00:02:c9:03:00:00:20:01",
    "ether": "02:00:00:00:01:00",
}


class RecordedWorld:
    """One host with the devices of a case, its segments and peers, our bonding driver, and what was seen."""

    def __init__(self, case: Recording, profile: str, times: RecordedTimes | None = None) -> None:
        self.case = case
        self.times = times  # None: time passes in waits only, and every run of a monitor is on time
        self.trace = Trace()
        self.step = -1
        self.watched = False  # the bond has been up once
        self.clock = VirtualClock(self._deadline, self._tick)
        self.namespace = Namespace()
        self.namespace.subscribe(self._on_netdev_event)
        self.ip = KernelIp(self.namespace, self.clock, self._send, ipv6=case.ipv6)
        self.registry = Registry(self.namespace, profile=profile, log=lambda _bond, _line: self.look())
        self.facts = ModelFacts(self.namespace, self.registry)
        self.tree = DeviceTree(self.facts)
        self._sending: set[Device] = set()  # bonds whose queues the link watch has started
        self.segments = {
            kind: Segment(parse_address_text(address), self._deliver) for kind, address in PEER_ADDRESSES.items()
        }
        self._plugged: dict[Device, Segment] = {}
        self.namespace.register(make_loopback())
        for number, (name, spec) in enumerate(case.devices.items()):
            device = make_device(name, spec, number)
            self.namespace.register(device)
            if spec.type in self.segments:
                self._plugged[device] = self.segments[spec.type]
                self.segments[spec.type].plug(device)
            if spec.up:
                device.open()
        kinds = {spec.type for spec in case.devices.values()}
        self.peer = self.segments["infiniband" if "infiniband" in kinds else "ether"]
        for ip in case.peers:
            self.peer.peer_ips.append(ipaddress.ip_address(ip).packed)
        for at_ms, name, event in times.received if times is not None else ():
            self.clock.later(round(at_ms * MS), partial(self._receive_recorded, name, event))

    @property
    def now_ms(self) -> float:
        return self.clock.now / MS

    def monitor_interval_ms(self) -> int:
        """How often the bond's monitor runs: its miimon or its arp_interval, 0 without either."""
        bond = self.registry.bonds.get(self.case.bond)
        if bond is None:
            return 0
        return bond.values.miimon or bond.values.arp_interval

    # -- what is read ------------------------------------------------------------------------------------------------

    def file(self, name: str, path: str) -> File:
        """A file of a device; Refused (ENOENT) when there is none."""
        place = self.tree.find(f"{name}/{path}")
        if not isinstance(place, File):
            raise refused(f"{name}/{path}", errno.ENOENT)
        return place

    def text(self, name: str, path: str) -> str:
        return self.facts.text(self.file(name, path))

    def membership(self, device: Device) -> tuple[BondSnapshot, MemberSnapshot]:
        bond = self.bond_of(device)
        if bond is None:
            raise refused(f"{device.name}/bonding_slave", errno.ENOENT)
        snapshot = bond.snapshot()
        return snapshot, next(member for member in snapshot.members if member.name == device.name)

    # -- driving the driver ------------------------------------------------------------------------------------------

    def device(self, name: str, code: int = errno.ENOENT) -> Device:
        device = self.namespace.get(name)
        if device is None:
            raise refused(name, code)
        return device

    def bond(self, name: str) -> Bond:
        if name not in self.registry.bonds:
            raise refused(f"{name}/bonding", errno.ENOENT)
        return self.registry.bonds[name]

    def bond_of(self, device: Device) -> Bond | None:
        """The bond that this device is a member of."""
        return self.registry.bonds.get(device.master.name) if device.master is not None else None

    def _deadline(self) -> int | None:
        return earliest(*(self._deadline_of(bond) for bond in self.registry.bonds.values()))

    def _deadline_of(self, bond: Bond) -> int | None:
        """A bond's deadline; a run of the monitor is not before the recorded one."""
        deadline = bond.deadline()
        if self.times is None or deadline is None or deadline != bond.monitor_deadline():
            return deadline
        prober = bond.active or bond.on_trial
        seen = bool(prober and bond.values.arp_interval and self.device(prober).usable)
        return round(self.times.run(deadline / MS, seen=seen) * MS)

    def _tick(self, now: int) -> None:
        for bond in list(self.registry.bonds.values()):
            deadline = self._deadline_of(bond)
            if deadline is not None and deadline <= now:
                self.execute(bond, bond.tick(now))
        self.run_until_quiescent()

    def ask(self, bond: Bond, event: BondEvent) -> None:
        self.execute(bond, bond.handle(self.clock.now, event))

    def member_changed(self, device: Device) -> None:
        bond = self.bond_of(device)
        if bond is not None:
            self.ask(bond, MemberChanged(device.name))

    def plug(self, device: Device, *, on: bool) -> None:
        """Pull or plug a cable."""
        driver = device.driver
        assert isinstance(driver, RecordedDriver), f"{device.name} has no cable"
        driver.plug(device, on=on)
        self.member_changed(device)

    def create_bond(self, name: str) -> Bond:
        """`+NAME` in bonding_masters."""
        return self.registry.create(self.clock.now, name)

    def delete_bond(self, name: str) -> None:
        """`-NAME` in bonding_masters; what the bond still had to say is its end."""
        bond = self.registry.bonds.get(name)
        effects = self.registry.delete(self.clock.now, name)
        assert bond is not None
        for effect in effects:
            if isinstance(effect, Log):
                self._saw_log(kernel_log.render(name, effect))

    def addresses_changed(self) -> None:
        for bond in self.registry.bonds.values():
            self.ask(bond, AddressesChanged(tuple(self.ip.addresses(bond.device))))

    def execute(self, bond: Bond, effects: list[BondEffect]) -> None:
        for effect in effects:
            match effect:
                case Log():
                    self._saw_log(kernel_log.render(bond.device.name, effect))
                case FailedOver():
                    self._saw_notice(bond, "BONDING_FAILOVER")
                case NotifyPeers():
                    self._saw_notice(bond, "NOTIFY_PEERS")
                    self.ip.announce(bond.device)
                case ResendReports():
                    self._saw_notice(bond, "IGMP_RESEND")
                    self.ip.report(bond.device)
                case ProbeArp(name=name, target=target):
                    self._probe_arp(bond, self.device(name), target)
                case ProbeNeighbor(name=name, target=target):
                    self._probe_neighbor(self.device(name), target)
                case Prepare(name=name):
                    self.ask(bond, Ready(name))
                case _:
                    pass

    def run_until_quiescent(self) -> None:
        """The link watch: queues start and stop with the carrier, and IPv6 begins to use what can send."""
        for device in self.namespace:
            device.link_watch_pending = False
            if device.name in self.registry.bonds:
                if device.usable:
                    self._sending.add(device)
                else:
                    self._sending.discard(device)
            if device.usable:
                self.ip.link_ready(device)
        self.look()

    def look(self) -> None:
        """Note the values that a monitor polls: the bond's, and those of every member of any bond."""
        if not self.watched or not self.case.monitor:
            return
        for name, bond in self.registry.bonds.items():
            snapshot = bond.snapshot()
            if name == self.case.bond:
                self.trace.state("active_slave", snapshot.active or "")
                self.trace.state("mii_status", "up" if snapshot.carrier else "down")
                if snapshot.up:
                    self.trace.state("carrier", "1" if snapshot.carrier else "0")
            for member in snapshot.members:
                self.trace.state(f"{member.name}/mii_status", member.link)
                self.trace.state(f"{member.name}/state", member.state)
                self.trace.state(f"{member.name}/link_failure_count", str(member.link_failure_count))

    def _on_netdev_event(self, notice: NetdevEvent, device: Device) -> None:
        """The first thing that leaving a bond does is to make the member a backup, and its files go last."""
        key = f"{device.name}/state"
        if notice is NetdevEvent.CHANGEUPPER and device.master is None and key in self.trace.states:
            self.trace.state(key, "backup")

    # -- frames ------------------------------------------------------------------------------------------------------

    def _send(self, device: Device, frame: Frame) -> None:
        """A frame leaves by a device; by a bond only through its active member, once its queue runs."""
        bond = self.registry.bonds.get(device.name)
        if bond is None:
            self._emit(device, frame)
        elif device in self._sending:
            member = bond.route()
            if member is not None:
                self._send(self.device(member), frame)

    def _emit(self, device: Device, frame: Frame) -> None:
        if not device.usable:
            return
        facts = frame_facts(frame)
        if facts is not None and device.name in self.case.devices:
            self.trace.frames.append(SeenFrame(self.now_ms, self.step, device.name, facts))
        segment = self._plugged.get(device)
        if segment is not None:
            segment.send(device, frame)

    def _deliver(self, device: Device, frame: Frame) -> None:
        if self.times is not None:
            return  # what is received there is what was received when it was recorded
        event: BondEvent = FrameSeen(device.name)
        if frame.ethertype == ETHERTYPE_ARP:
            packet = arp.Arp.parse(frame.payload)
            event = ArpSeen(
                device.name,
                packet.hardware_type,
                len(packet.sender_hardware),
                packet.operation,
                packet.sender_ip,
                packet.target_ip,
            )
        elif frame.ethertype == ETHERTYPE_IPV6 and nd.is_message(frame.payload):
            message = nd.parse(frame.payload)
            if isinstance(message, nd.NeighborSolicitation | nd.NeighborAdvertisement):
                event = NeighborDiscoverySeen(
                    device.name, message.KIND, message.source, message.destination, message.target
                )
        self._received(device, event)

    def _received(self, device: Device, event: BondEvent) -> None:
        bond = self.bond_of(device)
        if bond is not None:
            self.ask(bond, event)

    def _receive_recorded(self, name: str, event: BondEvent) -> None:
        device = self.namespace.get(name)
        bond = self.bond_of(device) if device is not None else None
        if device is None or bond is None:
            return
        due = bond.monitor_deadline()
        if due is not None and self.clock.now < due <= self.clock.now + EARLY_MS * MS:
            # A run that is stamped earlier than ours can be: what answers its probes comes after it.
            self.clock.later(due - self.clock.now + 1, partial(self._receive_recorded, name, event))
        else:
            self._received(device, event)

    def _probe_arp(self, bond: Bond, member: Device, target: bytes) -> None:
        """`bond_arp_send_all`: the source is our address on the target's link, or 0; other links are not probed."""
        route = self.ip.route(target)
        if route is not None and route[0] is not bond.device:
            return
        source = route[1] if route is not None else bytes(4)
        packet = arp.request(member.address, source, target, hardware_type=member.type).pack()
        self._emit(member, Frame(ETHERTYPE_ARP, member.address, member.broadcast, packet))

    def _probe_neighbor(self, member: Device, target: bytes) -> None:
        """`bond_ns_send_all`: to the target's solicited-node group, from our address on its link or from none."""
        route = self.ip.route(target)
        source = route[1] if route is not None else nd.UNSPECIFIED
        group = nd.solicited_node(target)
        link_address = member.address if source != nd.UNSPECIFIED else b""
        packet = nd.NeighborSolicitation(source, group, target, link_address).pack()
        to = map_group(group, member.type, member.broadcast)
        self._emit(member, Frame(ETHERTYPE_IPV6, member.address, to, packet))

    def _saw_log(self, line: str) -> None:
        self.trace.lines.append((self.now_ms, line))
        verdict = kernel_log.verdict(line)
        if verdict is not None:
            self.trace.verdicts.append(SeenVerdict(self.now_ms, self.step, verdict))

    def _saw_notice(self, bond: Bond, event: str) -> None:
        if bond.device.name == self.case.bond:
            self.trace.notices.append(SeenNotice(self.now_ms, self.step, event))


def errno_name(code: int) -> str:
    return "EOPNOTSUPP" if code == errno.EOPNOTSUPP else errno.errorcode.get(code, str(code))


def refused(what: str, code: int) -> Refused:
    return Refused(f"cannot do that to {what}", why=errno_name(code), fix="See the case", code=code)
