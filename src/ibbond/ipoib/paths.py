"""Unicast: which path leads to a GID, and which 20-byte addresses use it. The caches belong to one interface.

Read first: Linux's `ipoib_main.c` (`path_rec_completion`, `neigh_add_path`, `unicast_arp_send`, `__ipoib_reap_neigh`).
Neighbors are keyed by the whole 20-byte address, paths by the GID; nothing hangs on the stack's own neighbors, as it
did until 2012 (see `StackNeighbors`). Two things are better than in Linux: a path that has to be asked for again is
used until the answer is there, and more than three packets may wait for one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ibbond.ipoib.connected import Connections
from ibbond.ipoib.events import InterfaceEffect, PathsChanged
from ibbond.ipoib.membership import Membership
from ibbond.ipoib.queries import AskPath, Queries
from ibbond.ipoib.transmit import SUPERSEDED, Packet, Path, TransmitSide
from ibbond.machine import SECOND
from ibbond.wire.hwaddr import RC_SUPPORTED
from ibbond.wire.mad import Method
from ibbond.wire.sa import SaAttribute, SaMad, SaStatus
from ibbond.wire.sa_records import PathMask, PathRecord

# Per neighbor, and per path for unicast ARP. Linux has 3 (IPOIB_MAX_PATH_REC_QUEUE): after a peer's failover, a
# neighbor's answer among them, all but 3 of the packets of the administrator's millisecond would be lost.
WAITING_PACKETS = 128
GC_INTERVAL_NS = 30 * SECOND  # neighbors idle for two of them go
QUESTION = (
    PathMask.DGID | PathMask.SGID | PathMask.REVERSIBLE | PathMask.NUMB_PATH | PathMask.PKEY | PathMask.TRAFFIC_CLASS
)


@dataclass(eq=False, slots=True)
class Route:
    """What is known of the way to a GID. `record` may be used even while it is not `valid`."""

    gid: bytes
    record: PathRecord | None = None
    valid: bool = False
    waiting: list[tuple[int, Packet]] = field(default_factory=list)  # (QPN, ARP packet)
    neighbors: dict[bytes, Neighbor] = field(default_factory=dict)  # those at this GID, by address


@dataclass(eq=False, slots=True)
class Neighbor:
    """A 20-byte address that IP packets were sent to."""

    address: bytes
    qpn: int
    route: Route
    used_at: int
    path: Path | None = None  # made of the route's record
    waiting: list[Packet] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class OldNeighbor:
    """What IPoIB of 2007 hung on an entry of the stack's neighbor table: who made it, and the path of that time."""

    owner: str
    record: PathRecord


StackNeighbors = dict[bytes, OldNeighbor]  # by next hop; one for all interfaces of a host, as the bond's entries were


class Paths:
    """Unicast destinations of one interface.

    `old` is the defect that IPoIB had before its companion patches to bonding: the path is looked up by the stack's
    neighbor (the next hop's IP address), and its GID is never compared with the address that is sent to. After a
    peer's failover the old path is used until the stack forgets the neighbor.
    """

    def __init__(self, outlet: TransmitSide, queries: Queries, groups: Membership, old: StackNeighbors | None) -> None:
        self.connections: Connections | None = None  # in connected mode
        self._outlet = outlet
        self._queries = queries
        self._groups = groups
        self._old = old
        self._routes: dict[bytes, Route] = {}
        self._neighbors: dict[bytes, Neighbor] = {}
        self._gc_at: int | None = None

    def send(self, now: int, address: bytes, packet: Packet, next_hop: bytes) -> list[InterfaceEffect]:
        """An IP packet to the interface with this 20-byte address."""
        if self._old is not None and next_hop and (old := self._old.get(next_hop)) is not None:
            return self._outlet.send(self._path(old.record, _qpn(address)), packet)
        neighbor = self._neighbors.get(address)
        if neighbor is None:
            neighbor = self._meet(now, address)
        neighbor.used_at = now
        route = neighbor.route
        effects = [] if route.valid else self._ask(now, route)
        if neighbor.path is not None:
            if self._old is not None and next_hop and route.record is not None:
                self._old[next_hop] = OldNeighbor(self._outlet.device.name, route.record)
            return effects + self._transmit(now, neighbor, neighbor.path, packet)
        if len(neighbor.waiting) >= WAITING_PACKETS:
            return effects + self._outlet.drop("too many packets wait for the path")
        neighbor.waiting.append(packet)
        return effects

    def send_arp(self, now: int, address: bytes, packet: Packet) -> list[InterfaceEffect]:
        """A unicast ARP or RARP packet: the path is looked up by GID each time, no neighbor is made."""
        route = self._route(address[4:])
        effects = [] if route.valid else self._ask(now, route)
        if route.record is not None:
            return effects + self._outlet.send(self._path(route.record, _qpn(address)), packet)
        if len(route.waiting) >= WAITING_PACKETS:
            return effects + self._outlet.drop("too many packets wait for the path")
        route.waiting.append((_qpn(address), packet))
        return effects

    def path_to(self, address: bytes, next_hop: bytes) -> Path | None:
        if self._old is not None and next_hop and (old := self._old.get(next_hop)) is not None:
            return self._path(old.record, _qpn(address))
        neighbor = self._neighbors.get(address)
        if neighbor is None or not neighbor.route.valid:  # the next packet asks again
            return None
        if self.connections is not None and address[0] & RC_SUPPORTED:
            return self.connections.path_to(address)
        return neighbor.path

    def touch(self, now: int, address: bytes) -> None:
        neighbor = self._neighbors.get(address)
        if neighbor is not None:
            neighbor.used_at = now

    def learn(self, now: int, address: bytes) -> list[InterfaceEffect]:
        """Find the path to this address before anything is sent there."""
        neighbor = self._neighbors.get(address)
        if neighbor is None:
            neighbor = self._meet(now, address)
        neighbor.used_at = now
        return [] if neighbor.route.valid else self._ask(now, neighbor.route)

    def doubt(self, now: int, address: bytes) -> list[InterfaceEffect]:
        """Ask again for a path that is known, and use it until the answer is there.

        A subnet manager that gave the peer another LID may not have had everyone register again (OpenSM does not).
        """
        route = self._routes.get(address[4:])
        if route is None or not route.valid:
            return []
        route.valid = False
        return self._ask(now, route)

    def resolving(self, address: bytes) -> bool:
        """Whether the path to this address is being asked for, and none is there to use meanwhile."""
        neighbor = self._neighbors.get(address)
        return neighbor is not None and neighbor.path is None and self._queries.waits_for(AskPath(address[4:]))

    def answered(self, now: int, gid: bytes, reply: SaMad) -> list[InterfaceEffect]:
        """The administrator's word about a path. The GID of the answer is taken to be the one asked for."""
        route = self._routes.get(gid)
        if route is None:
            return []
        record = replace(PathRecord.parse(reply.data), dgid=gid)
        if reply.status != SaStatus.OK or not record.dlid:
            return self.failed(now, gid)
        old = route.record
        route.record, route.valid = record, True
        effects: list[InterfaceEffect] = []
        if old is not None and _handle(old) != _handle(record):
            effects.append(PathsChanged())
        if old is not None and self.connections is not None and _connection(old) != _connection(record):
            effects += self._reconnect(now, self.connections, route, record)
        for qpn, packet in route.waiting:
            effects += self._outlet.send(self._path(record, qpn), packet)
        route.waiting.clear()
        for neighbor in route.neighbors.values():
            neighbor.path = self._path(record, neighbor.qpn)
            for packet in neighbor.waiting:
                effects += self._transmit(now, neighbor, neighbor.path, packet)
            neighbor.waiting.clear()
        return effects

    def unanswered(self, now: int, gid: bytes) -> list[InterfaceEffect]:
        """The administrator is silent: a path that worked stays in use, and the next packet asks again.

        In Linux (`path_rec_completion`) every neighbor behind the GID goes.
        """
        route = self._routes.get(gid)
        return self.failed(now, gid) if route is None or route.record is None else []

    def failed(self, now: int, gid: bytes) -> list[InterfaceEffect]:
        """There is no path: every neighbor behind this GID goes, and what waited is dropped."""
        route = self._routes.pop(gid, None)
        if route is None:
            return []
        effects: list[InterfaceEffect] = []
        lost = len(route.waiting)
        for neighbor in route.neighbors.values():
            lost += len(neighbor.waiting)
            del self._neighbors[neighbor.address]
            if self.connections is not None:
                effects += self.connections.forget(now, neighbor.address)
        effects += self._outlet.drop("no path to the destination", lost)
        return [*effects, PathsChanged()] if route.record is not None else effects

    def forget(self, now: int, address: bytes) -> list[InterfaceEffect]:
        """The connection to this address broke: neighbor and path are made again by the next packet."""
        return self.failed(now, address[4:])

    def invalidate(self) -> None:
        """Light flush: what is known stays usable, and is asked for again on the next use."""
        for route in self._routes.values():
            route.valid = False

    def flush(self) -> list[InterfaceEffect]:
        """Normal flush: forget everything."""
        lost = sum(len(route.waiting) for route in self._routes.values())
        lost += sum(len(neighbor.waiting) for neighbor in self._neighbors.values())
        self._routes.clear()
        self._neighbors.clear()
        self._queries.forget_all(lambda token: isinstance(token, AskPath))
        if self._old is not None:
            mine = [hop for hop, old in self._old.items() if old.owner == self._outlet.device.name]
            for hop in mine:
                del self._old[hop]
        return self._outlet.drop("the paths were flushed", lost)

    def superseded(self) -> list[InterfaceEffect]:
        """Drop waiting packets that would make others send to this interface."""
        lost = 0
        for route in self._routes.values():
            lost += len(route.waiting)
            route.waiting.clear()
        for neighbor in self._neighbors.values():
            kept = [packet for packet in neighbor.waiting if not packet.names_sender]
            lost += len(neighbor.waiting) - len(kept)
            neighbor.waiting = kept
        return self._outlet.drop(SUPERSEDED, lost)

    def tick(self, now: int) -> list[InterfaceEffect]:
        """Let idle neighbors and groups that were only sent to go."""
        effects: list[InterfaceEffect] = []
        if self._gc_at is None or self._gc_at > now:
            return effects
        for neighbor in [each for each in self._neighbors.values() if each.used_at + 2 * GC_INTERVAL_NS <= now]:
            if not neighbor.waiting:
                del self._neighbors[neighbor.address], neighbor.route.neighbors[neighbor.address]
                if self.connections is not None:
                    effects += self.connections.forget(now, neighbor.address)
        self._gc_at = now + GC_INTERVAL_NS
        return effects + self._groups.collect(now, 2 * GC_INTERVAL_NS)

    def collect_from(self, now: int | None) -> None:
        """Start (or, with None, stop) looking for the idle."""
        self._gc_at = None if now is None else now + GC_INTERVAL_NS

    def deadline(self) -> int | None:
        return self._gc_at

    def _transmit(self, now: int, neighbor: Neighbor, path: Path, packet: Packet) -> list[InterfaceEffect]:
        """As a datagram, or by connection where both sides want that."""
        connections, record = self.connections, neighbor.route.record
        if connections is not None and record is not None and connections.carries(now, neighbor.address, packet):
            return connections.send(now, neighbor.address, record, packet)
        return self._outlet.send(path, packet)

    def _reconnect(self, now: int, connections: Connections, route: Route, record: PathRecord) -> list[InterfaceEffect]:
        """Connections by the old path end; what waited for one goes by the new one."""
        effects: list[InterfaceEffect] = []
        for neighbor in self._neighbors.values():
            if neighbor.route is route:
                effects += connections.rerouted(now, neighbor.address, record)
        return effects

    def _meet(self, now: int, address: bytes) -> Neighbor:
        route = self._route(address[4:])
        neighbor = Neighbor(address, _qpn(address), route, used_at=now)
        self._neighbors[address] = route.neighbors[address] = neighbor
        if route.record is not None:
            neighbor.path = self._path(route.record, neighbor.qpn)
        return neighbor

    def _route(self, gid: bytes) -> Route:
        route = self._routes.get(gid)
        if route is None:
            route = self._routes[gid] = Route(gid)
        return route

    def _ask(self, now: int, route: Route) -> list[InterfaceEffect]:
        token = AskPath(route.gid)
        if self._queries.waits_for(token):
            return []
        link = self._groups.record
        question = PathRecord(
            dgid=route.gid,
            sgid=self._outlet.port.gid,
            pkey=self._outlet.partition.key,
            numb_path=1,
            reversible=True,
            traffic_class=link.traffic_class if link is not None else 0,
        )
        request = SaMad(Method.GET, SaAttribute.PATH_RECORD, component_mask=QUESTION, data=question.pack())
        return list(self._queries.ask(now, token, lambda: request))

    def _path(self, record: PathRecord, qpn: int) -> Path:
        """With a GRH only where the administrator says that the packet has hops to go."""
        return Path(
            dlid=record.dlid,
            qpn=qpn,
            qkey=self._outlet.qkey,
            sl=record.sl,
            gid=record.dgid if record.hop_limit else b"",
            traffic_class=record.traffic_class,
            flow_label=record.flow_label,
            hop_limit=record.hop_limit,
        )


def _qpn(address: bytes) -> int:
    return int.from_bytes(address[1:4])


def _handle(record: PathRecord) -> tuple[int, int, int, int, int]:
    """What an address handle is made of."""
    return record.dlid, record.sl, record.hop_limit, record.traffic_class, record.flow_label


def _connection(record: PathRecord) -> tuple[int, ...]:
    """What a connection is made of."""
    return *_handle(record), record.mtu, record.rate, record.lifetime
