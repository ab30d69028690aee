"""What `ip link` does to a TUN device and could not do to the device it stands for: undone at once, with the reason."""

import pytest

from ibbond import Lab


def warnings(lab: Lab) -> list[str]:
    return [event.detail for event in lab.events if (event.what, event.where) == ("log", "h1")]


@pytest.mark.parametrize(
    ("command", "shown", "said"),
    [
        ("ip link set bond0 mtu 9000", "mtu 2044", "undone: cannot set the MTU of ib0 to 9000"),
        ("ip link set ib1 mtu 9000", "mtu 2044", "undone: cannot set the MTU of ib1 to 9000"),
        ("ip link set ib1 carrier off", "LOWER_UP", "the carrier of ib1 was changed and is on again"),
        ("ip link del ib1", "LOWER_UP", "ib1 was deleted and exists again"),
    ],
)
def test_it_is_undone_and_said(ib_lab: Lab, command: str, shown: str, said: str) -> None:
    device = next(word for word in command.split() if word in ("bond0", "ib1"))
    host = ib_lab["h1"]
    host.run(command)
    ib_lab.wait(lambda: any(said in warning for warning in warnings(ib_lab)), within=10)
    ib_lab.wait(lambda: shown in host.run(f"ip link show {device}", check=False).stdout, within=10)
    assert ib_lab.active("h1/bond0") == "ib0"
