"""The vectors of the IPoIB formats, by their numbers: from the standards, computed from their rules, and seen from
Linux 6.1. The interface used: flags 80, QPN 49, GID fe80::2:c903:a:1, 10.0.0.1; its peer: QPN 4b, GUID ...a0003.
"""

import ipaddress

import pytest

from ibbond.wire import arp, nd, service_id
from ibbond.wire.group_address import MulticastGid, broadcast_address, ethernet_group_address, group_address, joinable
from ibbond.wire.hwaddr import (
    RC_SUPPORTED,
    HardwareAddress,
    client_identifier,
    interface_identifier,
    old_client_identifier,
)
from ibbond.wire.ib import BaseTransportHeader, DatagramHeader, GlobalRouteHeader, LocalRouteHeader, UdPacket
from ibbond.wire.ip import UDP, Ipv4
from ibbond.wire.ipoib import ETHERTYPE_ARP, ETHERTYPE_IPV4, ConnectedModeData, Encapsulated
from ibbond.wire.pkey import pkeys_match


def gid(guid: int) -> bytes:
    return bytes.fromhex("fe80000000000000") + guid.to_bytes(8)


def ip(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


def mgid(text: str) -> bytes:
    return ipaddress.IPv6Address(text).packed


def colons(address: bytes) -> str:
    return address.hex(":")


GUID = 0x0002C903000A0001
IB1 = HardwareAddress(qpn=0x49, gid=gid(GUID), flags=RC_SUPPORTED).pack()
PEER = HardwareAddress(qpn=0x4B, gid=gid(0x0002C903000A0003), flags=RC_SUPPORTED).pack()
BROADCAST = broadcast_address(0xFFFF)
REQUEST = bytes.fromhex(
    "0020 0800 14 04 0001 80000049fe800000000000000002c903000a0001 0a000001"
    "0000000000000000000000000000000000000000 0a000003"
)
MULTICAST_REQUEST = UdPacket(
    source_lid=5,
    destination_lid=0xC000,
    source_qpn=0x49,
    destination_qpn=0xFFFFFF,
    qkey=0x0B1B,
    pkey=0xFFFF,
    payload=Encapsulated(ETHERTYPE_ARP, REQUEST).pack(),
    source_gid=gid(GUID),
    destination_gid=BROADCAST[4:],
    psn=1,
)


@pytest.mark.parametrize(
    ("number", "pkey", "text"),
    [
        (1, 0xFFFF, "00:ff:ff:ff:ff:12:40:1b:ff:ff:00:00:00:00:00:00:ff:ff:ff:ff"),
        (2, 0x8001, "00:ff:ff:ff:ff:12:40:1b:80:01:00:00:00:00:00:00:ff:ff:ff:ff"),
    ],
)
def test_vector_broadcast_address(number: int, pkey: int, text: str) -> None:
    assert colons(broadcast_address(pkey)) == text
    assert colons(broadcast_address(pkey & 0x7FFF)) == text, "the key is written in its full-member form"


@pytest.mark.parametrize(
    ("number", "group", "pkey", "scope", "text"),
    [
        (3, "224.0.0.1", 0xFFFF, 2, "00:ff:ff:ff:ff:12:40:1b:ff:ff:00:00:00:00:00:00:00:00:00:01"),
        (6, "ff02::1", 0xFFFF, 2, "00:ff:ff:ff:ff:12:60:1b:ff:ff:00:00:00:00:00:00:00:00:00:01"),
        (7, "239.1.2.3", 0xFFFF, 2, "00:ff:ff:ff:ff:12:40:1b:ff:ff:00:00:00:00:00:00:0f:01:02:03"),
        (8, "239.255.255.250", 0xFFFF, 2, "00:ff:ff:ff:ff:12:40:1b:ff:ff:00:00:00:00:00:00:0f:ff:ff:fa"),
        (9, "ff02::1:ff0a:1", 0xFFFF, 2, "00:ff:ff:ff:ff:12:60:1b:ff:ff:00:00:00:00:00:01:ff:0a:00:01"),
        (10, "ff05::1:3", 0xFFFF, 2, "00:ff:ff:ff:ff:12:60:1b:ff:ff:00:00:00:00:00:00:00:01:00:03"),
        (11, "239.1.2.3", 0x8001, 0xE, "00:ff:ff:ff:ff:1e:40:1b:80:01:00:00:00:00:00:00:0f:01:02:03"),
    ],
)
def test_vector_group_address(number: int, group: str, pkey: int, scope: int, text: str) -> None:
    assert colons(group_address(ip(group), broadcast_address(pkey, scope))) == text


@pytest.mark.parametrize(
    ("number", "group", "text"), [(4, "224.0.0.2", "ff12:401b:8000::2"), (5, "ff02::2", "ff12:601b:8000::2")]
)
def test_vector_mgid_of_the_standard(number: int, group: str, text: str) -> None:
    address = group_address(ip(group), broadcast_address(0x8000))
    assert address[4:] == mgid(text)
    assert MulticastGid.parse(address[4:]).group == 2


def test_vector_12_ethernet_mapping_is_the_defect_of_enslaving_after_the_join() -> None:
    assert colons(ethernet_group_address(ip("224.0.0.1"))) == "01:00:5e:00:00:01"
    assert colons(ethernet_group_address(ip("ff02::1"))) == "33:33:00:00:00:01"


def test_vector_13_address_of_the_interface() -> None:
    assert colons(IB1) == "80:00:00:49:fe:80:00:00:00:00:00:00:00:02:c9:03:00:0a:00:01"
    assert HardwareAddress.parse(IB1) == HardwareAddress(0x49, gid(GUID), 0x80)


@pytest.mark.parametrize(
    ("number", "guid", "text"),
    [
        (14, GUID, "fe80::202:c903:a:1"),
        (15, 0xE41D2D0300E70F8F, "fe80::e61d:2d03:e7:f8f"),
        (16, 0x0202C90300000001, "fe80::202:c903:0:1"),
    ],
)
def test_vector_link_local(number: int, guid: int, text: str) -> None:
    assert HardwareAddress(1, gid(guid)).link_local == ip(text)
    assert interface_identifier(guid) == ip(text)[8:]


def test_vector_17_arp_request() -> None:
    request = arp.request(IB1, ip("10.0.0.1"), ip("10.0.0.3"))
    assert request.pack() == REQUEST
    assert len(REQUEST) == 56
    assert arp.Arp.parse(REQUEST) == request


def test_vector_18_arp_reply() -> None:
    reply = arp.reply(arp.Arp.parse(REQUEST), PEER)
    assert reply.pack() == bytes.fromhex(
        "0020 0800 14 04 0002 8000004bfe800000000000000002c903000a0003 0a000003"
        "80000049fe800000000000000002c903000a0001 0a000001"
    )


def test_vector_19_gratuitous_arp() -> None:
    request = arp.request(IB1, ip("10.0.0.1"), ip("10.0.0.1"))
    assert request.pack() == REQUEST[:-4] + bytes.fromhex("0a000001")
    assert request.gratuitous


def test_vector_20_encapsulation() -> None:
    packed = Encapsulated(ETHERTYPE_ARP, REQUEST).pack()
    assert packed == bytes.fromhex("08060000") + REQUEST
    assert len(packed) == 60
    assert BaseTransportHeader.parse(MULTICAST_REQUEST.pack()[48:]).pad == 0


def test_vector_21_target_option() -> None:
    option = nd.link_address_option(nd.TARGET_LINK_ADDRESS, IB1)
    assert option.pack() == bytes.fromhex("02 03 0000 80000049fe800000000000000002c903000a0001")


def test_vector_22_unsolicited_advertisement() -> None:
    mine = ip("fe80::202:c903:a:1")
    advertisement = nd.NeighborAdvertisement(mine, nd.ALL_NODES, mine, IB1, override=True).pack()
    assert advertisement[:8] == bytes.fromhex("6000000000303aff")
    assert len(advertisement) == 40 + 48


def test_vector_23_lrh() -> None:
    raw = MULTICAST_REQUEST.pack()
    assert raw[:8] == bytes.fromhex("00 03 c000 0021 0005")
    assert LocalRouteHeader.parse(raw).words * 4 + 2 == len(raw)


def test_vector_24_grh() -> None:
    raw = MULTICAST_REQUEST.pack()[8:48]
    assert raw == bytes.fromhex("60000000 0054 1b 00 fe800000000000000002c903000a0001 ff12401bffff000000000000ffffffff")
    assert GlobalRouteHeader.parse(raw).pack() == raw


def test_vector_25_bth() -> None:
    assert MULTICAST_REQUEST.pack()[48:60] == bytes.fromhex("64 00 ffff 00ffffff 00000001")


def test_vector_26_deth() -> None:
    raw = MULTICAST_REQUEST.pack()[60:68]
    assert raw == bytes.fromhex("00000b1b 00000049")
    assert DatagramHeader.parse(raw) == DatagramHeader(0x0B1B, 0x49)


def test_vector_27_pad_count() -> None:
    packet = Ipv4(ip("10.0.0.1"), ip("10.0.0.3"), UDP, b"x").pack()
    assert len(packet) == 21
    payload = Encapsulated(ETHERTYPE_IPV4, packet).pack()
    raw = UdPacket(5, 6, 0x49, 0x4B, 0x0B1B, 0xFFFF, payload).pack()
    assert len(payload) == 25
    assert raw[9] == 0x30
    assert UdPacket.parse(raw).payload == payload


def test_vector_28_connected_mode_service_id() -> None:
    assert service_id.connected_mode(0x49) == 0x1000000000000049
    assert service_id.connected_mode_standard(0x49) == 0x0100000000000049
    assert service_id.connected_mode_qpn(0x1000000000000049) == 0x49
    assert service_id.connected_mode_qpn(0x0100000000000049) == 0x49
    assert service_id.connected_mode_qpn(0x1001000000000049) is None


def test_vector_29_connected_mode_private_data() -> None:
    assert ConnectedModeData(0x49).pack() == bytes.fromhex("00000049 0000fff4")
    assert ConnectedModeData.parse(bytes.fromhex("00000049 0000fff4") + bytes(84)) == ConnectedModeData(0x49, 0xFFF4)


def test_vector_30_rdma_cm_service_id() -> None:
    assert service_id.rdma_cm(3260) == 0x0000000001060CBC
    assert service_id.rdma_cm_port(0x0000000001060CBC) == (6, 3260)
    assert service_id.rdma_cm_port(0x1000000000000049) is None


def test_vector_31_client_identifier() -> None:
    assert client_identifier(GUID) == bytes.fromhex("ff 00000001 0003 0020 0002c903000a0001")


def test_vector_32_client_identifier_of_older_clients() -> None:
    assert old_client_identifier(GUID) == bytes.fromhex("ff 00000000 0002 000002c9 00 0002c903000a0001")


@pytest.mark.parametrize(
    ("one", "other", "may"),
    [(0x8001, 0x0001, True), (0x0001, 0x8001, True), (0x0001, 0x0001, False), (0x8001, 0x8002, False)],
)
def test_vector_33_partition_keys(one: int, other: int, may: bool) -> None:
    assert pkeys_match(one, other) is may


def test_vector_34_group_of_another_partition_is_skipped() -> None:
    mine = broadcast_address(0x8002)
    assert not joinable(group_address(ip("224.0.0.1"), broadcast_address(0xFFFF)), mine)
    assert joinable(group_address(ip("224.0.0.1"), mine), mine)
    assert joinable(group_address(ip("ff02::1"), mine), mine)
    assert not joinable(ethernet_group_address(ip("224.0.0.1")), mine)
    assert not joinable(group_address(ip("224.0.0.1"), broadcast_address(0x8002, scope=5)), mine)
