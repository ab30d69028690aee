"""The third patch, where the seed breaks off: members join a bond that is down."""

import pytest

from ibbond.bonding.events import AddMember, RemoveMember
from ibbond.errors import Refused
from ibbond.machine import MS
from ibbond.stack.events import SetAdmin
from tests.promises.story import arrived, ask, ask_bond, bond, reached, two_hosts


def rebuild_while_down(**how: object) -> None:
    world = two_hosts(**how)  # type: ignore[arg-type]
    for member in ("ib0", "ib1"):
        ask_bond(world, RemoveMember(member))
    ask(world, SetAdmin("bond0", up=False))
    for member in ("ib0", "ib1"):
        ask(world, SetAdmin(member, up=False))
        ask_bond(world, AddMember(member))
    ask(world, SetAdmin("bond0", up=True))
    world.run_until(world.now + 1000 * MS)
    assert bond(world).active is not None
    assert reached(world, "icmp")
    assert reached(world, "multicast", "h2", "h1")


def test_members_join_a_bond_that_is_down() -> None:
    rebuild_while_down()


def test_without_it_that_is_refused() -> None:
    with pytest.raises(Refused, match="bond is down"):
        rebuild_while_down(without=frozenset({"allow_not_up_enslave"}))


def test_without_it_groups_joined_before_are_lost() -> None:
    shares = arrived("allow_not_up_enslave")
    assert shares["multicast"] < 0.1
    assert shares["udp"] > 0.95
