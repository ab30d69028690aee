"""TUN devices of type InfiniBand in a real kernel: what we rely on, found by trying."""

import os
import socket
import struct
import time
from collections.abc import Callable, Iterator

import pytest

from ibbond.errors import Refused
from ibbond.host import tun
from ibbond.host.groups import GroupFiles
from ibbond.host.namespace import NetNamespace
from ibbond.host.rtnetlink import RouteListener, RouteSocket
from ibbond.host.tun import NO_OFFLOAD, OFFLOAD_BYTES, Tun, open_tap, open_tun
from ibbond.wire.group_reports import is_report

MakeHost = Callable[[str], NetNamespace]
GROUP = bytes((239, 1, 2, 3))
GROUP6 = bytes.fromhex("ff05") + bytes(12) + bytes((0x12, 0x34))


@pytest.fixture
def space(make_host: MakeHost) -> NetNamespace:
    return make_host("h1")


@pytest.fixture
def routes(space: NetNamespace) -> Iterator[RouteSocket]:
    made = space.run_in(RouteSocket)
    yield made
    made.close()


@pytest.fixture
def ib0(space: NetNamespace, routes: RouteSocket) -> Iterator[Tun]:
    made = open_tun(space, routes, "ib0", mtu=2044)
    yield made
    made.close()


def packets(device: Tun, seconds: float = 0.3) -> list[bytes]:
    """What the kernel sends within this time, without the offload headers."""
    found, until = [], time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            found.append(os.read(device.fd, 70_000)[OFFLOAD_BYTES:])
        except BlockingIOError:
            time.sleep(0.005)
    return found


def test_it_is_of_type_infiniband_down_and_has_no_address(routes: RouteSocket, ib0: Tun) -> None:
    link = routes.link("ib0")
    assert (link.type, link.mtu, link.up, link.address) == (32, 2044, False, b"")
    assert ib0.offloads & tun.TSO4


def test_its_type_cannot_change_while_it_is_up(ib0: Tun) -> None:
    import fcntl

    ib0.set_up(True)
    with pytest.raises(OSError, match="busy"):
        fcntl.ioctl(ib0.fd, tun.TUNSETLINK, 1)


def test_carrier_shows_and_comes_back(space: NetNamespace, ib0: Tun) -> None:
    ib0.set_up(True)
    ib0.set_carrier(False)
    assert "NO-CARRIER" in flags_of(space, "ib0")
    ib0.set_carrier(True)
    assert "NO-CARRIER" not in flags_of(space, "ib0")


def test_the_kernel_makes_no_ipv6_link_local_address(routes: RouteSocket, ib0: Tun) -> None:
    ib0.set_up(True)
    time.sleep(0.1)
    assert [address for address in routes.addresses() if address.index == ib0.index] == []


def test_a_link_local_address_of_ours_is_usable_at_once(space: NetNamespace, routes: RouteSocket, ib0: Tun) -> None:
    """No duplicate detection, not tentative: a program can bind to it at once."""
    ib0.set_up(True)
    routes.add_address(ib0.index, bytes.fromhex("fe800000000000000202c90300100001"), 64)

    def bind() -> None:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as program:
            program.bind(("fe80::202:c903:10:1", 5000, 0, ib0.index))

    space.run_in(bind)


def test_the_kernel_does_no_arp_and_no_neighbor_discovery(space: NetNamespace, routes: RouteSocket, ib0: Tun) -> None:
    """The packet itself comes out, at once, unresolved."""
    ib0.set_up(True)
    routes.add_address(ib0.index, bytes((10, 0, 0, 1)), 24)
    routes.add_address(ib0.index, bytes.fromhex("fd000000000000000000000000000001"), 64)
    packets(ib0, 0.1)
    send(space, "10.0.0.2")
    send(space, "fd00::2")
    seen = packets(ib0)
    assert [packet[16:20] for packet in seen if packet[0] >> 4 == 4] == [bytes((10, 0, 0, 2))]
    sixes = [packet for packet in seen if packet[0] >> 4 == 6]
    assert bytes.fromhex("fd000000000000000000000000000002") in [packet[24:40] for packet in sixes]
    assert not [packet for packet in sixes if packet[6] == 58 and packet[40] in (135, 136)]  # no NS, no NA


def test_joins_and_leaves_show_as_reports_and_in_the_files(space: NetNamespace, routes: RouteSocket, ib0: Tun) -> None:
    ib0.set_up(True)
    routes.add_address(ib0.index, bytes((10, 0, 0, 1)), 24)
    routes.add_address(ib0.index, bytes.fromhex("fe800000000000000202c90300100001"), 64)
    files = GroupFiles(space)
    assert GROUP not in files.read()["ib0"]
    packets(ib0, 0.2)
    program = space.run_in(lambda: joined(ib0.index))
    assert {GROUP, GROUP6} <= set(files.read()["ib0"])
    reports = [packet for packet in packets(ib0) if is_report(packet)]
    assert {packet[0] >> 4 for packet in reports} == {4, 6}
    program.close()
    files_after = files.read()["ib0"]
    assert GROUP not in files_after
    assert GROUP6 not in files_after
    assert [packet for packet in packets(ib0) if is_report(packet)]
    files.close()


def test_the_listener_learns_of_links_addresses_routes_and_groups(
    space: NetNamespace, routes: RouteSocket, ib0: Tun
) -> None:
    listener = space.run_in(RouteListener)
    ib0.set_up(True)
    routes.add_address(ib0.index, bytes((10, 0, 0, 1)), 24)
    kinds = {message.type for message in listener.receive()}
    assert {16, 20, 24} <= kinds
    if listener.receives_multicast:
        space.run_in(lambda: joined(ib0.index)).close()
        assert {56, 57} <= {message.type for message in listener.receive()}
    listener.close()


def test_a_packet_written_reaches_the_host_only_while_the_device_is_up(space: NetNamespace, ib0: Tun) -> None:
    packet = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28, 0, 0, 64, 17, 0, bytes(4), bytes((10, 0, 0, 1))) + bytes(8)
    with pytest.raises(OSError, match="Input/output error"):
        os.writev(ib0.fd, (NO_OFFLOAD, packet))
    ib0.set_up(True)
    assert os.writev(ib0.fd, (NO_OFFLOAD, packet)) == OFFLOAD_BYTES + len(packet)


def test_a_kept_device_outlives_its_descriptor_and_is_found_again(space: NetNamespace, routes: RouteSocket) -> None:
    first = open_tun(space, routes, "ib1", mtu=2044)
    first.keep(True)
    first.set_up(True)
    routes.add_address(first.index, bytes((10, 0, 0, 7)), 24)
    first.close()
    again = open_tun(space, routes, "ib1", mtu=2044)
    assert again.index == first.index
    assert [address.prefix for address in routes.addresses() if address.index == again.index] == [24]
    again.keep(False)
    again.close()
    assert [link.name for link in routes.links() if link.name == "ib1"] == []


def test_a_name_in_use_is_refused(space: NetNamespace, routes: RouteSocket, ib0: Tun) -> None:
    with pytest.raises(Refused, match="cannot create ib0"):
        open_tun(space, routes, "ib0", mtu=2044)


def test_a_tap_is_ethernet_with_the_address_asked_for(space: NetNamespace, routes: RouteSocket) -> None:
    address = bytes.fromhex("02c903100001")
    mirror = open_tap(space, routes, "eth0", address)
    link = routes.link("eth0")
    assert (link.type, link.address) == (1, address)
    mirror.close()


def flags_of(space: NetNamespace, name: str) -> str:
    """`NO-CARRIER` is IFF_UP without IFF_RUNNING's cause: /sys says 0."""
    carrier = space.run(["cat", f"/sys/class/net/{name}/carrier"]).stdout.strip()
    return "NO-CARRIER" if carrier == "0" else ""


def send(space: NetNamespace, address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET

    def sent() -> None:
        with socket.socket(family, socket.SOCK_DGRAM) as program:
            program.sendto(b"x", (address, 9))

    space.run_in(sent)


class joined:  # noqa: N801  reads as a sentence where it is used
    """A program that has joined one group of each family."""

    def __init__(self, index: int) -> None:
        self.four = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        request = struct.pack("=4s4si", GROUP, bytes(4), index)
        self.four.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
        self.six = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        self.six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, GROUP6 + struct.pack("=i", index))

    def close(self) -> None:
        self.four.close()
        self.six.close()
