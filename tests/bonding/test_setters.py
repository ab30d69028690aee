"""Options: the table, the order of refusals, parsing, and what a write does besides storing a value."""

import dataclasses
import errno
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibbond.bonding import events as e
from ibbond.bonding.addresses import parse_ethernet, parse_ipv4, parse_ipv6
from ibbond.bonding.member import Link
from ibbond.bonding.option import INT_MAX, Kind, Mode, Rejected, parse_value
from ibbond.bonding.options import OPTIONS
from ibbond.bonding.quirks import LATEST, Rules
from ibbond.bonding.values import NUMBERS, Values, initial
from tests.bonding.bond_host import Host

NUMBER_ROWS = [option for option in OPTIONS.values() if option.kind is Kind.VALUE and not option.of_member]


@pytest.fixture
def host() -> Host:
    return Host("kernel-6.1")


def test_every_number_of_the_table_is_kept_and_nothing_else() -> None:
    assert {option.key for option in NUMBER_ROWS} == set(NUMBERS)
    assert set(NUMBERS) < {field.name for field in dataclasses.fields(Values)}


def test_every_row_is_documented_and_consistent() -> None:
    for option in OPTIONS.values():
        assert option.doc.endswith("."), option.name
        if option.kind is Kind.VALUE and not option.of_member:
            numbers = {word.number for word in option.words}
            low, high = option.limits or (min(numbers), max(numbers))
            assert low <= option.default <= high, option.name
            assert option.default_word in (None, option.default), option.name
        if option.shows_word:
            assert len({word.number for word in option.words}) == len(option.words), option.name


def test_defaults_of_the_profiles_differ_only_in_our_settings() -> None:
    ours, kernel = initial(Rules.of("default")), initial(Rules.of("kernel-6.1"))
    differing = {key for key in NUMBERS if getattr(ours, key) != getattr(kernel, key)}
    assert differing == {"link_events", "handover_ms"}
    assert (ours.link_events, ours.handover_ms) == (1, 50)


@pytest.mark.parametrize("option", NUMBER_ROWS, ids=lambda option: option.name)
def test_words_and_numbers_mean_the_same(option: object) -> None:
    row = OPTIONS[option.name]  # type: ignore[attr-defined]
    for word in row.words:
        assert parse_value(row, word.text, LATEST) == word.number
        if row.limits is None:
            assert parse_value(row, f" {word.number}\n", LATEST) == word.number


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("miimon", "100", 100),
        ("miimon", "100\n", 100),
        ("miimon", " 100 ", 100),
        ("miimon", "1 2", 1),
        ("miimon", "007", 7),
        ("miimon", "off", 0),
        ("miimon", "default", 0),
        ("miimon", "maxval", INT_MAX),
        ("miimon", "off tail", 0),
        ("mode", "active-backup\nrest", 1),
        ("mode", "default", 0),
        ("arp_missed_max", "minval", 1),
        ("lp_interval", "default", 1),
        ("use_carrier", "default", 1),
        ("miimon", str(2**64 + 5), 5),  # the kernel's sscanf wraps
    ],
)
def test_parse(name: str, text: str, value: int) -> None:
    assert parse_value(OPTIONS[name], text, LATEST) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("miimon", "-1"),
        ("miimon", "+1"),
        ("miimon", "1x"),
        ("miimon", "\n"),
        ("miimon", " "),
        ("miimon", str(INT_MAX + 1)),
        ("mode", "7"),
        ("mode", "Active-Backup"),
        ("mode", "active"),
        ("lacp_rate", "default"),
        ("lp_interval", "0"),
        ("arp_missed_max", "256"),
        ("primary_reselect", "bett"),
        ("handover_ms", "10001"),
    ],
)
def test_parse_refuses(name: str, text: str) -> None:
    with pytest.raises(Rejected) as rejected:
        parse_value(OPTIONS[name], text, LATEST)
    assert rejected.value.code == errno.EINVAL


def test_words_of_later_kernels_are_unknown_to_earlier_ones() -> None:
    with pytest.raises(Rejected):
        parse_value(OPTIONS["ad_select"], "3", (6, 1))
    assert parse_value(OPTIONS["ad_select"], "actor_port_prio", LATEST) == 3


@given(st.sampled_from([option.name for option in NUMBER_ROWS]), st.text(max_size=12))
def test_any_text_gives_a_value_of_the_row_or_einval(name: str, text: str) -> None:
    option = OPTIONS[name]
    code = 0
    try:
        value = parse_value(option, text, LATEST)
    except Rejected as rejected:
        code = rejected.code
    else:
        in_limits = option.limits is not None and option.limits[0] <= value <= option.limits[1]
        assert in_limits or value in {word.number for word in option.words}
    assert code in (0, errno.EINVAL)


@pytest.mark.parametrize(("name", "mode"), list(itertools.product(OPTIONS, Mode)))
def test_the_mode_is_checked_first(host: Host, name: str, mode: Mode) -> None:
    option = OPTIONS[name]
    if option.read_only or option.of_member or option.ours or option.since > (6, 1):
        return
    bond = host.bond(mode=mode.value, up=True)
    code = 0
    try:
        host.set(bond, name, "no such value")
    except Exception as refused:
        code = refused.code  # type: ignore[attr-defined]
    if mode not in option.modes:
        assert code == errno.EACCES
    elif option.bond_down:
        assert code == errno.EBUSY


def test_members_are_checked_before_the_state(host: Host) -> None:
    bond = host.bond(mode=1, members=("ib1",), up=True)
    assert host.refused(bond, e.SetOption("mode", "nonsense")) == errno.ENOTEMPTY
    assert host.refused(bond, e.SetOption("fail_over_mac", "nonsense")) == errno.ENOTEMPTY


@pytest.mark.parametrize(
    ("option", "code"), [("no_such", errno.ENOENT), ("mii_status", errno.EACCES), ("ad_num_ports", errno.EACCES)]
)
def test_what_is_no_option_or_cannot_be_written(host: Host, option: str, code: int) -> None:
    assert host.refused(host.bond(), e.SetOption(option, "1")) == code


def test_an_empty_write_never_reaches_the_driver(host: Host) -> None:
    bond = host.bond(mode=1, miimon=100)
    before = bond.snapshot()
    host.set(bond, "miimon", "")
    host.set(bond, "primary", "")
    assert bond.snapshot() == before


@pytest.mark.parametrize("mode", [4, 5, 6])
def test_modes_without_arp_start_mii(host: Host, mode: int) -> None:
    bond = host.bond(arp_interval=100, arp_validate="all")
    host.set(bond, "mode", str(mode))
    values = bond.values
    assert (values.arp_interval, values.miimon, values.arp_validate) == (0, 100, 0)
    assert mode != 6 or values.tlb_dynamic_lb == 1


def test_a_mode_clears_arp_validate_only(host: Host) -> None:
    bond = host.bond(arp_interval=100, arp_validate="all")
    host.set(bond, "mode", "1")
    assert (bond.values.arp_interval, bond.values.miimon, bond.values.arp_validate) == (100, 0, 0)


def test_the_monitors_exclude_each_other(host: Host) -> None:
    bond = host.bond(mode=1, miimon=100)
    host.set(bond, "arp_interval", "200")
    assert bond.values.miimon == 0
    host.set(bond, "arp_validate", "active")
    host.set(bond, "miimon", "0")
    assert (bond.values.arp_interval, bond.values.arp_validate) == (200, 1)
    host.set(bond, "miimon", "50")
    assert (bond.values.arp_interval, bond.values.arp_validate) == (0, 0)


@pytest.mark.parametrize("name", ["updelay", "downdelay", "peer_notif_delay"])
def test_delays_need_miimon_and_are_rounded_down(host: Host, name: str) -> None:
    bond = host.bond(mode=1)
    assert host.refused(bond, e.SetOption(name, "100")) == errno.EPERM
    host.set(bond, "miimon", "100")
    host.set(bond, name, "399")
    assert bond.snapshot().options[name] == 300
    assert any("399" in line and "300 ms" in line for line in host.logged)


def test_num_grat_arp_and_num_unsol_na_are_one(host: Host) -> None:
    bond = host.bond(num_grat_arp=7)
    assert bond.snapshot().options["num_unsol_na"] == 7
    host.set(bond, "num_unsol_na", "off")
    assert bond.snapshot().options["num_grat_arp"] == 0


def test_arp_targets(host: Host) -> None:
    bond = host.bond(mode=1)
    for number in range(1, 17):
        host.set(bond, "arp_ip_target", f"+10.0.0.{number}")
    for text in ("+10.0.0.17", "+10.0.0.1", "+0.0.0.0", "+255.255.255.255", "-10.0.9.9"):
        assert host.refused(bond, e.SetOption("arp_ip_target", text)) == errno.EINVAL
    for text in ("10.0.0.1", "+", "+x", "\n", "+10.0.0", "*10.0.0.1", "+1.2.3.4.5"):
        assert host.refused(bond, e.SetOption("arp_ip_target", text)) == errno.EPERM
    host.set(bond, "arp_ip_target", "-10.0.0.1\n")
    host.set(bond, "arp_ip_target", "+10.0.0.99,10.0.0.98")
    targets = bond.values.arp_ip_target
    assert (len(targets), targets[0], targets[-1]) == (16, bytes((10, 0, 0, 2)), bytes((10, 0, 0, 99)))


def test_a_removed_target_shifts_the_times_of_the_rest(host: Host) -> None:
    bond = host.bond(mode=1, arp_interval=100, members=("ib1",))
    member = bond.members["ib1"]
    for number in (1, 2, 3):
        host.wait(10)
        host.set(bond, "arp_ip_target", f"+10.0.0.{number}")
    first, second, third = member.target_rx[:3]
    assert first < second < third
    host.set(bond, "arp_ip_target", "-10.0.0.2")
    assert member.target_rx[:2] == [first, third]
    assert len(member.target_rx) == 16


def test_ipv6_targets() -> None:
    host = Host()
    bond = host.bond(mode=1)
    host.set(bond, "ns_ip6_target", "+fe80::1")
    for text in ("+fe80::1", "+::", "+::1", "+ff02::1", "-fe80::9"):
        assert host.refused(bond, e.SetOption("ns_ip6_target", text)) == errno.EINVAL
    assert host.refused(bond, e.SetOption("ns_ip6_target", "fe80::2")) == errno.EPERM
    host.set(bond, "ns_ip6_target", "-fe80::1")
    assert bond.values.ns_ip6_target == ()


@pytest.mark.parametrize(
    "text", ["noname", "", "\n", "ib1:", "ib1:x", "ib1:17", "ib1:-1", "ib1:+1", "ib9:1", "eth1:1", "ib2:3"]
)
def test_queue_ids_that_are_refused(host: Host, text: str) -> None:
    bond = host.bond(mode=1, members=("ib1", "ib2"), queue_id="")
    host.set(bond, "queue_id", "ib1:3")
    if text:
        assert host.refused(bond, e.SetOption("queue_id", text)) == errno.EPERM
    assert dict(bond.snapshot().options["queue_id"]) == {"ib1": 3, "ib2": 0}  # type: ignore[call-overload]


def test_a_queue_goes_out_by_its_member(host: Host) -> None:
    bond = host.bond(mode=1, miimon=100, members=("ib1", "ib2"), up=True)
    host.set(bond, "queue_id", "ib2: 5th\n")
    assert bond.route() == "ib1"
    assert bond.route(queue=5) == "ib2"
    assert bond.route(queue=6) == "ib1"
    host.plug("ib2", False)
    assert bond.route(queue=5) == "ib1"


@pytest.mark.parametrize("text", ["ib1", "", "+", "-", "+a b", "+bond/1", "*ib1", "++"])
def test_the_slaves_file(host: Host, text: str) -> None:
    bond = host.bond(mode=1)
    if text:
        code = host.refused(bond, e.SetOption("slaves", text))
        assert code == (errno.ENODEV if text in ("+a b", "++") else errno.EPERM)


def test_a_primary_that_is_no_member_is_remembered(host: Host) -> None:
    bond = host.bond(mode=1, members=("ib1", "ib2"), up=True)
    host.set(bond, "primary", "ib2\n")
    assert (bond.active, bond.snapshot().primary) == ("ib2", "ib2")
    host.set(bond, "primary", "nosuch")
    assert bond.snapshot().primary is None
    host.set(bond, "primary", "\n")
    assert bond.values.primary == ""


@pytest.mark.parametrize(
    ("name", "code"), [("nosuch", errno.ENODEV), ("eth1", errno.EINVAL), ("ib3", errno.EINVAL), ("ib2", errno.EINVAL)]
)
def test_active_slave_is_refused(host: Host, name: str, code: int) -> None:
    bond = host.bond(mode=1, miimon=100, members=("ib1", "ib2"), up=True)
    host.bond("bond1", mode=1, members=("ib3",))
    host.plug("ib2", False)
    host.wait(200)
    assert host.refused(bond, e.SetOption("active_slave", name)) == code
    assert bond.active == "ib1"


def test_all_slaves_active_flips_the_filter_at_once(host: Host) -> None:
    bond = host.bond(mode=1, members=("ib1", "ib2"), up=True)
    assert not bond.accepts("ib2", host.now)
    host.set(bond, "all_slaves_active", "1")
    assert bond.accepts("ib2", host.now)
    assert bond.snapshot().members[1].state == "backup"
    host.set(bond, "all_slaves_active", "off")
    assert not bond.accepts("ib2", host.now)


def test_priority_decides_without_a_primary_only(host: Host) -> None:
    bond = host.bond(mode=1, miimon=100, members=("ib1", "ib2", "ib3"), up=True)
    host.do(bond, e.SetPriority("ib3", 10))
    assert bond.active == "ib3"
    host.set(bond, "primary", "ib1")
    host.do(bond, e.SetPriority("ib2", 20))
    assert bond.active == "ib1"
    host.plug("ib1", False)
    host.wait(200)
    assert bond.active == "ib2"
    assert host.refused(bond, e.SetPriority("nosuch", 1)) == errno.EINVAL


def test_reselect_better_compares_speed_then_duplex(host: Host) -> None:
    for name, speed in (("eth1", 1000), ("eth2", 10000)):
        host.device(name).driver.mbit = speed  # type: ignore[attr-defined]
    bond = host.bond(mode=1, miimon=100, primary_reselect="better", members=("eth1", "eth2"), up=True)
    host.wait(200)
    host.set(bond, "primary", "eth1")
    assert bond.active == "eth1"
    host.plug("eth1", False)
    host.wait(200)
    host.plug("eth1", True)
    host.wait(200)
    assert bond.members["eth1"].link is Link.UP
    assert bond.active == "eth2"  # the slower primary does not take over again
    host.set(bond, "primary", "eth1")
    assert bond.active == "eth1"  # asked for by hand: once


@pytest.mark.parametrize(
    ("text", "octets"),
    [
        ("10.0.0.1", (10, 0, 0, 1)),
        ("10.0.0.1,10.0.0.2", (10, 0, 0, 1)),
        ("10.0.0.1 ", (10, 0, 0, 1)),
        ("010.000.0.001", (10, 0, 0, 1)),
        ("0.0.0.0", (0, 0, 0, 0)),
        ("10.0.0.1:80", (10, 0, 0, 1)),
        ("10.0.0", None),
        ("10.0.0.256", None),
        ("10..0.1", None),
        ("10.0.0.1.", None),
        ("a.0.0.1", None),
        ("10.0.0.1f", None),
        ("", None),
    ],
)
def test_ipv4_is_read_as_in4_pton_reads_it(text: str, octets: tuple[int, ...] | None) -> None:
    assert parse_ipv4(text) == (bytes(octets) if octets is not None else None)


def test_other_addresses() -> None:
    assert parse_ethernet("02:00:00:00:00:01\n") == b"\x02\0\0\0\0\x01"
    assert parse_ethernet("2:0:0:0:0:1") is None
    assert parse_ipv6("fe80::1") == bytes.fromhex("fe800000000000000000000000000001")
    assert parse_ipv6("10.0.0.1") is None
