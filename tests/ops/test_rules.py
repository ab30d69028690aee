"""Every rule on facts made by hand: silent on a good bond, hit by the one thing that breaks it; the table itself."""

import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ibbond.abi.ip_text import HopText, RouteText
from ibbond.bonding.options import OPTIONS
from ibbond.bonding.quirks import PATCHES, QUIRKS
from ibbond.bonding.snapshot import BondSnapshot, MemberSnapshot
from ibbond.config.desired import Desired, Match, Problem, Setting, Source
from ibbond.ops.check import RULES, check, is_clean
from ibbond.ops.facts import BondFacts, DeviceFacts, Expected, HostFacts, MemberFacts, PortFacts
from ibbond.ops.rule import Severity
from ibbond.ops.rules_kernel import UNSEEN
from ibbond.ops.rules_options import announcements_sent
from tests.config.traps import TRAPS

PROGRAMS = ("ibbond", "ip", "sysctl", "echo")
DOCUMENT = Path(__file__).parents[2] / "docs" / "checks.md"
BROADCAST = bytes.fromhex("00ffffffff12401bffff000000000000ffffffff")


def address(port: int) -> bytes:
    return bytes.fromhex("80000209fe80000000000000") + bytes.fromhex("0002c903001000") + bytes([port])


def member(number: int, **changes: object) -> MemberFacts:
    """ib0 or ib1, each on an adapter and a switch of its own."""
    name = f"ib{number}"
    device = DeviceFacts(
        name=name,
        type=32,
        up=True,
        carrier=True,
        mtu=2044,
        hardware_address=address(number + 1),
        broadcast=BROADCAST,
        pkey=0xFFFF,
        transport="datagram",
        carrier_changes=2,
        addresses=(),
        flags=0x1843,
        port=PortFacts(
            adapter=f"mlx5_{number}",
            card=f"0000:0{number}:00",
            number=1,
            state="ACTIVE",
            sm_lid=1,
            neighbor=f"0x{number}",
            link_layer="InfiniBand",
            rate="100 Gb/sec (4X EDR)",
            socket=f"pci{number} 1",
            pkeys=(0xFFFF, 0x8001),
        ),
    )
    bonding = MemberSnapshot(name, "active" if number == 0 else "backup", "up", 0, address(number + 1))
    in_device = {key: value for key, value in changes.items() if hasattr(device, key)}
    in_bonding = {key: value for key, value in changes.items() if key not in in_device}
    return MemberFacts(replace(bonding, **in_bonding), replace(device, **in_device))  # type: ignore[arg-type]


OPTION_VALUES = {
    option.name: option.default
    for option in OPTIONS.values()
    if not option.ours and not option.of_member and not option.read_only
} | {"mode": 1, "miimon": 100, "num_grat_arp": 3, "num_unsol_na": 3, "fail_over_mac": 1}


def bond(*members: MemberFacts, options: dict[str, object] | None = None, **changes: object) -> BondFacts:
    members = members or (member(0), member(1))
    snapshot = BondSnapshot(
        name="bond0",
        type=32,
        address=members[0].device.hardware_address if members else bytes(20),
        broadcast=BROADCAST,
        mtu=2044,
        up=True,
        carrier=True,
        active="ib0",
        primary=None,
        members=tuple(each.bonding for each in members),
        options={**OPTION_VALUES, **(options or {})},
    )
    device = DeviceFacts("bond0", 32, True, True, 2044, snapshot.address, BROADCAST, ("10.0.0.1/24",), flags=0x1443)
    in_snapshot = {key: value for key, value in changes.items() if hasattr(snapshot, key)}
    in_device = {key.removeprefix("own_"): value for key, value in changes.items() if key.startswith("own_")}
    rest = {key: value for key, value in changes.items() if key not in in_snapshot and not key.startswith("own_")}
    return BondFacts(replace(snapshot, **in_snapshot), replace(device, **in_device), members, **rest)  # type: ignore[arg-type]


def empty(**options: object) -> BondFacts:
    facts = bond()
    return replace(
        facts,
        members=(),
        snapshot=replace(facts.snapshot, members=(), active=None, options={**facts.snapshot.options, **options}),
    )


BOND_ROUTE = RouteText(4, "10.0.0.0/24", (HopText("bond0"),), protocol="kernel")
SYSCTLS = {
    f"ipv{family}/conf/{device}/{key}": 0
    for device in ("all", "default", "bond0", "eno1")
    for family, keys in (("4", ("arp_ignore", "arp_announce")), ("6", ("disable_ipv6", "accept_dad")))
    for key in keys
}


def host(facts: BondFacts, *others: DeviceFacts, routes: tuple[RouteText, ...] = (), **sysctls: int) -> HostFacts:
    """A host with nothing wrong about it but what is notified: `bond0_arp_ignore=8`."""
    changed = {
        key: value for name, value in sysctls.items() for key in SYSCTLS if key.endswith(name.replace("_", "/", 1))
    }
    devices = (facts.device, *(member.device for member in facts.members), *others)
    return HostFacts(
        (facts,),
        (6, 1),
        "6.1.0-test",
        devices={device.name: device for device in devices},
        routes=(*routes, BOND_ROUTE),
        sysctls=SYSCTLS | changed,
        bond_names=frozenset({facts.name}),
    )


def hits(facts: BondFacts | HostFacts, version: tuple[int, ...] | None = (6, 1)) -> set[str]:
    judged = facts if isinstance(facts, HostFacts) else replace(host(facts), version=version)
    return {each.rule.id for each in check(judged)}


def one_port(**changes: object) -> tuple[MemberFacts, MemberFacts]:
    first, second = member(0), member(1)
    ports = [replace(each.device.port, **changes) for each in (first, second) if each.device.port]  # type: ignore[arg-type]
    return (
        replace(first, device=replace(first.device, port=ports[0])),
        replace(second, device=replace(second.device, port=ports[1])),
    )


def expected(*names: str) -> tuple[Expected, ...]:
    return tuple(Expected(Match((name,)), "/etc/network/interfaces:7") for name in names)


def files(*problems: str, name: str = "bond0", **options: str) -> Desired:
    """What /etc/network/interfaces asks for: a bond with these options, and what is wrong with it."""
    source = Source("/etc/network/interfaces", 7)
    desired = Desired(problems=[Problem(kind, source, "it is wrong", "Write it right", name) for kind in problems])
    own = desired.bond(name, "ifupdown", source)
    own.is_defined = True
    own.options |= {option: Setting(text, source) for option, text in options.items()}
    return desired


OTHER_SUBNET = bytes.fromhex("80000209fec0000000000001") + address(2)[12:]
OTHER_DEVICE = DeviceFacts("eno1", 1, True, True, 1500, addresses=("10.0.0.9/24",), flags=0x1043)
THROUGH = RouteText(4, "10.77.0.0/16", (HopText("ib0", "10.0.0.2", onlink=True),))
FIRST = RouteText(4, "10.0.0.0/24", (HopText("ib1"),), source="10.0.0.7", protocol="kernel")
BROKEN: dict[str, Callable[[], BondFacts | HostFacts]] = {
    "no-link-monitor": lambda: bond(options={"miimon": 0}),
    "no-arp-targets": lambda: bond(options={"miimon": 0, "arp_interval": 100}),
    "few-announcements": lambda: bond(options={"num_grat_arp": 2}),
    "arp-validate-on-infiniband": lambda: bond(options={"arp_validate": 3}),
    "arp-monitor-on-infiniband": lambda: bond(options={"arp_interval": 100, "arp_ip_target": (bytes(4),)}),
    "fail-over-mac": lambda: bond(options={"fail_over_mac": 0}),
    "mtu-left-over": lambda: bond(own_mtu=1500),
    "no-updelay": lambda: bond(primary="ib0"),
    "long-updelay": lambda: bond(options={"updelay": 3_600_000}),
    "slow-detection": lambda: bond(options={"downdelay": 900}),
    "downdelay-drops-carrier": lambda: bond(options={"downdelay": 100}),
    "no-group-reports": lambda: bond(options={"resend_igmp": 0}),
    "duplicates-delivered": lambda: bond(options={"all_slaves_active": 1}),
    "no-effect": lambda: bond(options={"arp_missed_max": 5}),
    "ipv6-link-local": lambda: bond(own_addresses=("fe80::1/64",)),
    "one-member": lambda: bond(member(0)),
    "missing-member": lambda: bond(expected=expected("ib0", "ib1", "ib2")),
    "option-differs": lambda: replace(host(bond()), desired=files(miimon="50")),
    "option-misplaced": lambda: replace(host(bond()), desired=files("option-misplaced")),
    "option-unknown": lambda: replace(host(bond()), desired=files("option-unknown")),
    "missing-bond": lambda: replace(host(bond()), desired=files(name="bond9")),
    "bond-down": lambda: bond(up=False),
    "no-active-member": lambda: bond(active=None),
    "member-down": lambda: bond(member(0), member(1, link="down", carrier=False)),
    "port-not-active": lambda: bond(*one_port(state="INIT")),
    "one-adapter": lambda: bond(*one_port(card="0000:03:00")),
    "one-switch": lambda: bond(*one_port(neighbor="0x0002c90300200000")),
    "member-flaps": lambda: bond(member(0), member(1, link_failure_count=3)),
    "same-port": lambda: bond(member(0), member(1, hardware_address=address(1), permanent_address=address(1))),
    "unequal-rates": lambda: bond(member(0), one_port(rate="2.5 Gb/sec (1X SDR)")[1]),
    "arp-off": lambda: bond(own_flags=0x14C3),
    "arp-ignored": lambda: host(bond(), bond0_arp_ignore=8),
    "dad-failed": lambda: bond(own_address_flags={"2001:db8::1/64": frozenset({"dadfailed", "tentative"})}),
    "dad-unfinished": lambda: bond(own_address_flags={"2001:db8::1/64": frozenset({"tentative", "permanent"})}),
    "ipv6-off": lambda: host(bond(), bond0_disable_ipv6=1, bond0_accept_dad=2),
    "route-through-member": lambda: host(bond(), routes=(THROUGH,)),
    "member-route-first": lambda: host(bond(), routes=(FIRST,)),
    "shared-subnet": lambda: host(bond(), OTHER_DEVICE),
    "pkey-differs": lambda: bond(member(0), member(1, pkey=0x8001)),
    "transport-mode-differs": lambda: bond(member(0), member(1, transport="connected")),
    "member-mtu-differs": lambda: bond(member(0), member(1, mtu=1500)),
    "subnet-differs": lambda: bond(member(0), member(1, permanent_address=OTHER_SUBNET)),
    "broadcast-stale": lambda: bond(broadcast=bytes(20)),
    "address-stale": lambda: bond(address=bytes(20)),
    "member-has-address": lambda: bond(member(0), member(1, addresses=("10.0.0.2/24",))),
    "same-address": lambda: bond(member(0), member(1, hardware_address=address(1)), options={"fail_over_mac": 2}),
    "identity-left-over": empty,
    "mtu-limit-lost": lambda: bond(own_max_mtu=1500),
    "neighbor-locktime": lambda: replace(
        host(bond()), version=(4, 12), sysctls={**SYSCTLS, "ipv4/neigh/bond0/locktime": 100}
    ),
}


def test_a_good_bond_has_only_notes() -> None:
    findings = check(host(bond()))
    assert is_clean(findings)
    assert {each.rule.id for each in findings} == {
        "kernel-defect",
        "quirk-polled-links",
        "quirk-announcements-burnt",
        "quirk-neighbors-flushed",
        "quirk-cold-standby",
        "quirk-break-before-make",
        "quirk-no-handover",
        "quirk-last-member-takes-bond",
    }


def test_a_lab_hosts_bond_is_ours_and_has_no_notes() -> None:
    ours = replace(host(bond(options={"link_events": 1, "miimon": 0})), version=None, is_ours=True)
    assert hits(ours) == set()


@pytest.mark.parametrize("rule", BROKEN)
def test_the_one_broken_thing_is_found(rule: str) -> None:
    assert rule not in hits(bond())
    assert rule in hits(BROKEN[rule]())
    severity = RULES[rule].severity
    assert severity is not Severity.NOTE
    facts = BROKEN[rule]()
    assert not is_clean(check(facts if isinstance(facts, HostFacts) else host(facts)))


def test_every_rule_has_a_case_here() -> None:
    """Those that files show by themselves have theirs in tests/config/test_traps.py."""
    notes = {rule.id for rule in RULES.values() if rule.severity is Severity.NOTE}
    assert set(RULES) - notes - set(TRAPS) - {"kernel-before-2007-patches"} == set(BROKEN)


def test_a_kernel_before_the_patches() -> None:
    assert "kernel-before-2007-patches" in hits(bond(), version=(2, 6, 20))
    assert "kernel-before-2007-patches" not in hits(bond(), version=(2, 6, 24))


def test_every_defect_of_the_kernel_is_behind_a_rule_or_named_as_unseen() -> None:
    behind = {rule.quirk for rule in RULES.values()} | set(UNSEEN) | PATCHES
    assert set(QUIRKS) <= behind
    assert {rule.quirk for rule in RULES.values() if rule.quirk} <= set(QUIRKS)


def test_notes_follow_the_kernels_version() -> None:
    old, new = hits(bond(), (6, 1)), hits(bond(), (7, 3))
    assert "quirk-announcements-burnt" in old
    assert "quirk-announcements-burnt" not in new
    assert "quirk-last-member-takes-bond" in new


def test_every_rule_has_a_section_of_its_own_in_the_document() -> None:
    sections = {line[3:].strip("` ") for line in DOCUMENT.read_text().splitlines() if line.startswith("## ")}
    assert set(RULES) <= sections
    assert sections - set(RULES) <= {"How to read a finding", "Notes about the kernel"}


def test_findings_say_what_why_and_fix_in_whole_words() -> None:
    for broken in BROKEN.values():
        facts = broken()
        for finding in check(facts if isinstance(facts, HostFacts) else host(facts)):
            assert finding.found.what
            assert finding.found.fix
            assert finding.why
            assert "None" not in finding.found.what, finding.found.what
            assert not finding.found.what.endswith(".")
            assert not finding.why.endswith(".")
            assert all(word in PROGRAMS for word in (shlex.split(run)[0] for run in finding.found.run)), finding.found


@pytest.mark.parametrize(
    ("count", "version", "sent"),
    [
        (1, (6, 1), (1, 0)),
        (2, (6, 1), (1, 1)),
        (3, (6, 1), (2, 2)),
        (5, (6, 1), (4, 4)),
        (3, (7, 3), (3, 2)),
        (1, (7, 3), (1, 0)),
    ],
)
def test_measured_announcements(count: int, version: tuple[int, int], sent: tuple[int, int]) -> None:
    """The table of measurements: failover by the MII monitor, total outage."""
    assert announcements_sent(count, version) == sent


def test_partitions_compare_without_the_membership_bit() -> None:
    """By the port's table: IPoIB itself shows the bit whatever the port has."""
    found = check(host(bond(member(0), one_port(pkeys=(0x7FFF,))[1])))
    reported = [each.found.what for each in found if each.rule.id == "pkey-differs"]
    assert len(reported) == 1
    assert "ib1 limited" in reported[0]


def test_the_link_local_address_of_any_member_is_right() -> None:
    """After a failover it is that of the member that was active when the bond came up: no finding."""
    import ipaddress

    from ibbond.wire.hwaddr import HardwareAddress

    second = ipaddress.IPv6Address(HardwareAddress.parse(address(2)).link_local)
    assert "ipv6-link-local" not in hits(bond(own_addresses=(f"{second}/64",)))
    assert "ipv6-link-local" not in hits(bond(own_addresses=("fe80::1/64",), generated_link_local=False))


def test_a_failover_and_a_return_leave_a_note_and_no_finding() -> None:
    """It is so after every ordinary failover, and true of few writes; a script that watches must not alarm forever."""
    found = [f for f in check(host(bond(active="ib1", address=address(2)))) if f.rule.id == "moves-without-primary"]
    assert [f.severity for f in found] == [Severity.NOTE]
    assert "an option" not in found[0].found.what


def test_one_cause_is_one_finding_with_one_cure() -> None:
    mtu = bond(member(0, mtu=4092), member(1, mtu=4092), own_mtu=1500)
    assert [f.found.run for f in check(host(mtu)) if "mtu" in f.rule.id] == [("ip link set bond0 mtu 4092",)]
    left = bond(member(0), member(1, mtu=4092))
    assert [f.found.run for f in check(host(left)) if "mtu" in f.rule.id] == [("ip link set ib1 mtu 2044",)]
    monitor = bond(options={"miimon": 0, "arp_interval": 100, "arp_ip_target": (bytes(4),), "arp_validate": 3})
    (finding,) = (f for f in check(host(monitor)) if f.severity is not Severity.NOTE)
    assert finding.found.run == (
        "ibbond bond set bond0 miimon 100",
        "ibbond bond set bond0 arp_ip_target ''",
        "ibbond bond set bond0 arp_validate none",
    )


def test_an_option_that_cannot_be_set_back_in_this_mode_is_left_alone() -> None:
    """lacp_rate is refused outside 802.3ad: what is left of it does no harm."""
    assert hits(bond(options={"lacp_rate": 1, "packets_per_slave": 4})) == hits(bond())


def test_members_that_cannot_be_added_are_not_offered() -> None:
    wanted = bond(member(0), expected=expected("ib0", "ib7"))
    (missing,) = (f for f in check(host(wanted)) if f.rule.id == "missing-member")
    assert (missing.found.run, "no device ib7" in missing.found.fix) == ((), True)
    free = replace(member(1).device, name="ib5")
    (one,) = (f for f in check(host(bond(member(0)), free)) if f.rule.id == "one-member")
    assert one.found.run == ("ibbond bond add bond0 ib5",)
    for taken in (replace(free, master="br0"), replace(free, pkey=0x8001), replace(free, addresses=("10.5.0.1/24",))):
        (one,) = (f for f in check(host(bond(member(0)), taken)) if f.rule.id == "one-member")
        assert one.found.run == ()


def test_a_bond_that_was_made_without_a_mode_learns_why_it_has_no_members() -> None:
    facts = empty(mode=0, fail_over_mac=0)
    facts = replace(facts, snapshot=replace(facts.snapshot, type=1, address=bytes(6)))
    (one,) = (f for f in check(host(facts, member(0).device, member(1).device)) if f.rule.id == "one-member")
    assert one.found.run == ("ibbond bond set bond0 mode active-backup --interrupt", "ibbond bond add bond0 ib0 ib1")
    assert "balance-rr" in one.why


def test_a_member_that_waits_for_updelay_is_not_sent_to_its_cable() -> None:
    waiting = bond(member(0), member(1, link="going back"), options={"updelay": 3_600_000})
    (found,) = (f for f in check(host(waiting)) if f.rule.id == "member-down")
    assert "cable" not in found.found.fix
    assert "3600000 ms" in found.found.fix


def test_a_port_that_waits_for_a_subnet_manager_is_named() -> None:
    down = one_port(state="INIT", phys_state="LinkUp")[1]
    waiting = replace(down, device=replace(down.device, carrier=False), bonding=replace(down.bonding, link="down"))
    (found,) = (f for f in check(host(bond(member(0), waiting))) if f.rule.id == "member-down")
    assert found.why.startswith("Its port is INIT (LinkUp)")
    assert "subnet manager" in found.found.fix


def test_ports_of_ethernet_are_not_ports_of_infiniband() -> None:
    """RoCE: an adapter's port has `state` and `sm_lid` there too."""
    members = []
    for each in one_port(link_layer="Ethernet", state="DOWN", sm_lid=0, pkeys=(0xFFFF,), neighbor=None):
        device = replace(
            each.device, type=1, hardware_address=each.device.hardware_address[:6], pkey=None, transport=None
        )
        members.append(replace(each, device=device, bonding=replace(each.bonding, permanent_address=bytes(6))))
    facts = bond(
        *members,
        type=1,
        broadcast=b"\xff" * 6,
        options={"fail_over_mac": 0},
        address=members[0].device.hardware_address,
    )
    assert {f.rule.id for f in check(host(facts))} == set()


def test_routes_of_members_are_distinguished() -> None:
    connected = replace(FIRST, destination="10.5.0.0/24")
    facts = bond(member(0), member(1, addresses=("10.5.0.1/24",)))
    assert hits(host(facts, routes=(connected,))) >= {"member-has-address"}
    assert not hits(host(facts, routes=(connected,))) & {"route-through-member", "member-route-first"}
    same = bond(member(0), member(1, addresses=("10.0.0.7/24",)))
    later = replace(host(same), routes=(BOND_ROUTE, FIRST))
    assert hits(later) >= {"member-has-address"}
    assert "member-route-first" not in hits(later)
    assert hits(host(same, routes=(FIRST,))) & {"member-has-address", "member-route-first"} == {"member-route-first"}
    lower_metric = replace(host(same), routes=(replace(BOND_ROUTE, metric=100), FIRST))
    assert "member-route-first" in hits(lower_metric)


@pytest.mark.parametrize(
    ("route", "run"),
    [
        (THROUGH, "ip route replace 10.77.0.0/16 via 10.0.0.2 dev bond0 onlink"),
        (
            RouteText(4, "0.0.0.0/0", (HopText("ib1", "10.0.0.9"),), table="100", metric=5, source="10.0.0.1"),
            "ip route replace default via 10.0.0.9 dev bond0 table 100 src 10.0.0.1 metric 5",
        ),
        (
            RouteText(4, "10.8.0.0/16", (HopText("ib0", "10.0.0.3", weight=2), HopText("ib1", "10.0.0.4"))),
            "ip route replace 10.8.0.0/16 nexthop via 10.0.0.3 dev bond0 weight 2"
            " nexthop via 10.0.0.4 dev bond0 weight 1",
        ),
        (
            RouteText(6, "2001:db8::/32", (HopText("ib0", "fe80::9"),), metric=1024),
            "ip -6 route replace 2001:db8::/32 via fe80::9 dev bond0 metric 1024",
        ),
    ],
)
def test_a_route_through_a_member_is_given_to_the_bond_as_it_is(route: RouteText, run: str) -> None:
    (found,) = (f for f in check(host(bond(), routes=(route,))) if f.rule.id == "route-through-member")
    assert found.found.fix == run


def test_two_devices_in_one_subnet_may_keep_apart() -> None:
    apart: dict[str, Any] = {
        f"{device}_{key}": value
        for device in ("bond0", "eno1")
        for key, value in (("arp_ignore", 1), ("arp_announce", 2))
    }
    assert "shared-subnet" in hits(host(bond(), OTHER_DEVICE, bond0_arp_ignore=1, bond0_arp_announce=2))
    assert "shared-subnet" not in hits(host(bond(), OTHER_DEVICE, **apart))
    assert "shared-subnet" not in hits(host(bond(), OTHER_DEVICE, all_arp_ignore=1, all_arp_announce=2))
    for other in (
        replace(OTHER_DEVICE, addresses=("10.1.0.9/24",)),
        replace(OTHER_DEVICE, addresses=("10.0.0.9/32",)),
        replace(OTHER_DEVICE, flags=0x49),
        replace(OTHER_DEVICE, up=False),
        replace(OTHER_DEVICE, lower=("bond0",)),
        replace(OTHER_DEVICE, master="vrf1"),
    ):
        assert "shared-subnet" not in hits(host(bond(), other)), other


def test_ipv6_that_the_operator_turned_off_is_no_finding() -> None:
    assert "ipv6-off" not in hits(host(bond(), bond0_disable_ipv6=1))
    assert "ipv6-off" not in hits(host(bond(), bond0_disable_ipv6=1, default_disable_ipv6=1, all_accept_dad=2))
    assert "ipv6-off" in hits(host(bond(), bond0_disable_ipv6=1, all_accept_dad=2))


def test_a_name_that_a_shell_would_run_is_quoted() -> None:
    facts = bond(options={"miimon": 0})
    hostile = replace(facts, snapshot=replace(facts.snapshot, name="b;reboot"))
    (found,) = (f for f in check(HostFacts((hostile,), (6, 1), "6.1")) if f.rule.id == "no-link-monitor")
    assert found.found.run == ("ibbond bond set 'b;reboot' miimon 100",)


def test_commands_for_a_lab_host_can_be_typed_outside_it() -> None:
    ours = replace(host(bond(own_mtu=1500, up=False)), version=None, is_ours=True, where="h1", lab="x")
    runs = {f.rule.id: f.found.run for f in check(ours)}
    assert runs["bond-down"] == ("ibbond lab exec --name x h1 -- ip link set bond0 up",)
    assert set(shlex.split(runs["mtu-left-over"][0])[:3]) == {"ibbond", "lab", "exec"}


def test_ours_with_an_arp_monitor_is_not_presumed_innocent() -> None:
    """Unvalidated, any ARP that a member receives counts as a sign of life."""
    monitor = bond(options={"miimon": 0, "arp_interval": 250, "arp_ip_target": (bytes(4),), "link_events": 1})
    ours = replace(host(monitor), version=None, is_ours=True, where="h1")
    (found,) = check(ours)
    assert (found.rule.id, found.found.run) == (
        "arp-monitor-on-infiniband",
        ("ibbond bond set h1/bond0 arp_validate all",),
    )
    validated = bond(options={**monitor.snapshot.options, "arp_validate": 3})
    assert not check(replace(ours, bonds=(validated,)))


@pytest.mark.parametrize(
    ("version", "has_it"),
    [
        ((2, 6, 18), False), ((2, 6, 32), True), ((6, 1), True), ((6, 6, 200), True), ((6, 12), False),
        ((6, 12, 77), True), ((6, 12, 78), False), ((6, 18, 18), True), ((6, 18, 19), False), ((6, 19, 9), False),
        ((7, 0), False),
    ],
)  # fmt: skip
def test_a_known_defect_is_named_where_the_release_has_it(version: tuple[int, ...], has_it: bool) -> None:
    assert ("kernel-defect" in hits(bond(), version)) is has_it


def test_locktime_matters_to_old_kernels_alone() -> None:
    judged = replace(host(bond()), sysctls={**SYSCTLS, "ipv4/neigh/bond0/locktime": 100})
    assert "neighbor-locktime" not in hits(judged)
    assert "neighbor-locktime" not in hits(replace(judged, version=(4, 13)))
    old = replace(judged, version=(3, 10))
    (found,) = (each for each in check(old) if each.rule.id == "neighbor-locktime")
    assert found.found.run == ("sysctl -w net.ipv4.neigh.bond0.locktime=0",)
    assert "neighbor-locktime" not in hits(replace(old, sysctls={**SYSCTLS, "ipv4/neigh/bond0/locktime": 0}))
    accepting = {**old.sysctls, "ipv4/conf/bond0/arp_accept": 1}
    assert "neighbor-locktime" not in hits(replace(old, sysctls=accepting))
