"""Every management value comes back from its own bytes; no parser lets anything out but `Malformed`."""

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ibbond.errors import Malformed
from ibbond.wire import cm, perf, sa, sa_records, smp
from ibbond.wire.mad import MAD_BYTES, MadHeader, Notice
from ibbond.wire.port_info import PortInfo


def bits(width: int) -> st.SearchStrategy[int]:
    return st.integers(0, 2**width - 1)


def octets(count: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=count, max_size=count)


u4, u8, u16, u20, u24, u32, u64 = map(bits, (4, 8, 16, 20, 24, 32, 64))
gid, flag = octets(16), st.booleans()
node_info = st.builds(smp.NodeInfo, st.sampled_from(smp.NodeType), u8, u64, u64, u64, u8, u16, u16, u32, u24, u8, u8)
WIDTHS = {  # bits of the fields of PortInfo, in their order
    "m_key": 64, "gid_prefix": 64, "lid": 16, "sm_lid": 16, "capability_mask": 32, "diag_code": 16, "m_key_lease": 16,
    "local_port": 8, "width_enabled": 8, "width_supported": 8, "width_active": 8, "speed_supported": 4, "state": 4,
    "physical_state": 4, "down_default": 4, "m_key_protect": 2, "lmc": 3, "speed_active": 4, "speed_enabled": 4,
    "neighbor_mtu": 4, "sm_sl": 4, "vl_cap": 4, "init_type": 4, "vl_high_limit": 8, "vl_arb_high_cap": 8,
    "vl_arb_low_cap": 8, "init_type_reply": 4, "mtu_cap": 4, "vl_stall_count": 3, "hoq_life": 5, "operational_vls": 4,
    "enforcement": 4, "m_key_violations": 16, "p_key_violations": 16, "q_key_violations": 16, "guid_cap": 8,
    "client_reregister": 1, "multicast_pkey_suppression": 2, "subnet_timeout": 5, "response_time": 5,
    "local_phy_errors": 4, "overrun_errors": 4, "max_credit_hint": 16, "round_trip_latency": 24,
    "capability_mask2": 16, "speed_ext_active": 4, "speed_ext_supported": 4, "speed_ext_enabled": 5,
}  # fmt: skip
port_info = st.builds(PortInfo, *(flag if width == 1 else bits(width) for width in WIDTHS.values()))
notice = st.builds(Notice, u16, u16, octets(54), u24, bits(7), flag, flag, bits(15), gid)
rmpp = st.builds(sa.Rmpp, st.sampled_from(sa.RmppType), bits(3), u32, u32, u8, bits(5), u8)
cm_path = st.builds(cm.CmPath, u16, u16, gid, gid, u20, bits(6), u8, u8, u4, flag, bits(5))
directed = st.integers(0, 63).flatmap(
    lambda hops: st.builds(
        smp.Smp, u8, u16, u32, octets(64), u64, bits(15), u64, st.just(True), flag, st.integers(0, hops + 1),
        st.just(hops), u16, u16, octets(64), octets(64),
    )
)  # fmt: skip
path_record = st.builds(
    sa_records.PathRecord, gid, gid, u16, u16, u64, flag, u20, u8, u8, flag, bits(7), u16, bits(12), u4, bits(2),
    bits(6), bits(2), bits(6), bits(2), bits(6), u8,
)  # fmt: skip
member_record = st.builds(
    sa_records.McMemberRecord, gid, gid, u32, u16, bits(2), bits(6), u8, u16, bits(2), bits(6), bits(2), bits(6), u4,
    u20, u8, u4, u4, flag,
)  # fmt: skip
req = st.builds(
    cm.Req, u32, u64, u64, u24, u24, cm_path, u32, u24, u24, u8, u8, bits(5), bits(5), bits(2), flag, bits(3), u16,
    u4, flag, bits(3), u4, flag, cm_path, octets(92),
)  # fmt: skip
rep = st.builds(
    cm.Rep, u32, u32, u24, u24, u64, u32, u24, u8, u8, bits(5), bits(2), flag, bits(3), flag, octets(196)
)  # fmt: skip
classic = [
    *(u16, u8, u8, u16, u16, u16, u16, u8, u8, u4, u4, u16, u16),
    *(u32, u32, u32, u32, u32),
]
description = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=16)
messages = st.one_of(
    req,
    rep,
    st.builds(cm.Mra, u32, u32, bits(2), bits(5), octets(222)),
    st.builds(cm.Rej, u32, u32, bits(2), u16, st.binary(max_size=72), octets(148)),
    st.builds(cm.Rtu, u32, u32, octets(224)),
    st.builds(cm.Dreq, u32, u32, u24, octets(220)),
    st.builds(cm.Drep, u32, u32, octets(224)),
    st.builds(cm.SidrReq, u32, u64, u16, octets(216)),
    st.builds(cm.SidrRep, u32, u8, u24, u64, u32, st.binary(max_size=72), octets(136)),
)

VALUES: dict[str, tuple[st.SearchStrategy[Any], Callable[[bytes], object], int]] = {
    # a value, its parser, the bytes that it packs to
    "notice": (notice, Notice.parse, 80),
    "SMP by LID": (st.builds(smp.Smp, u8, u16, u32, octets(64), u64, u16, u64), smp.Smp.parse, MAD_BYTES),
    "SMP by route": (directed, smp.Smp.parse, MAD_BYTES),
    "NodeDescription": (st.builds(smp.NodeDescription, description), smp.NodeDescription.parse, 64),
    "NodeInfo": (node_info, smp.NodeInfo.parse, 64),
    "SwitchInfo": (
        st.builds(
            smp.SwitchInfo, u16, u16, u16, u16, bits(5), flag, bits(2), u16, u8, u8, u8, u16, u16, u8
        ),
        smp.SwitchInfo.parse,
        64,
    ),
    "GUIDInfo": (st.builds(smp.GuidInfo, st.tuples(*[u64] * 8)), smp.GuidInfo.parse, 64),
    "PortInfo": (port_info, PortInfo.parse, 64),
    "table block": (st.builds(smp.Block16, st.tuples(*[u16] * 32)), smp.Block16.parse, 64),
    "SLtoVL": (st.builds(smp.SlToVl, st.tuples(*[u4] * 16)), smp.SlToVl.parse, 64),
    "VLArbitration": (
        st.builds(smp.VlArbitration, st.tuples(*[st.tuples(u4, u8)] * 32)),
        smp.VlArbitration.parse,
        64,
    ),
    "SMInfo": (st.builds(smp.SmInfo, u64, u32, u4, u4, u64), smp.SmInfo.parse, 64),
    "RMPP": (rmpp, sa.Rmpp.parse, 12),
    "SA": (
        st.builds(sa.SaMad, u8, u16, u64, octets(200), u64, u32, u16, u64, u16.map(lambda n: n // 8 * 8), rmpp),
        sa.SaMad.parse,
        MAD_BYTES,
    ),
    "MCMemberRecord": (member_record, sa_records.McMemberRecord.parse, 52),
    "PathRecord": (path_record, sa_records.PathRecord.parse, 64),
    "ServiceRecord": (
        st.builds(
            sa_records.ServiceRecord, u64, gid, u16, u32, gid, st.binary(max_size=64).map(lambda n: n.rstrip(b"\0")),
            octets(64),
        ),
        sa_records.ServiceRecord.parse,
        176,
    ),
    "InformInfo": (
        st.builds(sa_records.InformInfo, u16, flag, gid, u16, u16, flag, u16, u24, bits(5), u24),
        sa_records.InformInfo.parse,
        36,
    ),
    "NodeRecord": (
        st.builds(sa_records.NodeRecord, u16, node_info, st.builds(smp.NodeDescription, description)),
        sa_records.NodeRecord.parse,
        108,
    ),
    "PortInfoRecord": (st.builds(sa_records.PortInfoRecord, u16, u8, port_info), sa_records.PortInfoRecord.parse, 68),
    "LinkRecord": (st.builds(sa_records.LinkRecord, u16, u8, u8, u16), sa_records.LinkRecord.parse, 6),
    "ClassPortInfo": (
        st.builds(sa_records.ClassPortInfo, u16, bits(5), u8, u8, bits(27)),
        sa_records.ClassPortInfo.parse,
        72,
    ),
    "performance": (st.builds(perf.PerfMad, u8, u16, octets(192), u32, u64, u16), perf.PerfMad.parse, MAD_BYTES),
    "PortCounters": (
        st.builds(perf.PortCountersAttribute, u8, u16, u8, *classic),
        perf.PortCountersAttribute.parse,
        44,
    ),
    "PortCountersExtended": (
        st.builds(perf.PortCountersExtendedAttribute, u8, u16, u32, *[u64] * 8),
        perf.PortCountersExtendedAttribute.parse,
        72,
    ),
    "CM": (st.builds(cm.CmMad, u64, messages), cm.CmMad.parse, MAD_BYTES),
}  # fmt: skip
ALL = pytest.mark.parametrize("name", VALUES)


@ALL
@settings(max_examples=40, deadline=None)
@given(st.data())
def test_parse_of_pack_is_the_same_value(name: str, data: st.DataObject) -> None:
    strategy, parse, size = VALUES[name]
    value = data.draw(strategy)
    raw = value.pack()
    assert len(raw) == size
    assert parse(raw) == value


@ALL
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_parsers_let_only_malformed_out(name: str, data: st.DataObject) -> None:
    """Arbitrary bytes, and true ones with a few changed: a value or `Malformed`, and a value packs again."""
    strategy, parse, size = VALUES[name]
    raw = bytearray(
        data.draw(st.one_of(strategy.map(lambda value: value.pack()), octets(size), st.binary(max_size=300)))
    )
    for at, octet in data.draw(st.lists(st.tuples(st.integers(0, 299), u8), max_size=4)):
        if at < len(raw):
            raw[at] = octet
    with contextlib.suppress(Malformed):
        value = parse(bytes(raw))
        assert parse(value.pack()) == value  # type: ignore[attr-defined]


@ALL
def test_bytes_cut_short_are_malformed(name: str) -> None:
    _, parse, size = VALUES[name]
    for length in range(size):
        if name == "notice" and length == Notice.TRAP_BYTES:
            continue  # a notice in a trap has no issuer GID
        with pytest.raises(Malformed):
            parse(bytes(length))


def test_every_field_of_port_info_is_tested() -> None:
    assert list(PortInfo._fields) == list(WIDTHS)
    assert sum(WIDTHS.values()) == 64 * 8 - 3 - 3 - 8 - 3  # the reserved bits


@given(st.binary(max_size=300))
def test_mad_header(raw: bytes) -> None:
    with contextlib.suppress(Malformed):
        header = MadHeader.parse(raw)
        assert header.pack()[:18] == raw[:18]
