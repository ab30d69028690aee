"""Small subnets to test with, and a driver that is their clock, their programs and their witness."""

import random
from typing import Any

from ibbond.fabric.events import (
    DatagramArrived,
    MadArrived,
    PortEvent,
    SendDatagram,
    SendMad,
    SubnetEffect,
    SubnetEvent,
)
from ibbond.fabric.subnet import Subnet
from ibbond.machine import MS
from ibbond.verbs.generation import Generation
from ibbond.verbs.timing import Timing
from ibbond.verbs.verbs import MULTICAST_QPN, Datagram, ManagementDatagram, PortEventKind, PortState
from ibbond.wire.mad import Method
from ibbond.wire.sa import SaAttribute, SaMad
from ibbond.wire.sa_records import McMemberMask, McMemberRecord, PathMask, PathRecord

BROADCAST = bytes.fromhex("ff12401bffff000000000000ffffffff")
QKEY = 0x0B1B
JOIN = McMemberMask.MGID | McMemberMask.PORT_GID | McMemberMask.JOIN_STATE
CREATE = (
    JOIN
    | McMemberMask.QKEY
    | McMemberMask.TRAFFIC_CLASS
    | McMemberMask.PKEY
    | McMemberMask.FLOW_LABEL
    | McMemberMask.SL
)
PATH = PathMask.DGID | PathMask.SGID | PathMask.NUMB_PATH | PathMask.REVERSIBLE | PathMask.PKEY


class Lab:
    """A subnet and what has come out of it; `seen` has the effects since it was last emptied."""

    def __init__(self, *, timing: Timing | None = None, seed: int = 1, built_in_manager: bool = True) -> None:
        self.subnet = Subnet(
            generation=Generation(), random=random.Random(seed), timing=timing, built_in_manager=built_in_manager
        )
        self.now = 0
        self.seen: list[SubnetEffect] = []
        self._transaction = 0

    def start(self) -> "Lab":
        self.seen += self.subnet.start(self.now)
        return self.run_until_quiescent()

    def do(self, event: SubnetEvent) -> list[SubnetEffect]:
        """An event and what follows at once."""
        effects = self.subnet.handle(self.now, event)
        self.seen += effects
        return effects

    def run_until_quiescent(self, ms: int = 50) -> "Lab":
        """Let time pass."""
        end = self.now + ms * MS
        while (at := self.subnet.deadline()) is not None and at <= end:
            self.now = max(self.now, at)
            self.seen += self.subnet.tick(self.now)
        self.now = end
        return self

    def after(self, event: SubnetEvent, ms: int = 50) -> list[SubnetEffect]:
        """An event and what follows until the subnet is quiet."""
        self.seen.clear()
        self.do(event)
        self.run_until_quiescent(ms)
        return self.seen

    def events(self, port: str) -> list[PortEventKind]:
        return [effect.kind for effect in self.seen if isinstance(effect, PortEvent) and effect.port == port]

    def states(self) -> dict[str, PortState]:
        return {port.name: port.state for port in self.subnet.end_ports()}

    def arrivals(self) -> list[str]:
        """Where datagrams arrived, in order."""
        return [effect.port for effect in self.seen if isinstance(effect, DatagramArrived)]

    def ask(self, port: str, request: SaMad, ms: int = 20) -> SaMad:
        """Ask the subnet administrator, as a program at this port; its single answer."""
        self._transaction += 1
        mad = SaMad(
            request.method,
            request.attribute,
            request.component_mask,
            request.data,
            self._transaction,
            request.modifier,
            sm_key=request.sm_key,
            rmpp=request.rmpp,
        )
        self.seen.clear()
        own = self.subnet.port(port)
        self.do(SendMad(port, ManagementDatagram(own.lid, own.sm_lid, 1, 1, mad.pack())))
        self.run_until_quiescent(ms)
        answers = [answer for effect in self.seen if (answer := _answer(effect, port, self._transaction))]
        assert len(answers) == 1, answers
        return answers[0]

    def join(
        self, port: str, mgid: bytes = BROADCAST, state: int = 1, mask: int = JOIN, ms: int = 20, **fields: int
    ) -> McMemberRecord | int:
        """The record of a join that was granted, or the status of one that was not."""
        record = McMemberRecord(mgid=mgid, port_gid=self.subnet.port(port).gid, join_state=state, **fields)  # type: ignore[arg-type]
        answer = self.ask(port, SaMad(Method.SET, SaAttribute.MC_MEMBER_RECORD, mask, record.pack()), ms)
        return answer.status or McMemberRecord.parse(answer.data)

    def create(self, port: str, mgid: bytes, pkey: int = 0xFFFF) -> McMemberRecord | int:
        return self.join(port, mgid, mask=CREATE, qkey=QKEY, pkey=pkey)

    def leave(self, port: str, mgid: bytes = BROADCAST, state: int = 1) -> int:
        record = McMemberRecord(mgid=mgid, port_gid=self.subnet.port(port).gid, join_state=state)
        return self.ask(port, SaMad(Method.DELETE, SaAttribute.MC_MEMBER_RECORD, JOIN, record.pack())).status

    def path(self, port: str, to: str, pkey: int = 0xFFFF) -> PathRecord | int:
        record = PathRecord(
            dgid=self.subnet.port(to).gid, sgid=self.subnet.port(port).gid, numb_path=1, reversible=True, pkey=pkey
        )
        answer = self.ask(port, SaMad(Method.GET, SaAttribute.PATH_RECORD, PATH, record.pack()))
        return answer.status or PathRecord.parse(answer.data)

    def listen(self, port: str, mgid: bytes | None = BROADCAST, mlid: int = 0xC000, qkey: int = QKEY) -> int:
        """A queue pair at the port, attached to the group."""
        qpn = self.subnet.create_queue_pair(port, qkey=qkey)
        if mgid is not None:
            self.subnet.attach(port, qpn, mgid, mlid)
        return qpn

    def datagram(self, port: str, lid: int, qpn: int, payload: bytes = b"x" * 60, **fields: object) -> Datagram:
        values: dict[str, object] = {"pkey": 0xFFFF, "source_qpn": 0x999, "qkey": QKEY, **fields}
        return Datagram(self.subnet.port(port).lid, lid, destination_qpn=qpn, payload=payload, **values)  # type: ignore[arg-type]

    def send(self, port: str, to: str, qpn: int, **fields: Any) -> list[str]:
        """Send one datagram to a port; where it arrived."""
        self.seen.clear()
        self.do(SendDatagram(port, self.datagram(port, self.subnet.port(to).lid, qpn, **fields)))
        self.run_until_quiescent(1)
        return self.arrivals()

    def multicast(self, port: str, mlid: int = 0xC000, mgid: bytes = BROADCAST, **fields: Any) -> list[str]:
        """Send one datagram to a group; where copies arrived."""
        own = self.subnet.port(port)
        addresses = {"source_gid": own.gid, "destination_gid": mgid, **fields}
        self.seen.clear()
        self.do(SendDatagram(port, self.datagram(port, mlid, MULTICAST_QPN, **addresses)))
        self.run_until_quiescent(1)
        return self.arrivals()

    def reachable(self) -> set[tuple[str, str]]:
        """The ordered pairs of host ports between which a datagram gets through now."""
        ports = [port.name for port in self.subnet.end_ports() if not port.name.startswith("s")]
        listeners = {name: self.subnet.create_queue_pair(name, qkey=QKEY) for name in ports}
        found = {(a, b) for a in ports for b in ports if a != b and b in self.send(a, b, listeners[b])}
        for name, qpn in listeners.items():
            self.subnet.destroy_queue_pair(name, qpn)
        return found


def pairs(ports: list[str]) -> set[tuple[str, str]]:
    return {(a, b) for a in ports for b in ports if a != b}


def _answer(effect: SubnetEffect, port: str, transaction: int) -> SaMad | None:
    if not isinstance(effect, MadArrived) or effect.port != port or effect.mad.mad[1] != 3:
        return None
    mad = SaMad.parse(effect.mad.mad)
    return mad if mad.transaction_id == transaction else None


def two_switches(lab: Lab, hosts: int = 2) -> Lab:
    """Hosts with a port on each of two switches, which two cables join (s1/7 - s2/7, s1/8 - s2/8)."""
    subnet = lab.subnet
    subnet.add_switch("s1", 8)
    subnet.add_switch("s2", 8)
    for number in range(1, hosts + 1):
        subnet.add_hca(f"h{number}", 2)
        subnet.connect(f"h{number}/1", f"s1/{number}")
        subnet.connect(f"h{number}/2", f"s2/{number}")
    subnet.connect("s1/7", "s2/7")
    subnet.connect("s1/8", "s2/8")
    return lab


def ring(lab: Lab, switches: int) -> Lab:
    """Switches in a ring, one host at each; port 1 leads on, port 2 back."""
    subnet = lab.subnet
    for number in range(1, switches + 1):
        subnet.add_switch(f"s{number}", 4)
        subnet.add_hca(f"h{number}", 1)
        subnet.connect(f"h{number}/1", f"s{number}/3")
    for number in range(1, switches + 1):
        subnet.connect(f"s{number}/1", f"s{number % switches + 1}/2")
    return lab
