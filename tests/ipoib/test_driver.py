"""IPoIB as a kind of network device: what Linux's driver allows."""

import errno

import pytest

from ibbond.errors import Refused
from ibbond.ipoib.driver import CONNECTED, IpoibDriver, ipoib_device
from ibbond.netdev.device import AddressOrigin
from ibbond.wire.group_address import broadcast_address
from ibbond.wire.hardware_type import INFINIBAND
from tests.ipoib.bench import QPN, Port


def test_a_device_as_linux_sets_it_up() -> None:
    device = ipoib_device("ib0", Port(mtu_bytes=2048), QPN)
    assert device.type == INFINIBAND == 32
    assert (device.addr_len, device.hard_header_len, device.tx_queue_len, device.mtu) == (20, 24, 256, 2044)
    assert device.address.hex(":") == "80:00:00:48:fe:80:00:00:00:00:00:00:00:02:c9:03:00:10:00:01"
    assert device.broadcast == broadcast_address(0xFFFF)
    assert device.permanent_address == device.address
    assert device.driver.vlan_challenged
    assert not device.driver.can_set_address
    assert ipoib_device("ib0.8001", Port(), QPN, pkey=1).broadcast == broadcast_address(0x8001)


@pytest.mark.parametrize(
    ("mode", "mtu", "allowed"),
    [
        ("datagram", 71, False),
        ("datagram", 72, True),
        ("datagram", 4092, True),
        ("datagram", 4093, False),
        (CONNECTED, 65520, True),
        (CONNECTED, 65521, False),
    ],
)
def test_mtu(mode: str, mtu: int, allowed: bool) -> None:
    port = Port()
    device = ipoib_device("ib0", port, QPN, driver=IpoibDriver(port, mode=mode))
    device.mtu = 1500
    if allowed:
        device.set_mtu(mtu)
        assert device.mtu == mtu
    else:
        with pytest.raises(Refused, match="MTU of ib0"):
            device.set_mtu(mtu)
        assert device.mtu == 1500


def test_the_address_cannot_be_set() -> None:
    device = ipoib_device("ib0", Port(), QPN)
    with pytest.raises(Refused) as refused:
        device.set_address(bytes(20), AddressOrigin.SET)
    assert refused.value.code == errno.EOPNOTSUPP


def test_speed_is_known_with_carrier_only() -> None:
    device = ipoib_device("ib0", Port(), QPN)
    assert (device.driver.speed(device), device.driver.duplex(device)) == (None, None)
    device.set_carrier(True)
    assert (device.driver.speed(device), device.driver.duplex(device)) == (40_000, "full")
