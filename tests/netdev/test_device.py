"""A device: limits of the MTU, vetoes, counted promiscuity, and who learns of it."""

import errno

import pytest

from ibbond.errors import Refused
from ibbond.netdev.device import AddressOrigin, Device, Flags, NetdevEvent
from ibbond.netdev.namespace import Namespace
from ibbond.wire.hardware_type import ETHERNET


class Driver:
    kind = "ethernet"
    vlan_challenged = False

    def __init__(self, can_set_address: bool = True) -> None:
        self.can_set_address = can_set_address

    def open(self, device: Device) -> None:
        device.carrier = True

    def close(self, device: Device) -> None:
        device.carrier = False

    def check_mtu(self, device: Device, mtu: int) -> None: ...

    def check_address(self, device: Device, address: bytes) -> None: ...

    def speed(self, device: Device) -> int | None:
        return 1000

    def duplex(self, device: Device) -> str | None:
        return "full"


def device(driver: Driver | None = None) -> tuple[Device, list[NetdevEvent]]:
    namespace, received = Namespace(), []
    namespace.subscribe(lambda notice, _: received.append(notice))
    made = Device("eth0", driver or Driver(), ETHERNET, bytes(6), b"\xff" * 6)
    namespace.register(made)
    received.clear()
    return made, received


def test_opening_tells_the_lists_before_it_tells_that_it_is_up() -> None:
    eth0, received = device()
    eth0.open()
    eth0.open()
    assert received == [NetdevEvent.RX_MODE, NetdevEvent.UP]
    eth0.close()
    assert received[-1] is NetdevEvent.DOWN
    assert not eth0.carrier


def test_a_list_of_a_device_that_is_down_is_reported_when_it_opens() -> None:
    eth0, received = device()
    eth0.add_multicast(b"\x01" * 6)
    assert received == []
    eth0.open()
    eth0.remove_multicast(b"\x01" * 6)
    assert received.count(NetdevEvent.RX_MODE) == 2


@pytest.mark.parametrize("mtu", [67, 65536, -1])
def test_an_mtu_beyond_the_limits_is_refused(mtu: int) -> None:
    eth0, received = device()
    with pytest.raises(Refused) as refused:
        eth0.set_mtu(mtu)
    assert refused.value.code == errno.EINVAL
    assert eth0.mtu == 1500
    assert received == []


def test_an_address_that_the_driver_cannot_set_is_refused() -> None:
    eth0, _ = device(Driver(can_set_address=False))
    with pytest.raises(Refused) as refused:
        eth0.set_address(b"\x02" * 6, AddressOrigin.SET)
    assert refused.value.code == errno.EOPNOTSUPP
    assert eth0.address == bytes(6)


def test_a_listener_can_veto_an_address() -> None:
    eth0, _ = device()

    def veto(notice: NetdevEvent, _: Device) -> None:
        if notice is NetdevEvent.PRE_CHANGEADDR:
            raise Refused("no", why="because", fix="None")

    assert eth0.namespace is not None
    eth0.namespace.subscribe(veto)
    with pytest.raises(Refused):
        eth0.set_address(b"\x02" * 6, AddressOrigin.SET)
    assert eth0.address == bytes(6)


def test_promiscuity_is_counted_and_user_space_is_one_user() -> None:
    eth0, received = device()
    eth0.count_promiscuous(1)
    eth0.ask(Flags.PROMISC, True)
    eth0.ask(Flags.PROMISC, True)
    assert eth0.promiscuity == 2
    eth0.count_promiscuous(-1)
    assert eth0.flags & Flags.PROMISC
    eth0.ask(Flags.PROMISC, False)
    assert not eth0.flags & Flags.PROMISC
    assert received == [NetdevEvent.RX_FLAGS, NetdevEvent.RX_FLAGS]


def test_more_users_cannot_go_than_came() -> None:
    eth0, _ = device()
    with pytest.raises(AssertionError):
        eth0.count_allmulti(-1)


def test_renaming_keeps_the_order_of_devices() -> None:
    eth0, received = device()
    namespace = eth0.namespace
    assert namespace is not None
    namespace.register(Device("eth1", Driver(), ETHERNET, bytes(6), b"\xff" * 6))
    namespace.rename(eth0, "zz0")
    assert [each.name for each in namespace] == ["zz0", "eth1"]
    assert received[-1] is NetdevEvent.CHANGENAME
    namespace.unregister(eth0)
    assert "zz0" not in namespace
