"""Attributes of link messages and of bonds: 20-byte addresses whole, options by the table, bad bytes refused."""

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibbond.abi.bond_attributes import BOND_OPTIONS, change_bond, change_member, pack_bond, read_bond, width
from ibbond.abi.netlink_attributes import (
    IFLA_ADDRESS,
    IFLA_BROADCAST,
    IFLA_IFNAME,
    IFLA_INFO_DATA,
    IFLA_INFO_KIND,
    IFLA_INFO_SLAVE_DATA,
    IFLA_INFO_SLAVE_KIND,
    IFLA_LINKINFO,
    LINK,
    NESTED,
    LinkInfo,
    attribute,
    attributes,
)
from ibbond.bonding.option import Kind
from ibbond.errors import Malformed

ADDRESS = bytes.fromhex("80000049fe800000000000000002c903000a0001")
BROADCAST = bytes.fromhex("00ffffffff12401bffff000000000000ffffffff")


def link_message(*parts: bytes, flags: int = 0x10001) -> bytes:
    return LINK.pack(0, 32, 7, flags, 0) + b"".join(parts)


def test_addresses_of_20_bytes_are_whole() -> None:
    link = LinkInfo.parse(
        link_message(
            attribute(IFLA_IFNAME, b"ib0\0"), attribute(IFLA_ADDRESS, ADDRESS), attribute(IFLA_BROADCAST, BROADCAST)
        )
    )
    assert (link.name, link.index, link.type, link.up, link.carrier) == ("ib0", 7, 32, True, True)
    assert (link.address, link.broadcast) == (ADDRESS, BROADCAST)


def test_a_member_says_what_the_bond_thinks_of_it() -> None:
    data = attribute(1, b"\1") + attribute(2, b"\2") + attribute(3, struct.pack("=I", 9)) + attribute(4, ADDRESS)
    data += attribute(5, struct.pack("=H", 3)) + attribute(9, struct.pack("=i", -5))
    info = attribute(IFLA_INFO_SLAVE_KIND, b"bond\0") + attribute(IFLA_INFO_SLAVE_DATA | NESTED, data)
    member = LinkInfo.parse(link_message(attribute(IFLA_LINKINFO, info))).member
    assert member is not None
    assert (member.state, member.link, member.link_failure_count) == ("backup", "down", 9)
    assert (member.permanent_address, member.queue_id, member.priority) == (ADDRESS, 3, -5)


def test_every_number_of_the_kernels_enum_up_to_34_is_known_but_the_lacp_facts() -> None:
    """IFLA_BOND_AD_INFO (23) is facts, not an option."""
    assert set(range(1, 35)) - set(BOND_OPTIONS) == {23}


def values() -> st.SearchStrategy[dict[str, object]]:
    def value(kind: Kind, size: int) -> st.SearchStrategy[object]:
        match kind:
            case Kind.TARGETS | Kind.TARGETS6:
                length = 4 if kind is Kind.TARGETS else 16
                return st.lists(st.binary(min_size=length, max_size=length), max_size=16).map(tuple)
            case Kind.ADDRESS:
                return st.binary(min_size=6, max_size=6)
            case Kind.NAME:
                return st.integers(0, 2**32 - 1)
        return st.integers(0, 2 ** (8 * size) - 1)

    return st.fixed_dictionaries(
        {}, optional={option.name: value(option.kind, width(option)) for option in BOND_OPTIONS.values()}
    )


@given(values())
def test_what_is_packed_is_read_again(wanted: dict[str, object]) -> None:
    assert read_bond(attributes(pack_bond(wanted))) == wanted
    info = attributes(attributes(change_bond(7, wanted), LINK.size)[IFLA_LINKINFO])
    assert info[IFLA_INFO_KIND] == b"bond\0"
    assert read_bond(attributes(info[IFLA_INFO_DATA])) == wanted


def test_a_members_options() -> None:
    body = change_member(9, {"prio": -1, "queue_id": 2})
    assert LINK.unpack_from(body)[2] == 9
    data = attributes(attributes(attributes(body, LINK.size)[IFLA_LINKINFO])[IFLA_INFO_SLAVE_DATA])
    assert data == {9: b"\xff\xff\xff\xff", 5: struct.pack("=H", 2)}


@pytest.mark.parametrize("raw", [b"\x02\x00\x01\x00", b"\xff\x00\x01\x00abc"])
def test_attributes_of_impossible_length_are_malformed(raw: bytes) -> None:
    with pytest.raises(Malformed):
        attributes(raw)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_malformed(raw: bytes) -> None:
    for read in (LinkInfo.parse, lambda data: read_bond(attributes(data))):
        with contextlib.suppress(Malformed):
            read(raw)
