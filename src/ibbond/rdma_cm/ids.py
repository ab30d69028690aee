"""The RDMA CM ids of one host: what each is about, how it is found, and how its program is notified.

Read first: of Linux `core/cma.c`, `struct rdma_id_private`. What is done with them is in `rdma_cm.resolving` and
`rdma_cm.connecting`; who asks for it in `rdma_cm.users`.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from ibbond.errors import Refused
from ibbond.fabric.events import FailQueuePair
from ibbond.fabric.subnet import Subnet
from ibbond.netdev.device import Device
from ibbond.rdma_cm.events import ARRIVED_IDS, Connect, RdmaCmEvent, RdmaEvent, RdmaKind
from ibbond.rdma_cm.host import RdmaHost
from ibbond.rdma_cm.id_states import ID_TABLE, ID_VERBS, IdInput, IdReaction, IdState, IdVerb
from ibbond.verbs.memory import ProtectionDomain
from ibbond.wire.cm import Rep, Req
from ibbond.wire.sa_records import PathRecord

EPHEMERAL_PORTS = range(32768, 61000)  # `ip_local_port_range` as it is by default


@dataclass(eq=False, slots=True)
class RdmaId:
    """An id of a program. `source_address` and `neighbor_address` are the 20 bytes of the time of resolving."""

    user: int
    number: int
    state: IdState = IdState.IDLE
    service_port: int = 0  # of a listener its own, else the peer's
    bound: bytes = b""  # the address that its program chose
    only: bool = False  # it takes no peers of the other IP version
    reuse: bool = False
    device: str = ""
    source: bytes = b""
    destination: bytes = b""
    next_hop: bytes = b""
    source_address: bytes = b""
    neighbor_address: bytes = b""
    source_port: int = 0  # of a connecting id, as its peer sees it
    port: str = ""  # does not change once there is a queue pair: that is made, connected and destroyed here
    pkey: int = 0xFFFF
    record: PathRecord | None = None
    qpn: int | None = None
    program_qpn: int | None = None  # of a queue pair that the program makes and moves itself, instead of `qpn`
    psn: int = 0
    local_id: int | None = None
    request: Req | None = None  # of a peer
    reply: Rep | None = None  # of a peer
    settings: Connect | None = None
    due_at: int | None = None  # of giving up resolving
    ask_at: int | None = None  # of the next path query
    query: int = 0

    def facts(self) -> dict[str, object]:
        """What people are shown of it."""
        source, destination = (str(ip_address(one)) if one else None for one in (self.source, self.destination))
        return {
            "id": self.number,
            "state": self.state.name.lower(),
            "device": self.device or None,
            "port": self.port or None,
            "source": source,
            "destination": destination,
            "service_port": self.service_port,
            "queue_pair": self.program_qpn if self.qpn is None else self.qpn,
        }


class RdmaIds:
    """By program and number, by queue pair, by the communication manager's number."""

    def __init__(self, host: RdmaHost, subnet: Subnet) -> None:
        self._host = host
        self._subnet = subnet
        self._all: dict[tuple[int, int], RdmaId] = {}
        self._by_pair: dict[tuple[str, int], RdmaId] = {}  # adapter, QPN
        self._by_local: dict[int, RdmaId] = {}
        self._domains: dict[int, ProtectionDomain] = {}
        self._next_arrived = ARRIVED_IDS
        self._next_port = EPHEMERAL_PORTS.start

    def __iter__(self) -> Iterator[RdmaId]:
        return iter(tuple(self._all.values()))

    def __bool__(self) -> bool:
        return bool(self._all)

    def new(self, user: int, number: int) -> RdmaId:
        what, fix = f"cannot create id {number}", "Use another number"
        if not 0 <= number < ARRIVED_IDS:
            raise Refused(what, why="ids of programs are 0 to 2^24-1", fix=fix, code=errno.EINVAL)
        if (user, number) in self._all:
            raise Refused(what, why="the number is in use", fix=fix, code=errno.EEXIST)
        cm_id = self._all[user, number] = RdmaId(user, number, psn=first_psn(number))
        return cm_id

    def arrived(self, user: int) -> RdmaId:
        """A new id for a connection request; we number it."""
        number = self._next_arrived
        cm_id = self._all[user, number] = RdmaId(user, number, psn=first_psn(number))
        self._next_arrived += 1
        return cm_id

    def find(self, user: int, number: int) -> RdmaId | None:
        return self._all.get((user, number))

    def get(self, user: int, number: int) -> RdmaId:
        cm_id = self._all.get((user, number))
        if cm_id is None:
            why = "this program has no id of this number"
            raise Refused(f"no id {number}", why=why, fix="Resolve an address first", code=errno.ENOENT)
        return cm_id

    def forget(self, cm_id: RdmaId) -> None:
        self._all.pop((cm_id.user, cm_id.number), None)
        if cm_id.local_id is not None:
            self._by_local.pop(cm_id.local_id, None)
        if cm_id.qpn is not None:
            self._by_pair.pop((self.adapter(cm_id.port), cm_id.qpn), None)

    def free_port(self) -> int:
        """The next service port for an id that connects (`cma_alloc_any_port`)."""
        taken = {cm_id.source_port or cm_id.service_port for cm_id in self._all.values()}
        after = range(self._next_port, EPHEMERAL_PORTS.stop)
        free = next((port for port in (*after, *EPHEMERAL_PORTS) if port not in taken), 0)
        self._next_port = free + 1
        return free

    def of_local(self, local_id: int) -> RdmaId | None:
        return self._by_local.get(local_id)

    def has_local(self, cm_id: RdmaId, local_id: int) -> None:
        """The communication manager calls it by this number."""
        cm_id.local_id = local_id
        self._by_local[local_id] = cm_id

    def of_pair(self, port: str, qpn: int) -> RdmaId | None:
        return self._by_pair.get((self.adapter(port), qpn))

    def make_queue_pair(self, cm_id: RdmaId) -> None:
        """If the connection has already ended, the queue pair is in error from the start: posted work is flushed."""
        if not cm_id.port or cm_id.qpn is not None:
            raise refused(cm_id, "it has no port yet" if not cm_id.port else "it already has one", errno.EINVAL)
        cm_id.qpn = self._subnet.create_reliable(cm_id.port, self.domain(cm_id.user))
        cm_id.psn = first_psn(cm_id.qpn)
        self._by_pair[self.adapter(cm_id.port), cm_id.qpn] = cm_id
        if cm_id.state is IdState.DISCONNECTED:
            self.fail_queue_pair(cm_id)

    def fail_queue_pair(self, cm_id: RdmaId) -> None:
        """Everything that is posted to it is flushed, now and later (`cma_modify_qp_err`)."""
        if cm_id.qpn is not None:
            self._host.send(FailQueuePair(cm_id.port, cm_id.qpn))

    def port_of(self, device: Device) -> str | None:
        """`cma_acquire_dev_by_src_ip`: the device's address of now says which port."""
        gid = device.address[4:]
        return next((name for name in self._host.ports if self._subnet.port(name).gid == gid), None)

    def may_send(self, cm_id: RdmaId) -> bool:
        """Its queue pair is beyond INIT (connected, or in error, where work is flushed), as `ibv_post_send` asks."""
        ended = cm_id.state in (IdState.DISCONNECTED, IdState.REMOVED)
        return ended or (cm_id.qpn is not None and self._subnet.peer_of(cm_id.port, cm_id.qpn) is not None)

    def domain(self, user: int) -> ProtectionDomain:
        if user not in self._domains:
            self._domains[user] = self._subnet.new_domain()
        return self._domains[user]

    def forget_domain(self, user: int) -> None:
        self._domains.pop(user, None)

    def adapter(self, port: str) -> str:
        return self._subnet.port(port).node.name

    def notify(
        self,
        cm_id: RdmaId,
        kind: RdmaKind,
        status: int = 0,
        private: bytes = b"",
        *,
        listener: int = -1,
        detail: str = "",
    ) -> None:
        """Notify the id's program."""
        event = RdmaCmEvent(cm_id.number, kind, status, private, listener, detail)
        self._host.notify(RdmaEvent(self._host.name, cm_id.user, event))


def first_psn(number: int) -> int:
    """The first packet number of a queue pair, or of an id: different for each, without a random number."""
    return number * 0x9E3779B1 >> 8 & 0xFFFFFF


def may(cm_id: RdmaId, verb: IdVerb) -> bool:
    """Whether the id is in a state for this; False if it is too late, which its program knows. Else `Refused`."""
    if (cm_id.state, verb) not in ID_VERBS:
        raise refused(cm_id, f"it is {cm_id.state.name.lower().replace('_', ' ')}", errno.EINVAL)
    return ID_VERBS[cm_id.state, verb] is not None


def move(cm_id: RdmaId, verb: IdVerb) -> None:
    """The verb is carried out."""
    after = ID_VERBS[cm_id.state, verb]
    assert after is not None, "`may` was asked before"
    cm_id.state = after


def step(cm_id: RdmaId, event: IdInput) -> bool:
    """This has happened; False if it means nothing in the state that the id is in."""
    reaction, cm_id.state = ID_TABLE[cm_id.state, event]
    return reaction is not IdReaction.IGNORE


def refused(cm_id: RdmaId, why: str, code: int) -> Refused:
    fix = "Follow the order of rdma_cm(7)"
    return Refused(f"id {cm_id.number} cannot do this", why=why, fix=fix, code=code)
