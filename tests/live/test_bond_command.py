"""`ibbond bond` on a lab's bonds: what is refused changes nothing, what is said is what is in force."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from ibbond import Lab
from tests.live.commands import IBBOND, bash, ibbond, sound_lab


@pytest.fixture(scope="module")
def running() -> Iterator[Lab]:
    with sound_lab() as lab:
        yield lab


def shown(lab: Lab, bond: str = "h1/bond0") -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(ibbond("bond", "show", bond, "--json", lab=lab).stdout)
    return facts


def refused(lab: Lab, *words: str) -> str:
    """The refusal of a command that must change nothing."""
    before = shown(lab), ibbond("bond", "list", "h1", "--json", lab=lab).stdout
    done = ibbond(*words, lab=lab, check=False)
    assert (done.returncode, done.stdout) == (2, ""), done
    assert (shown(lab), ibbond("bond", "list", "h1", "--json", lab=lab).stdout) == before
    return done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("create", "h1/bond1", "eth0"), "write +eth0 to /sys/class/net/bond1/bonding/slaves"),
        (("delete", "h1/bond0"), "lost: address 10.0.0.1/24 dev bond0"),
        (("remove", "h1/bond0", "ib0"), "[interrupts: traffic leaves ib0]"),
        (("set", "h1/bond0", "miimon", "50", "updelay=100"), "write 100 to /sys/class/net/bond0/bonding/updelay"),
        (("set", "h1/bond0", "handover_ms", "20"), "set handover_ms of bond0 to 20"),
        (("switch", "h1/bond0"), "[interrupts: traffic moves from ib0 to ib1]"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_dry_run_prints_the_plan_and_changes_nothing(running: Lab, words: tuple[str, ...], said: str) -> None:
    before = shown(running)
    assert said in ibbond("bond", *words, "--dry-run", lab=running).stdout
    assert shown(running) == before
    assert "bond1" not in ibbond("bond", "list", "h1", lab=running).stdout


def test_twice_is_nothing_to_do(running: Lab) -> None:
    for words in (("create", "h1/bond0"), ("add", "h1/bond0", "ib1"), ("switch", "h1/bond0", "ib0")):
        assert "nothing to do" in ibbond("bond", *words, lab=running).stdout, words


def test_what_members_have_moves_to_the_bond_and_back_when_it_fails(running: Lab) -> None:
    """An Ethernet device with an address and a route, in a lab whose bonds are ibbond's own."""
    ip = "ip -o -4 addr show; ip route; ip -6 route show table 51; ip nexthop; ip -o -6 addr show | grep ::77"
    bash(running["h1"], "ip addr add 10.3.0.1/24 dev eth0; ip link set eth0 up; ip route add 10.4.0.0/16 via 10.3.0.9")
    bash(running["h1"], "ip -6 route add 2001:db8::/64 dev eth0 table 51; ip -6 addr add fe80::77/64 dev eth0 nodad")
    bash(running["h1"], "ip nexthop add id 5 via 10.3.0.9 dev eth0; ip route add 10.5.0.0/16 nhid 5")
    before = bash(running["h1"], ip).stdout
    said = refused(running, "bond", "create", "h1/bond1", "eth0", "--set", "ns_ip6_target=fd00::1", "--mtu", "70000")
    assert "Everything was restored" in said
    assert bash(running["h1"], ip).stdout == before
    facts = json.loads(ibbond("bond", "create", "h1/bond1", "eth0", "--json", lab=running).stdout)
    assert (facts["changed"], facts["lost"]) == (True, [])
    after = bash(running["h1"], ip).stdout
    assert "eth0" not in after
    for line in (
        "inet 10.3.0.1/24 scope global bond1",
        "10.4.0.0/16 via 10.3.0.9 dev bond1",
        "id 5 via 10.3.0.9 dev bond1",
        "10.5.0.0/16 nhid 5",
        "inet6 fe80::77/64 scope link",
        "2001:db8::/64",
    ):
        assert line in after, after
    ibbond("bond", "delete", "h1/bond1", lab=running)
    bash(running["h1"], "ip addr flush dev eth0")


def test_kill_9_in_the_middle_is_undone(running: Lab) -> None:
    """The process is killed once the bond is there, before its members are; a child of it puts back."""
    script = (
        "import os, signal\n"
        "from ibbond.backend import requests\n"
        "from ibbond.backend.apply import change\n"
        "from ibbond.backend.control_socket import Control, LabBackend\n"
        f"host = LabBackend(Control.of({running.name!r}), 'h1')\n"
        "def kill(step):\n"
        "    if '+eth0' in str(step):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "change(host, lambda host: requests.create(host, 'bond1', ['eth0'], {'mode': 'active-backup'}), watch=kill)\n"
    )
    before = ibbond("bond", "list", "h1", "--json", lab=running).stdout
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL, done
    assert "killed in the middle of: create h1/bond1. Everything was restored" in done.stderr
    assert ibbond("bond", "list", "h1", "--json", lab=running).stdout == before


def test_what_kill_9_of_the_command_and_its_child_leaves_is_finished_by_the_same_command(running: Lab) -> None:
    """As docs/kernel-hosts.md says: the addresses that were on their way must be named, for nothing remembers them."""
    script = (
        "import os, pathlib, signal\n"
        "from ibbond.backend import requests\n"
        "from ibbond.backend.apply import change\n"
        "from ibbond.backend.control_socket import Control, LabBackend\n"
        f"host = LabBackend(Control.of({running.name!r}), 'h1')\n"
        "me = os.getpid()\n"
        "def parent(pid):\n"
        "    try: return int(pathlib.Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[1])\n"
        "    except OSError: return 0\n"
        "def kill(step):\n"
        "    if '+eth0' in str(step):\n"
        "        every = map(int, filter(str.isdigit, os.listdir('/proc')))\n"
        "        for pid in [*[pid for pid in every if parent(pid) == me], me]:\n"
        "            os.kill(pid, signal.SIGKILL)\n"
        "change(host, lambda host: requests.create(host, 'bond1', ['eth0'], {'mode': 'active-backup'}), watch=kill)\n"
    )
    bash(running["h1"], "ip addr add 10.3.0.1/24 dev eth0; ip link set eth0 up")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL, done
    half = ibbond("bond", "show", "h1/bond1", "--json", lab=running).stdout
    assert json.loads(half)["members"] == []
    assert "10.3.0.1" not in bash(running["h1"], "ip -o addr").stdout
    ibbond("bond", "create", "h1/bond1", "eth0", "--address", "10.3.0.1/24", lab=running)
    whole = json.loads(ibbond("bond", "show", "h1/bond1", "--json", lab=running).stdout)
    assert [member["name"] for member in whole["members"]] == ["eth0"]
    assert "10.3.0.1/24" in whole["addresses"]
    ibbond("bond", "delete", "h1/bond1", lab=running)
    bash(running["h1"], "ip addr flush dev eth0")


def test_two_at_once_follow_each_other(running: Lab) -> None:
    """What the second one asks is judged by what the first one has left."""
    asked = (("switch", "h1/bond0", "ib1"), ("remove", "h1/bond0", "ib1"))
    both = [
        subprocess.Popen([IBBOND, "bond", *each, "--name", running.name], stderr=subprocess.PIPE, text=True)
        for each in asked
    ]
    errors = [each.communicate(timeout=60)[1] for each in both]
    assert both[1].returncode == 0, errors
    assert (both[0].returncode, "ib1 is not a member" in errors[0]) in ((0, False), (2, True)), errors
    assert [each["name"] for each in shown(running)["members"]] == ["ib0"]
    ibbond("bond", "add", "h1/bond0", "ib1", lab=running)


def test_options_that_the_kernel_has_in_netlink_only(running: Lab) -> None:
    ibbond("bond", "set", "h1/bond0", "ns_ip6_target", "+fd00::2", lab=running)
    ibbond("bond", "set", "h1/bond0", "ns_ip6_target", "+fd00::3", lab=running)
    assert shown(running)["options"]["ns_ip6_target"] == ["fd00::2", "fd00::3"]
    assert "ns_ip6_target  fd00::2 fd00::3" in ibbond("bond", "show", "h1/bond0", lab=running).stdout
    ibbond("bond", "set", "h1/bond0", "ns_ip6_target", "-fd00::2", lab=running)
    ibbond("bond", "set", "h1/bond0", "ns_ip6_target", "fd00::4,fd00::3", lab=running)  # the whole list
    assert shown(running)["options"]["ns_ip6_target"] == ["fd00::4", "fd00::3"]
    assert "'fd00::zz' is not an IPv6 address" in refused(running, "bond", "set", "h1/bond0", "ns_ip6_target=fd00::zz")
    refused(running, "bond", "set", "h1/bond0", "ns_ip6_target", "fd00::5 ff02::1")
    ibbond("bond", "set", "h1/bond0", "ns_ip6_target", "none", lab=running)
    assert shown(running)["options"]["ns_ip6_target"] == []


def test_a_members_priority(running: Lab) -> None:
    ibbond("bond", "set", "h1/bond0", "prio", "ib1:5", lab=running)
    assert shown(running)["options"]["prio"] == [["ib0", 0], ["ib1", 5]]
    assert shown(running)["active"] == "ib1"
    assert "ib0:0 ib1:5\n" in ibbond("bond", "show", "h1/bond0", lab=running).stdout
    ibbond("bond", "set", "h1/bond0", "prio", "ib1:0 ib0:-1", lab=running)
    assert shown(running)["options"]["prio"] == [["ib0", -1], ["ib1", 0]]
    for bad in ("ib1", "ib1:x", "5", "ib1:99999999999", ""):
        assert "is not MEMBER:NUMBER" in refused(running, "bond", "set", "h1/bond0", f"prio={bad}")
    assert "eth0 is not a member" in refused(running, "bond", "set", "h1/bond0", "prio", "ib1:3 eth0:5")
    ibbond("bond", "set", "h1/bond0", "prio", "ib0:0", lab=running)


def test_a_new_bond_takes_them_too(running: Lab) -> None:
    settings = {"ns_ip6_target": "fd00::2", "prio": "eth0:7", "queue_id": "eth0:1", "active_slave": "eth0"}
    words = [word for option, text in settings.items() for word in ("--set", f"{option}={text}")]
    ibbond("bond", "create", "h1/bond1", "eth0", *words, lab=running)
    options = shown(running, "h1/bond1")["options"]
    assert (options["ns_ip6_target"], options["prio"], options["queue_id"]) == (
        ["fd00::2"],
        [["eth0", 7]],
        [["eth0", 1]],
    )
    ibbond("bond", "delete", "h1/bond1", lab=running)
    words = [word for text in ("mode=802.3ad", "coupled_control=0", "lacp_strict=1") for word in ("--set", text)]
    ibbond("bond", "create", "h1/bond1", *words, lab=running)
    options = shown(running, "h1/bond1")["options"]
    assert (options["coupled_control"], options["lacp_strict"]) == (0, 1)
    ibbond("bond", "delete", "h1/bond1", lab=running)
    assert "not supported in mode active-backup" in refused(running, "bond", "set", "h1/bond0", "coupled_control", "0")


def test_they_are_no_files(running: Lab) -> None:
    assert not {"prio", "ns_ip6_target", "coupled_control", "lacp_strict"} & set(
        bash(running["h1"], "ls bond0/bonding").stdout.split()
    )
    assert bash(running["h1"], "cat bond0/bonding/prio").returncode


def test_what_would_not_hold_is_refused_before(running: Lab) -> None:
    for words, said in (
        (("updelay", "150"), "the driver would make it 100. Set updelay to 100 or 200."),
        (("miimon=0", "updelay=100"), "counts runs of the MII monitor, which is off"),
        (("primary", "ib7"), "ib7 is not a member. Its members are ib0, ib1"),
        (("active_slave", "eth0"), "eth0 is not a member"),
        (("fail_over_mac", "none", "--interrupt"), "none is not possible"),
        (("queue_id", "ib0:1 ib1:1"), "two members cannot share a queue"),
        (("queue_id", "ib0:17"), "a number of 0 to 16"),
        (("arp_ip_target", "224.0.0.1"), "not a unicast address"),
        (("mtu", "2044"), "Use ip link set"),
    ):
        assert said in refused(running, "bond", "set", "h1/bond0", *words), words
    assert "ib2 is not a member" in refused(running, "bond", "create", "h1/bond1", "eth0", "--set", "primary=ib2")


def test_options_that_depend_on_each_other(running: Lab) -> None:
    def options() -> dict[str, Any]:
        found: dict[str, Any] = shown(running)["options"]
        return found

    ibbond("bond", "set", "h1/bond0", "updelay", "200", "primary", "ib0", lab=running)
    ibbond("bond", "set", "h1/bond0", "miimon", "50", lab=running)  # the delay stays; the driver counts it in runs
    assert (options()["miimon"], options()["updelay"]) == (50, 200)
    assert "Set both" in refused(running, "bond", "set", "h1/bond0", "miimon", "70")
    ibbond("bond", "set", "h1/bond0", "arp_ip_target=+10.0.0.2", "arp_interval", "100", lab=running)
    assert [options()[name] for name in ("miimon", "updelay", "arp_interval")] == [0, 0, 100]
    ibbond("bond", "set", "h1/bond0", "miimon=100", "arp_ip_target=none", "primary=none", lab=running)
    assert [options()[name] for name in ("miimon", "arp_interval", "arp_ip_target")] == [100, 0, []]
    assert shown(running)["primary"] is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("bond", "create", "h1/bond1", "ib7"),
            "cannot create h1/bond1: there is no device ib7 on h1; it has bond0,",
        ),
        (
            ("bond", "add", "h1/bond0", "ib7"),
            "cannot add ib7 to h1/bond0: there is no device ib7 on h1; it has bond0,",
        ),
        (
            ("bond", "create", "h1/bond1", "--set", "=5"),
            "no option name was given: the option name before = is missing.",
        ),
        (("bond", "create", "h1/bond1", "--set", "mimon=5"), "Did you mean miimon?"),
        (("bond", "set", "h1/bond0", "=5"), "no option name was given"),
        (("bond", "create", "h1/a:b"), "cannot create h1/a:b: 'a:b' cannot be a device's name"),
        (("bond", "create", "h1/sixteen_letters_"), "1 to 15 characters"),
        (("bond", "show", "h1"), "with --name or IBBOND_LAB a bond is HOST/BOND. Choose one of h1/bond0 and h2/bond0."),
        (
            ("bond", "show", "bond0"),
            "with --name or IBBOND_LAB a bond is HOST/BOND. Choose one of h1/bond0 and h2/bond0.",
        ),
        (("bond", "delete", "bond0"), "'bond0' does not name a bond of lab"),
        (("check", "h1"), "with --name or IBBOND_LAB a bond is HOST/BOND. Choose one of h1/bond0 and h2/bond0."),
        (("check",), "Choose one of h1 and h2."),
        (("watch",), "Choose one of h1 and h2."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_refusal_names_what_is_wrong(running: Lab, words: tuple[str, ...], said: str) -> None:
    assert said in refused(running, *words)
