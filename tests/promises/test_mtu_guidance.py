"""MTU guidance per mode: 2044 in datagram, 65520 when every member is in connected mode, and never 1500 left over."""

from pathlib import Path

import pytest

from ibbond.backend.kernel.bonds import KernelBackend
from ibbond.ops.check import check
from ibbond.ops.read_facts import kernel_facts
from tests.ops.saved_copy import put, saved_host


@pytest.mark.parametrize(("mode", "best"), [("datagram", "2044"), ("connected", "65520")])
def test_it_says_which_to_set(tmp_path: Path, mode: str, best: str) -> None:
    root = saved_host(tmp_path)
    put(root, "sys/class/net/bond0/mtu", "1500")
    for member in ("ib0", "ib1"):
        put(root, f"sys/class/net/{member}/mtu", "1500")
        put(root, f"sys/class/net/{member}/mode", mode)
    found = {each.rule.id: each.found.fix for each in check(kernel_facts(KernelBackend(root), ["bond0"]))}
    assert found["mtu-left-over"] == f"ip link set bond0 mtu {best}"


def test_members_of_two_modes_are_reported(tmp_path: Path) -> None:
    root = saved_host(tmp_path)
    put(root, "sys/class/net/ib1/mode", "connected")
    assert "transport-mode-differs" in {each.rule.id for each in check(kernel_facts(KernelBackend(root), ["bond0"]))}
