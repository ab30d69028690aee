"""The group list of a device through up, down and a change of type; addresses are written out."""

from ibbond.netdev.device import Device, Flags, NetdevEvent
from ibbond.netdev.namespace import Namespace
from ibbond.stack.host_groups import ALL_HOSTS, HostGroups
from ibbond.wire.hardware_type import ETHERNET, INFINIBAND
from ibbond.wire.hwaddr import HardwareAddress, parse_address_text
from ibbond.wire.nd import ALL_NODES

BROADCAST = parse_address_text("00:ff:ff:ff:ff:12:40:1b:ff:ff:00:00:00:00:00:00:ff:ff:ff:ff")
ALL_HOSTS_IB = parse_address_text("00:ff:ff:ff:ff:12:40:1b:ff:ff:00:00:00:00:00:00:00:00:00:01")
ALL_NODES_IB = parse_address_text("00:ff:ff:ff:ff:12:60:1b:ff:ff:00:00:00:00:00:00:00:00:00:01")
SOLICITED_IB = parse_address_text("00:ff:ff:ff:ff:12:60:1b:ff:ff:00:00:00:00:00:01:ff:0a:00:01")
ADDRESS = parse_address_text("80:00:00:49:fe:80:00:00:00:00:00:00:00:02:c9:03:00:0a:00:01")
ALL_HOSTS_ETHERNET = parse_address_text("01:00:5e:00:00:01")
ALL_NODES_ETHERNET = parse_address_text("33:33:00:00:00:01")
CHAT = bytes((239, 1, 2, 3))


class Dummy:
    kind = "dummy"
    can_set_address = True
    vlan_challenged = False

    def open(self, device: Device) -> None: ...

    def close(self, device: Device) -> None: ...

    def check_mtu(self, device: Device, mtu: int) -> None: ...

    def check_address(self, device: Device, address: bytes) -> None: ...

    def speed(self, device: Device) -> int | None:
        return None

    def duplex(self, device: Device) -> str | None:
        return None


def ethernet_bond(*, up: bool) -> tuple[Device, HostGroups, list[NetdevEvent]]:
    device = Device("bond0", Dummy(), ETHERNET, address=bytes(6), broadcast=b"\xff" * 6)
    namespace = Namespace()
    namespace.register(device)
    received: list[NetdevEvent] = []
    namespace.subscribe(lambda notice, _: received.append(notice))
    if up:
        device.flags |= Flags.UP
    return device, HostGroups(device), received


def become_infiniband(device: Device) -> None:
    device.type, device.address, device.broadcast = INFINIBAND, ADDRESS, BROADCAST


def test_up_first_then_members() -> None:
    device, groups, _ = ethernet_bond(up=True)
    assert list(device.multicast) == [ALL_HOSTS_ETHERNET, ALL_NODES_ETHERNET]
    groups.unmap()
    assert list(device.multicast) == []
    become_infiniband(device)
    groups.set_addresses([HardwareAddress.parse(ADDRESS).link_local])
    groups.remap()
    assert list(device.multicast) == [ALL_HOSTS_IB, ALL_NODES_IB, SOLICITED_IB]


def test_members_first_then_up() -> None:
    device, groups, _ = ethernet_bond(up=False)
    groups.join(CHAT)
    groups.unmap()
    become_infiniband(device)
    groups.remap()
    assert list(device.multicast) == []
    device.flags |= Flags.UP
    groups.refresh()
    assert list(device.multicast)[:2] == [ALL_HOSTS_IB, ALL_NODES_IB]
    assert len(device.multicast) == 3


def test_without_remapping_the_old_addresses_stay() -> None:
    """What `dev_setup` and `allow_not_up_enslave` cured: a list that no IPoIB device can use."""
    device, groups, _ = ethernet_bond(up=True)
    become_infiniband(device)
    groups.join(CHAT)
    assert ALL_HOSTS_ETHERNET in device.multicast
    assert ALL_HOSTS_IB not in device.multicast


def test_groups_follow_programs_and_down() -> None:
    device, groups, received = ethernet_bond(up=True)
    received.clear()
    assert groups.join(CHAT)
    assert not groups.join(CHAT)
    assert not groups.join(ALL_HOSTS)
    assert received == [NetdevEvent.RX_MODE]
    assert groups.joined == (CHAT,)
    assert groups.set([CHAT, ALL_NODES, bytes((224, 0, 0, 251))])
    assert len(device.multicast) == 4
    assert groups.leave(CHAT)
    device.flags &= ~Flags.UP
    groups.refresh()
    assert list(device.multicast) == []
    assert groups.joined == (bytes((224, 0, 0, 251)),)


def test_groups_that_share_an_address_are_counted() -> None:
    device, groups, _ = ethernet_bond(up=True)
    groups.join(bytes((224, 1, 2, 3)))
    groups.join(bytes((225, 1, 2, 3)))
    groups.leave(bytes((224, 1, 2, 3)))
    assert parse_address_text("01:00:5e:01:02:03") in device.multicast
