"""Management bytes at the offsets where the architecture puts them, and what must be refused."""

import pytest

from ibbond.errors import Malformed
from ibbond.wire import cm, perf, sa, sa_records, smp
from ibbond.wire.mad import (
    CLASS_VERSION,
    MadHeader,
    ManagementClass,
    Method,
    Notice,
    capability_details,
    gid_details,
    link_state_details,
)
from ibbond.wire.port_info import PortInfo

PORT_GID = bytes.fromhex("fe800000000000000002c90300100001")
BROADCAST = bytes.fromhex("ff12401bffff000000000000ffffffff")


def test_join_of_the_broadcast_group() -> None:
    record = sa_records.McMemberRecord(mgid=BROADCAST, port_gid=PORT_GID, join_state=1)
    mask = sa_records.McMemberMask.MGID | sa_records.McMemberMask.PORT_GID | sa_records.McMemberMask.JOIN_STATE
    raw = sa.SaMad(Method.SET, sa.SaAttribute.MC_MEMBER_RECORD, mask, record.pack(), transaction_id=0x1234).pack()
    assert raw[:24].hex() == "01030202" + "0000" + "0000" + "0000000000001234" + "0038" + "0000" + "00000000"
    assert raw[48:56].hex() == "0000000000010003"
    assert raw[56:72] == BROADCAST
    assert raw[72:88] == PORT_GID
    assert raw[56 + 48] == 0x01


def test_a_group_as_the_administrator_answers_it() -> None:
    raw = bytes.fromhex(
        BROADCAST.hex()
        + PORT_GID.hex()
        + "00000b1b"
        + "c000"
        + "84"
        + "00"
        + "ffff"
        + "83"
        + "92"
        + "00000000"
        + "21"
        + "000000"
    )
    record = sa_records.McMemberRecord.parse(raw)
    assert (record.qkey, record.mlid, record.pkey) == (0x0B1B, 0xC000, 0xFFFF)
    assert (record.mtu_selector, record.mtu, record.rate, record.lifetime) == (2, 4, 3, 0x12)
    assert (record.scope, record.join_state) == (2, 1)
    assert record.pack() == raw


def test_offsets_of_path_record() -> None:
    path = sa_records.PathRecord(
        BROADCAST,
        PORT_GID,
        0xC000,
        5,
        0x1122334455667788,
        True,
        0xABCDE,
        0x40,
        7,
        True,
        1,
        0x8001,
        3,
        2,
        2,
        4,
        2,
        7,
        2,
        18,
    )
    raw = path.pack()
    assert raw[0:8].hex() == "1122334455667788"
    assert raw[40:44].hex() == "c0000005"
    assert raw[44:48].hex() == "8abcde40"
    assert raw[48:56].hex() == "07" + "81" + "8001" + "0032" + "84" + "87"


def test_offsets_of_inform_info_and_notice() -> None:
    raw = sa_records.InformInfo(trap=64).pack()
    assert raw[16:18].hex() == "ffff"
    assert raw[22:24].hex() == "0101"
    assert raw[26:28].hex() == "0040"
    assert raw[28:32].hex() == "00000100"
    assert raw[33:36].hex() == "000004"
    notice = Notice(64, 1, gid_details(PORT_GID), kind=4, issuer_gid=PORT_GID)
    raw = notice.pack()
    assert raw[:8].hex() == "84000004" + "0040" + "0001"
    assert raw[16:32] == PORT_GID == notice.gid
    assert raw[64:] == PORT_GID
    assert Notice(128, 7, link_state_details(7)).pack()[10:12].hex() == "0007"
    assert Notice(144, 7, capability_details(7, 0x02514868)).pack()[12:22].hex() == "0007" + "00000000" + "02514868"


def test_offsets_of_port_info() -> None:
    raw = PortInfo(
        gid_prefix=0xFE80 << 48, lid=0x0102, sm_lid=0x0304, state=4, physical_state=5, neighbor_mtu=4,
        subnet_timeout=18, client_reregister=True, width_active=2, speed_active=4,
    ).pack()  # fmt: skip
    assert raw[16:20].hex() == "01020304"
    assert (raw[31], raw[32], raw[33], raw[35], raw[36], raw[51]) == (2, 0x04, 0x50, 0x40, 0x40, 0x92)


def test_offsets_of_switch_info_and_sm_info() -> None:
    raw = smp.SwitchInfo(0xBFFF, 1024, linear_top=10, lifetime=18, port_state_change=True).pack()
    assert raw[:12].hex() == "bfff" + "0000" + "0400" + "000a" + "ff" * 3 + "94"
    raw = smp.SmInfo(0x0002C90300200000, 7, 3, smp.SmState.MASTER).pack()
    assert raw[:21].hex() == "0002c90300200000" + "00" * 8 + "00000007" + "33"


def test_directed_route() -> None:
    request = smp.Smp(
        Method.GET, smp.SmpAttribute.NODE_INFO, directed=True, hop_count=2, initial_path=smp.directed_path((1, 7))
    )
    raw = request.pack()
    assert raw[1] == 0x81
    assert raw[6:8].hex() == "0002"
    assert raw[32:36].hex() == "ffffffff"
    assert raw[128:131].hex() == "000107"
    answer = bytearray(raw)
    answer[4] |= 0x80
    assert smp.Smp.parse(bytes(answer)).returning


def test_counters_stick_at_their_largest_value() -> None:
    counters = perf.PortCountersAttribute(
        1, symbol_errors=1 << 20, link_downed=300, buffer_overruns=99, receive_words=1 << 40
    )
    read = perf.PortCountersAttribute.parse(counters.pack())
    assert (read.symbol_errors, read.link_downed, read.buffer_overruns) == (0xFFFF, 0xFF, 0xF)
    assert read.receive_words == 0xFFFFFFFF


def test_request_for_communication() -> None:
    """The offsets of section 12.6.5, as the kernel's cm_req_msg has them."""
    path = cm.CmPath(
        5, 6, PORT_GID, PORT_GID, flow_label=0xABCDE, rate=7, hop_limit=64, sl=2, subnet_local=True, ack_timeout=14
    )
    raw = cm.Req(
        0x11, 0x0000000001060CBC, 0x0002C90300100000, 0x48, 0x123456, path, responder_resources=4, initiator_depth=3,
        retry_count=7, rnr_retry_count=6, path_mtu=4, max_cm_retries=15, srq=True,
    ).pack()  # fmt: skip
    assert raw[8:16].hex() == "0000000001060cbc"
    assert raw[32:36].hex() == "00004804"
    assert raw[36:44].hex() == "00000003" + "000000a0"
    assert raw[44:52].hex() == "123456" + "a7" + "ffff" + "46" + "f8"
    assert raw[52:56].hex() == "00050006"
    assert raw[88:96].hex() == "abcde007" + "00" + "40" + "28" + "70"


@pytest.mark.parametrize(
    ("raw", "parse"),
    [
        (bytes(256), MadHeader.parse),  # base version 0
        (MadHeader(0x05, 1, 0, 0).pack() + bytes(232), smp.Smp.parse),
        (MadHeader(0x03, 1, 0, 0).pack() + bytes(232), sa.SaMad.parse),  # class version 1
        (MadHeader(0x04, 1, 0, 0).pack() + bytes(232), sa.SaMad.parse),
        (MadHeader(0x03, 1, 0, 0).pack() + bytes(232), perf.PerfMad.parse),
        (MadHeader(0x81, 1, 0, 0, class_specific=64).pack() + bytes(232), smp.Smp.parse),  # 64 hops
        (MadHeader(0x81, 1, 0, 0, class_specific=0x0502).pack() + bytes(232), smp.Smp.parse),  # pointer behind the end
        (MadHeader(0x07, 3, 0, 0x19, class_version=2).pack() + bytes(232), cm.CmMad.parse),  # LAP
        (MadHeader(0x07, 1, 0, 0x10, class_version=2).pack() + bytes(232), cm.CmMad.parse),  # not Send
        (MadHeader(0x07, 3, 0, 0x10).pack() + bytes(232), cm.CmMad.parse),  # class version 1
        (b"\xff" * 64, smp.NodeDescription.parse),
        (bytes(64), smp.NodeInfo.parse),  # node type 0
        (b"\0" * 9 + b"\xff" + b"\0" * 222, cm.Rej.parse),  # 127 bytes of information
        (b"\0" * 5 + b"\xff" + b"\0" * 226, cm.SidrRep.parse),
        (b"\1\5" + bytes(10), sa.Rmpp.parse),
    ],
)  # fmt: skip
def test_refused(raw: bytes, parse) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(Malformed):
        parse(raw)


def test_path_longer_than_a_directed_route() -> None:
    with pytest.raises(Malformed):
        smp.directed_path(tuple([1] * 64))


def test_class_versions() -> None:
    assert CLASS_VERSION == {ManagementClass.SUBNET_ADMINISTRATION: 2, ManagementClass.COMMUNICATION: 2}


def test_records_of_a_table() -> None:
    assert sa.records(b"aaabbbcc", 3) == [b"aaa", b"bbb"]
    assert sa.records(b"aaa", 0) == []
