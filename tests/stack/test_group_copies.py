"""Group frames around a planned switch: each is taken once, whenever it was sent and whichever member has it first."""

from __future__ import annotations

from collections import Counter

import pytest

from ibbond.bonding.events import SetOption
from ibbond.fabric.events import Cut, Mend
from ibbond.ipoib.events import Frame
from ibbond.machine import US
from ibbond.stack.events import GroupJoined, ToBond
from ibbond.stack.group_copies import MAX_FRAMES, WINDOW_NS, GroupCopies
from ibbond.topology.default import TWO_HOSTS
from ibbond.verbs.timing import Timing
from ibbond.wire.ip import Ipv4
from ibbond.wire.udp import UdpDatagram
from tests.stack.small_world import SmallWorld, ip, world_of

CHAT = ip("239.1.2.3")
MARK = b"number "


def talkative(timing: Timing) -> SmallWorld:
    """Both hosts are in the group and have sent to it."""
    world = world_of(TWO_HOSTS, timing=timing)
    world.run(200)
    for host in ("h1", "h2"):
        world.on(host, GroupJoined("bond0", CHAT))
    world.run(200)
    for host in ("h1", "h2"):
        world.send(host, message(host, 0))
    world.run(200)
    world.got("h1")
    world.got("h2")
    return world


def message(host: str, number: int) -> bytes:
    return UdpDatagram(ip(f"10.0.0.{host[1]}"), CHAT, 5000, 5000, MARK + str(number).encode()).pack()


def numbers(world: SmallWorld, host: str) -> Counter[int]:
    """How often each message has come."""
    found = [
        packet[28:] for packet in world.got(host) if packet[0] >> 4 == 4 and Ipv4.parse(packet).destination == CHAT
    ]
    return Counter(int(body.removeprefix(MARK)) for body in found if body.startswith(MARK))


def chat(world: SmallWorld, first: int, count: int, every_us: int) -> None:
    """Messages both ways at this spacing."""
    for number in range(first, first + count):
        for host in ("h1", "h2"):
            world.send(host, message(host, number))
        world.run(every_us / 1000)


@pytest.mark.parametrize("hop_us", [0, 1, 7, 150])
def test_nothing_is_lost_or_doubled_by_a_switch_or_a_return(hop_us: int) -> None:
    timing = Timing(hop_ns=hop_us * US, agent_ns=5 * US, sa_ns=100 * US)
    world = talkative(timing)
    spacing = 10
    for round_ in range(3):
        for host in ("h1", "h2"):
            chat(world, 1, 50, spacing)
            bond = world.network.hosts[host].registry.bonds["bond0"]
            other = "ib1" if bond.active == "ib0" else "ib0"
            world.on(host, ToBond("bond0", SetOption("active_slave", other)))
            chat(world, 51, 400, spacing)
            world.run(100)
            assert bond.active == other
            for receiver in ("h1", "h2"):
                assert numbers(world, receiver) == dict.fromkeys(range(1, 451), 1), (round_, host, receiver)


def test_nothing_is_lost_when_the_primary_returns() -> None:
    world = talkative(Timing(agent_ns=5 * US))
    bond = world.network.hosts["h1"].registry.bonds["bond0"]
    world.on("h1", ToBond("bond0", SetOption("primary", "ib0")))
    world.run(100)
    for _ in range(3):
        world.fabric(Cut("h1/1"))
        world.run(200)
        world.got("h1")
        world.got("h2")
        world.fabric(Mend("h1/1"))
        chat(world, 1, 600, 20)
        world.run(100)
        assert bond.active == "ib0"
        for receiver in ("h1", "h2"):
            assert numbers(world, receiver) == dict.fromkeys(range(1, 601), 1)


def frame(payload: bytes, qpn: int = 7) -> Frame:
    return Frame(0x0800, payload, "multicast", b"", 1, qpn, bytes(16))


def test_copies_of_a_repeated_frame_are_counted() -> None:
    copies = GroupCopies()
    taken = [copies.take(0, member, frame(b"a")) for member in ("old", "new", "new", "old", "new", "old")]
    assert taken == [True, False, True, False, True, False]
    assert copies.take(0, "new", frame(b"b"))
    assert copies.take(0, "old", frame(b"b", qpn=8)), "another sender"


def test_a_frame_is_forgotten_after_a_while_and_not_before() -> None:
    for later, new in ((WINDOW_NS - 1, False), (WINDOW_NS, False), (2 * WINDOW_NS - 1, False), (2 * WINDOW_NS, True)):
        copies = GroupCopies()
        assert copies.take(1000, "old", frame(b"a"))
        assert copies.take(1000 + later, "new", frame(b"a")) is new, later


def test_what_is_remembered_is_limited() -> None:
    copies = GroupCopies()
    for number in range(MAX_FRAMES):
        assert copies.take(0, "new", frame(number.to_bytes(4, "big")))
    assert copies.take(0, "new", frame(b"more"))
    assert copies.take(0, "old", frame(b"more")), "not remembered"
    assert not copies.take(0, "old", frame(bytes(4)))
