"""Flows: what they remember, when they end, what they count; and a race of everything against the slow path."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random

import pytest

from ibbond.bonding.events import RemoveMember, SetOption
from ibbond.errors import Refused
from ibbond.fabric.events import (
    ChangeLid,
    Cut,
    KillSubnetManager,
    KillSwitch,
    MakeLossy,
    Mend,
    Reregister,
    ReviveSubnetManager,
    ReviveSwitch,
    SendMad,
    SetPkeys,
)
from ibbond.fabric.switch import Switch
from ibbond.stack.events import AddressesAre, GroupJoined, GroupLeft, RouteEntry, RoutesAre, SetAdmin, ToBond
from ibbond.stack.flows import Flow
from ibbond.topology.default import TWO_HOSTS
from ibbond.verbs.verbs import ManagementDatagram
from ibbond.wire import nd
from ibbond.wire.arp import Arp, request
from ibbond.wire.group_reports import membership
from ibbond.wire.mad import Method
from ibbond.wire.smp import Smp, SmpAttribute
from ibbond.wire.udp import UdpDatagram
from tests.stack.small_world import SmallWorld, ip, ping, world_of

THREE_HOSTS = TWO_HOSTS.replace("count = 2", "count = 1") + (
    """
[hosts.h3]
ports = { ib0 = "s1", ib1 = "s2" }

[hosts.h3.bonds.bond0]
members = ["ib0", "ib1"]
addresses = ["10.0.0.3/24", "fd00::3/64"]
mtu = 2044
options = { mode = "active-backup", miimon = 50, num_grat_arp = 2 }
"""
)
CONNECTED_HOSTS = THREE_HOSTS
for connected in ("[hosts.h1]", "[hosts.h2]"):
    CONNECTED_HOSTS = CONNECTED_HOSTS.replace(connected, f'{connected}\nmode = "connected"')
CHAT = ip("239.1.2.3")
PORTS = [f"h{host}/{port}" for host in (1, 2, 3) for port in (1, 2)]


@pytest.fixture
def world() -> SmallWorld:
    world = world_of(TWO_HOSTS)
    world.send("h1", ping("10.0.0.1", "10.0.0.2"))
    world.run(ms=1000)
    world.got("h2")
    return world


def flow(world: SmallWorld, destination: str = "10.0.0.2", host: str = "h1") -> Flow | None:
    source = {4: "10.0.0.1", 16: "fd00::1"}[len(ip(destination))]
    return world.network.flow_for(world.now, host, "bond0", ping(source, destination))


def test_a_flow_needs_a_settled_world(world: SmallWorld) -> None:
    fresh = world_of(TWO_HOSTS)
    assert flow(fresh) is None, "no one knows the neighbor yet"
    found = flow(world)
    assert found is not None
    assert found.target == ("h2", "bond0")
    assert found.generation == world.network.generation.value
    assert found.mtu == 2044


@pytest.mark.parametrize("destination", ["239.1.2.3", "10.0.0.255", "255.255.255.255", "10.0.0.77", "ff02::1"])
def test_no_flow_to_groups_and_strangers(world: SmallWorld, destination: str) -> None:
    assert flow(world, destination) is None


def test_no_flow_for_what_the_stack_reads(world: SmallWorld) -> None:
    network = world.network
    solicitation = nd.NeighborSolicitation(ip("fd00::1"), ip("fd00::2"), ip("fd00::2")).pack()
    for packet in (membership(ip("10.0.0.1"), (CHAT,)).pack(), solicitation, b"", b"\x45\0", b"\x60" + bytes(10)):
        assert network.flow_for(world.now, "h1", "bond0", packet) is None


ENDINGS: dict[str, Callable[[SmallWorld], None]] = {
    "own cable": lambda world: world.fabric(Cut("h1/1")),
    "peer's cable": lambda world: world.fabric(Cut("h2/1")),
    "lossy cable": lambda world: world.fabric(MakeLossy("h1/1", 0.5)),
    "capture": lambda world: world.network.subnet.mirror("s1/1", True),
    "manual switch": lambda world: world.on("h1", ToBond("bond0", SetOption("active_slave", "ib1\n"))),
    "release": lambda world: world.on("h2", ToBond("bond0", RemoveMember("ib0"))),
    "admin down": lambda world: world.on("h2", SetAdmin("ib0", up=False)),
    "bond down": lambda world: world.on("h2", SetAdmin("bond0", up=False)),
    "route": lambda world: world.on("h1", RoutesAre((RouteEntry(bytes(4), 0, "bond0", ip("10.0.0.9")),))),
    "LID": lambda world: world.fabric(ChangeLid("h2/1", 77)),
    "P_Key": lambda world: world.fabric(SetPkeys("h2/1", (0x8001,))),
    "switch": lambda world: world.fabric(KillSwitch("s1")),
    "neighbor timer": lambda world: world.run(ms=31_000),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_whatever_changes_the_decision_ends_the_flow(world: SmallWorld, ending: str) -> None:
    found = flow(world)
    assert found is not None
    assert found.generation == world.network.generation.value
    ENDINGS[ending](world)
    assert found.generation < world.network.generation.value


def test_counts_reach_devices_ports_and_bonds(world: SmallWorld) -> None:
    found = flow(world)
    assert found is not None
    network = world.network
    h1, h2 = network.hosts["h1"], network.hosts["h2"]
    sent = h1.device("ib0").statistics.tx_packets
    taken = h2.device("ib0").statistics.rx_packets
    crossed = network.subnet.counters("s1/1").transmit_packets + network.subnet.counters("s1/1").receive_packets
    network.flush_counters(world.now)
    bond_sent = h1.device("bond0").statistics.tx_packets
    found.packets += 10
    found.bytes += 840
    network.flush_counters(world.now)
    network.flush_counters(world.now)
    assert h1.device("ib0").statistics.tx_packets == sent + 10
    assert h2.device("ib0").statistics.rx_packets == taken + 10
    assert h1.device("bond0").statistics.tx_packets == bond_sent + 10
    counters = network.subnet.counters("s1/1")
    assert counters.transmit_packets + counters.receive_packets == crossed + 10


# The race: one world sends everything the slow way, the other as the pump does.


@dataclass
class Pumped:
    """The fast path as `host.pump` drives it, without descriptors."""

    world: SmallWorld
    flows: dict[tuple[str, bytes], Flow] = field(default_factory=dict)
    fast: int = 0

    def send(self, host: str, packet: bytes) -> None:
        network = self.world.network
        key = host, packet[16:20] if packet[0] < 0x60 else packet[24:40]
        flow = self.flows.get(key)
        if flow is None or flow.generation != network.generation.value:
            self.flows.pop(key, None)
            flow = network.flow_for(self.world.now, host, "bond0", packet)
            if flow is None or flow.generation != network.generation.value:
                self.world.send(host, packet)
                return
            self.flows[key] = flow
        flow.packets += 1
        flow.bytes += len(packet)
        self.fast += 1
        self.world.inboxes.setdefault(flow.target, []).append(packet)


def some_packet(random: Random, host: int, number: int) -> bytes:
    other = random.choice([each for each in (1, 2, 3, 9) if each != host])
    kind = random.choice(("v4", "v4", "v4", "v6", "v6", "group", "everyone"))
    data = number.to_bytes(4)
    match kind:
        case "v4":
            return UdpDatagram(ip(f"10.0.0.{host}"), ip(f"10.0.0.{other}"), 1, 2, data).pack()
        case "v6":
            return UdpDatagram(ip(f"fd00::{host}"), ip(f"fd00::{other}"), 1, 2, data).pack()
        case "group":
            return UdpDatagram(ip(f"10.0.0.{host}"), CHAT, 1, 2, data).pack()
        case _:
            return UdpDatagram(ip(f"10.0.0.{host}"), ip("10.0.0.255"), 1, 2, data).pack()


def some_event(random: Random) -> tuple[str, Callable[[SmallWorld], None]]:
    port = random.choice(PORTS)
    host, name = f"h{random.randint(1, 3)}", f"ib{random.randint(0, 1)}"
    lid, up, switch = random.randint(20, 60), random.random() < 0.7, random.choice(("s1", "s2"))
    random_lid, random_port = random.randint(1, 12), random.choice((1, 2, 3, 4, 255))
    number = int(host[1:])
    others = [(ip(f"10.0.0.{number}"), 24), (ip(f"fd00::{number}"), 64)]
    spoofed = request(bytes(4) + random.randbytes(16), ip("10.0.0.2"), ip("10.0.0.2"))
    events: list[tuple[str, Callable[[SmallWorld], None]]] = [
        (f"cut {port}", lambda w: w.fabric(Cut(port))),
        (f"mend {port}", lambda w: w.fabric(Mend(port))),
        (f"mend {port}", lambda w: w.fabric(Mend(port))),
        ("cut s1/36", lambda w: w.fabric(Cut(w.network.subnet.cables[0].a.name))),
        ("mend s1/36", lambda w: w.fabric(Mend(w.network.subnet.cables[0].a.name))),
        (f"lid {port} {lid}", lambda w: w.fabric(ChangeLid(port, lid))),
        (f"reregister {port}", lambda w: w.fabric(Reregister(port))),
        (f"kill {switch}", lambda w: w.fabric(KillSwitch(switch))),
        (f"revive {switch}", lambda w: w.fabric(ReviveSwitch(switch))),
        ("kill manager", lambda w: w.fabric(KillSubnetManager())),
        ("revive manager", lambda w: w.fabric(ReviveSubnetManager())),
        (f"switch {host} {name}", lambda w: w.on(host, ToBond("bond0", SetOption("active_slave", name + "\n")))),
        (f"admin {host} {name} {up}", lambda w: w.on(host, SetAdmin(name, up))),
        (f"bond {host} {up}", lambda w: w.on(host, SetAdmin("bond0", up))),
        (f"join {host}", lambda w: w.on(host, GroupJoined("bond0", CHAT))),
        (f"leave {host}", lambda w: w.on(host, GroupLeft("bond0", CHAT))),
        (f"addresses {host}", lambda w: w.on(host, AddressesAre("bond0", tuple(others) if up else ()))),
        (f"gratuitous at {host}", lambda w: _receiver(w, host, spoofed)),
        (f"keys {port}", lambda w: w.fabric(SetPkeys(port, (0xFFFF,) if up else (0x8001,)))),
        (f"table of {switch}", lambda w: _write_table(w, switch, random_lid, random_port)),
    ]
    return ("heal", _heal) if random.random() < 0.25 else random.choice(events)


def _receiver(world: SmallWorld, host: str, message: Arp) -> None:
    """A gratuitous ARP of a liar: the neighbor is somewhere else now."""
    world.network.hosts[host].ip["bond0"].receive_arp(world.now, message, unicast=False)


def _write_table(world: SmallWorld, switch: str, lid: int, number: int) -> None:
    """A program writes a switch's forwarding table by SMP, rightly or wrongly."""
    subnet = world.network.subnet
    node = subnet.node(switch)
    assert isinstance(node, Switch)
    port = subnet.port("h1/1")
    entries = bytearray(node.linear_block(0))
    entries[lid] = number
    smp = Smp(Method.SET, SmpAttribute.LINEAR_FORWARDING_TABLE, 0, bytes(entries))
    mad = ManagementDatagram(port.lid, node.management_port.lid, 0, 0, smp.pack())
    world.fabric(SendMad("h1/1", mad))


def _heal(world: SmallWorld) -> None:
    """Everything is plugged, powered and set up again."""
    for name in ("s1", "s2"):
        with suppress(Refused):
            world.fabric(ReviveSwitch(name))
    with suppress(Refused):
        world.fabric(ReviveSubnetManager())
    for cable in world.network.subnet.cables:
        with suppress(Refused):
            world.fabric(Mend(cable.a.name))
    for port in PORTS:
        with suppress(Refused):
            world.fabric(SetPkeys(port, (0xFFFF,)))
    for number in (1, 2, 3):
        for device in ("ib0", "ib1", "bond0"):
            world.on(f"h{number}", SetAdmin(device, up=True))
        own = ((ip(f"10.0.0.{number}"), 24), (ip(f"fd00::{number}"), 64))
        world.on(f"h{number}", AddressesAre("bond0", own))


def _do(world: SmallWorld, change: Callable[[SmallWorld], None]) -> str:
    try:
        change(world)
    except Refused as refusal:
        return str(refusal)
    return ""


@pytest.mark.parametrize("seed", range(30))
def test_fast_and_slow_path_agree_packet_by_packet(seed: int) -> None:
    _race(THREE_HOSTS, seed)


@pytest.mark.parametrize("seed", range(20))
def test_they_agree_in_connected_mode(seed: int) -> None:
    """h3 stays in datagram mode: it is sent messages and answers with datagrams."""
    _race(CONNECTED_HOSTS, seed)


def _race(topology: str, seed: int) -> None:
    random = Random(seed)
    slow, fast = world_of(topology), world_of(topology)
    pump = Pumped(fast)
    story: list[str] = []
    for number in range(250):
        if random.random() < 0.12:
            what, change = some_event(random)
            story.append(what)
            assert _do(slow, change) == _do(fast, change), (seed, story)
        if random.random() < 0.3:
            ms = random.choice((0.1, 1, 60, 1000, 7000))
            story.append(f"+{ms} ms")
            fast.network.flush_counters(fast.now)
            slow.run(ms)
            fast.run(ms)
        for burst in range(random.randint(1, 4)):
            host = random.randint(1, 3)
            packet = some_packet(random, host, 10 * number + burst)
            slow.send(f"h{host}", packet)
            pump.send(f"h{host}", packet)
            assert slow.inboxes == fast.inboxes, (seed, story[-12:], number)
            slow.inboxes.clear()
            fast.inboxes.clear()
    assert pump.fast > 20, "the fast path was hardly used"
    assert _counters(slow) == _counters(fast), (seed, story)


def _counters(world: SmallWorld) -> dict[str, tuple[int, ...]]:
    world.network.flush_counters(world.now)
    counted: dict[str, tuple[int, ...]] = {}
    for name, host in world.network.hosts.items():
        for device in host.namespace:
            numbers = device.statistics
            counted[f"{name}/{device.name}"] = (
                numbers.rx_packets,
                numbers.rx_bytes,
                numbers.tx_packets,
                numbers.tx_bytes,
                numbers.tx_dropped,
            )
    for name, node in world.network.subnet.nodes.items():
        for number, port in node.ports.items():
            counted[f"{name}/{number}"] = (port.counters.receive_packets, port.counters.transmit_packets)
    return counted
