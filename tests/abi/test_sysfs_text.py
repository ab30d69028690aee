"""Sysfs text of bonds, members and devices: rendered, read back, and written as requests."""

import errno
from pathlib import Path

import pytest

from ibbond.abi import device_text, sysfs_text
from ibbond.abi.kernel_log import Verdict, parse, render, verdict
from ibbond.abi.recording import parse_recording
from ibbond.bonding.effects import Log
from ibbond.bonding.events import AddMember, RemoveMember, SetOption
from ibbond.bonding.option import Mode
from ibbond.bonding.registry import Registry
from ibbond.bonding.snapshot import BondSnapshot, MemberSnapshot
from ibbond.errors import Refused
from ibbond.netdev.namespace import Namespace

GOLDEN = Path(__file__).parents[1] / "golden" / "kernel-6.1"
IB0 = MemberSnapshot("ib0", "active", "up", 3, bytes(range(20)), queue_id=2)
IB1 = MemberSnapshot("ib1", "backup", "going back", 0, bytes(range(1, 21)))


def bond(**options: object) -> BondSnapshot:
    fresh = Registry(Namespace(), profile="kernel-6.1").create(0, "bond0").snapshot().options
    return BondSnapshot(
        "bond0", 32, bytes(20), bytes(20), 1500, True, True, "ib0", "ib1", (IB0, IB1), {**fresh, "mode": 1, **options}
    )


def reads() -> dict[tuple[str, str], str]:
    """Every text that a recording read from a file of a bond, by file and text."""
    return {
        (step.path.removeprefix("bonding/"), step.expect): case.name
        for path in sorted(GOLDEN.glob("*.json"))
        for case in parse_recording(path.read_bytes())
        for step in case.steps
        if step.op == "read" and step.path.startswith("bonding/") and isinstance(step.expect, str)
    }


def test_the_kernels_texts_are_read_and_come_back() -> None:
    shown = 0
    for name, text in reads():
        value = sysfs_text.parse_bond(name, text)
        if name in ("slaves", "active_slave", "primary", "queue_id", "mii_status", "ad_partner_mac") or value is None:
            continue
        mode = value if name == "mode" else Mode.LACP if name.startswith("ad_") else Mode.ACTIVE_BACKUP
        if name in ("ad_aggregator", "ad_num_ports", "ad_actor_key", "ad_partner_key"):
            continue
        assert sysfs_text.read_bond(bond(**{name: value, "mode": value if name == "mode" else mode}), name) == text
        shown += 1
    assert shown > 100


def test_lists_and_names() -> None:
    assert sysfs_text.read_bond(bond(), "slaves") == "ib0 ib1\n"
    assert sysfs_text.read_bond(bond(), "queue_id") == "ib0:2 ib1:0\n"
    assert sysfs_text.read_bond(bond(), "active_slave") == "ib0\n"
    assert sysfs_text.read_bond(bond(), "primary") == "ib1\n"
    assert sysfs_text.read_bond(bond(), "mii_status") == "up\n"
    assert (
        sysfs_text.read_bond(bond(arp_ip_target=(b"\x0a\0\0\1", b"\x0a\0\0\2")), "arp_ip_target")
        == "10.0.0.1 10.0.0.2\n"
    )
    assert sysfs_text.parse_bond("queue_id", "ib0:2 ib1:0\n") == (("ib0", 2), ("ib1", 0))
    assert sysfs_text.parse_bond("slaves", "") == ()


def test_a_list_ends_with_its_page() -> None:
    members = tuple(MemberSnapshot(f"interface{n:05}", "backup", "up", 0, bytes(20)) for n in range(400))
    many = BondSnapshot("b", 32, b"", b"", 0, True, True, None, None, members, bond().options)
    text = sysfs_text.read_bond(many, "slaves")
    assert len(text) <= 4096
    assert text.endswith("++more++\n")
    shown = sysfs_text.parse_bond("slaves", text)
    assert isinstance(shown, tuple)
    assert len(shown) < 400


def test_members() -> None:
    texts = {name: sysfs_text.read_member(bond(), IB1, name) for name in sysfs_text.MEMBER_FILES}
    assert texts["mii_status"] == "going back\n"
    assert texts["ad_aggregator_id"] == "N/A\n"
    assert texts["perm_hwaddr"] == IB1.permanent_address.hex(":") + "\n"


@pytest.mark.parametrize(
    ("name", "text", "event"),
    [
        ("slaves", "+ib0\n", AddMember("ib0")),
        ("slaves", " -ib0 ", RemoveMember("ib0")),
        ("slaves", "+averyveryverylongname", AddMember("averyveryverylo")),
        ("miimon", "100\n", SetOption("miimon", "100\n")),
        ("primary", "\n", SetOption("primary", "\n")),
    ],
)
def test_a_write_is_a_request(name: str, text: str, event: object) -> None:
    assert sysfs_text.bond_request(name, text) == event


@pytest.mark.parametrize(
    ("name", "text", "code"),
    [
        ("slaves", "ib0", errno.EPERM),
        ("slaves", "+", errno.EPERM),
        ("slaves", "+..", errno.EPERM),
        ("slaves", "+a/b", errno.EPERM),
        ("mii_status", "up", errno.EACCES),
        ("nosuch", "1", errno.ENOENT),
        ("link_events", "1", errno.ENOENT),
    ],
)
def test_a_write_that_is_none(name: str, text: str, code: int) -> None:
    with pytest.raises(Refused) as refused:
        sysfs_text.bond_request(name, text)
    assert refused.value.code == code


@pytest.mark.parametrize(("text", "number"), [("1500", 1500), ("0x5dc\n", 1500), ("010", 8), ("+9", 9), ("0", 0)])
def test_numbers_as_the_kernel_reads_them(text: str, number: int) -> None:
    assert device_text.parse_number(text) == number


@pytest.mark.parametrize("text", ["", "-1", "15 00", "1500 ", " 1500", "abc", "0x", "09", "1_500"])
def test_no_numbers(text: str) -> None:
    with pytest.raises(Refused):
        device_text.parse_number(text)


def test_a_device_that_is_down_has_no_carrier_file_to_read() -> None:
    device = Registry(Namespace(), profile="kernel-6.1").create(0, "bond0").device
    assert device_text.read_device(device, "type") == "1\n"
    assert device_text.read_device(device, "flags") == "0x1402\n"
    assert device_text.parse_address(device_text.read_device(device, "address")) == device.address
    with pytest.raises(Refused) as refused:
        device_text.read_device(device, "carrier")
    assert refused.value.code == errno.EINVAL


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("bond0: (slave ib0): making interface the new active one", Verdict("active", "ib0", "bond0")),
        ("bond0: (slave ib0): making interface the new active one 300 ms earlier", Verdict("active", "ib0", "bond0")),
        ("bond0: (slave ib0): link status definitely up, 0 Mbps full duplex", Verdict("up", "ib0", "bond0")),
        ("bond0 (unregistering): (slave ib0): link status definitely down, x", Verdict("down", "ib0", "bond0")),
        ("bond0: now running without any active interface!", Verdict("none", None, "bond0")),
        ("bond0: active interface up!", Verdict("any", None, "bond0")),
        ("bond0: (slave ib0): link status up, enabling it in 0 ms", None),
        ("bonding: bond0 is being created...", None),
        ("", None),
    ],
)
def test_verdicts(line: str, what: Verdict | None) -> None:
    assert verdict(line) == what


def test_log_lines_come_back() -> None:
    assert parse(render("bond0", Log("text: of it", "ib0"))) == ("bond0", "ib0", "text: of it")
    assert parse(render("bond0", Log("text"))) == ("bond0", None, "text")
