"""From an IP address on the link to the link-layer address behind it: the ARP and ND cache of one device.

Read first: `net/core/neighbour.c` of Linux (states are in `stack.neighbor_states`) and RFC 4861 section 7.3. The
cache belongs to the bond, not to its members. It knows no packet format: `ip_layer` turns `Solicit` into an ARP request
or a neighbor solicitation.

Three things differ from Linux on purpose. There is no lock time: the last answer wins, because no proxies
exist here. Repeated probes are broadcast, not only sent to the old address, so that a lost announcement costs a second.
And a device that got another address of its own (`readdressed`) keeps its entries under suspicion: the first packet to
each neighbor goes out at once, together with a solicitation that also carries the host's new address. `flush` is what
the kernel does instead (`neigh_changeaddr`).
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from ibbond.machine import Deadlines
from ibbond.stack.neighbor_states import LASTS, NUD_TABLE, RESTARTS, SOLICITS, NudInput, NudReaction, NudState
from ibbond.verbs.generation import Generation

ATTEMPTS = 3  # mcast_solicit, ucast_probes
QUEUE_PACKETS = 101  # unres_qlen: the oldest packet gives way
MAX_NEIGHBORS = 1024  # gc_thresh3
MAX_UNRESOLVED = 256
USABLE_BY_FLOWS = frozenset({NudState.REACHABLE, NudState.DELAY, NudState.PROBE})


@dataclass(frozen=True, slots=True)
class Solicit:
    """Effect: ask who has `ip`: unicast to `hardware`, or broadcast if empty; `packet` (may be empty) caused it."""

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
    """Effect: no answer came; `packets` are dropped (`offload` headers are no longer relevant)."""

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
    state: NudState = NudState.NONE
    hardware: bytes = b""
    attempts: int = 0
    confirmed_at: int = 0  # when the neighbor last said where it is; while INCOMPLETE, when it was first asked
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
        self._moved: list[bytes] = []

    def __iter__(self) -> Iterator[Neighbor]:
        return iter(tuple(self._entries.values()))

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, ip: bytes) -> Neighbor | None:
        return self._entries.get(ip)

    def take_moved(self) -> list[Neighbor]:
        """The neighbors that were found at another address than before, since the last call."""
        moved, self._moved = self._moved, []
        return [self._entries[ip] for ip in moved if ip in self._entries]

    def usable(self, ip: bytes) -> bytes | None:
        """The address that a remembered flow may use; None when a packet has to come by and be noticed."""
        entry = self._entries.get(ip)
        return entry.hardware if entry is not None and entry.state in USABLE_BY_FLOWS else None

    def send(self, now: int, ip: bytes, packet: bytes, offload: bytes = b"") -> list[NeighborEffect]:
        """A packet for this neighbor: it goes, or it waits for an answer."""
        entry = self._entries.get(ip) or self._new(now, ip)
        if entry is None:
            self.dropped += 1
            return []
        match self._step(now, entry, NudInput.PACKET):
            case NudReaction.SEND:
                return [Resolved(ip, entry.hardware, packet, offload)]
            case NudReaction.SEND_AND_SOLICIT:
                return [Resolved(ip, entry.hardware, packet, offload), Solicit(ip, packet=packet)]
            case NudReaction.SOLICIT:
                entry.waiting.append((packet, offload))
                return [Solicit(ip, packet=packet)]
            case _:
                self.dropped += len(entry.waiting) == QUEUE_PACKETS
                entry.waiting.append((packet, offload))
                return []

    def resolve(self, now: int, ip: bytes) -> list[NeighborEffect]:
        """The address of `ip` is needed without sending a packet (`neigh_event_send`)."""
        entry = self._entries.get(ip) or self._new(now, ip)
        if entry is None or self._step(now, entry, NudInput.REQUEST) is NudReaction.IGNORE:
            return []
        return [Solicit(ip)]

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
        """A message says that `ip` is at `hardware`: an answer to us (`confirmed`), or one that we did not ask for.

        Without `override` a known other address stays. Only `create` makes a new entry.
        """
        entry = self._entries.get(ip)
        if entry is None:
            if not create or len(self._entries) >= MAX_NEIGHBORS:
                return []
            entry = self._entries[ip] = Neighbor(ip)
        moved = entry.hardware != hardware
        if moved and entry.hardware and not override:
            self._step(now, entry, NudInput.CONTRADICTED)
            return []
        self._step(now, entry, NudInput.CONFIRMED if confirmed else NudInput.MOVED if moved else NudInput.SEEN)
        was = entry.hardware
        entry.hardware, entry.confirmed_at = hardware, now
        self._unresolved.pop(ip, None)
        if moved:
            self.changes += 1
            if was:
                self._moved.append(ip)
            self._generation.bump()
        effects: list[NeighborEffect] = []
        while entry.waiting:
            packet, offload = entry.waiting.popleft()
            effects += self.send(now, ip, packet, offload)
        return effects

    def readdressed(self, now: int) -> list[NeighborEffect]:
        """Our own address has changed: neighbors are where they were, but do not know where we are."""
        solicited = [e for e in self if self._step(now, e, NudInput.READDRESSED) is NudReaction.SOLICIT]
        self._generation.bump()
        return [Solicit(entry.ip) for entry in solicited]

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
        alone = entry.state is NudState.PROBE and entry.attempts == 1
        exhausted = entry.attempts >= ATTEMPTS
        match self._step(now, entry, NudInput.UNANSWERED if exhausted else NudInput.TIMEOUT):
            case NudReaction.EXPIRE:
                self._generation.bump()  # flows that use it must come by, so that it is confirmed again
            case NudReaction.SOLICIT_ONE:
                return [Solicit(entry.ip, entry.hardware)]
            case NudReaction.REPEAT:
                silent = [Silent(entry.hardware)] if alone else []
                return [*silent, Solicit(entry.ip, packet=entry.waiting[0][0] if entry.waiting else b"")]
            case NudReaction.FORGET:
                return self._forget(entry)
        return []

    def _step(self, now: int, entry: Neighbor, event: NudInput) -> NudReaction:
        """Look up the table; the caller carries out the reaction."""
        reaction, after = NUD_TABLE[entry.state, event]
        if after is not entry.state or reaction in RESTARTS:
            entry.state = after
            entry.attempts = entry.attempts + 1 if reaction is NudReaction.REPEAT else int(reaction in SOLICITS)
            self._due.report(entry.ip, now + LASTS[after] if after in LASTS else None)
        return reaction

    def _new(self, now: int, ip: bytes) -> Neighbor | None:
        """An entry to be resolved, if there is room for one."""
        if not self._make_room():
            return None
        entry = self._entries[ip] = self._unresolved[ip] = Neighbor(ip, confirmed_at=now)
        return entry

    def _make_room(self) -> bool:
        """One more is to be looked for: the oldest that has not answered gives way. False: the table is full."""
        if len(self._unresolved) >= MAX_UNRESOLVED:
            oldest = next(iter(self._unresolved.values()))
            self.dropped += len(oldest.waiting)
            self._forget(oldest)
        return len(self._entries) < MAX_NEIGHBORS

    def _forget(self, entry: Neighbor) -> list[NeighborEffect]:
        del self._entries[entry.ip]
        self._unresolved.pop(entry.ip, None)
        self._due.report(entry.ip, None)
        if entry.hardware:
            self._generation.bump()
        packets = tuple(packet for packet, _ in entry.waiting)
        return [Unreachable(entry.ip, packets)] if packets else []
