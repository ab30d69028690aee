"""The shell scripts of examples/ on the real driver: ifenslave over sysfs, the bond in both orders, the way back."""

from pathlib import Path

import pytest

from tests.kernel.virtual_machine import Host

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("script", ["bond-members-first.sh", "bond-up-first.sh"])
def test_the_bond_in_both_orders(host: Host, script: str) -> None:
    host.sh("ip link set ib0 up")
    out = host.run(str(EXAMPLES / script), "-a", "10.0.0.1/24", "bond0", "ib0", "ib1")
    assert out == "bond0: ib0 ib1, active ib0\n"
    assert host.read("bond0/type") == "32\n"
    assert host.read("bond0/mtu") == "2044\n"
    assert "10.0.0.1/24" in host.run("ip", "addr", "show", "bond0")
    # 224.0.0.1 in the mapping of IPoIB, whichever came first; no Ethernet group is left.
    groups = [line.split()[4] for line in host.run("cat", "/proc/net/dev_mcast").splitlines() if " bond0 " in line]
    assert "00ffffffff12401bffff00000000000000000001" in groups
    assert not [group for group in groups if len(group) == 12]
    host.run(str(EXAMPLES / "bond-teardown.sh"), "bond0")
    assert host.read("bonding_masters") == ""


def test_a_script_that_fails_takes_the_bond_away(host: Host) -> None:
    host.write("ib1/fail_open", "5")
    result = host.try_run(str(EXAMPLES / "bond-members-first.sh"))
    assert result.code != 0
    assert host.read("bonding_masters") == ""


def test_ifenslave(host: Host) -> None:
    ifenslave = str(EXAMPLES / "ifenslave")
    host.sh("ip link set ib0 up; ip link add bond0 type bond mode active-backup miimon 100; ip link set bond0 up")
    host.run(ifenslave, "bond0", "ib0", "ib1")
    assert host.read("bond0/bonding/slaves") == "ib0 ib1\n"
    host.sh("wait_for link 'grep -q up /sys/class/net/ib1/bonding_slave/mii_status'")
    host.run(ifenslave, "-c", "bond0", "ib1")
    assert host.read("bond0/bonding/active_slave") == "ib1\n"
    shown = host.run(ifenslave, "bond0")
    assert "slaves        ib0 ib1" in shown
    host.run(ifenslave, "bond0", "ib0")  # twice is not an error
    host.run(ifenslave, "-d", "bond0", "ib0")
    assert host.read("bond0/bonding/slaves") == "ib1\n"
    for words, code, reported in (
        (("-d", "bond0", "ib0"), 1, "not a member"),
        (("-c", "bond0", "ib0"), 1, "not a member"),
        (("bond0", "ib9"), 1, "no device ib9"),
        (("bond9", "ib0"), 1, "no bond"),
        (("bond0", "lo"), 1, "cannot add lo"),
        ((), 2, "ifenslave BOND MEMBER"),
        (("-x",), 2, "ifenslave BOND MEMBER"),
    ):
        result = host.try_run(ifenslave, *words)
        assert (result.code, reported in result.err) == (code, True), (words, result)
