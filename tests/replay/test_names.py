"""Names of devices in a recorded world: renaming, and `%d` in bonding_masters."""

from collections.abc import Iterable

import pytest

from ibbond.abi.recording import DeviceSpec, Recording, Step
from ibbond.replay.steps import Answer, Steps
from ibbond.replay.world import RecordedWorld


def perform(steps: Iterable[Step]) -> list[Answer]:
    devices = {name: DeviceSpec("infiniband") for name in ("ib0", "ib1")}
    performer = Steps(RecordedWorld(Recording("names", (), devices=devices), "kernel-6.1"))
    return [performer.perform(step) for step in steps]


def ip(arguments: str) -> Step:
    return Step("ip", args=arguments)


def test_a_device_that_is_up_keeps_its_name() -> None:
    up = Step("up", dev="ib0")
    answers = perform([up, ip("link set ib0 name zz0"), ip("link set ib0 down"), ip("link set ib0 name zz0")])
    assert [answer.rc for answer in answers] == [None, 2, 0, 0]


def test_a_member_that_is_up_keeps_its_name() -> None:
    """A bond sets its members up."""
    steps = [
        Step("masters", value="+bond0"),
        Step("write", path="bonding/mode", value="1"),
        Step("enslave", slave="ib0"),
        ip("link set ib0 name zz0"),
        ip("link set ib0 name ib0"),
        Step("down", dev="ib0"),
        ip("link set ib0 name zz0"),
        Step("read", path="bonding/slaves"),
    ]
    answers = perform(steps)
    assert [answer.errno for answer in answers[:3]] == ["", "", ""]
    assert [answers[number].rc for number in (3, 4, 6)] == [2, 2, 0]
    assert answers[-1].expect == "zz0\n"


@pytest.mark.parametrize(("name", "rc"), [("ib1", 2), ("ib0", 0), ("z%d", 0), ("z%s", 2), ("a:b", 2), (".", 2)])
def test_renaming_takes_what_the_kernel_takes(name: str, rc: int) -> None:
    assert perform([ip(f"link set ib0 name {name}")])[0].rc == rc


@pytest.mark.parametrize(
    ("text", "errno"),
    [("+%s", "EINVAL"), ("+b%dc%d", "EINVAL"), ("+%", "EINVAL"), ("+bond%d", ""), ("+b%dc", ""), ("+ib0", "EEXIST")],
)
def test_a_percent_sign_in_bonding_masters(text: str, errno: str) -> None:
    write, read = perform([Step("masters", value=text), Step("masters_read")])
    assert write.errno == errno
    assert read.expect == ("" if errno else text[1:].replace("%d", "0"))
