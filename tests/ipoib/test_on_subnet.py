"""Interfaces on the whole subnet: two hosts of two ports, two switches, the built-in subnet manager, only MADs."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from ibbond.fabric.events import (
    ChangeLid,
    Cut,
    DatagramArrived,
    KillSubnetManager,
    KillSwitch,
    MadArrived,
    Mend,
    PortEvent,
    Reregister,
    ReviveSubnetManager,
    ReviveSwitch,
    SendDatagram,
    SendMad,
    SetPkeys,
    SubnetEvent,
)
from ibbond.fabric.subnet import Subnet
from ibbond.ipoib.driver import ipoib_device
from ibbond.ipoib.events import (
    AddressIs,
    AdminUp,
    Attach,
    CarrierIs,
    Detach,
    EmitDatagram,
    EmitMad,
    Frame,
    GroupsChanged,
    InterfaceEffect,
    MadReceived,
    MtuIs,
    PortRaised,
    SetQkey,
)
from ibbond.ipoib.interface import Interface
from ibbond.machine import MS
from ibbond.manager.partitions import Partition
from ibbond.verbs.generation import Generation
from ibbond.verbs.timing import Timing
from ibbond.wire.group_address import broadcast_address, group_address

BROADCAST = broadcast_address(0xFFFF)
GROUP = group_address(bytes((239, 1, 2, 3)), BROADCAST)


class Lab:
    """The subnet and its interfaces by port; effects go to and fro until it is quiet."""

    def __init__(self, timing: Timing, *partitions: Partition) -> None:
        self.now = 0
        self.subnet = Subnet(generation=Generation(), random=random.Random(1), timing=timing)
        self.subnet.add_switch("s1", 8)
        self.subnet.add_switch("s2", 8)
        for host in ("h1", "h2"):
            self.subnet.add_hca(host)
        for a, b in (("h1/1", "s1/1"), ("h1/2", "s2/1"), ("h2/1", "s1/2"), ("h2/2", "s2/2"), ("s1/7", "s2/7")):
            self.subnet.connect(a, b)
        for partition in partitions:
            self.subnet.add_partition(partition)
        self.interfaces: dict[str, list[Interface]] = {}
        self.carriers: dict[str, list[bool]] = {}
        self.frames: dict[str, list[Frame]] = {}
        self.route(self.subnet.start(self.now))

    def add(self, port: str, pkey: int | None = None) -> Interface:
        facts = self.subnet.port(port)
        qpn = self.subnet.create_queue_pair(port)
        name = port if pkey is None else f"{port}.{pkey:04x}"
        interface = Interface(ipoib_device(name, facts, qpn, pkey=pkey), facts, qpn=qpn, pkey=pkey)
        self.interfaces.setdefault(port, []).append(interface)
        self.carriers[name], self.frames[name] = [], []
        interface.device.open()
        self.do(interface, interface.handle(self.now, AdminUp()))
        return interface

    def do(self, interface: Interface, effects: list[InterfaceEffect]) -> None:
        name, port, qpn = interface.device.name, interface.port.name, interface.qpn
        for effect in effects:
            match effect:
                case EmitDatagram(datagram):
                    self.route(self.subnet.handle(self.now, SendDatagram(port, datagram)))
                case EmitMad(mad):
                    self.route(self.subnet.handle(self.now, SendMad(port, mad)))
                case Attach(mgid, mlid):
                    self.subnet.attach(port, qpn, mgid, mlid)
                case Detach(mgid):
                    self.subnet.detach(port, qpn, mgid)
                case SetQkey(qkey):
                    self.subnet.set_qkey(port, qpn, qkey)
                case CarrierIs(up):
                    self.carriers[name].append(up)
                    interface.device.set_carrier(up)
                case MtuIs(mtu):
                    interface.device.set_mtu(mtu)
                case AddressIs(address):
                    interface.device.address = address
                case _:
                    pass

    def route(self, effects: Iterable[object]) -> None:
        for effect in effects:
            match effect:
                case PortEvent(port, kind):
                    for interface in self.interfaces.get(port, []):
                        self.do(interface, interface.handle(self.now, PortRaised(kind)))
                case MadArrived(port, mad):
                    for interface in self.interfaces.get(port, []):
                        self.do(interface, interface.handle(self.now, MadReceived(mad.mad)))
                case DatagramArrived(port, datagram):
                    for interface in self.interfaces.get(port, []):
                        frame = interface.decapsulate(datagram)
                        if frame is not None:
                            self.frames[interface.device.name].append(frame)
                case _:
                    pass

    def fault(self, event: SubnetEvent) -> None:
        self.route(self.subnet.handle(self.now, event))

    def wait(self, ms: float) -> None:
        end = self.now + round(ms * MS)
        while True:
            interfaces = (each for port in self.interfaces.values() for each in port)
            machines: list[Subnet | Interface] = [self.subnet, *interfaces]
            due = [(at, number) for number, machine in enumerate(machines) if (at := machine.deadline()) is not None]
            if not due or min(due)[0] > end:
                break
            at, number = min(due)
            self.now = max(self.now, at)
            if number == 0:
                self.route(self.subnet.tick(self.now))
            else:
                interface = machines[number]
                assert isinstance(interface, Interface)
                self.do(interface, interface.tick(self.now))
        self.now = end

    def send(self, interface: Interface, destination: bytes, payload: bytes = b"packet") -> None:
        self.do(interface, interface.encapsulate(self.now, destination, 0x0800, payload))

    def listen(self, interface: Interface, *groups: bytes) -> None:
        interface.device.multicast.flush()
        for group in groups:
            interface.device.multicast.add(group)
        self.do(interface, interface.handle(self.now, GroupsChanged()))

    def received(self, name: str) -> list[bytes]:
        frames, self.frames[name] = self.frames[name], []
        return [frame.payload for frame in frames]


@pytest.fixture(params=[Timing(), Timing.simulated()], ids=["live", "simulated"])
def lab(request: pytest.FixtureRequest) -> Lab:
    lab = Lab(request.param, Partition("storage", 0x8001, mtu_bytes=4096))
    lab.wait(ms=100)
    return lab


def test_up_and_talking(lab: Lab) -> None:
    one, two = lab.add("h1/1"), lab.add("h2/2")
    lab.wait(ms=100)
    assert (one.device.carrier, two.device.carrier) == (True, True)
    assert one.device.mtu == 2044
    lab.send(one, two.device.address)
    lab.send(two, one.device.address, b"back")
    lab.send(one, one.device.broadcast, b"all")
    lab.wait(ms=100)
    assert sorted(lab.received("h2/2")) == [b"all", b"packet"]
    assert lab.received("h1/1") == [b"back"], "the own broadcast does not come back"
    assert two.device.statistics.rx_packets == 2


def test_groups(lab: Lab) -> None:
    one, two, three = lab.add("h1/1"), lab.add("h2/2"), lab.add("h2/1")
    lab.wait(ms=100)
    lab.send(one, GROUP)
    lab.wait(ms=100)
    assert lab.received("h2/2") == []
    lab.listen(two, GROUP)
    lab.wait(ms=100)
    lab.send(one, GROUP, b"data")
    lab.wait(ms=100)
    assert lab.received("h2/2") == [b"data"]
    assert lab.received("h2/1") == []
    lab.listen(two)
    lab.listen(three, GROUP)
    lab.wait(ms=100)
    lab.send(one, GROUP, b"more")
    lab.wait(ms=100)
    assert (lab.received("h2/2"), lab.received("h2/1")) == ([], [b"more"])


def test_cut_and_mend(lab: Lab) -> None:
    one, two = lab.add("h1/1"), lab.add("h2/1")
    lab.listen(two, GROUP)
    lab.wait(ms=100)
    lab.send(one, two.device.address)
    lab.wait(ms=10)
    lab.fault(Cut("h2/1"))
    assert lab.carriers["h2/1"] == [True, False]
    assert lab.carriers["h1/1"] == [True]
    lab.wait(ms=500)
    lab.fault(Mend("h2/1"))
    lab.wait(ms=3000)
    assert lab.carriers["h2/1"] == [True, False, True]
    lab.received("h2/1")
    lab.send(one, two.device.address, b"again")
    lab.send(one, GROUP, b"group")
    lab.wait(ms=100)
    assert lab.received("h2/1") == [b"again", b"group"]


def test_reregister_does_not_blink(lab: Lab) -> None:
    one, two = lab.add("h1/1"), lab.add("h2/1")
    lab.wait(ms=100)
    lab.send(one, two.device.address)
    lab.wait(ms=10)
    lab.fault(Reregister("h1/1"))
    lab.send(one, two.device.address)
    lab.wait(ms=2000)
    lab.send(one, two.device.address)
    lab.wait(ms=10)
    assert lab.carriers["h1/1"] == [True]
    assert len(lab.received("h2/1")) == 3


def test_a_subnet_manager_that_starts_again_costs_nothing(lab: Lab) -> None:
    one, two = lab.add("h1/1"), lab.add("h2/1")
    lab.listen(two, GROUP)
    lab.wait(ms=100)
    lab.send(one, two.device.address)
    lab.send(one, GROUP)
    lab.wait(ms=10)
    lab.fault(KillSubnetManager())
    lab.wait(ms=5000)
    lab.send(one, two.device.address)
    lab.send(one, GROUP)
    lab.wait(ms=10)
    assert len(lab.received("h2/1")) == 4
    lab.fault(ReviveSubnetManager())
    lab.wait(ms=5000)
    assert lab.carriers == {"h1/1": [True], "h2/1": [True]}
    lab.send(one, two.device.address)
    lab.send(one, GROUP)
    lab.wait(ms=100)
    assert len(lab.received("h2/1")) == 2


def test_without_a_subnet_manager_there_is_no_carrier(lab: Lab) -> None:
    lab.fault(KillSubnetManager())
    lab.add("h1/1")
    lab.wait(ms=10_000)
    assert lab.carriers["h1/1"] == []
    lab.fault(ReviveSubnetManager())
    lab.wait(ms=3_000)
    assert lab.carriers["h1/1"][-1:] == [True]


def test_another_lid_blinks(lab: Lab) -> None:
    one, two = lab.add("h1/1"), lab.add("h2/1")
    lab.wait(ms=100)
    lab.send(two, one.device.address)
    lab.wait(ms=10)
    lab.fault(ChangeLid("h1/1", 77))
    lab.wait(ms=3000)
    assert lab.carriers["h1/1"] == [True, False, True]
    assert one.port.lid == 77
    lab.received("h2/1")
    lab.send(one, two.device.address, b"from 77")
    lab.wait(ms=10)
    assert lab.received("h2/1") == [b"from 77"]


def test_keys_come_and_go(lab: Lab) -> None:
    parents = lab.add("h1/1"), lab.add("h2/1")
    one, two = lab.add("h1/1", 0x8001), lab.add("h2/1", 0x0001)
    lab.wait(ms=100)
    assert one.device.carrier
    assert two.device.carrier
    assert one.device.mtu == 4092
    lab.send(one, two.device.address, b"inside")
    lab.send(one, one.device.broadcast, b"storage only")
    lab.wait(ms=10)
    assert sorted(lab.received("h2/1.0001")) == [b"inside", b"storage only"]
    assert lab.received("h2/1") == []
    lab.fault(SetPkeys("h2/1", (0xFFFF,)))
    lab.wait(ms=3000)
    assert not two.device.carrier
    assert parents[1].device.carrier
    assert lab.carriers["h2/1"] == [True]
    lab.fault(SetPkeys("h2/1", (0xFFFF, 0x8001)))
    lab.wait(ms=3000)
    assert lab.carriers["h2/1.0001"] == [True, False, True]


def test_a_switch_dies_and_is_back(lab: Lab) -> None:
    one, two = lab.add("h1/2"), lab.add("h2/2")
    lab.wait(ms=100)
    lab.fault(KillSwitch("s2"))
    assert (one.device.carrier, two.device.carrier) == (False, False)
    lab.wait(ms=1000)
    lab.fault(ReviveSwitch("s2"))
    lab.wait(ms=5000)
    assert (one.device.carrier, two.device.carrier) == (True, True)
    lab.send(one, two.device.address)
    lab.wait(ms=100)
    assert lab.received("h2/2") == [b"packet"]


def test_prepared_means_that_not_one_packet_waits(lab: Lab) -> None:
    one, two = lab.add("h1/2"), lab.add("h2/1")
    lab.wait(ms=100)
    lab.do(one, one.prepare(lab.now, [GROUP], [two.device.address]))
    lab.wait(ms=10)
    assert one.ready()
    asked = one.path_to(two.device.address)
    assert asked is not None
    assert lab.subnet.port("h2/1").lid == asked.dlid
    lab.send(two, GROUP, b"received before the switch")
    lab.wait(ms=10)
    assert lab.received("h1/2") == [b"received before the switch"]
