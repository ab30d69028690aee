"""The example scripts over sysfs make a working bond in both orders, in a lab host (on the kernel: tests/kernel)."""

import pytest

from ibbond import Lab
from tests.live.commands import EXAMPLES, read
from tests.promises.lab_host import bare, lab, needs_lab, pings_across_failover, shown

__all__ = ["bare", "lab"]
pytestmark = needs_lab


@pytest.mark.parametrize("script", ["bond-members-first.sh", "bond-up-first.sh"])
def test_a_bond_that_outlives_a_cable(bare: Lab, script: str) -> None:
    done = bare["h1"].run([str(EXAMPLES / script), "-a", "10.0.0.1/24", "bond0", "ib0", "ib1"])
    assert done.stdout == "bond0: ib0 ib1, active ib0\n"
    facts = shown(bare)
    assert (facts["type"], facts["mode"], facts["up"]) == ("infiniband", "active-backup", True)
    pings_across_failover(bare)
    bare["h1"].run([str(EXAMPLES / "bond-teardown.sh"), "bond0"])
    assert read(bare["h1"], "bonding_masters") == ""


def test_a_failure_leaves_no_bond(bare: Lab) -> None:
    assert bare["h1"].run([str(EXAMPLES / "bond-up-first.sh"), "bond0", "ib0", "eth0"], check=False).returncode != 0
    assert read(bare["h1"], "bonding_masters") == ""
