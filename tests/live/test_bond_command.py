"""`ibbond bond` on a lab's bonds: what is refused changes nothing, what is said is what is in force."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ibbond.topology.default import TWO_HOSTS
from tests.live.view_lab import ViewLab, unique, view_lab


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ViewLab]:
    with view_lab(unique("bondcli"), TWO_HOSTS, Path(tmp_path_factory.mktemp("lab"))) as lab:
        yield lab


def shown(lab: ViewLab, bond: str = "h1/bond0") -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(lab.ibbond("bond", "show", bond, "--json").stdout)
    return facts


def refused(lab: ViewLab, *words: str) -> str:
    """The refusal of a command that must change nothing."""
    before = shown(lab), lab.ibbond("bond", "list", "h1", "--json").stdout
    done = lab.ibbond(*words, check=False)
    assert (done.returncode, done.stdout) == (2, ""), done
    assert (shown(lab), lab.ibbond("bond", "list", "h1", "--json").stdout) == before
    return done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("create", "h1/bond1", "eth0"),
        ("delete", "h1/bond0"),
        ("add", "h1/bond0", "eth0"),
        ("remove", "h1/bond0", "ib1"),
        ("set", "h1/bond0", "miimon", "50"),
        ("switch", "h1/bond0"),
    ],
    ids=lambda words: words[0],
)
def test_a_dry_run_of_a_labs_bond_is_refused(running: ViewLab, words: tuple[str, ...]) -> None:
    assert "--dry-run is for this host's own bonds" in refused(running, "bond", *words, "--dry-run")


def test_options_that_the_kernel_has_in_netlink_only(running: ViewLab) -> None:
    running.ibbond("bond", "set", "h1/bond0", "ns_ip6_target", "+fd00::2")
    running.ibbond("bond", "set", "h1/bond0", "ns_ip6_target", "+fd00::3")
    assert shown(running)["options"]["ns_ip6_target"] == ["fd00::2", "fd00::3"]
    assert "ns_ip6_target  fd00::2 fd00::3" in running.ibbond("bond", "show", "h1/bond0").stdout
    running.ibbond("bond", "set", "h1/bond0", "ns_ip6_target", "-fd00::2")
    running.ibbond("bond", "set", "h1/bond0", "ns_ip6_target", "fd00::4,fd00::3")  # the whole list
    assert shown(running)["options"]["ns_ip6_target"] == ["fd00::4", "fd00::3"]
    assert "'fd00::zz' is no IPv6 address" in refused(running, "bond", "set", "h1/bond0", "ns_ip6_target=fd00::zz")
    refused(running, "bond", "set", "h1/bond0", "ns_ip6_target", "fd00::5 ff02::1")  # no host: the rest is put back
    running.ibbond("bond", "set", "h1/bond0", "ns_ip6_target=")
    assert shown(running)["options"]["ns_ip6_target"] == []


def test_a_members_priority(running: ViewLab) -> None:
    running.ibbond("bond", "set", "h1/bond0", "prio", "ib1:5")
    assert shown(running)["options"]["prio"] == [["ib0", 0], ["ib1", 5]]
    assert shown(running)["active"] == "ib1"
    assert "ib0:0 ib1:5\n" in running.ibbond("bond", "show", "h1/bond0").stdout
    running.ibbond("bond", "set", "h1/bond0", "prio", "ib1:0 ib0:-1")
    assert shown(running)["options"]["prio"] == [["ib0", -1], ["ib1", 0]]
    for bad in ("ib1", "ib1:x", "5", "ib1:99999999999", ""):
        assert "is not MEMBER:NUMBER" in refused(running, "bond", "set", "h1/bond0", f"prio={bad}")
    assert "eth0 is not its member" in refused(running, "bond", "set", "h1/bond0", "prio", "ib1:3 eth0:5")
    running.ibbond("bond", "set", "h1/bond0", "prio", "ib0:0")


def test_a_new_bond_takes_them_too(running: ViewLab) -> None:
    settings = {"ns_ip6_target": "fd00::2", "prio": "eth0:7", "queue_id": "eth0:1", "active_slave": "eth0"}
    words = [word for option, text in settings.items() for word in ("--set", f"{option}={text}")]
    running.ibbond("bond", "create", "h1/bond1", "eth0", *words)
    options = shown(running, "h1/bond1")["options"]
    assert (options["ns_ip6_target"], options["prio"], options["queue_id"]) == (
        ["fd00::2"],
        [["eth0", 7]],
        [["eth0", 1]],
    )
    running.ibbond("bond", "delete", "h1/bond1")
    words = [word for text in ("mode=802.3ad", "coupled_control=0", "lacp_strict=1") for word in ("--set", text)]
    running.ibbond("bond", "create", "h1/bond1", *words)
    options = shown(running, "h1/bond1")["options"]
    assert (options["coupled_control"], options["lacp_strict"]) == (0, 1)
    running.ibbond("bond", "delete", "h1/bond1")
    assert "not supported in mode active-backup" in refused(running, "bond", "set", "h1/bond0", "coupled_control", "0")


def test_they_are_no_files(running: ViewLab) -> None:
    assert not {"prio", "ns_ip6_target", "coupled_control", "lacp_strict"} & set(
        running.bash("ls bond0/bonding").stdout.split()
    )
    assert running.bash("cat bond0/bonding/prio").returncode


def test_what_is_said_is_what_is_in_force(running: ViewLab) -> None:
    said = running.ibbond("bond", "set", "h1/bond0", "updelay", "150").stdout
    assert said == "set updelay of h1/bond0 to 100 (150 was rounded: it is no multiple of miimon, 100)\n"
    facts = json.loads(running.ibbond("bond", "set", "h1/bond0", "downdelay=250", "--json").stdout)
    assert facts["options"]["downdelay"] == 200
    assert facts["rounded"] == {"downdelay": "250 was rounded: it is no multiple of miimon, 100"}
    facts = json.loads(running.ibbond("bond", "set", "h1/bond0", "downdelay=0", "--json").stdout)
    assert facts["rounded"] == {}
    assert running.ibbond("bond", "set", "h1/bond0", "updelay=0").stdout == "set updelay of h1/bond0 to 0\n"
    for value, said in (("+10.0.0.2", "10.0.0.2"), ("+10.0.0.3", "10.0.0.2 10.0.0.3")):
        assert running.ibbond("bond", "set", "h1/bond0", "arp_ip_target", value).stdout.endswith(f" to {said}\n")
    assert "arp_ip_target  10.0.0.2 10.0.0.3\n" in running.ibbond("bond", "show", "h1/bond0").stdout
    for value in ("-10.0.0.2", "-10.0.0.3"):
        running.ibbond("bond", "set", "h1/bond0", "arp_ip_target", value)
    assert running.ibbond("bond", "set", "h1/bond0", "primary=ib0").stdout == "set primary of h1/bond0 to ib0\n"
    assert running.ibbond("bond", "set", "h1/bond0", "primary=").stdout == "set primary of h1/bond0 to (nothing)\n"
    created = running.ibbond("bond", "create", "h1/bond1", "--set", "updelay=150").stdout
    assert created == "created h1/bond1\nupdelay is 100: 150 was rounded: it is no multiple of miimon, 100\n"
    running.ibbond("bond", "delete", "h1/bond1")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("bond", "create", "h1/bond1", "ib7"),
            "cannot add ib7 to h1/bond1: there is no such device: known are",
        ),
        (("bond", "add", "h1/bond0", "ib7"), "cannot add ib7 to h1/bond0: there is no such device: known are bond0,"),
        (("bond", "create", "h1/bond1", "--set", "=5"), "no option is named: nothing stands before the =."),
        (("bond", "create", "h1/bond1", "--set", "mimon=5"), "Did you mean miimon?"),
        (("bond", "set", "h1/bond0", "=5"), "no option is named"),
        (("bond", "create", "h1/a:b"), "cannot create h1/a:b: 'a:b' can be no device's name"),
        (("bond", "create", "h1/sixteen_letters_"), "1 to 15 characters"),
        (("bond", "show", "h1"), "with --name a bond is HOST/BOND. Name one of h1/bond0 and h2/bond0."),
        (("bond", "show", "bond0"), "with --name a bond is HOST/BOND. Name one of h1/bond0 and h2/bond0."),
        (("bond", "delete", "bond0"), "'bond0' does not name a bond of lab"),
        (("bond", "list"), "Name a host: h1 and h2."),
        (("check", "h1"), "with --name a bond is HOST/BOND. Name one of h1/bond0 and h2/bond0."),
        (("check",), "Name a host: h1 and h2."),
        (("watch",), "Name a host: h1 and h2."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_refusal_names_what_is_wrong(running: ViewLab, words: tuple[str, ...], said: str) -> None:
    assert said in refused(running, *words)
