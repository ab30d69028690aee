"""The test equipment itself: the guest runs the kernel it should, and its devices look like IPoIB."""

import pytest

from tests.kernel.virtual_machine import Host, VirtualMachine


@pytest.mark.smoke
def test_the_guest_runs_the_prepared_kernel(machine: VirtualMachine) -> None:
    assert machine.hello["kernel"] == machine.release


@pytest.mark.smoke
def test_look_alike_devices_have_infiniband_addresses(host: Host) -> None:
    assert host.read("ib0/type") == "32\n"
    assert host.read("ib0/addr_len") == "20\n"
    assert host.read("ib0/address") == "80:00:02:09:fe:80:00:00:00:00:00:00:00:02:c9:03:00:10:00:01\n"
    assert host.read("ib0/mode") == "datagram\n"
    assert host.read("ib1/dev_port") == "1\n"


@pytest.mark.smoke
def test_two_hosts_talk_over_a_bond_of_the_kernel(machine: VirtualMachine, host: Host) -> None:
    peer = machine.host()
    peer.add_port("ib0", node=2, hub=host.group)
    peer.sh("ip addr add 10.0.0.2/24 dev ib0; ip link set ib0 up")
    host.sh(
        "ip link add bond0 type bond mode active-backup miimon 100; ip link set ib0 master bond0;"
        "ip link set ib1 master bond0; ip addr add 10.0.0.1/24 dev bond0; ip link set bond0 up"
    )
    host.sh("wait_for answer 'ping -c 1 -W 5 10.0.0.2'")
    host.carrier("ib0", False)
    host.sh("wait_for answer 'ping -c 1 -W 5 10.0.0.2'")
    assert host.read("bond0/bonding/active_slave") == "ib1\n"
    peer.close()
