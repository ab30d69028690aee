"""An IPoIB address: a queue pair number that the HCA gave, and the GID of the port."""

from ibbond.wire.hwaddr import HardwareAddress
from tests.promises.story import two_hosts


def test_queue_pair_and_gid() -> None:
    world = two_hosts()
    device = world.network.hosts["h1"].namespace.get("ib0")
    assert device is not None
    address = HardwareAddress.parse(device.address)
    port = world.network.subnet.port("h1/1")
    assert address.gid == port.gid
    assert port.gid[8:] == port.guid.to_bytes(8)
    assert 2 <= address.qpn < 1 << 24, "queue pairs 0 and 1 are for management"


def test_two_interfaces_of_one_host_differ() -> None:
    namespace = two_hosts().network.hosts["h1"].namespace
    one, two = namespace.get("ib0"), namespace.get("ib1")
    assert one is not None
    assert two is not None
    assert one.address != two.address
