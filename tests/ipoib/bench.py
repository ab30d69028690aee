"""One interface on a test bench: a port whose facts the test writes, and an administrator that does as requested."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ibbond.ipoib.driver import ipoib_device
from ibbond.ipoib.events import (
    AddressIs,
    AdminDown,
    AdminUp,
    Attach,
    CarrierIs,
    Detach,
    Dropped,
    EmitDatagram,
    EmitMad,
    GroupsChanged,
    InterfaceEffect,
    InterfaceEvent,
    MadReceived,
    MtuIs,
    PathsChanged,
    PortRaised,
    SetQkey,
    TooLong,
)
from ibbond.ipoib.interface import Interface
from ibbond.ipoib.paths import StackNeighbors
from ibbond.machine import MS
from ibbond.verbs.verbs import Datagram, PortEventKind, PortState
from ibbond.wire.hwaddr import RC_SUPPORTED, HardwareAddress
from ibbond.wire.mad import Method
from ibbond.wire.sa import SaAttribute, SaMad, SaStatus
from ibbond.wire.sa_records import McMemberRecord, PathRecord

GUID = 0x0002C90300100001
QPN = 0x48
QKEY = 0x0B1B
SM_LID = 1
PEER_GID = bytes.fromhex("fe800000000000000002c90300100011")
PEER = HardwareAddress(0x4B, PEER_GID, RC_SUPPORTED).pack()
OTHER_GID = bytes.fromhex("fe800000000000000002c90300100012")
OTHER = HardwareAddress(0x4C, OTHER_GID, RC_SUPPORTED).pack()


@dataclass
class Port:
    name: str = "h1/1"
    state: PortState = PortState.ACTIVE
    lid: int = 5
    sm_lid: int = SM_LID
    gid: bytes = bytes.fromhex("fe80000000000000") + GUID.to_bytes(8)
    pkeys: tuple[int, ...] = (0xFFFF,)
    mtu_bytes: int = 4096


@dataclass
class Administrator:
    """Answers joins and path queries, or stays silent, or refuses."""

    silent: bool = False
    status: int = SaStatus.OK
    statuses: dict[bytes, int] = field(default_factory=dict)  # by MGID or GID
    lids: dict[bytes, int] = field(default_factory=lambda: {PEER_GID: 7, OTHER_GID: 8})
    mlids: dict[bytes, int] = field(default_factory=dict)
    members: dict[bytes, int] = field(default_factory=dict)  # join state by MGID
    asked: list[SaMad] = field(default_factory=list)
    qkey: int = QKEY
    mtu: int = 4
    hop_limit: int = 0
    service_level: int = 0  # of paths
    path_mtu: int = 4

    def answer(self, raw: bytes) -> bytes | None:
        request = SaMad.parse(raw)
        self.asked.append(request)
        if self.silent:
            return None
        match request.attribute, request.method:
            case SaAttribute.MC_MEMBER_RECORD, Method.SET:
                return self._join(request)
            case SaAttribute.MC_MEMBER_RECORD, Method.DELETE:
                record = McMemberRecord.parse(request.data)
                rest = self.members.get(record.mgid, 0) & ~record.join_state
                self.members[record.mgid] = rest
                if not rest:
                    del self.members[record.mgid]
                return replace(request, method=Method.DELETE_RESP).pack()
            case SaAttribute.PATH_RECORD, Method.GET:
                return self._path(request)
            case other:
                raise AssertionError(other)

    def _join(self, request: SaMad) -> bytes:
        record = McMemberRecord.parse(request.data)
        status = self.statuses.get(record.mgid, self.status)
        if status:
            return replace(request, method=Method.GET_RESP, status=status).pack()
        mlid = self.mlids.setdefault(record.mgid, 0xC000 + len(self.mlids))
        state = self.members[record.mgid] = self.members.get(record.mgid, 0) | record.join_state
        answer = replace(record, mlid=mlid, qkey=self.qkey, mtu=self.mtu, rate=3, join_state=state)
        return replace(request, method=Method.GET_RESP, data=answer.pack()).pack()

    def _path(self, request: SaMad) -> bytes:
        record = PathRecord.parse(request.data)
        lid = self.lids.get(record.dgid)
        status = self.statuses.get(record.dgid, self.status)
        if status or lid is None:
            return replace(request, method=Method.GET_RESP, status=status or SaStatus.NO_RECORDS).pack()
        answer = replace(record, dlid=lid, slid=5, mtu=self.path_mtu, sl=self.service_level, hop_limit=self.hop_limit)
        return replace(request, method=Method.GET_RESP, data=answer.pack()).pack()

    def count(self, attribute: SaAttribute, method: Method, identity: bytes) -> int:
        """How often this was asked about an MGID or a destination GID."""
        at = 0 if attribute == SaAttribute.MC_MEMBER_RECORD else 8
        return sum(
            mad.attribute == attribute and mad.method == method and mad.data[at : at + 16] == identity
            for mad in self.asked
        )


class Bench:
    """Runs effects as a host would, until nothing is left to do."""

    def __init__(
        self, port: Port | None = None, *, pkey: int | None = None, old_neighbors: StackNeighbors | None = None
    ) -> None:
        self.now = 0
        self.port = port or Port()
        self.sa = Administrator()
        self.device = ipoib_device("ib0", self.port, QPN, pkey=pkey)
        self.interface = Interface(self.device, self.port, qpn=QPN, pkey=pkey, old_neighbors=old_neighbors)
        self.sent: list[Datagram] = []
        self.attached: dict[bytes, int] = {}
        self.qkey = 0
        self.carriers: list[bool] = []
        self.drops: list[str] = []
        self.too_long: list[int] = []
        self.forgotten = 0
        self.log: list[InterfaceEffect] = []

    def run(self, effects: list[InterfaceEffect]) -> None:
        while effects:
            effect = effects.pop(0)
            self.log.append(effect)
            match effect:
                case EmitMad(mad):
                    assert (mad.destination_lid, mad.source_lid) == (self.port.sm_lid, self.port.lid)
                    answer = self.sa.answer(mad.mad)
                    if answer is not None:
                        effects += self.interface.handle(self.now, MadReceived(answer))
                case EmitDatagram(datagram):
                    self.sent.append(datagram)
                case Attach(mgid, mlid):
                    assert mgid not in self.attached
                    self.attached[mgid] = mlid
                case Detach(mgid):
                    del self.attached[mgid]
                case SetQkey(qkey):
                    self.qkey = qkey
                case CarrierIs(up):
                    self.carriers.append(up)
                    self.device.set_carrier(up)
                case MtuIs(mtu):
                    self.device.set_mtu(mtu)
                case AddressIs(address):
                    self.device.address = address
                case PathsChanged():
                    self.forgotten += 1
                case TooLong(_, mtu):
                    self.too_long.append(mtu)
                case Dropped(reason, packets):
                    self.drops += [reason] * packets

    def tell(self, event: InterfaceEvent) -> None:
        self.run(self.interface.handle(self.now, event))

    def up(self) -> Bench:
        self.device.open()
        self.tell(AdminUp())
        return self

    def down(self) -> None:
        self.device.close()
        self.tell(AdminDown())

    def raise_event(self, kind: PortEventKind) -> None:
        self.tell(PortRaised(kind))

    def listen(self, *groups: bytes) -> None:
        """Make the device's multicast list this one (20-byte addresses)."""
        self.device.multicast.flush()
        for group in groups:
            self.device.multicast.add(group)
        self.tell(GroupsChanged())

    def send(self, destination: bytes, ethertype: int = 0x0800, payload: bytes = b"packet", **more: bytes) -> None:
        self.run(self.interface.encapsulate(self.now, destination, ethertype, payload, **more))

    def wait(self, ms: float) -> None:
        """Let time pass, ticking at every deadline."""
        end = self.now + round(ms * MS)
        while (at := self.interface.deadline()) is not None and at <= end:
            self.now = max(self.now, at)
            self.run(self.interface.tick(self.now))
        self.now = end
