"""What `ip link` does to a TUN device and could not do to the device it stands for: undone at once, with the reason."""

import pytest

from tests.live.running_lab import RunningLab


def warnings(lab: RunningLab) -> list[str]:
    return [detail for where, detail in lab.happened("log") if where == "h1" and detail.startswith("warning: ")]


@pytest.mark.parametrize(
    ("command", "shown", "said"),
    [
        ("ip link set bond0 mtu 9000", "mtu 2044", "undone: cannot set the MTU of ib0 to 9000"),
        ("ip link set ib1 mtu 9000", "mtu 2044", "undone: cannot set the MTU of ib1 to 9000"),
        ("ip link set ib1 carrier off", "LOWER_UP", "the carrier of ib1 was changed and is on again"),
        ("ip link del ib1", "LOWER_UP", "ib1 was deleted and exists again"),
    ],
)
def test_it_is_undone_and_said(lab2: RunningLab, command: str, shown: str, said: str) -> None:
    device = next(word for word in command.split() if word in ("bond0", "ib1"))
    assert lab2.until(lambda: lab2.active("h1") == "ib0")
    assert lab2.run("h1", command).returncode == 0

    def restored() -> bool:
        found = lab2.run("h1", f"ip link show {device}")
        return found.returncode == 0 and shown in found.stdout

    assert lab2.until(lambda: any(said in warning for warning in warnings(lab2)))
    assert lab2.until(restored)
    assert lab2.active("h1") == "ib0"
