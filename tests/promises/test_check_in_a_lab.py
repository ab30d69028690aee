"""In a lab the checker knows where cables end, and asks the host's own kernel for addresses and routes."""

import json
import shlex

from ibbond.topology.default import TWO_HOSTS
from tests.live.commands import ibbond, sound_lab
from tests.promises.lab_host import needs_lab

pytestmark = needs_lab


def test_both_cables_to_one_switch() -> None:
    with sound_lab(TWO_HOSTS.replace('ib1 = "s2"', 'ib1 = "s1"')) as lab:
        done = ibbond("check", "h1/bond0", "--json", lab=lab, check=False)
        assert [each["rule"] for each in json.loads(done.stdout)["findings"]] == ["one-switch"]
        assert done.returncode == 1


def test_the_default_lab_is_clean_until_a_cable_is_out() -> None:
    with sound_lab() as lab:
        assert ibbond("check", "h1/bond0", lab=lab).stdout == "bond0: clean\n"
        lab.cut("h1/ib1")
        done = ibbond("check", "h1/bond0", "--json", lab=lab, check=False)
        assert [each["rule"] for each in json.loads(done.stdout)["findings"]] == ["member-down"]


def test_a_limited_member_beside_a_full_one() -> None:
    """The port's table tells, for IPoIB shows the full-member key. Full members are still reached after a switch."""
    with sound_lab() as lab:
        ibbond("lab", "set-pkeys", "h1/ib1", "0x7fff", lab=lab)
        done = ibbond("check", "h1/bond0", "--json", lab=lab, check=False)
        assert [each["rule"] for each in json.loads(done.stdout)["findings"]] == ["pkey-differs"]
        ibbond("bond", "switch", "h1/bond0", "ib1", lab=lab)
        lab["h1"].run(["ping", "-c", "3", "-i", "0.2", "-q", "10.0.0.2"])


WAIT_FOR_DUPLICATE = "until ip addr show dev bond0 | grep -q dadfailed; do sleep 0.05; done"
ANOTHER = "ip addr del fd00::2/64 dev bond0"  # what the advice says: give one of the two another one
BY_IP = {  # what loses traffic in a lab as it does on hardware
    "route-through-member": "ip route add 10.77.0.0/16 via 10.0.0.2 dev ib0 onlink",
    "member-route-first": "ip addr del 10.0.0.1/24 dev bond0; ip addr add 10.0.0.7/24 dev ib0; "
    "ip addr add 10.0.0.1/24 dev bond0",
    "dad-unfinished": "sysctl -qw net.ipv6.conf.bond0.dad_transmits=250; ip addr add fd00::9/64 dev bond0",
    "dad-failed": f"ip addr add fd00::2/64 dev bond0; {WAIT_FOR_DUPLICATE}",
}


def test_what_ip_can_break_is_found_and_cured_in_a_lab() -> None:
    with sound_lab() as lab:
        for rule, broken in BY_IP.items():
            lab["h1"].run(["sh", "-c", broken])
            report = json.loads(ibbond("check", "h1/bond0", "--json", lab=lab, check=False).stdout)
            assert [each["rule"] for each in report["findings"]] == [rule]
            (finding,) = report["findings"]
            for command in finding["commands"] or [f"ibbond lab exec --name {lab.name} h1 -- {ANOTHER}"]:
                ibbond(*shlex.split(command)[1:])
            assert ibbond("check", "h1/bond0", lab=lab).stdout == "bond0: clean\n", rule


def test_a_lab_with_a_kernels_profile_has_that_kernels_defects() -> None:
    monitored = 'miimon = 0, arp_interval = 100, arp_ip_target = ["10.0.0.2"]'
    text = TWO_HOSTS.replace("miimon = 100", monitored, 1)
    with sound_lab(text, profile="kernel-6.1") as lab:
        done = ibbond("check", "h1/bond0", "--json", lab=lab, check=False)
        assert "arp-monitor-on-infiniband" in [each["rule"] for each in json.loads(done.stdout)["findings"]]
