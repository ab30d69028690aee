"""Debian's ifupdown with the hooks of ifenslave, unchanged, in a lab host."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ibbond import Lab
from tests.live.commands import NO_VIEW, bash, read, sound_lab

HOOK = Path("/etc/network/if-pre-up.d/ifenslave")
LACKING = NO_VIEW or (None if shutil.which("ifup") and HOOK.exists() else "ifupdown and ifenslave are not installed")
pytestmark = pytest.mark.skipif(LACKING is not None, reason=str(LACKING))

TOPOLOGY = """
[switches]
s1 = {}
[hosts.h1]
ports = { ib0 = "s1", ib1 = "s1" }
[hosts.h2]
ports = { ib0 = "s1", ib1 = "s1" }
[hosts.h2.bonds.bond0]
members = ["ib0", "ib1"]
addresses = ["10.7.0.2/24"]
"""
INTERFACES = """
auto bond0
iface bond0 inet static
    pre-up [ -d /sys/class/net/bond0 ] || echo +bond0 > /sys/class/net/bonding_masters
    address 10.7.0.1/24
    mtu 2044
    bond-slaves ib0 ib1
    bond-mode active-backup
    bond-miimon 50
    bond-downdelay 100
    bond-fail-over-mac active
    bond-primary ib1
    bond-primary-reselect better
    bond-num-grat-arp 3
    bond-arp-validate none
"""
STATE = """
cd /sys/class/net/bond0/bonding
for file in slaves mode miimon downdelay fail_over_mac primary primary_reselect num_grat_arp active_slave mii_status; do
    printf '%s: %s\\n' $file "$(cat $file)"
done
cat ../mtu ../operstate
"""


@pytest.fixture
def lab() -> Iterator[Lab]:
    with sound_lab(TOPOLOGY) as lab:
        yield lab


def private(lab: Lab, directory: Path, script: str) -> str:
    """Run a script in h1 with an /etc/network/interfaces and a /run/network of its own; what it printed."""
    (directory / "interfaces").write_text(INTERFACES)
    (directory / "script").write_text(script)
    prepare = f"mount --bind {directory}/interfaces /etc/network/interfaces; mount -t tmpfs none /run/network"
    within = f"mkdir -p /run/network; {prepare}; . {directory}/script"
    done = lab["h1"].run(["unshare", "--mount", "bash", "-c", within])
    assert done.stderr == ""
    return done.stdout


def test_ifup_makes_the_bond_of_the_interfaces_file_and_ifdown_takes_it_away(lab: Lab, tmp_path: Path) -> None:
    up = "ifup bond0 || exit 1; sleep 0.5;" + STATE + "ping -c 3 -W 2 -q 10.7.0.2; ifquery --state bond0;"
    said = private(lab, tmp_path, up + "ifdown bond0 || exit 1; cat /sys/class/net/bonding_masters")
    assert "slaves: ib0 ib1\nmode: active-backup 1\nmiimon: 50\ndowndelay: 100\nfail_over_mac: active 1\n" in said
    assert "primary: ib1\nprimary_reselect: better 1\nnum_grat_arp: 3\nactive_slave: ib1\nmii_status: up\n" in said
    assert "2044\nup\n" in said
    assert " 0% packet loss" in said
    assert said.endswith("bond0=bond0\n")  # after it bonding_masters, empty
    assert bash(lab["h1"], "ls -d bond0 ib0/master").returncode != 0
    assert bash(lab["h1"], "ip link show bond0").returncode == 1


def test_up_and_down_many_times(lab: Lab, tmp_path: Path) -> None:
    said = private(lab, tmp_path, "for n in 1 2 3 4 5; do ifup bond0 && ifdown bond0 && echo done || exit 1; done")
    assert said == "done\n" * 5
    assert read(lab["h1"], "bonding_masters") == ""
