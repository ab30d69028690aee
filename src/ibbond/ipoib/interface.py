"""One IPoIB interface: from "set up" to carrier, what port events do to it, and every packet that it sends or takes.

Read first: RFC 4391, and Linux's `ipoib_ib.c` (`__ipoib_ib_dev_flush`, `ipoib_ib_handle_rx_wc`) and `ipoib_main.c`
(`ipoib_start_xmit`). Carrier means that the port is Active and that the subnet manager has let us into the broadcast
group. Left out: user-space multicast (`umcast`), alias GUIDs.
"""

from __future__ import annotations

from collections.abc import Iterable

from ibbond.errors import Malformed, Refused
from ibbond.ipoib.connected import ConnectedMode, Connections
from ibbond.ipoib.driver import CONNECTED, DATAGRAM, IpoibDriver
from ibbond.ipoib.events import (
    AddressIs,
    AdminDown,
    AdminUp,
    CarrierIs,
    ConnectionEvent,
    Frame,
    GroupsChanged,
    InterfaceEffect,
    InterfaceEvent,
    MadReceived,
    MtuChanged,
    PathsChanged,
    PortFacts,
    PortRaised,
    SendFailed,
    SetMode,
    SetQkey,
)
from ibbond.ipoib.membership import Membership
from ibbond.ipoib.mtu import Mtu
from ibbond.ipoib.partition import Partition
from ibbond.ipoib.paths import Paths, StackNeighbors
from ibbond.ipoib.preparation import Preparation
from ibbond.ipoib.queries import AskPath, Join, Leave, Queries
from ibbond.ipoib.receive import ReceiveSide
from ibbond.ipoib.transmit import Packet, Path, TransmitSide
from ibbond.machine import earliest
from ibbond.netdev.device import Device
from ibbond.verbs.verbs import Datagram, PortEventKind, PortState
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
from ibbond.wire.port_info import MTU_BYTES

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
    is a child's own key, which may appear in the table later. `old_neighbors` switches the defect of 2007 on.
    """

    def __init__(
        self,
        device: Device,
        port: PortFacts,
        *,
        qpn: int,
        pkey: int | None = None,
        scope: int = LINK_LOCAL_SCOPE,
        old_neighbors: StackNeighbors | None = None,
        connected_mode: ConnectedMode | None = None,
    ) -> None:
        self.device = device
        self.port = port
        self.qpn = qpn
        self._malformed = 0  # MADs
        self._scope = scope
        self._partition = Partition(port, pkey)
        self._outlet = TransmitSide(device, port, qpn, self._partition)
        self._queries = Queries(port, qpn)
        self.groups = Membership(self._outlet, self._queries)
        self._paths = Paths(self._outlet, self._queries, self.groups, old_neighbors)
        self._inlet = ReceiveSide(self._outlet, self.groups)
        self._connections = Connections(self._outlet, connected_mode) if connected_mode is not None else None
        self._up = False  # ADMIN_UP
        self._running = False  # OPER_UP
        self._qkey: int | None = None  # the queue pair's
        self._carrier = False
        self._mtu = Mtu(self._outlet)
        self._preparation = Preparation(self.groups, self._paths)
        device.broadcast = broadcast_address(self.pkey, scope)

    @property
    def pkey(self) -> int:
        """The interface's P_Key, with the full-member bit set as `/sys/class/net/ibN/pkey` shows it."""
        return self._partition.key

    @property
    def table_key(self) -> int:
        """The P_Key as packets carry it: as it is in the port's table."""
        return self._partition.table_key

    @property
    def running(self) -> bool:
        """Whether the queue pair works (OPER_UP): what arrives is taken."""
        return self._running

    @property
    def connected(self) -> bool:
        """Whether the interface is in connected mode."""
        return self._paths.connections is not None

    @property
    def malformed(self) -> int:
        """Frames and MADs that could not be read."""
        return self._malformed + self._inlet.malformed

    @property
    def carrier(self) -> bool:
        """Whether the device has its carrier: the broadcast group is joined."""
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
                return self._follow_list(now)
            case MtuChanged():
                self._mtu.was_set()
                return self._mtu.fit()
            case SetMode(connected):
                return self._set_mode(now, connected)
            case SendFailed(qpn):
                return self._broken(now, qpn)
            case ConnectionEvent(inner):
                return self._connections.handle(now, inner) if self._connections is not None else []

    def tick(self, now: int) -> list[InterfaceEffect]:
        sent, failed = self._queries.tick(now)
        effects: list[InterfaceEffect] = list(sent)
        for token in failed:
            match token:
                case Join(mgid):
                    effects += self.groups.refused(now, mgid, silent=True)
                case AskPath(gid):
                    effects += self._paths.unanswered(now, gid)
                case Leave():
                    pass  # no listener needed; the subnet manager drops members that vanish
        effects += self._paths.tick(now)
        if self._connections is not None:
            effects += self._connections.tick(now)
        if self._preparation.expire(now):
            effects += self._want_groups(now)
        return effects + (self.groups.proceed(now) if self._running else [])

    def deadline(self) -> int | None:
        return earliest(
            self._queries.deadline(),
            self.groups.deadline(),
            self._paths.deadline(),
            self._preparation.deadline(),
            self._connections.deadline() if self._connections is not None else None,
        )

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

        `next_hop` is the neighbor's IP address; only IPoIB of 2007 (`old_neighbors`) looks at it.
        """
        header = HEADERS.get(ethertype)
        if header is None:
            return self._outlet.drop(f"ethertype {ethertype:04x} is not supported")
        if len(destination) != ADDRESS_BYTES:
            return self._outlet.drop("the destination is not an IPoIB address")
        if not self._carrier:
            return self._outlet.drop("no carrier")
        packet = Packet(header + payload, offload)
        if destination[GROUP_OCTET] == 0xFF:
            return self.groups.send(now, self._own_mgid(destination), packet)
        if ethertype in ARP_ETHERTYPES:
            return self._paths.send_arp(now, destination, packet)
        return self._paths.send(now, destination, packet, next_hop)

    def path_to(self, destination: bytes, next_hop: bytes = b"") -> Path | None:
        """The path of IP packets to this address, valid until `PathsChanged`; None if unknown."""
        if not self._carrier or len(destination) != ADDRESS_BYTES:
            return None
        if destination[GROUP_OCTET] == 0xFF:
            return self.groups.path_to(self._own_mgid(destination))
        return self._paths.path_to(destination, next_hop)

    def carries(self, path: Path) -> int:
        """The largest IP packet that goes by this path, in bytes."""
        return path.max_bytes or self._outlet.mtu

    def touch(self, now: int, destination: bytes) -> None:
        """Packets went there by a remembered path: not idle."""
        if destination[GROUP_OCTET] == 0xFF:
            self.groups.touch(now, self._own_mgid(destination))
        else:
            self._paths.touch(now, destination)

    def doubt(self, now: int, destination: bytes) -> list[InterfaceEffect]:
        """The neighbor is there and does not get what is sent to it: the administrator is asked for its path."""
        return self._paths.doubt(now, destination) if self._carrier else []

    def decapsulate(self, datagram: Datagram) -> Frame | None:
        """What a datagram brings to this interface; None when it is not for it, reflected, or malformed (counted)."""
        return self._inlet.read(datagram, running=self._running)

    def decapsulate_message(self, now: int, qpn: int, payload: bytes, offload: bytes = b"") -> Frame | None:
        """The frame in a message at a reliable queue pair; None if the queue pair is not this interface's."""
        peer = self._connections.peer_of(now, qpn) if self._connections is not None else None
        return self._inlet.read_message(peer, payload, offload) if peer is not None and self._running else None

    def touch_receiver(self, now: int, qpn: int) -> None:
        """Messages have arrived at a reliable queue pair over a cached path: it is not idle."""
        if self._connections is not None:
            self._connections.peer_of(now, qpn)

    # Make before break

    def prepare(self, now: int, groups: Iterable[bytes], neighbors: Iterable[bytes]) -> list[InterfaceEffect]:
        """Join these groups (20-byte addresses) and find the paths to these neighbors ahead of a planned switch.

        A later call replaces an earlier one. What has not come into the device's own list after ten seconds is left.
        """
        broadcast = self.device.broadcast
        mgids = [group[GROUP_OCTET:] for group in groups if joinable(group, broadcast)]
        known = [each for each in neighbors if len(each) == ADDRESS_BYTES and each[GROUP_OCTET] != 0xFF]
        self._preparation.begin(now, mgids, known)
        if not self._carrier:
            return []
        effects = self._want_groups(now)
        for neighbor in known:
            effects += self._paths.learn(now, neighbor)
        return effects

    def prepare_more(self, now: int, groups: Iterable[tuple[bytes, bool]]) -> list[InterfaceEffect]:
        """Add groups (20-byte addresses) to what was prepared, or remove those no longer wanted."""
        effects: list[InterfaceEffect] = []
        for group, wanted in groups:
            if joinable(group, self.device.broadcast):
                mgid = group[GROUP_OCTET:]
                self._preparation.change(now, mgid, wanted=wanted)
                if self._carrier and wanted:
                    effects += self.groups.want(now, mgid)
                elif self._carrier and group not in self.device.multicast:
                    effects += self.groups.unwant(now, mgid)
        return effects

    def superseded(self) -> list[InterfaceEffect]:
        """Another interface carries the traffic from now on. Waiting packets that name this interface's address are
        dropped: sent later, they would undo the announcements of the new interface.
        """
        return self._paths.superseded() + self.groups.superseded()

    def ready(self) -> bool:
        """Whether what was prepared is done: joined or refused, found or not to be found."""
        return self._carrier and self._preparation.done()

    # The life of the interface

    def _open(self, now: int) -> list[InterfaceEffect]:
        self._up = True
        self._read_key()
        return self._start(now) if self._partition.present else []

    def _close(self, now: int) -> list[InterfaceEffect]:
        self._up = False
        self._preparation.clear()
        effects = self._halt(now)
        self._set_running(False)
        return effects + (self._connections.close(now, passive=True) if self._connections is not None else [])

    def _start(self, now: int) -> list[InterfaceEffect]:
        """Ask for the broadcast group; on a port that is not Active that waits for its event."""
        self._set_running(True)
        self._paths.collect_from(now)
        if self.port.state != PortState.ACTIVE:
            return []
        return self.groups.begin(now, self.device.broadcast[GROUP_OCTET:])

    def _set_running(self, on: bool) -> None:
        """OPER_UP: what arrives at the queue pair, and requests for connections, are taken."""
        self._running = on
        if self._connections is not None:
            self._connections.listen(on)

    def _halt(self, now: int, pkey: int | None = None) -> list[InterfaceEffect]:
        """Carrier off, groups left (under `pkey`, when it was another one), paths forgotten."""
        effects: list[InterfaceEffect] = []
        if self._carrier:
            self._carrier = False
            effects.append(CarrierIs(up=False))
        had = self.groups.broadcast is not None
        effects += self.groups.stop(now, pkey)
        effects += self._paths.flush()
        if self._connections is not None:
            effects += self._connections.close(now, passive=False)
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
        effects += self._mtu.fit()
        if not self._carrier:
            self._carrier = True
            effects.append(CarrierIs(up=True))
        return effects + self._want_groups(now)

    def _set_mode(self, now: int, connected: bool) -> list[InterfaceEffect]:
        """Another mode forgets all paths, and the MTU that was asked for in the old one."""
        if connected == self.connected:
            return []
        if connected and self._connections is None:
            raise Refused(
                f"cannot set {self.device.name} to connected mode",
                why="its driver is built without connected mode",
                fix="Leave it in datagram mode",
            )
        effects = self._paths.flush()
        if self._connections is not None:
            effects += self._connections.close(now, passive=False)
        self._paths.connections = self._connections if connected else None
        if isinstance(self.device.driver, IpoibDriver):
            self.device.driver.mode = CONNECTED if connected else DATAGRAM
        self._mtu.set_mode(connected)
        return [*effects, PathsChanged(), *self._mtu.fit()]

    def _broken(self, now: int, qpn: int) -> list[InterfaceEffect]:
        if self._connections is None:
            return []
        address, effects = self._connections.failed(now, qpn)
        return effects + (self._paths.forget(now, address) if address is not None else [])

    def _want_groups(self, now: int) -> list[InterfaceEffect]:
        """Be in all groups of the device's list, and in those that were prepared.

        Entries that do not fit our broadcast address are passed over silently.
        """
        if not self._running:
            return []
        self.device.multicast.changes(self)  # from here on
        broadcast = self.device.broadcast
        listed = [entry[GROUP_OCTET:] for entry in self.device.multicast if joinable(entry, broadcast)]
        return self.groups.want_only(now, [*listed, *self._preparation.mgids])

    def _follow_list(self, now: int) -> list[InterfaceEffect]:
        """The same where only few entries of the device's list have changed."""
        changed = self.device.multicast.changes(self) if self._running else None
        if changed is None:
            return self._want_groups(now)
        broadcast = self.device.broadcast
        effects: list[InterfaceEffect] = []
        for entry in changed:
            if joinable(entry, broadcast):
                mgid = entry[GROUP_OCTET:]
                wanted = entry in self.device.multicast or mgid in self._preparation.mgids
                effects += self.groups.want(now, mgid) if wanted else self.groups.unwant(now, mgid)
        return effects

    def _answer(self, now: int, mad: bytes) -> list[InterfaceEffect]:
        try:
            answer = self._queries.answered(mad)
        except Malformed:
            self._malformed += 1
            return []
        if answer is None:
            return []
        token, reply = answer
        effects: list[InterfaceEffect] = []
        match token:
            case Join(mgid):
                effects += self.groups.answered(now, mgid, reply)
                broadcast = self.groups.broadcast
                if broadcast is not None and mgid == broadcast.mgid and broadcast.attached and not broadcast.tries:
                    effects += self._joined(now)
                effects += self.groups.proceed(now)
            case AskPath(gid):
                effects += self._paths.answered(now, gid, reply)
            case Leave():
                pass
        return effects + list(self._queries.proceed(now))

    # Port events

    def _port_event(self, now: int, kind: PortEventKind) -> list[InterfaceEffect]:
        if kind is PortEventKind.SM_CHANGE:
            return list(self._queries.repeat(now))  # the flushes stay away, only our questions move
        if kind not in FLUSH_LEVELS:
            return []  # DEVICE_FATAL is for users of the adapter; PORT_ERR follows
        level = FLUSH_LEVELS[kind]
        effects: list[InterfaceEffect] = []
        if kind is PortEventKind.GID_CHANGE:
            effects += self._read_address()
        if not self._up:
            self._read_key()
            return effects
        if kind is PortEventKind.CLIENT_REREGISTER:  # also of a manager that was away while it was asked
            effects += self._queries.repeat(now)
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
        self._set_running(False)
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
