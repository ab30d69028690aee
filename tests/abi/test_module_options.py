"""What the bonding module makes of its parameters."""

import pytest

from ibbond.abi.module_options import check, parse_modprobe
from ibbond.bonding.events import SetOption
from ibbond.bonding.registry import Registry
from ibbond.errors import Refused
from ibbond.netdev.namespace import Namespace


def checked(line: str) -> tuple[dict[str, str], str]:
    made = check(parse_modprobe(f"options bonding {line}"))
    return dict(made.options), "; ".join(made.warnings)


def test_lines_of_modprobe_d() -> None:
    text = """
    # options bonding mode=0
    alias bond0 bonding
    options bonding mode=active-backup \\
            miimon=100
    options dummy numdummies=2
    options bonding miimon=50 primary="ib0"
    """
    assert parse_modprobe(text) == {"mode": "active-backup", "miimon": "50", "primary": "ib0"}


def test_plain_parameters_need_no_repair() -> None:
    options, warnings = checked(
        "mode=1 miimon=100 updelay=200 fail_over_mac=active primary=ib0 primary_reselect=better"
    )
    assert options == {
        "mode": "active-backup",
        "miimon": "100",
        "updelay": "200",
        "primary": "ib0",
        "primary_reselect": "1",
        "fail_over_mac": "1",
    }
    assert not warnings


@pytest.mark.parametrize(
    ("line", "expected", "says"),
    [
        ("miimon=100 arp_interval=100 arp_ip_target=10.0.0.1", {"arp_interval": "0"}, "exclude each other"),
        ("arp_interval=100", {"arp_interval": "0"}, "without arp_ip_target"),
        ("arp_interval=100 arp_ip_target=10.0.0.1,nonsense", {"arp_interval": "0"}, "bad arp_ip_target nonsense"),
        ("mode=802.3ad", {"miimon": "100"}, "needs the MII monitor"),
        ("miimon=100 updelay=250", {"updelay": "200"}, "no multiple"),
        ("miimon=-5", {"miimon": "0"}, "not in 0"),
        ("mode=1 lacp_rate=fast", {"mode": "active-backup"}, "irrelevant"),
        ("mode=0 primary=ib0", {"mode": "balance-rr"}, "no effect"),
        ("use_carrier=7", {"use_carrier": "1"}, "reset to 1"),
        ("lp_interval=0", {"lp_interval": "1"}, "reset to 1"),
        ("arp_all_targets=some", {"arp_all_targets": "0"}, "any is used"),
        ("colour=red", {"mode": "balance-rr"}, "unknown parameter colour"),
    ],
)
def test_bad_combinations_are_repaired(line: str, expected: dict[str, str], says: str) -> None:
    options, warnings = checked(line)
    assert expected.items() <= options.items()
    assert says in warnings


def test_a_delay_without_a_monitor_is_no_option() -> None:
    options, warnings = checked("updelay=200")
    assert "updelay" not in options
    assert "no effect" in warnings


@pytest.mark.parametrize("line", ["mode=nine", "miimon=soon", "arp_validate=all", "fail_over_mac=maybe", "ad_select=9"])
def test_some_make_loading_fail(line: str) -> None:
    with pytest.raises(Refused):
        checked(line)


@pytest.mark.parametrize(
    "line",
    ["mode=1 arp_validate=all arp_ip_target=10.0.0.1,10.0.0.2 arp_interval=200", "mode=4 lacp_rate=1 min_links=2"],
)
def test_what_comes_out_can_be_written_to_a_bond(line: str) -> None:
    bond = Registry(Namespace(), profile="kernel-6.1").create(0, "bond0")
    made = check(parse_modprobe(f"options bonding {line}"))
    for name, text in made.options:
        bond.handle(0, SetOption(name, text))
    shown = bond.snapshot().options
    assert all(str(shown[name]) == text for name, text in made.options if text.isdigit())
