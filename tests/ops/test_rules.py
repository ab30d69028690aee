"""Every rule on facts made by hand: silent on a good bond, hit by the one thing that breaks it; the table itself."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ibbond.bonding.options import OPTIONS
from ibbond.bonding.quirks import PATCHES, QUIRKS
from ibbond.bonding.snapshot import BondSnapshot, MemberSnapshot
from ibbond.ops.check import RULES, check, is_clean
from ibbond.ops.facts import BondFacts, DeviceFacts, HostFacts, MemberFacts, PortFacts
from ibbond.ops.rule import Severity
from ibbond.ops.rules_kernel import UNSEEN
from ibbond.ops.rules_options import announcements_sent

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
        port=PortFacts(f"mlx5_{number}", f"0000:0{number}:00", 1, "ACTIVE", 1, f"0x{number}"),
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
    device = DeviceFacts("bond0", 32, True, True, 2044, snapshot.address, BROADCAST, ("10.0.0.1/24",))
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


def hits(facts: BondFacts, version: tuple[int, ...] | None = (6, 1)) -> set[str]:
    return {each.rule.id for each in check(HostFacts((facts,), version, "6.1.0-test"))}


def one_port(**changes: object) -> tuple[MemberFacts, MemberFacts]:
    first, second = member(0), member(1)
    ports = [replace(each.device.port, **changes) for each in (first, second) if each.device.port]  # type: ignore[arg-type]
    return (
        replace(first, device=replace(first.device, port=ports[0])),
        replace(second, device=replace(second.device, port=ports[1])),
    )


OTHER_SUBNET = bytes.fromhex("80000209fec0000000000001") + address(2)[12:]
BROKEN: dict[str, Callable[[], BondFacts]] = {
    "no-link-monitor": lambda: bond(options={"miimon": 0}),
    "no-arp-targets": lambda: bond(options={"miimon": 0, "arp_interval": 100}),
    "few-announcements": lambda: bond(options={"num_grat_arp": 2}),
    "arp-validate-on-infiniband": lambda: bond(options={"arp_validate": 3}),
    "arp-monitor-on-infiniband": lambda: bond(options={"arp_interval": 100, "arp_ip_target": (bytes(4),)}),
    "fail-over-mac": lambda: bond(options={"fail_over_mac": 0}),
    "mtu-left-over": lambda: bond(own_mtu=1500),
    "no-updelay": lambda: bond(primary="ib0"),
    "slow-detection": lambda: bond(options={"downdelay": 900}),
    "downdelay-drops-carrier": lambda: bond(options={"downdelay": 100}),
    "no-group-reports": lambda: bond(options={"resend_igmp": 0}),
    "duplicates-delivered": lambda: bond(options={"all_slaves_active": 1}),
    "no-effect": lambda: bond(options={"arp_missed_max": 5}),
    "ipv6-link-local": lambda: bond(own_addresses=("fe80::1/64",)),
    "one-member": lambda: bond(member(0)),
    "missing-member": lambda: bond(expected=("ib0", "ib1", "ib2"), expected_from="/etc/network/interfaces"),
    "bond-down": lambda: bond(up=False),
    "no-active-member": lambda: bond(active=None),
    "member-down": lambda: bond(member(0), member(1, link="down", carrier=False)),
    "port-not-active": lambda: bond(*one_port(state="INIT")),
    "one-adapter": lambda: bond(*one_port(card="0000:03:00")),
    "one-switch": lambda: bond(*one_port(neighbor="0x0002c90300200000")),
    "member-flaps": lambda: bond(member(0), member(1, link_failure_count=3)),
    "pkey-differs": lambda: bond(member(0), member(1, pkey=0x8001)),
    "transport-mode-differs": lambda: bond(member(0), member(1, transport="connected")),
    "member-mtu-differs": lambda: bond(member(0), member(1, mtu=1500)),
    "subnet-differs": lambda: bond(member(0), member(1, permanent_address=OTHER_SUBNET)),
    "broadcast-stale": lambda: bond(broadcast=bytes(20)),
    "address-stale": lambda: bond(address=bytes(20)),
    "member-has-address": lambda: bond(member(0), member(1, addresses=("10.0.0.2/24",))),
    "same-address": lambda: bond(member(0), member(1, hardware_address=address(1)), options={"fail_over_mac": 2}),
    "identity-left-over": empty,
    "moves-without-primary": lambda: bond(active="ib1", address=address(2)),
    "mtu-limit-lost": lambda: bond(own_max_mtu=1500),
}


def test_a_good_bond_has_only_notes() -> None:
    findings = check(HostFacts((bond(),), (6, 1), "6.1.0-test"))
    assert is_clean(findings)
    assert {each.rule.id for each in findings} == {
        "quirk-polled-links",
        "quirk-announcements-burnt",
        "quirk-neighbors-flushed",
        "quirk-cold-standby",
        "quirk-break-before-make",
        "quirk-no-handover",
        "quirk-last-member-takes-bond",
    }


def test_a_lab_hosts_bond_is_ours_and_has_no_notes() -> None:
    assert hits(bond(options={"link_events": 1, "miimon": 0}), version=None) == set()


def test_the_arp_monitor_of_a_lab_host() -> None:
    """With our driver the advice is validation; with the profile of a kernel it is that kernel's defect."""
    monitored = {"link_events": 1, "miimon": 0, "arp_interval": 100, "arp_ip_target": (bytes(4),)}
    assert hits(bond(options=monitored), version=None) == {"arp-unvalidated"}
    assert hits(bond(options={**monitored, "arp_validate": 3}), version=None) == set()
    assert "arp-monitor-on-infiniband" in hits(bond(options=monitored))


@pytest.mark.parametrize("rule", BROKEN)
def test_the_one_broken_thing_is_found(rule: str) -> None:
    assert rule not in hits(bond())
    assert rule in hits(BROKEN[rule]())
    severity = RULES[rule].severity
    assert severity is not Severity.NOTE
    assert not is_clean(check(HostFacts((BROKEN[rule](),), (6, 1), "6.1")))


def test_every_rule_has_a_case_here() -> None:
    notes = {rule.id for rule in RULES.values() if rule.severity is Severity.NOTE}
    assert set(RULES) - notes - {"kernel-before-2007-patches"} == set(BROKEN)


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
        for finding in check(HostFacts((broken(),), (6, 1), "6.1")):
            assert finding.found.what
            assert finding.found.fix
            assert finding.why
            assert "None" not in finding.found.what, finding.found.what
            assert not finding.found.what.endswith(".")


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
    found = check(HostFacts((bond(member(0), member(1, pkey=0x7FFF)),), (6, 1), "6.1"))
    told = [each.found.what for each in found if each.rule.id == "pkey-differs"]
    assert len(told) == 1
    assert "limited" in told[0]


def test_the_link_local_address_of_any_member_is_right() -> None:
    """After a failover it is that of the member that was active when the bond came up: no finding."""
    import ipaddress

    from ibbond.wire.hwaddr import HardwareAddress

    second = ipaddress.IPv6Address(HardwareAddress.parse(address(2)).link_local)
    assert "ipv6-link-local" not in hits(bond(own_addresses=(f"{second}/64",)))
    assert "ipv6-link-local" not in hits(bond(own_addresses=("fe80::1/64",), generated_link_local=False))
