"""What a program can do a thousand times must not cost a thousand times as much each time: joins, leaves, neighbors.

Time is counted in calls of Python functions, which a busy machine does not change.
"""

from __future__ import annotations

from collections.abc import Callable
from cProfile import Profile

import pytest

from ibbond.fabric.events import Cut, Reregister
from ibbond.ipoib.membership import MAX_SEND_ONLY
from ibbond.ipoib.membership_states import MemberState
from ibbond.ipoib.queries import MAX_AT_ONCE, Join
from ibbond.ipoib.refused_groups import PROBES
from ibbond.stack.events import GroupJoined, GroupLeft, GroupsAre, OnHost, OnSubnet, SetAdmin, Transmit
from ibbond.stack.neighbors import MAX_NEIGHBORS
from ibbond.topology.default import TWO_HOSTS
from ibbond.verbs.timing import Timing
from ibbond.verbs.verbs import FIRST_MLID
from ibbond.wire.group_reports import membership
from ibbond.wire.smp import MULTICAST_CAP
from tests.stack.small_world import SmallWorld, ip, ping, world_of

OWN = 4  # broadcast, all-hosts, all-nodes, and what resolves neighbors
SOURCE = ip("10.0.0.1")


def group(number: int) -> bytes:
    return bytes((239, 1, number >> 8, number & 0xFF))


def running_world(timing: Timing | None = None) -> SmallWorld:
    world = world_of(TWO_HOSTS, timing=timing)
    for host in ("h1", "h2"):
        world.on(host, SetAdmin("bond0", True))
    world.run(ms=2000)
    return world


def calls_of(work: Callable[[], None]) -> int:
    """How many Python functions were called."""
    profile = Profile(builtins=False)
    profile.runcall(work)
    return sum(entry.callcount for entry in profile.getstats())


def join_by_reports(world: SmallWorld, count: int) -> None:
    for number in range(count):
        packet = membership(SOURCE, (group(number),)).pack()
        world.take(world.network.handle(world.now, OnHost("h1", Transmit("bond0", packet))))
    world.run(ms=1000)


def limit_to(world: SmallWorld, groups: int) -> None:
    world.network.hosts["h1"].group_limit.left = groups


def joined(world: SmallWorld, host: str = "h1") -> list[int]:
    return [sum(each.attached for each in link.groups) for link in world.network.hosts[host].links]


def test_a_join_costs_the_same_with_many_groups() -> None:
    few, many = running_world(), running_world()
    cost = calls_of(lambda: join_by_reports(few, 25)) / 25
    assert calls_of(lambda: join_by_reports(many, 250)) / 250 < 1.5 * cost
    assert min(joined(many)) >= 250


def test_joins_beyond_the_limit_cost_little_and_do_nothing() -> None:
    world = running_world()
    limit_to(world, 40)
    join_by_reports(world, 40)
    before = joined(world)
    cost = calls_of(lambda: join_by_reports(world, 40)) / 40  # of a report that says nothing new
    assert calls_of(lambda: join_by_reports(world, 640)) / 640 < 1.2 * cost
    assert joined(world) == before


def test_groups_beyond_the_limit_take_the_places_of_those_that_are_left() -> None:
    world = running_world()
    limit_to(world, 40)
    for number in range(42):
        world.on("h1", GroupJoined("bond0", group(number)))
    layers = world.network.hosts["h1"].ip
    assert layers["bond0"].groups.beyond_limit == 2
    assert group(40) not in layers["bond0"].groups.joined
    world.on("h1", GroupJoined("ib0", group(9999)))  # the limit is the host's
    assert not layers["ib0"].groups.joined
    for number in (7, 8, 9):
        world.on("h1", GroupLeft("bond0", group(number)))
    assert {group(40), group(41)} < set(layers["bond0"].groups.joined)
    assert layers["ib0"].groups.joined == (group(9999),)


def test_a_list_of_groups_is_taken_up_to_the_limit_and_what_is_in_use_stays() -> None:
    world = running_world()
    limit_to(world, 40)
    newest_first = [group(number) for number in reversed(range(100))]
    world.on("h1", GroupsAre("bond0", tuple(newest_first[50:])))
    had = world.network.hosts["h1"].ip["bond0"].groups.joined
    world.on("h1", GroupsAre("bond0", tuple(newest_first)))
    assert world.network.hosts["h1"].ip["bond0"].groups.joined == had
    world.on("h1", GroupsAre("bond0", ()))
    world.run(ms=3000)
    assert len(world.network.hosts["h1"].ip["bond0"].groups.joined) == 1  # the solicited-node group
    assert max(joined(world)) <= OWN


def test_no_turn_of_the_loop_does_everything_at_once() -> None:
    """A report that names hundreds of groups: the questions to the administrator go out few at a time."""
    world = running_world(Timing.live())
    packet = membership(SOURCE, tuple(group(number) for number in range(200))).pack()
    costs = [calls_of(lambda: world.take(world.network.handle(world.now, OnHost("h1", Transmit("bond0", packet)))))]
    end = world.now + 1_000_000_000
    while (deadline := world.network.deadline()) is not None and deadline <= end:
        world.now = max(world.now, deadline)
        costs.append(calls_of(lambda: world.take(world.network.tick(world.now))))
    assert min(joined(world)) >= 200
    assert max(costs) < 100 * 200, "a few milliseconds"
    assert max(costs) < sum(costs) / 10


def test_a_subnet_without_room_is_asked_seldom_and_gives_what_becomes_free() -> None:
    world = running_world(Timing.live())
    manager = world.network.subnet.manager
    assert manager is not None
    manager.groups.mlids._fresh = FIRST_MLID + MULTICAST_CAP - 60  # the others are taken
    for number in range(80):
        host = "h1" if number < 40 else "h2"
        world.take(world.network.handle(world.now, OnHost(host, GroupJoined("bond0", group(number)))))
        world.run(ms=1)
    world.run(ms=20_000)
    assert joined(world, "h2")[0] < 40
    asked = calls_of(lambda: world.run(ms=16_000))
    idle = calls_of(lambda: world.run(ms=100)) * 160
    assert asked < idle + 4 * PROBES * 2000, "a few of them each 16 seconds"
    for number in range(20):
        world.take(world.network.handle(world.now, OnHost("h1", GroupLeft("bond0", group(number)))))
    world.run(ms=40_000)
    assert min(joined(world, "h2")) >= 40


def test_a_scan_for_thousands_of_neighbors_leaves_room_for_a_real_one() -> None:
    world = running_world(Timing.live())
    layer = world.network.hosts["h1"].ip["bond0"]

    def look_for(first: int, count: int) -> None:
        for number in range(first, first + count):
            packet = ping("fd00::1", f"fd00::{number >> 16:x}:{number & 0xFFFF:x}")
            world.take(world.network.handle(world.now, OnHost("h1", Transmit("bond0", packet))))
            world.run(ms=0.25)

    cost = calls_of(lambda: look_for(100_000, 50)) / 50
    assert calls_of(lambda: look_for(200_000, 600)) / 600 < 2 * cost
    assert len(layer.neighbors) <= MAX_NEIGHBORS
    sent_only = [sum(each.wanted != 1 for each in link.groups) for link in world.network.hosts["h1"].links]
    assert max(sent_only) <= MAX_SEND_ONLY
    world.got("h2")
    world.on("h1", Transmit("bond0", ping("fd00::1", "fd00::2")))
    look_for(300_000, 40)
    world.run(ms=1500)
    assert [packet for packet in world.got("h2") if packet[6] == 58 and packet[40] == 128]


def test_a_switch_to_the_other_member_waits_for_hundreds_of_groups_without_looking_at_all_each_time() -> None:
    world = running_world(Timing.live())
    join_by_reports(world, 150)
    world.take(world.network.handle(world.now, OnSubnet(Cut("h1/1"))))
    costs = []
    for _ in range(100):
        costs.append(calls_of(lambda: world.run(ms=0.2)))
    assert sum(costs) < 150 * 1500
    assert world.network.hosts["h1"].bond("bond0").active == "ib1"


@pytest.mark.parametrize("kind", [Join])
def test_few_questions_are_under_way_together(kind: type[Join]) -> None:
    world = running_world(Timing(sa_ns=50_000_000))
    for number in range(100):
        world.take(world.network.handle(world.now, OnHost("h1", GroupJoined("bond0", group(number)))))
    assert world.network.subnet.manager is not None
    assert len(world.network.subnet.manager._requests) <= 2 * MAX_AT_ONCE[kind]
    world.run(ms=3000)
    assert min(joined(world)) >= 100


def test_when_all_register_again_the_manager_answers_few_in_one_turn() -> None:
    world = running_world(Timing.live())
    join_by_reports(world, 100)
    for port in ("h1/1", "h1/2"):
        world.take(world.network.handle(world.now, OnSubnet(Reregister(port))))
    costs = []
    end = world.now + 1_000_000_000
    while (deadline := world.network.deadline()) is not None and deadline <= end:
        world.now = max(world.now, deadline)
        costs.append(calls_of(lambda: world.take(world.network.tick(world.now))))
    assert min(joined(world)) >= 100
    groups = [group for link in world.network.hosts["h1"].links for group in link.groups]
    assert {group.state for group in groups} == {MemberState.JOINED}
    assert max(costs) < sum(costs) / 10
