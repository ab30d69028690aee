"""`ibbond bond ...` with plain names, on the real driver: order, read-back, doing it twice, plans, putting back."""

import json

import pytest

from tests.kernel.virtual_machine import Host

CREATE = ("bond", "create", "bond0", "ib0", "ib1", "--set", "primary=ib0", "--address", "10.0.0.1/24")


def everything(host: Host) -> dict[str, str]:
    """The state that a failed command must leave alone: options, members, links, addresses, routes."""
    files = host.python(
        "import glob\n"
        "answer = {p: open(p).read() for p in sorted(glob.glob('/sys/class/net/*/bonding/*')"
        " + glob.glob('/sys/class/net/*/flags') + glob.glob('/sys/class/net/*/mtu'))"
        " if not p.endswith(('active_slave', 'mii_status'))}"
    )
    assert isinstance(files, dict)
    texts = {"addresses": host.run("ip", "-o", "-4", "addr"), "routes": host.sh("ip -4 route show table all; ip rule")}
    # A device that was deleted and made again has another number.
    return files | {
        key: "\n".join(line.split(": ", 1)[-1] for line in text.splitlines()) for key, text in texts.items()
    }


@pytest.mark.smoke
def test_create_does_the_whole_job(host: Host) -> None:
    assert "each read back" in host.ok(*CREATE)
    shown = json.loads(host.ok("bond", "show", "bond0", "--json"))
    assert shown["mode"] == "active-backup"
    assert (shown["active"], shown["primary"], shown["up"], shown["mtu"]) == ("ib0", "ib0", True, 2044)
    assert shown["addresses"][0] == "10.0.0.1/24"  # an IPv6 link-local address may follow
    assert [member["name"] for member in shown["members"]] == ["ib0", "ib1"]
    assert shown["members"][0]["hardware_address"] == shown["hardware_address"]
    assert len(shown["hardware_address"]) == 20 * 3 - 1
    assert host.read("bond0/bonding/num_grat_arp") == "3\n"
    assert "bond0" in host.ok("bond", "list")
    assert host.ok("bond", "proc", "bond0").startswith("Ethernet Channel Bonding Driver: v")


@pytest.mark.smoke
def test_twice_changes_nothing_and_says_so(host: Host) -> None:
    host.ok(*CREATE)
    before = everything(host)
    for words in (
        CREATE,
        ("bond", "add", "bond0", "ib1"),
        ("bond", "set", "bond0", "miimon", "100"),
        ("bond", "set", "bond0", "primary_reselect", "0"),
        ("bond", "switch", "bond0", "ib0"),
    ):
        assert "nothing to do" in host.ok(*words), words
    assert everything(host) == before
    host.ok("bond", "remove", "bond0", "ib1")
    assert "nothing to do" in host.ok("bond", "remove", "bond0", "ib1")
    host.ok("bond", "delete", "bond0")
    assert host.read("bonding_masters") == ""


def test_options_come_before_members_and_the_primary_after(host: Host) -> None:
    host.sh("ip link set ib0 up")
    plan = host.ok(*CREATE, "--dry-run").splitlines()
    order = [
        next(number for number, line in enumerate(plan) if text in line)
        for text in (
            "+bond0",
            "bonding/mode",
            "bonding/miimon",
            "set ib0 down",
            "write +ib0",
            "write +ib1",
            "bond0/mtu",
            "bonding/primary",
            "set bond0 up",
            "add address",
        )
    ]
    assert order == sorted(order)
    assert host.read("bonding_masters") == "", "a dry run changes nothing"


def test_a_plan_says_what_interrupts_traffic(host: Host) -> None:
    host.ok(*CREATE)
    assert "[interrupts: traffic moves from ib0 to ib1]" in host.ok("bond", "switch", "bond0", "ib1", "--dry-run")
    assert "[interrupts: traffic leaves ib0]" in host.ok("bond", "remove", "bond0", "ib0", "--dry-run")
    assert "interrupts" not in host.ok("bond", "remove", "bond0", "ib1", "--dry-run")
    assert "bond0 carries traffic of 10.0.0.1/24" in host.ok("bond", "delete", "bond0", "--dry-run")
    assert "interrupts" not in host.ok("bond", "set", "bond0", "num_grat_arp", "5", "--dry-run")
    plan = json.loads(host.ok("bond", "set", "bond0", "ad_select", "count", "--interrupt", "--dry-run", "--json"))
    assert [bool(step["interrupts"]) for step in plan["steps"]] == [True, False, False]
    host.ok("bond", "set", "bond0", "primary", "")
    host.ok("bond", "switch", "bond0", "ib1")
    host.add_port("ib2", port=3)
    reported = host.ok("bond", "add", "bond0", "ib2", "--dry-run")
    assert "traffic moves back from ib1 to ib0" in reported, "a newcomer makes the driver choose again"
    host.ok("bond", "add", "bond0", "ib2")
    assert host.read("bond0/bonding/active_slave") == "ib0\n", "the plan was right"


@pytest.mark.smoke
def test_what_needs_the_bond_down_or_without_members_needs_a_word(host: Host) -> None:
    host.ok(*CREATE)
    before = everything(host)
    result = host.ibbond("bond", "set", "bond0", "ad_select", "count")
    assert (result.code, "the bond is up" in result.err, "--interrupt" in result.err) == (2, True, True)
    result = host.ibbond("bond", "set", "bond0", "mode", "balance-rr", "--interrupt")
    assert "active-backup only" in result.err
    assert everything(host) == before
    host.sh("ip link add d0 type dummy")
    host.ok("bond", "create", "bond1", "d0", "--set", "queue_id=d0:2")
    result = host.ibbond("bond", "set", "bond1", "fail_over_mac", "follow")
    assert "the bond has members" in result.err
    host.ok("bond", "set", "bond1", "fail_over_mac", "follow", "--interrupt")
    assert host.read("bond1/bonding/queue_id") == "d0:2\n", "what a member that leaves forgets is written again"


@pytest.mark.parametrize(
    ("words", "reported"),
    [
        (("bond", "create", "bond0", "ib0", "ib9"), "there is no device ib9"),
        (("bond", "create", "bond0", "--set", "mode=active-backup", "--set", "miimon=x"), "It takes"),
        (("bond", "create", "bond0", "--set", "nonsense=1"), "no option nonsense"),
        (("bond", "create", "bond0", "--set", "link_events=1"), "ibbond's own driver"),
        (("bond", "create", "bond0", "--set", "arp_interval=100"), "one of the two monitors"),
        (("bond", "create", "bond0", "--set", "packets_per_slave=2"), "not supported in mode active-backup"),
        (("bond", "create", "bond0", "--set", "mode=802.3ad", "--set", "lacp_strict=1"), "does not have it"),
        (("bond", "create", "bo nd"), "no blank"),
        (("bond", "create", "bond-with-a-very-long-name"), "15 characters"),
        (("bond", "create", "lo"), "not a bond"),
        (("bond", "create", "bond0", "ib0", "lo"), "different types"),
        (("bond", "create", "bond0", "--address", "10.0.0.300/24"), "not an IP address"),
        (("bond", "show", "bond7"), "no bond bond7"),
        (("bond", "add", "bond7", "ib0"), "there is no bond bond7"),
        (("bond", "delete", "ib0"), "not a bond"),
    ],
)
def test_bad_input_is_refused_before_anything_changes(host: Host, words: tuple[str, ...], reported: str) -> None:
    before = everything(host)
    result = host.ibbond(*words)
    assert result.code == 2
    assert reported in result.err
    assert "Traceback" not in result.err
    assert everything(host) == before


def test_requests_on_a_live_bond_that_cannot_be(host: Host) -> None:
    host.ok(*CREATE)
    host.ok("bond", "create", "bond1")
    before = everything(host)
    for words, reported in (
        (("bond", "add", "bond1", "ib0"), "belongs to bond0 already"),
        (("bond", "switch", "bond0", "ib7"), "not a member"),
        (("bond", "set", "bond0", "slaves", "+ib2"), "bond add or remove"),
        (("bond", "set", "bond0", "mii_status", "up"), "read-only"),
        (("bond", "set", "bond0", "arp_ip_target", "10.0.0"), "not an IPv4 address"),
        (("bond", "set", "bond0", "queue_id", "ib0"), "MEMBER:NUMBER"),
        (("bond", "create", "bond0", "ib0"), "other members: ib1"),
        (("bond", "set", "bond0", "primary", "ib7"), "ib7 is not a member"),
    ):
        result = host.ibbond(*words)
        assert (result.code, reported in result.err) == (2, True), (words, result.err)
        assert "Traceback" not in result.err
    assert everything(host) == before


def test_options_of_every_kind_reach_the_driver(host: Host) -> None:
    host.ok(*CREATE)
    for option, value, file, text in (
        ("arp_ip_target", "10.0.0.2,10.0.0.3", "arp_ip_target", "10.0.0.2 10.0.0.3\n"),
        ("arp_ip_target", "-10.0.0.2", "arp_ip_target", "10.0.0.3\n"),
        ("queue_id", "ib1:2", "queue_id", "ib0:0 ib1:2\n"),
        ("primary_reselect", "better", "primary_reselect", "better 1\n"),
        ("num_unsol_na", "4", "num_grat_arp", "4\n"),
        ("primary", "ib1", "primary", "ib1\n"),
        ("primary", "", "primary", ""),
        ("active_slave", "ib0", "active_slave", "ib0\n"),
    ):
        host.ok("bond", "set", "bond0", option, value)
        assert host.read(f"bond0/bonding/{file}") == text
    host.ok("bond", "set", "bond0", "prio", "ib1:5")
    assert "prio 5" in host.run("ip", "-d", "link", "show", "ib1")
    host.ok("bond", "set", "bond0", "ns_ip6_target", "2001:db8::2,2001:db8::1")
    assert "2001:db8::2,2001:db8::1" in host.run("ip", "-d", "link", "show", "bond0")
    assert "nothing to do" in host.ok("bond", "set", "bond0", "ns_ip6_target", "2001:db8::2 2001:db8::1")
    shown = json.loads(host.ok("bond", "show", "bond0", "--json"))
    assert shown["options"]["num_grat_arp"] == 4
