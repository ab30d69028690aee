"""One IPoIB interface: from "set up" to carrier, what port events do to it, and every packet that it sends or takes.

Read first: RFC 4391, and Linux' `ipoib_ib.c` (`__ipoib_ib_dev_flush`, `ipoib_ib_handle_rx_wc`) and `ipoib_main.c`
(`ipoib_start_xmit`). Carrier means that the port is Active and that the subnet manager has let us into the broadcast
group. Left out: user-space multicast (`umcast`), alias GUIDs.
"""

from __future__ import annotations

from collections.abc import Iterable

from ibbond.errors import Malformed
from ibbond.fabric.verbs import FIRST_MLID, Datagram, PortEventKind, PortState
from ibbond.ipoib.events import (
    AddressIs,
    AdminDown,
    AdminUp,
    CarrierIs,
    Frame,
    GroupsChanged,
    InterfaceEffect,
    InterfaceEvent,
    MadReceived,
    MtuChanged,
    MtuIs,
    PathsChanged,
    PortFacts,
    PortRaised,
    SetQkey,
)
from ibbond.ipoib.membership import Membership
from ibbond.ipoib.outlet import Outlet, Packet, Path
from ibbond.ipoib.partition import Partition
from ibbond.ipoib.paths import Paths, StackNeighbours
from ibbond.ipoib.queries import AskPath, Join, Leave, Queries
from ibbond.machine import SECOND
from ibbond.netdev.device import Device
from ibbond.wire.group_address import LINK_LOCAL_SCOPE, broadcast_address, joinable
from ibbond.wire.hwaddr import ADDRESS_BYTES, HardwareAddress
from ibbond.wire.ipoib import (
    ENCAPSULATION_BYTES,
    ETHERTYPE_ARP,
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    ETHERTYPE_RARP,
    ETHERTYPE_TIPC,
)
from ibbond.wire.offload import segment_count
from ibbond.wire.port_info import MTU_BYTES

PREPARATION_NS = 10 * SECOND  # what was joined ahead and is not in the device's list by then is left again
IP_ETHERTYPES = frozenset((ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_TIPC))
ARP_ETHERTYPES = frozenset((ETHERTYPE_ARP, ETHERTYPE_RARP))
GROUP_OCTET = 4  # where the GID begins in a 20-byte address
HEADERS = {kind: kind.to_bytes(2) + b"\0\0" for kind in (*IP_ETHERTYPES, *ARP_ETHERTYPES)}

LIGHT, NORMAL, HEAVY = range(3)
FLUSH_LEVELS = {
    PortEventKind.CLIENT_REREGISTER: LIGHT,
    PortEventKind.GID_CHANGE: LIGHT,
    PortEventKind.PORT_ERR: NORMAL,
    PortEventKind.PORT_ACTIVE: NORMAL,
    PortEventKind.LID_CHANGE: NORMAL,
    PortEventKind.PKEY_CHANGE: HEAVY,
}


class Interface:
    """One ibN. `pkey` None takes the key at index 0 of the port's table and follows it (a parent interface); a number
    is a child's own key, which may appear in the table later. `old_neighbours` switches the defect of 2007 on.
    """

    def __init__(
        self,
        device: Device,
        port: PortFacts,
        *,
        qpn: int,
        pkey: int | None = None,
        scope: int = LINK_LOCAL_SCOPE,
        old_neighbours: StackNeighbours | None = None,
    ) -> None:
        self.device = device
        self.port = port
        self.qpn = qpn
        self.malformed = 0  # frames and MADs that could not be read
        self._scope = scope
        self._partition = Partition(port, pkey)
        self._outlet = Outlet(device, port, qpn, self._partition)
        self._queries = Queries(port, qpn)
        self.groups = Membership(self._outlet, self._queries)
        self._paths = Paths(self._outlet, self._queries, self.groups, old_neighbours)
        self._up = False  # ADMIN_UP
        self._running = False  # OPER_UP
        self._qkey: int | None = None  # the queue pair's
        self._carrier = False
        self._asked_mtu: int | None = None  # by the administrator, when less than the link's
        self._prepared: dict[bytes, None] = {}  # groups joined ahead
        self._expected: tuple[bytes, ...] = ()  # neighbours whose paths were asked for ahead
        self._prepared_until: int | None = None
        device.broadcast = broadcast_address(self.pkey, scope)

    @property
    def pkey(self) -> int:
        """The interface's P_Key, with the full-member bit set as `/sys/class/net/ibN/pkey` shows it."""
        return self._partition.key

    @property
    def table_key(self) -> int:
        """The P_Key as packets carry it: as it stands in the port's table."""
        return self._partition.table_key

    @property
    def running(self) -> bool:
        """Whether the queue pair works (OPER_UP): what arrives is taken."""
        return self._running

    @property
    def carrier(self) -> bool:
        return self._carrier

    def handle(self, now: int, event: InterfaceEvent) -> list[InterfaceEffect]:
        match event:
            case AdminUp():
                return self._open(now)
            case AdminDown():
                return self._close(now)
            case PortRaised(kind):
                return self._port_event(now, kind)
            case MadReceived(mad):
                return self._answer(now, mad)
            case GroupsChanged():
                return self._want_groups(now)
            case MtuChanged():
                return self._mtu_asked()

    def tick(self, now: int) -> list[InterfaceEffect]:
        sent, failed = self._queries.tick(now)
        effects: list[InterfaceEffect] = list(sent)
        for token in failed:
            match token:
                case Join(mgid):
                    effects += self.groups.refused(now, mgid)
                case AskPath(gid):
                    effects += self._paths.failed(gid)
                case Leave():
                    pass  # nobody listens; the subnet manager drops members that vanish
        effects += self._paths.tick(now)
        if self._prepared_until is not None and self._prepared_until <= now:
            self._prepared, self._expected, self._prepared_until = {}, (), None
            effects += self._want_groups(now)
        return effects + (self.groups.proceed(now) if self._running else [])

    def deadline(self) -> int | None:
        waits = (self._queries.deadline(), self.groups.deadline(), self._paths.deadline(), self._prepared_until)
        return min((at for at in waits if at is not None), default=None)

    # Packets

    def encapsulate(
        self,
        now: int,
        destination: bytes,
        ethertype: int,
        payload: bytes,
        offload: bytes = b"",
        next_hop: bytes = b"",
    ) -> list[InterfaceEffect]:
        """Send to a 20-byte address: a datagram, or first a question while the packet waits, or a drop.

        `next_hop` is the neighbour's IP address; only IPoIB of 2007 (`old_neighbours`) looks at it.
        """
        header = HEADERS.get(ethertype)
        if header is None:
            return self._outlet.drop(f"ethertype {ethertype:04x} is not carried")
        if len(destination) != ADDRESS_BYTES:
            return self._outlet.drop("the destination is no IPoIB address")
        if not self._carrier:
            return self._outlet.drop("no carrier")
        packet = Packet(header + payload, offload)
        if destination[GROUP_OCTET] == 0xFF:
            return self.groups.send(now, self._own_mgid(destination), packet)
        if ethertype in ARP_ETHERTYPES:
            return self._paths.send_arp(now, destination, packet)
        return self._paths.send(now, destination, packet, next_hop)

    def path_to(self, destination: bytes, next_hop: bytes = b"") -> Path | None:
        """How IP packets to this address go now, for whoever remembers it until `PathsChanged`; None: not known."""
        if not self._carrier or len(destination) != ADDRESS_BYTES:
            return None
        if destination[GROUP_OCTET] == 0xFF:
            return self.groups.path_to(self._own_mgid(destination))
        return self._paths.path_to(destination, next_hop)

    def touch(self, now: int, destination: bytes) -> None:
        """Packets went there by a remembered path: not idle."""
        if destination[GROUP_OCTET] == 0xFF:
            self.groups.touch(now, self._own_mgid(destination))
        else:
            self._paths.touch(now, destination)

    def decapsulate(self, datagram: Datagram) -> Frame | None:
        """What a datagram brings to this interface; None when it is not for it, reflected, or malformed (counted)."""
        group = datagram.destination_gid if datagram.destination_lid >= FIRST_MLID else None
        if group is not None:
            if not self.groups.receives(group) or self._reflected(datagram):
                return None
        elif datagram.destination_qpn != self.qpn:
            return None
        statistics = self.device.statistics
        if not self._running:
            statistics.rx_dropped += 1
            return None
        payload = datagram.payload
        if len(payload) < ENCAPSULATION_BYTES:
            statistics.rx_errors += 1
            self.malformed += 1
            return None
        packet = payload[ENCAPSULATION_BYTES:]
        offload = datagram.offload
        statistics.rx_packets += segment_count(offload, packet) if offload else 1
        statistics.rx_bytes += len(packet)
        kind = self._kind(datagram)
        if kind == "multicast":
            statistics.multicast += 1
        return Frame(
            ethertype=int.from_bytes(payload[:2]),
            payload=packet,
            kind=kind,
            offload=offload,
            source_lid=datagram.source_lid,
            source_qpn=datagram.source_qpn,
            source_gid=datagram.source_gid,
        )

    # Make before break

    def prepare(self, now: int, groups: Iterable[bytes], neighbors: Iterable[bytes]) -> list[InterfaceEffect]:
        """Join these groups (20-byte addresses) and find the paths to these neighbours ahead of a planned switch.

        A later call replaces an earlier one. What has not come into the device's own list after ten seconds is left.
        """
        self._prepared = {group[GROUP_OCTET:]: None for group in groups if joinable(group, self.device.broadcast)}
        self._expected = tuple(neighbors)
        self._prepared_until = now + PREPARATION_NS
        if not self._carrier:
            return []
        effects = self._want_groups(now)
        for neighbor in self._expected:
            if len(neighbor) == ADDRESS_BYTES and neighbor[GROUP_OCTET] != 0xFF:
                effects += self._paths.learn(now, neighbor)
        return effects

    def ready(self) -> bool:
        """Whether what was prepared is done: joined or refused, found or not to be found."""
        if not self._carrier:
            return False
        for mgid in self._prepared:
            group = self.groups.get(mgid)
            if group is not None and not group.settled and not group.tries:
                return False
        return not any(self._paths.resolving(neighbor) for neighbor in self._expected)

    # The life of the interface

    def _open(self, now: int) -> list[InterfaceEffect]:
        self._up = True
        self._read_key()
        return self._start(now) if self._partition.present else []

    def _close(self, now: int) -> list[InterfaceEffect]:
        self._up = False
        self._prepared, self._expected, self._prepared_until = {}, (), None
        effects = self._halt(now)
        self._running = False
        return effects

    def _start(self, now: int) -> list[InterfaceEffect]:
        """Ask for the broadcast group; on a port that is not Active that waits for its event."""
        self._running = True
        self._paths.collect_from(now)
        if self.port.state != PortState.ACTIVE:
            return []
        return self.groups.begin(now, self.device.broadcast[GROUP_OCTET:])

    def _halt(self, now: int, pkey: int | None = None) -> list[InterfaceEffect]:
        """Carrier off, groups left (under `pkey`, when it was another one), paths forgotten."""
        effects: list[InterfaceEffect] = []
        if self._carrier:
            self._carrier = False
            effects.append(CarrierIs(up=False))
        had = self.groups.broadcast is not None
        effects += self.groups.stop(now, pkey)
        effects += self._paths.flush()
        self._paths.collect_from(None)
        if self.port.state != PortState.ACTIVE:
            self._queries.forget_all()
        return [*effects, PathsChanged()] if had else effects

    def _joined(self, now: int) -> list[InterfaceEffect]:
        """The broadcast group is ours: its answer gives the link its parameters, and the link has carrier."""
        record = self.groups.record
        assert record is not None, "joined without an answer"
        self._outlet.mtu = min(MTU_BYTES.get(record.mtu, 2048), self.port.mtu_bytes) - ENCAPSULATION_BYTES
        effects: list[InterfaceEffect] = []
        if record.qkey != self._qkey:
            self._qkey = record.qkey
            effects += [SetQkey(record.qkey), *self._paths.flush(), PathsChanged()]
        effects += self._fit_mtu()
        if not self._carrier:
            self._carrier = True
            effects.append(CarrierIs(up=True))
        return effects + self._want_groups(now)

    def _fit_mtu(self) -> list[InterfaceEffect]:
        link = self._outlet.mtu
        mtu = link if self._asked_mtu is None else min(self._asked_mtu, link)
        return [MtuIs(mtu)] if mtu != self.device.mtu else []

    def _mtu_asked(self) -> list[InterfaceEffect]:
        """The administrator's MTU counts where it is less than the link's; more than the link's is not had."""
        mtu, link = self.device.mtu, self._outlet.mtu
        self._asked_mtu = mtu if mtu < link else None
        return self._fit_mtu() if self._carrier else []

    def _want_groups(self, now: int) -> list[InterfaceEffect]:
        return self.groups.want(now, [*self._listed(), *self._prepared]) if self._running else []

    def _listed(self) -> list[bytes]:
        """The MGIDs of the device's list; entries that do not fit our broadcast address are passed over silently."""
        broadcast = self.device.broadcast
        return [entry[GROUP_OCTET:] for entry in self.device.multicast if joinable(entry, broadcast)]

    def _answer(self, now: int, mad: bytes) -> list[InterfaceEffect]:
        try:
            answer = self._queries.answered(mad)
        except Malformed:
            self.malformed += 1
            return []
        if answer is None:
            return []
        token, reply = answer
        match token:
            case Join(mgid):
                effects = self.groups.answered(now, mgid, reply)
                broadcast = self.groups.broadcast
                if broadcast is not None and mgid == broadcast.mgid and broadcast.attached and not broadcast.tries:
                    effects += self._joined(now)
                return effects + self.groups.proceed(now)
            case AskPath(gid):
                return self._paths.answered(now, gid, reply)
            case Leave():
                return []

    # Port events

    def _port_event(self, now: int, kind: PortEventKind) -> list[InterfaceEffect]:
        if kind is PortEventKind.SM_CHANGE:
            return list(self._queries.repeat(now))  # the flushes stay away, only our questions move
        level = FLUSH_LEVELS[kind]
        effects: list[InterfaceEffect] = []
        if kind is PortEventKind.GID_CHANGE:
            effects += self._read_address()
        if not self._up:
            self._read_key()
            return effects
        if level == LIGHT:
            return effects + self._flush_lightly(now)
        if level == HEAVY:
            return effects + self._keys_changed(now)
        return effects + self._restart(now)

    def _flush_lightly(self, now: int) -> list[InterfaceEffect]:
        """Paths are asked for again on use, groups at once; the carrier stays."""
        if not self._running:
            return []
        self._paths.invalidate()
        return [*self.groups.renew(now), PathsChanged()]

    def _restart(self, now: int) -> list[InterfaceEffect]:
        """Down and up again: the carrier returns with the broadcast group, on a dead port with its next event."""
        if not self._running:
            return []
        return self._halt(now) + self._start(now)

    def _keys_changed(self, now: int) -> list[InterfaceEffect]:
        old = self._partition.key
        if not self._read_key():
            return []
        effects = self._halt(now, old)
        self._running = False
        return effects + (self._start(now) if self._partition.present else [])

    def _read_key(self) -> bool:
        """Look for our P_Key in the port's table, and take it into bytes 8 and 9 of the broadcast address."""
        changed = self._partition.read()
        self.device.broadcast = broadcast_address(self.pkey, self._scope)
        return changed

    def _read_address(self) -> list[InterfaceEffect]:
        old = HardwareAddress.parse(self.device.address)
        new = HardwareAddress(self.qpn, self.port.gid, old.flags)
        return [AddressIs(new.pack())] if new != old else []

    # Small things

    def _own_mgid(self, address: bytes) -> bytes:
        """Linux writes the interface's own P_Key into every group that it sends to."""
        return address[4:8] + self.pkey.to_bytes(2) + address[10:]

    def _reflected(self, datagram: Datagram) -> bool:
        """Our own multicast, come back: same LID and queue pair, and no other port's GID in the GRH."""
        if datagram.source_lid != self.port.lid or datagram.source_qpn != self.qpn:
            return False
        return datagram.source_gid is None or datagram.source_gid[8:] == self.port.gid[8:]

    def _kind(self, datagram: Datagram) -> str:
        gid = datagram.destination_gid
        if gid is None or gid[0] != 0xFF:
            return "host"
        return "broadcast" if gid == self.device.broadcast[GROUP_OCTET:] else "multicast"
