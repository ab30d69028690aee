"""20-byte addresses and all bond attributes through pyroute2, once it has been taught, against the kernel itself."""

from tests.kernel.virtual_machine import Host

TAUGHT = """
from ibbond.abi.pyroute2_addresses import teach_pyroute2
teach_pyroute2()
from pyroute2 import IPRoute
ip = IPRoute()
index = lambda name: ip.link_lookup(ifname=name)[0]
link = lambda name: ip.get_links(index(name))[0]
"""


def test_link_addresses_are_whole(host: Host) -> None:
    host.sh("ip link add bond0 type bond mode active-backup miimon 100; ip link set ib0 master bond0")
    seen = host.python(
        TAUGHT + "bond, member = link('bond0'), link('ib0')\n"
        "slave = member.get_nested('IFLA_LINKINFO', 'IFLA_INFO_SLAVE_DATA')\n"
        "answer = [bond.get_attr('IFLA_ADDRESS'), bond.get_attr('IFLA_BROADCAST'),"
        " slave.get_attr('IFLA_BOND_SLAVE_PERM_HWADDR'), slave.get_attr('IFLA_BOND_SLAVE_PRIO')]"
    )
    address = host.read("ib0/address").strip()
    assert seen == [address, host.read("ib0/broadcast").strip(), address, 0]


def test_an_address_is_written_whole(host: Host) -> None:
    address = "80:00:00:99:fe:80:00:00:00:00:00:00:00:02:c9:03:00:10:02:07"
    host.python(TAUGHT + f"ip.link('add', ifname='ib7', kind='lookib', IFLA_ADDRESS='{address}')")
    assert host.read("ib7/address").strip() == address


def test_neighbors_are_read_and_written_whole(host: Host) -> None:
    address = "80:00:00:55:fe:80:00:00:00:00:00:00:00:02:c9:03:00:10:00:77"
    host.sh("ip addr add 10.0.0.1/24 dev ib0; ip link set ib0 up")
    seen = host.python(
        TAUGHT + "import logging, io\n"
        "received = io.StringIO(); logging.basicConfig(stream=received)\n"
        f"ip.neigh('add', dst='10.0.0.2', ifindex=index('ib0'), NDA_LLADDR='{address}', state=0x80)\n"
        "found = [n.get_attr('NDA_LLADDR') for n in ip.get_neighbours(ifindex=index('ib0'), family=2)"
        " if n.get_attr('NDA_DST') == '10.0.0.2']\n"
        "answer = [found, received.getvalue()]"
    )
    assert seen == [[address], ""]
    assert address in host.run("ip", "neigh", "show", "dev", "ib0")


def test_bond_attributes_that_pyroute2_does_not_know(host: Host) -> None:
    host.sh(
        "ip link add bond0 type bond mode active-backup miimon 100 peer_notify_delay 300;"
        "echo 5 > /sys/class/net/bond0/bonding/arp_missed_max"
    )
    host.ok("bond", "set", "bond0", "ns_ip6_target", "2001:db8::1")
    seen = host.python(
        TAUGHT + "data = link('bond0').get_nested('IFLA_LINKINFO', 'IFLA_INFO_DATA')\n"
        "answer = [data.get_attr('IFLA_BOND_' + name) for name in"
        " ('PEER_NOTIF_DELAY', 'AD_LACP_ACTIVE', 'MISSED_MAX', 'NS_IP6_TARGET')]"
    )
    assert seen == [300, 1, 5, ["2001:db8::1"]]


def test_the_raw_reader_agrees_with_sysfs(host: Host) -> None:
    host.ok("bond", "create", "bond0", "ib0", "ib1", "--set", "downdelay=200", "--set", "arp_ip_target=10.0.0.2")
    seen = host.python(
        "from ibbond.backend.kernel.bonds import KernelBackend\n"
        "from ibbond.abi.bond_attributes import read_bond\n"
        "host = KernelBackend()\n"
        "values = read_bond(host.link('bond0').bond)\n"
        "options = host.snapshot('bond0').options\n"
        "different = {n: [repr(v), repr(options.get(n))] for n, v in values.items()"
        " if n not in ('active_slave', 'primary') and options.get(n) != v}\n"
        "link = host.link('ib0')\n"
        "answer = [different, link.address.hex(':'), link.member.state, len(values) > 20]"
    )
    assert seen == [{}, host.read("ib0/address").strip(), "active", True]
