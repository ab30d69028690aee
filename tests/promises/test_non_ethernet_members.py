"""Bonds of devices that are not Ethernet, in active-backup mode; other modes refuse InfiniBand as the kernel does."""

import errno

import pytest

from ibbond.bonding.events import AddMember, RemoveMember, SetOption
from ibbond.errors import Refused
from ibbond.stack.events import CreateBond, SetAdmin
from ibbond.wire.hardware_type import INFINIBAND
from tests.promises.story import ask, ask_bond, bond, two_hosts


def test_members_of_type_infiniband_in_active_backup() -> None:
    world = two_hosts()
    snapshot = bond(world).snapshot()
    assert snapshot.type == INFINIBAND
    assert len(snapshot.address) == len(snapshot.broadcast) == 20
    assert [member.name for member in snapshot.members] == ["ib0", "ib1"]
    assert snapshot.active == "ib0"


@pytest.mark.parametrize("mode", ["balance-rr", "balance-xor", "broadcast", "balance-tlb", "balance-alb"])
def test_other_modes_refuse_infiniband(mode: str) -> None:
    world = two_hosts()
    ask_bond(world, RemoveMember("ib1"))
    ask(world, CreateBond("bond1"))
    ask_bond(world, SetOption("mode", f"{mode}\n"), name="bond1")
    ask(world, SetAdmin("ib1", up=False))
    with pytest.raises(Refused) as refusal:
        ask_bond(world, AddMember("ib1"), name="bond1")
    assert refusal.value.code == errno.EOPNOTSUPP
