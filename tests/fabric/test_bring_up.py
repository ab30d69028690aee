"""From cables to a working subnet: LIDs, states, routes, groups, in every shape and with every clock."""

import pytest

from ibbond.fabric.events import KillSubnetManager, ReviveSubnetManager
from ibbond.manager.partitions import Partition
from ibbond.verbs.timing import Timing
from ibbond.verbs.verbs import PortEventKind, PortState
from ibbond.wire.sa_records import McMemberRecord, PathRecord
from tests.fabric.subnets import BROADCAST, Lab, pairs, ring, two_switches

CLOCKS = pytest.mark.parametrize("timing", [Timing(), Timing.simulated()], ids=["live", "simulated"])


@CLOCKS
def test_every_port_is_active_with_its_own_lid(timing: Timing) -> None:
    lab = two_switches(Lab(timing=timing), hosts=3).start()
    assert set(lab.states().values()) == {PortState.ACTIVE}
    lids = [port.lid for port in lab.subnet.end_ports()]
    assert len(set(lids)) == len(lids)
    assert min(lids) == 1
    manager_lid = lab.subnet.port("s1/0").lid
    assert {port.sm_lid for port in lab.subnet.end_ports()} == {manager_lid}


@CLOCKS
def test_every_host_port_reaches_every_other(timing: Timing) -> None:
    lab = two_switches(Lab(timing=timing), hosts=3).start()
    assert lab.reachable() == pairs([f"h{host}/{port}" for host in (1, 2, 3) for port in (1, 2)])


def test_a_live_subnet_is_up_when_start_returns() -> None:
    lab = two_switches(Lab())
    lab.subnet.start(0)
    assert set(lab.states().values()) == {PortState.ACTIVE}


def test_a_host_learns_of_its_port_in_the_order_of_a_real_one() -> None:
    lab = two_switches(Lab()).start()
    assert lab.events("h1/1") == [
        PortEventKind.LID_CHANGE,
        PortEventKind.SM_CHANGE,
        PortEventKind.CLIENT_REREGISTER,
        PortEventKind.PORT_ACTIVE,
    ]
    assert lab.events("s1/1") == []


@CLOCKS
def test_two_hosts_back_to_back(timing: Timing) -> None:
    lab = Lab(timing=timing)
    lab.subnet.add_hca("h1", 1)
    lab.subnet.add_hca("h2", 1)
    lab.subnet.connect("h1/1", "h2/1")
    lab.start()
    assert lab.reachable() == pairs(["h1/1", "h2/1"])


@pytest.mark.parametrize("switches", [1, 2, 3, 4, 5])
def test_rings(switches: int) -> None:
    """Redundant links do not make packets go round: one copy for each member, by the shortest way."""
    lab = ring(Lab(), switches) if switches > 1 else one_switch(Lab())
    lab.start()
    hosts = sorted(port.name for port in lab.subnet.end_ports() if port.name.startswith("h"))
    assert lab.reachable() == pairs(hosts)
    for host in hosts:
        assert isinstance(lab.join(host), McMemberRecord)
    qpns = {host: lab.listen(host) for host in hosts}
    for host in hosts:
        assert sorted(lab.multicast(host, source_qpn=qpns[host])) == [other for other in hosts if other != host]


def one_switch(lab: Lab) -> Lab:
    lab.subnet.add_switch("s1", 2)
    for number in (1, 2):
        lab.subnet.add_hca(f"h{number}", 1)
        lab.subnet.connect(f"h{number}/1", f"s1/{number}")
    return lab


def test_guids_follow_the_plan() -> None:
    lab = two_switches(Lab())
    assert lab.subnet.port("h1/1").guid == 0x0002C90300100001
    assert lab.subnet.port("h2/2").guid == 0x0002C90300100012
    assert lab.subnet.port("s2/0").guid == 0x0002C90300200010
    assert lab.subnet.port("h1/1").gid.hex() == "fe80000000000000" + "0002c90300100001"


def test_partitions_have_tables_and_broadcast_groups() -> None:
    lab = two_switches(Lab())
    lab.subnet.add_partition(Partition("storage", 0x8001, full=("h1/1",), limited=("h2/1",), mtu_bytes=4096))
    lab.start()
    assert lab.subnet.port("h1/1").pkeys == (0xFFFF, 0x8001)
    assert lab.subnet.port("h2/1").pkeys == (0xFFFF, 0x0001)
    assert lab.subnet.port("h1/2").pkeys == (0xFFFF,)
    mgid = bytes.fromhex("ff12401b8001000000000000ffffffff")
    record = lab.join("h1/1", mgid)
    assert isinstance(record, McMemberRecord)
    assert (record.mlid, record.mtu, record.pkey) == (0xC001, 5, 0x8001)
    assert isinstance(lab.join("h2/1", mgid), McMemberRecord)
    assert lab.join("h1/2", mgid) == 0x0200


def test_default_partition_can_carry_4092() -> None:
    lab = two_switches(Lab())
    lab.subnet.add_partition(Partition("Default", 0xFFFF, mtu_bytes=4096))
    lab.start()
    record = lab.join("h1/1")
    assert isinstance(record, McMemberRecord)
    assert (record.mtu, record.mlid) == (5, 0xC000)


def test_the_smaller_mtu_of_a_link_rules() -> None:
    lab = Lab()
    lab.subnet.add_switch("s1", 4, mtu_bytes=2048)
    for number in (1, 2):
        lab.subnet.add_hca(f"h{number}", 1)
        lab.subnet.connect(f"h{number}/1", f"s1/{number}")
    lab.start()
    assert lab.subnet.port("h1/1").mtu_bytes == lab.subnet.port("s1/1").mtu_bytes == 2048
    path = lab.path("h1/1", "h2/1")
    assert isinstance(path, PathRecord)
    assert path.mtu == 4


@CLOCKS
def test_two_runs_of_one_seed_are_the_same(timing: Timing) -> None:
    def run() -> list[str]:
        lab = two_switches(Lab(timing=timing, seed=7), hosts=3).start()
        lab.after(KillSubnetManager())
        lab.after(ReviveSubnetManager())
        lab.join("h1/1", BROADCAST)
        return [repr(effect) for effect in lab.seen]

    assert run() == run()


def test_manager_at_a_chosen_port() -> None:
    lab = two_switches(Lab())
    lab.subnet.place_manager("h2/1")
    lab.start()
    assert {port.sm_lid for port in lab.subnet.end_ports()} == {lab.subnet.port("h2/1").lid}
    ports = ["h1/1", "h1/2", "h2/1", "h2/2"]
    assert lab.reachable() == pairs(ports)
