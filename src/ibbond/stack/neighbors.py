"""From an IP address on the link to the link-layer address behind it: the ARP and ND cache of one device.

Read first: `net/core/neighbour.c` of Linux (its NUD states have the same names here) and RFC 4861 section 7.3. The
cache belongs to the bond, not to its members (spec/ipoib, section 8). It knows no packet format: `Solicit` is turned
into an ARP request or a neighbor solicitation by `ip_layer`.

Three things differ from Linux on purpose. There is no lock time: whoever answers last is believed, because no proxies
exist here. Repeated probes go to everybody, not only to the old address, so that a lost announcement costs a second.
And a device that got another address of its own (`readdressed`) keeps its entries under suspicion: the first packet to
each neighbor goes out at once, together with a question that also tells the neighbor our new address. `flush` is what
the kernel does instead (`neigh_changeaddr`).
"""

from __future__ import annotations

import enum
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from ibbond.machine import SECOND, Deadlines
from ibbond.verbs.generation import Generation

RETRY = 1 * SECOND  # retrans_time
ATTEMPTS = 3  # mcast_solicit, ucast_probes
REACHABLE_FOR = 30 * SECOND  # base_reachable_time
DELAY = 5 * SECOND  # delay_first_probe_time
STALE_FOR = 60 * SECOND  # gc_stale_time: idle entries are forgotten then
QUEUE_PACKETS = 101  # unres_qlen: the oldest packet gives way
MAX_NEIGHBORS = 1024  # gc_thresh3
MAX_UNRESOLVED = 256


class State(enum.Enum):
    """Linux's NUD states; a failed entry is no entry here."""

    INCOMPLETE = "INCOMPLETE"
    REACHABLE = "REACHABLE"
    STALE = "STALE"
    DELAY = "DELAY"
    PROBE = "PROBE"


USABLE_BY_FLOWS = frozenset({State.REACHABLE, State.DELAY, State.PROBE})


@dataclass(frozen=True, slots=True)
class Solicit:
    """Effect: ask who has `ip`: at `hardware`, or everybody when it is empty; `packet` (or empty) made us ask."""

    ip: bytes
    hardware: bytes = b""
    packet: bytes = b""


@dataclass(frozen=True, slots=True)
class Resolved:
    """Effect: send this packet to the neighbor `ip`, which is at `hardware`."""

    ip: bytes
    hardware: bytes
    packet: bytes
    offload: bytes = b""


@dataclass(frozen=True, slots=True)
class Unreachable:
    """Effect: nobody answered; `packets` are given up (`offload` headers do not matter any more)."""

    ip: bytes
    packets: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Silent:
    """Effect: the neighbor at `hardware` did not answer a question that was sent to it alone.

    A broadcast may still reach it, and its answers us: then what is known of the way to it is wrong.
    """

    hardware: bytes


NeighborEffect = Solicit | Resolved | Unreachable | Silent


@dataclass(eq=False, slots=True)
class Neighbor:
    """One entry; `hardware` is empty while INCOMPLETE."""

    ip: bytes
    state: State
    hardware: bytes = b""
    attempts: int = 0
    suspect: bool = False  # we moved since it was confirmed: ask at the next use
    heard_at: int = 0  # when the neighbor last said where it is; while INCOMPLETE, when it was first asked
    waiting: deque[tuple[bytes, bytes]] = field(default_factory=lambda: deque(maxlen=QUEUE_PACKETS))


class Neighbors:
    """The neighbor cache of one device; addresses are 4 or 16 bytes, hardware addresses as long as the device's."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation
        self._entries: dict[bytes, Neighbor] = {}
        self._unresolved: OrderedDict[bytes, Neighbor] = OrderedDict()  # the INCOMPLETE ones, oldest first
        self._due: Deadlines[bytes] = Deadlines()  # by IP address
        self.dropped = 0  # packets that gave way to younger ones, or for which the table had no room
        self.changes = 0  # how often a neighbor was at a new address

    def __iter__(self) -> Iterator[Neighbor]:
        return iter(tuple(self._entries.values()))

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, ip: bytes) -> Neighbor | None:
        return self._entries.get(ip)

    def usable(self, ip: bytes) -> bytes | None:
        """The address that a remembered flow may use; None when a packet has to come by and be noticed."""
        entry = self._entries.get(ip)
        return entry.hardware if entry is not None and entry.state in USABLE_BY_FLOWS else None

    def send(self, now: int, ip: bytes, packet: bytes, offload: bytes = b"") -> list[NeighborEffect]:
        """A packet for this neighbor: it goes, or it waits for an answer."""
        entry = self._entries.get(ip)
        if entry is None:
            if not self._make_room():
                self.dropped += 1
                return []
            self._ask_first(now, ip).waiting.append((packet, offload))
            return [Solicit(ip, packet=packet)]
        if entry.state is State.INCOMPLETE:
            self.dropped += len(entry.waiting) == QUEUE_PACKETS
            entry.waiting.append((packet, offload))
            return []
        effects: list[NeighborEffect] = [Resolved(ip, entry.hardware, packet, offload)]
        if entry.state is State.STALE and entry.suspect:
            entry.state, entry.attempts = State.PROBE, 1
            self._wait(entry, now + RETRY)
            effects.append(Solicit(ip, packet=packet))
        elif entry.state is State.STALE:
            entry.state = State.DELAY
            self._wait(entry, now + DELAY)
        return effects

    def resolve(self, now: int, ip: bytes) -> list[NeighborEffect]:
        """Somebody wants the address of `ip` without sending a packet (`neigh_event_send`)."""
        entry = self._entries.get(ip)
        if entry is None:
            if not self._make_room():
                return []
            self._ask_first(now, ip)
            return [Solicit(ip)]
        if entry.state is State.STALE:
            entry.state, entry.attempts = State.PROBE, 1
            self._wait(entry, now + RETRY)
            return [Solicit(ip)]
        return []

    def learn(
        self,
        now: int,
        ip: bytes,
        hardware: bytes,
        *,
        confirmed: bool = False,
        override: bool = True,
        create: bool = False,
    ) -> list[NeighborEffect]:
        """Somebody says that `ip` is at `hardware`: an answer to us (`confirmed`) or news.

        Without `override` a known other address stays. Only `create` makes a new entry.
        """
        entry = self._entries.get(ip)
        if entry is None:
            if not create or len(self._entries) >= MAX_NEIGHBORS:
                return []
            entry = self._entries[ip] = Neighbor(ip, State.INCOMPLETE)
        if entry.state is not State.INCOMPLETE and entry.hardware != hardware and not override:
            if entry.state is State.REACHABLE:
                self._stale(entry, now)
            return []
        changed = entry.hardware != hardware
        entry.hardware, entry.heard_at = hardware, now
        self._unresolved.pop(ip, None)
        if confirmed:
            self._reachable(entry, now)
        elif changed:
            self._stale(entry, now)
        if changed:
            self.changes += 1
            self._generation.bump()
        effects: list[NeighborEffect] = []
        while entry.waiting:
            packet, offload = entry.waiting.popleft()
            effects += self.send(now, ip, packet, offload)
        return effects

    def readdressed(self, now: int) -> list[NeighborEffect]:
        """Our own address is another one: neighbors are where they were, but do not know where we are."""
        effects: list[NeighborEffect] = []
        for entry in self:
            if entry.state is State.INCOMPLETE:
                entry.attempts = 1
                self._wait(entry, now + RETRY)
                effects.append(Solicit(entry.ip))  # the answer to the first question went to the old address
            else:
                self._stale(entry, now)
                entry.suspect = True
        self._generation.bump()
        return effects

    def flush(self) -> None:
        """Forget everything, waiting packets included (`neigh_changeaddr`, `neigh_ifdown`)."""
        self._entries.clear()
        self._unresolved.clear()
        self._due.clear()
        self._generation.bump()

    def tick(self, now: int) -> list[NeighborEffect]:
        effects: list[NeighborEffect] = []
        for ip in self._due.due(now):
            effects += self._overdue(self._entries[ip], now)
        return effects

    def deadline(self) -> int | None:
        return self._due.earliest()

    def _overdue(self, entry: Neighbor, now: int) -> list[NeighborEffect]:
        match entry.state:
            case State.REACHABLE:
                self._stale(entry, now)
                self._generation.bump()  # whoever uses it must come by, so that it is confirmed again
                return []
            case State.STALE:
                return self._forget(entry)
            case State.DELAY:
                entry.state, entry.attempts = State.PROBE, 1
                self._wait(entry, now + RETRY)
                return [Solicit(entry.ip, entry.hardware)]
            case State.INCOMPLETE | State.PROBE:
                if entry.attempts >= ATTEMPTS:
                    return self._forget(entry)
                silent = [Silent(entry.hardware)] if entry.state is State.PROBE and entry.attempts == 1 else []
                entry.attempts += 1
                self._wait(entry, now + RETRY)
                return [*silent, Solicit(entry.ip, packet=entry.waiting[0][0] if entry.waiting else b"")]

    def _ask_first(self, now: int, ip: bytes) -> Neighbor:
        entry = self._entries[ip] = self._unresolved[ip] = Neighbor(ip, State.INCOMPLETE, attempts=1, heard_at=now)
        self._wait(entry, now + RETRY)
        return entry

    def _make_room(self) -> bool:
        """One more is to be looked for: the oldest that has not answered gives way. False: the table is full."""
        if len(self._unresolved) >= MAX_UNRESOLVED:
            oldest = next(iter(self._unresolved.values()))
            self.dropped += len(oldest.waiting)
            self._forget(oldest)
        return len(self._entries) < MAX_NEIGHBORS

    def _reachable(self, entry: Neighbor, now: int) -> None:
        entry.state, entry.suspect = State.REACHABLE, False
        self._wait(entry, now + REACHABLE_FOR)

    def _stale(self, entry: Neighbor, now: int) -> None:
        entry.state, entry.suspect = State.STALE, False
        self._wait(entry, now + STALE_FOR)

    def _forget(self, entry: Neighbor) -> list[NeighborEffect]:
        del self._entries[entry.ip]
        self._unresolved.pop(entry.ip, None)
        self._due.report(entry.ip, None)
        if entry.hardware:
            self._generation.bump()
        packets = tuple(packet for packet, _ in entry.waiting)
        return [Unreachable(entry.ip, packets)] if packets else []

    def _wait(self, entry: Neighbor, due: int) -> None:
        self._due.report(entry.ip, due)
