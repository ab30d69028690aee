"""ifenslave as a script over sysfs: adds, changes, removes, in a lab host (on the kernel's driver: tests/kernel)."""

from ibbond import Lab
from tests.live.commands import EXAMPLES, bash, read
from tests.promises.lab_host import bare, lab, needs_lab

__all__ = ["bare", "lab"]
pytestmark = needs_lab


def test_add_change_remove(bare: Lab) -> None:
    ifenslave = str(EXAMPLES / "ifenslave")
    bash(
        bare["h1"],
        "echo +bond0 > bonding_masters; echo active-backup > bond0/bonding/mode; echo 100 > bond0/bonding/miimon",
    )
    bash(
        bare["h1"], "printf 0x1003 > ib0/flags; printf 0x1403 > bond0/flags"
    )  # the member is up: the script sets it down
    bare["h1"].run([ifenslave, "bond0", "ib0", "ib1"])
    assert read(bare["h1"], "bond0/bonding/slaves") == "ib0 ib1\n"
    assert read(bare["h1"], "bond0/bonding/active_slave") == "ib0\n"
    bare["h1"].run([ifenslave, "-c", "bond0", "ib1"])
    assert read(bare["h1"], "bond0/bonding/active_slave") == "ib1\n"
    assert "active_slave  ib1" in bare["h1"].run([ifenslave, "bond0"]).stdout
    bare["h1"].run([ifenslave, "-d", "bond0", "ib1"])
    assert read(bare["h1"], "bond0/bonding/slaves") == "ib0\n"


def test_refusals_reach_its_user(bare: Lab) -> None:
    ifenslave = str(EXAMPLES / "ifenslave")
    bash(bare["h1"], "echo +bond0 > bonding_masters; echo active-backup > bond0/bonding/mode")
    bare["h1"].run([ifenslave, "bond0", "ib0"])
    done = bare["h1"].run([ifenslave, "bond0", "eth0"], check=False)
    assert (done.returncode, "cannot add eth0 to bond0" in done.stderr) == (1, True)
    assert "Invalid argument" in done.stderr
    assert bare["h1"].run([ifenslave, "bond9", "ib1"], check=False).returncode == 1
    assert bare["h1"].run([ifenslave], check=False).returncode == 2
