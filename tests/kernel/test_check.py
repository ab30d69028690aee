"""`ibbond check` on hosts of the real driver: a good one is clean, and each way of breaking it is found by its rule."""

import json
import shlex
from collections.abc import Iterator

import pytest

from tests.kernel.virtual_machine import Host, VirtualMachine

GOOD = ("bond", "create", "bond0", "ib0", "ib1", "--address", "10.0.0.1/24")

MAKE_GOOD = """
ip link add bond0 type bond mode active-backup miimon 100 num_grat_arp 3
ip link set ib0 master bond0; ip link set ib1 master bond0
ip link set bond0 mtu 2044 up; ip addr add 10.0.0.1/24 dev bond0
cd /sys/class/net
wait_for "ib0 active" "grep -q ib0 bond0/bonding/active_slave"
wait_for "ib1 up" "grep -q up ib1/bonding_slave/mii_status"
wait_for "a link-local address of bond0" "ip -6 -o addr show dev bond0 scope link -tentative | grep -q fe80"
"""
LINK = "wait_for 'the link of {0} {1}' 'grep -q {1} {0}/bonding_slave/mii_status'; "
DOWN, UP = LINK.format("ib1", "down"), LINK.format("ib1", "up")
BREAK = {
    "no-link-monitor": "echo 0 > bond0/bonding/miimon",
    "no-arp-targets": "echo 200 > bond0/bonding/arp_interval",
    "few-announcements": "echo 1 > bond0/bonding/num_grat_arp",
    "arp-validate-on-infiniband": "echo +10.0.0.2 > bond0/bonding/arp_ip_target; echo 200 > bond0/bonding/arp_interval;"
    " echo all > bond0/bonding/arp_validate",
    "arp-monitor-on-infiniband": "echo +10.0.0.2 > bond0/bonding/arp_ip_target; echo 200 > bond0/bonding/arp_interval",
    "fail-over-mac": "echo -ib0 > bond0/bonding/slaves; echo -ib1 > bond0/bonding/slaves;"
    " echo none > bond0/bonding/fail_over_mac",
    "mtu-left-over": "ip link set bond0 mtu 1500",
    "no-updelay": "echo ib0 > bond0/bonding/primary",
    "long-updelay": "echo 3600000 > bond0/bonding/updelay",
    "slow-detection": "echo 1000 > bond0/bonding/miimon",
    "downdelay-drops-carrier": "echo 200 > bond0/bonding/downdelay",
    "no-group-reports": "echo 0 > bond0/bonding/resend_igmp",
    "duplicates-delivered": "echo 1 > bond0/bonding/all_slaves_active",
    "no-effect": "echo layer3+4 > bond0/bonding/xmit_hash_policy",
    "ipv6-link-local": "echo -ib0 > bond0/bonding/slaves; ip link set ib0 up; "
    "wait_for 'a link-local address of ib0' 'ip -6 address show dev ib0 | grep -q fe80'",
    "one-member": "echo -ib1 > bond0/bonding/slaves",
    "bond-down": "ip link set bond0 down",
    "no-active-member": "echo 0 > ib0/carrier; echo 0 > ib1/carrier;"
    " wait_for 'no active member' 'test -z \"$(cat bond0/bonding/active_slave)\"'",
    "member-down": f"echo 0 > ib1/carrier; {DOWN}",
    "member-flaps": f"for i in 1 2 3; do echo 0 > ib1/carrier; {DOWN} echo 1 > ib1/carrier; {UP} done",
    "pkey-differs": "echo -ib1 > bond0/bonding/slaves; echo 0x8001 > ib1/pkey; echo +ib1 > bond0/bonding/slaves",
    "transport-mode-differs": "echo connected > ib1/mode",
    "member-mtu-differs": "ip link set ib1 mtu 1000",
    "broadcast-stale": "echo 0x8001 > ib0/pkey; echo 0x8001 > ib1/pkey",
    "member-has-address": "ip addr add 10.5.0.1/24 dev ib1",
    "identity-left-over": "echo -ib0 > bond0/bonding/slaves; echo -ib1 > bond0/bonding/slaves",
    "moves-without-primary": "echo ib1 > bond0/bonding/active_slave",
    "dad-unfinished": "sysctl -qw net.ipv6.conf.bond0.dad_transmits=250; ip addr add 2001:db8::9/64 dev bond0",
    "arp-off": "ip link set bond0 arp off",
    "arp-ignored": "sysctl -qw net.ipv4.conf.bond0.arp_ignore=8 net.ipv4.conf.all.arp_ignore=8",
    "route-through-member": "ip route add 10.77.0.0/16 via 10.0.0.9 dev ib0 onlink; "
    "ip route add default via 10.0.0.8 dev ib1 onlink table 77 metric 5; "
    "ip -6 route add 2001:db8:7::/48 dev ib1 metric 9",
    "member-route-first": "ip addr del 10.0.0.1/24 dev bond0; ip addr add 10.0.0.7/24 dev ib0; "
    "ip addr add 10.0.0.1/24 dev bond0",
    "shared-subnet": "ip link add d0 type dummy; ip link set d0 arp on up; ip addr add 10.0.0.9/24 dev d0",
}
BY_A_PERSON = {  # a cable, or a device that is not there
    "no-active-member",
    "member-down",
    "member-flaps",
}
LEAVES = {  # what a cure that is not the last word leaves
    "pkey-differs": {"one-member"},
    "fail-over-mac": {"one-member", "identity-left-over"},
    "arp-validate-on-infiniband": {"member-flaps"},  # while the ARP monitor had no answer
    "arp-monitor-on-infiniband": {"member-flaps"},
    "ipv6-link-local": {"one-member"},  # it is broken by taking a member away
}


@pytest.fixture
def good(machine: VirtualMachine) -> Iterator[Host]:
    """A host whose bond has nothing wrong: two adapters, monitor, announcements, MTU."""
    host = machine.host()
    host.add_port("ib0", adapter=0, port=1)
    host.add_port("ib1", adapter=1, port=1)
    host.sh(MAKE_GOOD)
    yield host
    host.close()


def rules(host: Host, *words: str) -> dict[str, list[str]]:
    result = host.ibbond("check", *words, "--json")
    assert result.code in (0, 1), result.err
    report = json.loads(result.out)
    found: dict[str, list[str]] = {}
    for finding in report["findings"]:
        found.setdefault(finding["rule"], []).append(finding["what"])
        assert finding["why"]
        assert finding["fix"]
    bad = [finding for finding in report["findings"] if finding["severity"] != "note"]
    assert result.code == (1 if bad else 0)
    assert report["clean"] == (not bad)
    return found


@pytest.mark.smoke
def test_a_good_bond_is_clean_but_for_notes_about_its_kernel(good: Host) -> None:
    result = good.ibbond("check")
    assert result.code == 0, result.out
    assert result.out.startswith("bond0: ")
    assert "notes" in result.out.splitlines()[0]
    assert "quirk-polled-links" in result.out


@pytest.mark.parametrize("rule", BREAK)
@pytest.mark.smoke
def test_each_way_of_breaking_it_is_found(good: Host, rule: str) -> None:
    good.sh(f"cd /sys/class/net; {BREAK[rule]}")
    found = rules(good)
    assert rule in found, found


def commands(host: Host, rule: str) -> list[str]:
    """The commands in the fix of the findings of one rule."""
    report = json.loads(host.ibbond("check", "--json").out)
    return [command for finding in report["findings"] if finding["rule"] == rule for command in finding["commands"]]


def type_in(host: Host, command: str) -> None:
    """As a shell would: `ibbond` in the warm interpreter, anything else as it stands."""
    words = shlex.split(command)
    if words[0] == "ibbond":
        host.ok(*words[1:])
    else:
        host.sh(command)


@pytest.mark.parametrize("rule", [rule for rule in BREAK if rule not in BY_A_PERSON])
def test_the_commands_of_each_fix_clear_the_finding_and_make_no_other(good: Host, rule: str) -> None:
    good.sh(f"cd /sys/class/net; {BREAK[rule]}")
    typed = commands(good, rule)
    assert typed
    for command in typed:
        type_in(good, command)
    report = json.loads(good.ibbond("check", "--json").out)
    left = {finding["rule"] for finding in report["findings"] if finding["severity"] != "note"}
    assert left <= LEAVES.get(rule, set()), (typed, report["findings"])
    assert rule not in {finding["rule"] for finding in report["findings"]}, typed


FILES = "mount -t tmpfs none /etc/network; mkdir -p /etc/systemd/network; mount -t tmpfs none /etc/systemd/network; "
ETHERNET = (
    "ip link add d0 type dummy; ip link add d1 type dummy; ip link add bond1 type bond mode active-backup miimon 100;"
    " echo 3 > bond1/bonding/num_grat_arp; "
)
ACTIVE_D0 = (
    "ip link set d0 master bond1; ip link set bond1 up; wait_for 'd0 active' 'grep -q d0 bond1/bonding/active_slave'; "
)
MORE = {  # ways of breaking it whose cures take other commands than those of BREAK
    "missing-member": f"{FILES} ip link set ib1 nomaster;"
    " printf 'iface bond0 inet static\\n  bond-slaves ib0 ib1\\n' > /etc/network/interfaces",
    "missing-member of another bond": f"{FILES} ip link set ib1 nomaster; ip link add bond2 type bond"
    " mode active-backup miimon 100; ip link set ib1 master bond2;"
    " printf 'iface bond0 inet static\\n  bond-slaves ib0 ib1\\n' > /etc/network/interfaces",
    "missing-member of a bridge": f"{FILES}{ETHERNET}{ACTIVE_D0} ip link add br0 type bridge;"
    " ip link set d1 master br0; printf 'iface bond1 inet static\\n  bond-slaves d0 d1\\n' > /etc/network/interfaces",
    "missing-bond": f"{FILES} ip link set ib0 nomaster; ip link set ib1 nomaster; ip link del bond0;"
    " printf 'auto bond0\\niface bond0 inet static\\n  address 10.0.0.1/24\\n  bond-slaves ib0 ib1\\n"
    "  bond-mode active-backup\\n  bond-miimon 100\\n  bond-num-grat-arp 3\\n' > /etc/network/interfaces",
    "option-differs": f"{FILES} printf 'iface bond0 inet static\\n  bond-slaves ib0 ib1\\n  bond-miimon 50\\n"
    "  bond-primary ib1\\n  bond-updelay 1000\\n  mtu 2000\\n' > /etc/network/interfaces",
    "option-misplaced": f"{FILES} echo 1000 > bond0/bonding/updelay; cd /etc/systemd/network;"
    " printf '[NetDev]\\nName=bond0\\nKind=bond\\n[Bond]\\nMode=active-backup\\nMIIMonitorSec=0.1\\nUpDelaySec=1\\n'"
    " > 1.netdev; printf '[Match]\\nName=ib0 ib1\\n[Network]\\nBond=bond0\\nPrimarySlave=ib1\\n' > 2.network",
    "mtu-limit-lost": "echo -ib0 > bond0/bonding/slaves; echo -ib1 > bond0/bonding/slaves; ip link add d0 type dummy;"
    " echo +d0 > bond0/bonding/slaves",
    "address-stale": f"{ETHERNET} echo active > bond1/bonding/fail_over_mac; {ACTIVE_D0} ip link set d1 master bond1;"
    f" {LINK.format('d1', 'up')} ip link set d0 address 02:00:00:00:99:01",
    "address-stale with one member": f"{ETHERNET} echo active > bond1/bonding/fail_over_mac; {ACTIVE_D0}"
    " ip link set d0 address 02:00:00:00:99:01",
    "same-address": f"{ETHERNET} echo follow > bond1/bonding/fail_over_mac; {ACTIVE_D0} ip link set d1 master bond1;"
    " ip link set d1 address $(cat d0/address)",
    "one-member in balance-rr": "ip link set ib0 nomaster; ip link set ib1 nomaster; ip link del bond0;"
    " ip link add bond0 type bond miimon 100; ip link set bond0 up",
    "member-down because it is set down": f"ip link set ib1 down; {DOWN}",
    "identity-left-over": "ip link set ib0 nomaster; ip link set ib1 nomaster; ip link del ib0; ip link del ib1",
    "moves-without-primary": "echo ib1 > bond0/bonding/active_slave",
    "member-mtu-differs": "ip link set ib0 mtu 1900; ip link set ib1 mtu 1800",
    "no-effect": "echo 1 > bond0/bonding/lp_interval; echo 2 > bond0/bonding/min_links",
    "no-effect of ARP settings": "echo all > bond0/bonding/arp_validate; echo +10.0.0.2 > bond0/bonding/arp_ip_target;"
    " echo 1 > bond0/bonding/arp_all_targets",
    "arp-ignored by all": "sysctl -qw net.ipv4.conf.all.arp_ignore=8",
}
BESIDE = {  # what is left on purpose: members that a row's story has taken away
    "missing-member of another bond": {"one-member", "identity-left-over", "few-announcements", "mtu-left-over"},
    "missing-member of a bridge": {"one-member"},
    "mtu-limit-lost": {"one-member"},
    "address-stale with one member": {"one-member"},
    "same-address": {"one-adapter"},
    "one-member in balance-rr": {"few-announcements", "mtu-left-over"},
}

EDIT = {  # what a person changes in files beside the commands
    "option-misplaced": "cd /etc/systemd/network; sed -i /PrimarySlave/d 2.network;"
    " printf '[Match]\\nName=ib1\\n[Network]\\nBond=bond0\\nPrimarySlave=yes\\n' > 1.network",
}


@pytest.mark.parametrize("way", MORE)
def test_every_other_command_clears_its_finding_when_it_is_typed(good: Host, way: str) -> None:
    rule = way.partition(" ")[0]
    good.sh(f"cd /sys/class/net; {MORE[way]}")
    typed = commands(good, rule)
    assert typed
    for command in typed:
        type_in(good, command)
    good.sh(EDIT.get(way, ":"))
    findings = json.loads(good.ibbond("check", "--json").out).get("findings", [])  # none of a host without a bond
    left = {finding["rule"] for finding in findings if finding["severity"] != "note"}
    assert left <= BESIDE.get(way, set()), (typed, findings)
    assert rule not in {finding["rule"] for finding in findings}, typed


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ("no-updelay", "primary_reselect failure"),
        ("moves-without-primary", "primary_reselect failure"),
        ("member-flaps", "bond remove bond0 ib1"),
    ],
)
def test_what_else_a_person_may_type_helps_too(good: Host, broken: str, words: str) -> None:
    good.sh(f"cd /sys/class/net; {BREAK[broken]}")
    report = json.loads(good.ibbond("check", "--json").out)
    (advice,) = (finding["advice"] for finding in report["findings"] if finding["rule"] == broken)
    typed = advice[advice.index("ibbond ") :]
    assert words in typed
    for command in typed.split(" && "):
        type_in(good, command)
    assert broken not in rules(good)


@pytest.mark.parametrize("rule", sorted(BY_A_PERSON))
def test_where_no_command_helps_the_report_says_what_to_do(good: Host, rule: str) -> None:
    good.sh(f"cd /sys/class/net; {BREAK[rule]}")
    report = json.loads(good.ibbond("check", "--json").out)
    for finding in report["findings"]:
        if finding["rule"] == rule:
            assert finding["commands"] == []
            assert finding["advice"]


def test_a_duplicate_address_is_found_and_its_cure_works_once_the_other_host_is_gone(good: Host) -> None:
    """A second device on the hub stands for the other host; accept_dad 2 makes the kernel turn IPv6 off."""
    good.sh(
        "ip netns add other; ip link add ib9 address 80:00:02:0f:fe:80:00:00:00:00:00:00:00:02:c9:03:00:10:03:01"
        f" group {good.group} type lookib; ip link set ib9 netns other;"
        "ip -n other link set ib9 up; ip -n other addr add 2001:db8::1/64 dev ib9 nodad;"
        "wait_for 'addresses of ib9' 'test $(ip -n other -6 -o addr show dev ib9 -tentative | wc -l) = 2';"
        "ip addr add 2001:db8::1/64 dev bond0;"
        "wait_for 'a duplicate found' 'ip -6 addr show dev bond0 | grep -q dadfailed'"
    )
    assert rules(good)["dad-failed"] == ["2001:db8::1/64 of bond0 is not used: another host has it (dadfailed)"]
    good.ok("collect", "-o", "/tmp/duplicate")
    assert "dad-failed" in rules(good, "--root", "/tmp/duplicate")
    report = json.loads(good.ibbond("check", "--json").out)
    (advice,) = (finding["advice"] for finding in report["findings"] if finding["rule"] == "dad-failed")
    good.sh(f"rm -r /tmp/duplicate; ip -n other addr flush dev ib9; {advice.partition(': ')[2]}")
    assert "dad-failed" not in rules(good)
    good.sh(
        "local=$(ip -6 -o addr show dev bond0 scope link | awk '{print $4}');"
        "ip -n other addr add $local dev ib9 nodad; sysctl -qw net.ipv6.conf.bond0.accept_dad=2;"
        "ip link set bond0 down; ip link set bond0 up;"
        "wait_for 'IPv6 turned off' 'grep -q 1 /proc/sys/net/ipv6/conf/bond0/disable_ipv6'"
    )
    assert "ipv6-off" in rules(good)
    typed = commands(good, "ipv6-off")
    good.sh("ip netns del other")
    for command in typed:
        type_in(good, command)
    assert "ipv6-off" not in rules(good)


def test_two_interfaces_of_one_port(good: Host) -> None:
    address = "80:00:02:77:fe:80:00:00:00:00:00:00:00:02:c9:03:00:10:00:01"
    good.run("ip", "link", "add", "ib0.1", "address", address, "group", str(good.group), "type", "lookib")
    good.sh("ip link set ib1 nomaster; ip link set ib0.1 master bond0")
    found = rules(good)
    assert "same-port" in found
    assert "one-adapter" not in found


def test_members_on_one_adapter(host: Host) -> None:
    host.ok(*GOOD)
    assert "one adapter" in rules(host)["one-adapter"][0]


def test_members_in_two_subnets(machine: VirtualMachine) -> None:
    host = machine.host()
    host.add_port("ib0", adapter=0)
    address = "80:00:02:08:fe:c0:00:00:00:00:00:02:00:02:c9:03:00:10:01:01"
    host.run("ip", "link", "add", "ib1", "address", address, "group", str(host.group), "type", "lookib")
    host.ok(*GOOD)
    assert "subnet-differs" in rules(host)
    host.close()


def test_members_that_were_configured_or_asked_for(good: Host) -> None:
    assert "missing-member" in rules(good, "--expect", "ib0,ib1,ib2")
    good.sh("mkdir -p /etc/network; cp /etc/network/interfaces /tmp/kept 2>/dev/null || true")
    good.sh("printf 'iface bond0 inet static\\n  bond-slaves ib0 ib1 ib7\\n' > /etc/network/interfaces")
    assert rules(good)["missing-member"] == ["ib7 is not a member of bond0"]
    good.sh("if [ -e /tmp/kept ]; then cp /tmp/kept /etc/network/interfaces; else rm /etc/network/interfaces; fi")


def test_a_bond_that_was_made_ethernet_again_has_a_small_limit(good: Host) -> None:
    good.sh("cd /sys/class/net; echo -ib0 > bond0/bonding/slaves; echo -ib1 > bond0/bonding/slaves")
    good.sh("ip link add d0 type dummy; echo +d0 > /sys/class/net/bond0/bonding/slaves")
    assert "mtu-limit-lost" in rules(good)


def test_what_a_member_does_not_tell_the_driver(good: Host) -> None:
    """The address of the active member changes under the bond: Ethernet can do that, IPoIB after a restart."""
    good.sh(
        "ip link add d0 type dummy; ip link add d1 type dummy;"
        "ip link add bond1 type bond mode active-backup miimon 100 fail_over_mac active;"
        "ip link set d0 master bond1; ip link set d1 master bond1; ip link set bond1 up;"
        "wait_for 'd0 active' 'grep -q d0 /sys/class/net/bond1/bonding/active_slave';"
        "ip link set d0 address 02:00:00:00:99:01"
    )
    assert "address-stale" in rules(good, "bond1")


def test_exit_codes_and_bad_input(good: Host, machine: VirtualMachine) -> None:
    assert good.ibbond("check", "bond0").code == 0
    assert good.ibbond("check", "bond9").code == 2
    assert "no bond of that name" in good.ibbond("check", "bond9").err
    assert good.ibbond("check", "--ignore", "nonsense").code == 2
    good.write("bond0/bonding/num_grat_arp", "1")
    assert good.ibbond("check").code == 1
    assert good.ibbond("check", "--ignore", "few-announcements").code == 0
    listing = good.ok("check", "--list-rules")
    assert all(rule in listing for rule in BREAK)
    empty = machine.host()
    assert empty.ibbond("check").code == 2
    empty.close()


def test_measured_announcements_are_reported_for_this_kernel(good: Host, machine: VirtualMachine) -> None:
    good.write("bond0/bonding/num_grat_arp", "1")
    report = json.loads(good.ibbond("check", "--json").out)
    why = next(each["why"] for each in report["findings"] if each["rule"] == "few-announcements")
    assert machine.release in why
    assert "0 after a total outage" in why


def test_a_bundle_gives_the_same_findings_elsewhere(good: Host) -> None:
    good.sh("cd /sys/class/net; echo 0 > bond0/bonding/miimon; echo connected > ib1/mode; ip link set bond0 mtu 1500")
    good.ok("bond", "create", "bond1", "--set", "updelay=200")
    live = rules(good)
    good.ok("collect", "-o", "/tmp/bundle.tar.gz")
    good.ok("collect", "-o", "/tmp/bundle")
    assert "-rw-------" in good.run("ls", "-l", "/tmp/bundle.tar.gz")
    assert rules(good, "--root", "/tmp/bundle.tar.gz") == live
    assert rules(good, "--root", "/tmp/bundle") == live
    assert "10.0.0.1/24" in good.run("cat", "/tmp/bundle/ibbond/addresses")
    assert "bond0" in good.run("cat", "/tmp/bundle/ibbond/kernel.log")
    good.sh("rm -r /tmp/bundle /tmp/bundle.tar.gz")
    assert good.ibbond("check", "--root", "/tmp/bundle.tar.gz").code == 2
