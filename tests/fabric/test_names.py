"""Wrong names and impossible requests: what, why, fix; and nothing has changed."""

import pytest

from ibbond.errors import Refused
from ibbond.fabric.events import (
    ChangeLid,
    Cut,
    KillSwitch,
    MakeLossy,
    Mend,
    Reregister,
    ReviveSubnetManager,
    ReviveSwitch,
    SendDatagram,
    SendMad,
    SetIsSm,
    SetPkeys,
    SubnetEvent,
)
from ibbond.manager.partitions import Partition
from ibbond.verbs.verbs import Datagram, ManagementDatagram
from tests.fabric.subnets import Lab, two_switches

DATAGRAM = Datagram(1, 2, 0xFFFF, 1, 2, 3, b"")
MAD = ManagementDatagram(1, 1, 1, 1, bytes(256))


@pytest.mark.parametrize(
    ("event", "why"),
    [
        (Cut("h9/1"), "its nodes are s1, s2, h1, h2"),
        (Cut("h1"), "h1 has ports 1 to 2"),
        (Cut("h1/3"), "h1 has ports 1 to 2"),
        (Cut("h1/x"), "h1 has ports 1 to 2"),
        (Cut("h1/-1"), "h1 has ports 1 to 2"),
        (Cut("s1/5"), "nothing is connected there"),
        (Cut("s1/0"), "nothing is connected there"),
        (Mend(""), "its nodes are"),
        (MakeLossy("h1/1", 1.5), "not between 0 and 1"),
        (MakeLossy("h1/1", float("nan")), "not between 0 and 1"),
        (MakeLossy("s1/6", 0.1), "nothing is connected there"),
        (KillSwitch("h1"), "the switches are s1, s2"),
        (KillSwitch("s3"), "its nodes are"),
        (ReviveSwitch("h2"), "the switches are s1, s2"),
        (SetPkeys("h1/9", ()), "h1 has ports"),
        (SetPkeys("s1/0", (0xFFFF,)), "switches do not enforce"),
        (SetPkeys("s1/1", (0xFFFF,)), "no LID of its own"),
        (SetPkeys("h1/1", (0x10000,)), "at most 32 keys of 16 bits"),
        (SetPkeys("h1/1", (1,) * 33), "at most 32 keys of 16 bits"),
        (ChangeLid("h1/1", 0), "a unicast LID is 1 to 49151"),
        (ChangeLid("h1/1", 0xC000), "a unicast LID is 1 to 49151"),
        (ChangeLid("h1/1", 1), "s1/0 uses it"),
        (ChangeLid("s1/3", 99), "no LID of its own"),
        (Reregister("s1/3"), "no LID of its own"),
        (SendDatagram("h7/1", DATAGRAM), "its nodes are"),
        (SendMad("h1/7", MAD), "h1 has ports"),
        (SetIsSm("x/1", True), "its nodes are"),
    ],
)
def test_events(event: SubnetEvent, why: str) -> None:
    lab = two_switches(Lab()).start()
    facts = [(port.name, port.info, port.pkeys) for port in lab.subnet.end_ports()]
    with pytest.raises(Refused) as refused:
        lab.do(event)
    assert why in refused.value.why
    assert refused.value.fix
    assert [(port.name, port.info, port.pkeys) for port in lab.subnet.end_ports()] == facts


def test_what_was_due_before_a_refusal_is_not_lost() -> None:
    lab = two_switches(Lab()).start()
    lab.do(Cut("h1/1"))
    at = lab.subnet.deadline()
    assert at is not None
    lab.now = at
    with pytest.raises(Refused):
        lab.do(Cut("h9/1"))
    assert any("sweep" in getattr(effect, "what", "") for effect in lab.subnet.tick(at))


def test_building() -> None:
    subnet = two_switches(Lab()).subnet
    for build, why in (
        (lambda: subnet.add_switch("s1"), "has a node of that name"),
        (lambda: subnet.add_hca("a/b"), "a name without /"),
        (lambda: subnet.add_hca(""), "a name without /"),
        (lambda: subnet.add_switch("big", 255), "1 to 254 ports"),
        (lambda: subnet.add_hca("h3", node_guid=subnet.node("h1").guid), "is in use"),
        (lambda: subnet.connect("h1/1", "s1/3"), "h1/1 is already connected to s1/1"),
        (lambda: subnet.connect("s1/3", "s1/3"), "a cable has two ends"),
        (lambda: subnet.connect("s1/0", "s1/3"), "inside the switch"),
        (lambda: subnet.connect("s1/3", "h9/1"), "its nodes are"),
        (lambda: subnet.add_partition(Partition("x", 0x8001, full=("h1/9",))), "h1 has ports"),
        (lambda: subnet.place_manager("s1/1"), "has no LID"),
        (lambda: subnet.create_queue_pair("s1/1"), "it is a switch port"),
        (lambda: subnet.set_qkey("h1/1", 0x48, 1), "never created"),
        (lambda: subnet.trace_path("h1/5", 1), "h1 has ports"),
    ):
        with pytest.raises(Refused) as refused:
            build()
        assert why in refused.value.why
    assert list(subnet.nodes) == ["s1", "s2", "h1", "h2"]


def test_partitions_with_one_key() -> None:
    subnet = two_switches(Lab()).subnet
    subnet.add_partition(Partition("one", 0x8001))
    with pytest.raises(Refused, match="0x8001 is in use"):
        subnet.add_partition(Partition("two", 0x0001))


def test_reviving_a_manager_that_is_not_built_in() -> None:
    lab = two_switches(Lab(built_in_manager=False)).start()
    with pytest.raises(Refused, match="no built-in subnet manager"):
        lab.do(ReviveSubnetManager())
