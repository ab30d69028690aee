"""ifenslave as a script over sysfs: adds, changes, removes, in a lab host (on the kernel's driver: tests/kernel)."""

from tests.live.view_lab import ViewLab
from tests.promises.lab_host import EXAMPLES, bare, lab, needs_lab

__all__ = ["bare", "lab"]
pytestmark = needs_lab


def test_add_change_remove(bare: ViewLab) -> None:
    ifenslave = str(EXAMPLES / "ifenslave")
    bare.bash("echo +bond0 > bonding_masters; echo active-backup > bond0/bonding/mode; echo 100 > bond0/bonding/miimon")
    bare.bash("printf 0x1003 > ib0/flags; printf 0x1403 > bond0/flags")  # the member is up: the script sets it down
    done = bare.run(ifenslave, "bond0", "ib0", "ib1")
    assert done.returncode == 0, done.stderr
    assert bare.read("bond0/bonding/slaves") == "ib0 ib1\n"
    assert bare.read("bond0/bonding/active_slave") == "ib0\n"
    assert bare.run(ifenslave, "-c", "bond0", "ib1").returncode == 0
    assert bare.read("bond0/bonding/active_slave") == "ib1\n"
    assert "active_slave  ib1" in bare.run(ifenslave, "bond0").stdout
    assert bare.run(ifenslave, "-d", "bond0", "ib1").returncode == 0
    assert bare.read("bond0/bonding/slaves") == "ib0\n"


def test_refusals_reach_its_user(bare: ViewLab) -> None:
    ifenslave = str(EXAMPLES / "ifenslave")
    bare.bash("echo +bond0 > bonding_masters; echo active-backup > bond0/bonding/mode")
    assert bare.run(ifenslave, "bond0", "ib0").returncode == 0
    done = bare.run(ifenslave, "bond0", "eth0")
    assert (done.returncode, "cannot add eth0 to bond0" in done.stderr) == (1, True)
    assert "Invalid argument" in done.stderr
    assert bare.run(ifenslave, "bond9", "ib1").returncode == 1
    assert bare.run(ifenslave).returncode == 2
