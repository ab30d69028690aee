"""In a lab the checker knows where cables end: it says when one switch is all there is."""

import json
from pathlib import Path

from ibbond.topology.default import TWO_HOSTS
from tests.live.view_lab import ibbond, unique, view_lab
from tests.promises.lab_host import needs_lab

pytestmark = needs_lab


def test_both_cables_to_one_switch(tmp_path: Path) -> None:
    with view_lab(unique("switch"), TWO_HOSTS.replace('ib1 = "s2"', 'ib1 = "s1"'), tmp_path) as lab:
        done = ibbond("check", "--name", lab.name, "h1/bond0", "--json", check=False)
        assert [each["rule"] for each in json.loads(done.stdout)["findings"]] == ["one-switch"]
        assert done.returncode == 1


def test_the_default_lab_is_clean_until_a_cable_is_out(tmp_path: Path) -> None:
    with view_lab(unique("clean"), TWO_HOSTS, tmp_path) as lab:
        assert lab.ibbond("check", "h1/bond0").stdout == "bond0: clean\n"
        lab.ibbond("lab", "cut", "h1/ib1")
        done = lab.ibbond("check", "h1/bond0", "--json", check=False)
        assert [each["rule"] for each in json.loads(done.stdout)["findings"]] == ["member-down"]


def test_a_limited_member_beside_a_full_one(tmp_path: Path) -> None:
    """The port's table tells, for IPoIB shows the full-member key. Full members are still reached after a switch."""
    with view_lab(unique("limited"), TWO_HOSTS, tmp_path) as lab:
        lab.ibbond("lab", "set-pkeys", "h1/ib1", "0x7fff")
        done = lab.ibbond("check", "h1/bond0", "--json", check=False)
        assert [each["rule"] for each in json.loads(done.stdout)["findings"]] == ["pkey-differs"]
        lab.ibbond("bond", "switch", "h1/bond0", "ib1")
        assert lab.run("ping", "-c", "3", "-i", "0.2", "-q", "10.0.0.2").returncode == 0


def test_a_lab_with_a_kernels_profile_has_that_kernels_defects(tmp_path: Path) -> None:
    monitored = 'miimon = 0, arp_interval = 100, arp_ip_target = ["10.0.0.2"]'
    text = TWO_HOSTS.replace("miimon = 100", monitored, 1)
    with view_lab(unique("kernels"), text, tmp_path, "--profile", "kernel-6.1") as lab:
        done = lab.ibbond("check", "h1/bond0", "--json", check=False)
        assert "arp-monitor-on-infiniband" in [each["rule"] for each in json.loads(done.stdout)["findings"]]
