"""What goes wrong in a subnet, and how it comes back: one story per fault, live and simulated."""

import pytest

from ibbond.errors import Refused
from ibbond.fabric.events import (
    ChangeLid,
    Cut,
    KillAdapter,
    KillSubnetManager,
    KillSwitch,
    MakeLossy,
    Mend,
    Reregister,
    ReviveAdapter,
    ReviveSubnetManager,
    ReviveSwitch,
    SendDatagram,
    SetIsSm,
    SetPkeys,
)
from ibbond.fabric.switch import Switch
from ibbond.verbs.timing import Timing
from ibbond.verbs.verbs import PortEventKind, PortState, SubnetLog
from ibbond.wire.sa_records import McMemberRecord
from tests.fabric.subnets import BROADCAST, QKEY, Lab, pairs, ring, two_switches

ALL = ["h1/1", "h1/2", "h2/1", "h2/2"]


@pytest.fixture(params=[Timing(), Timing.live(), Timing.simulated()], ids=["at-once", "live", "simulated"])
def lab(request: pytest.FixtureRequest) -> Lab:
    return two_switches(Lab(timing=request.param)).start()


def sweeps(lab: Lab) -> int:
    return sum(isinstance(effect, SubnetLog) and effect.what.startswith("sweep") for effect in lab.seen)


def traps(lab: Lab) -> list[str]:
    """The traps that the subnet manager received."""
    return [effect.what for effect in lab.seen if isinstance(effect, SubnetLog) and effect.what.startswith("trap ")]


def test_a_cut_cable_downs_both_ports_at_once(lab: Lab) -> None:
    before = lab.subnet.port("h1/1").lid
    effects = lab.do(Cut("h1/1"))
    assert lab.events("h1/1")[-1] == PortEventKind.PORT_ERR
    assert effects
    assert lab.subnet.port("h1/1").state == lab.subnet.port("s1/1").state == PortState.DOWN
    assert lab.subnet.counters("h1/1").link_downed == lab.subnet.counters("s1/1").link_downed == 1
    lab.run_until_quiescent()
    assert lab.reachable() == pairs(["h1/2", "h2/1", "h2/2"])
    assert lab.subnet.port("h1/1").lid == before


def test_a_mended_cable_comes_back_as_it_was(lab: Lab) -> None:
    lid = lab.subnet.port("h1/1").lid
    lab.after(Cut("s1/1"))
    lab.after(Mend("s1/1"))
    assert lab.events("h1/1") == [PortEventKind.CLIENT_REREGISTER, PortEventKind.PORT_ACTIVE]
    assert lab.subnet.port("h1/1").lid == lid
    assert lab.reachable() == pairs(ALL)
    assert lab.events("h2/1") == []


@pytest.mark.parametrize("port", ["h1/1", "h1/2", "s2/7"])
def test_a_trap_is_sent_until_it_is_acknowledged_and_no_longer(lab: Lab, port: str) -> None:
    """Also where the TrapRepress comes in at another port than port 0, and where the first trap was lost at the cut."""
    for event in (Cut(port), Mend(port)):
        lab.after(event, ms=1500)
        assert 1 <= len(traps(lab)) <= 3
        lab.seen.clear()
        lab.run_until_quiescent(5000)  # almost five times the interval at which a trap is repeated
        assert traps(lab) == []
        assert sweeps(lab) == 0


def test_a_dead_node_has_no_trap_left_to_send(lab: Lab) -> None:
    lab.do(SetIsSm("h2/2", True))
    lab.after(KillAdapter("h2"), ms=5000)
    lab.after(ReviveAdapter("h2"), ms=5000)
    assert [trap for trap in traps(lab) if trap.startswith("trap 144")] == []


def test_cutting_twice_is_cutting_once(lab: Lab) -> None:
    lab.after(Cut("h1/1"))
    assert lab.after(Cut("h1/1")) == []
    lab.after(Mend("h1/1"))
    assert lab.after(Mend("h1/1")) == []


def test_a_flap_within_the_hold_off_is_noticed(lab: Lab) -> None:
    lab.seen.clear()
    lab.do(Cut("h1/1"))
    lab.do(Mend("h1/1"))
    assert lab.subnet.port("h1/1").state == PortState.INIT
    lab.run_until_quiescent()
    assert lab.events("h1/1") == [
        PortEventKind.PORT_ERR,
        PortEventKind.CLIENT_REREGISTER,
        PortEventKind.PORT_ACTIVE,
    ]
    assert lab.reachable() == pairs(ALL)


def test_a_subnet_that_was_two_knows_all_members_again(lab: Lab) -> None:
    """The ports behind the cut stay Active, so their joins must be asked for: they register again."""
    for port in ALL:
        lab.join(port)
    lab.do(Cut("s1/7"))
    lab.after(Cut("s1/8"), ms=1000)
    lab.after(Mend("s1/7"), ms=1000)
    assert PortEventKind.CLIENT_REREGISTER in lab.events("h2/2")
    assert PortEventKind.CLIENT_REREGISTER not in lab.events("h2/1")
    for port in ("h1/2", "h2/2"):
        lab.join(port)
    qpns = {port: lab.listen(port) for port in ALL}
    assert sorted(lab.multicast("h1/1", source_qpn=qpns["h1/1"])) == ["h1/2", "h2/1", "h2/2"]


def test_what_is_on_a_cable_when_it_is_cut_is_lost() -> None:
    lab = two_switches(Lab(timing=Timing.simulated())).start()
    qpn = lab.listen("h2/1", None)
    lab.seen.clear()
    lab.do(SendDatagram("h1/1", lab.datagram("h1/1", lab.subnet.port("h2/1").lid, qpn)))
    lab.do(Cut("h1/1"))
    lab.do(Mend("h1/1"))
    lab.run_until_quiescent()
    assert lab.arrivals() == []


def test_a_cut_between_switches_is_routed_around(lab: Lab) -> None:
    """New routes within ten milliseconds, and no host learns of it."""
    for cable in ("s1/7", "s1/8"):
        lab.seen.clear()
        lab.do(Cut(cable))
        lab.run_until_quiescent(10)
        assert lab.reachable() == pairs(ALL)
        assert sweeps(lab) <= 1
        assert all(lab.events(port) == [] for port in ALL)
        lab.after(Mend(cable))
        assert lab.reachable() == pairs(ALL)
        assert all(lab.events(port) == [] for port in ALL)


def test_groups_follow_the_routes(lab: Lab) -> None:
    for port in ALL:
        assert isinstance(lab.join(port), McMemberRecord)
    qpns = {port: lab.listen(port) for port in ALL}
    others = ["h1/2", "h2/1", "h2/2"]
    assert sorted(lab.multicast("h1/1", source_qpn=qpns["h1/1"])) == others
    for cable in ("s1/7", "s1/8"):
        lab.after(Cut(cable))
        assert sorted(lab.multicast("h1/1", source_qpn=qpns["h1/1"])) == others
        lab.after(Mend(cable))
        assert sorted(lab.multicast("h1/1", source_qpn=qpns["h1/1"])) == others


def test_mending_a_link_between_switches_loses_and_doubles_nothing() -> None:
    """A multicast and a unicast packet every 3 us while the sweep goes on: each arrives exactly once."""
    lab = ring(Lab(timing=Timing.simulated()), 4).start()
    hosts = ["h1/1", "h2/1", "h3/1", "h4/1"]
    qpns = {}
    for host in hosts:
        lab.join(host)
        qpns[host] = lab.listen(host)
    lab.after(Cut("s1/1"))
    lab.seen.clear()
    lab.do(Mend("s1/1"))
    sent = 0
    own = lab.subnet.port("h1/1")
    for _ in range(1500):
        lab.do(
            SendDatagram(
                "h1/1",
                lab.datagram(
                    "h1/1", 0xC000, 0xFFFFFF, source_qpn=qpns["h1/1"], source_gid=own.gid, destination_gid=BROADCAST
                ),
            )
        )
        lab.do(SendDatagram("h1/1", lab.datagram("h1/1", lab.subnet.port("h2/1").lid, qpns["h2/1"])))
        sent += 1
        end = lab.now + 3000
        while (at := lab.subnet.deadline()) is not None and at <= end:
            lab.now = at
            lab.seen += lab.subnet.tick(at)
        lab.now = end
    lab.run_until_quiescent(5)
    assert sweeps(lab) == 1
    arrivals = lab.arrivals()
    assert {host: arrivals.count(host) for host in hosts} == {"h1/1": 0, "h2/1": 2 * sent, "h3/1": sent, "h4/1": sent}


def test_both_cables_between_the_switches(lab: Lab) -> None:
    lab.after(Cut("s1/7"))
    lab.after(Cut("s1/8"))
    assert lab.reachable() == pairs(["h1/1", "h2/1"]) | pairs(["h1/2", "h2/2"])
    lab.after(Mend("s1/8"))
    assert lab.reachable() == pairs(ALL)


def test_a_switch_dies_and_comes_back_empty(lab: Lab) -> None:
    lid = lab.subnet.port("h1/2").lid
    lab.seen.clear()
    lab.do(KillSwitch("s2"))
    assert lab.events("h1/2") == lab.events("h2/2") == [PortEventKind.PORT_ERR]
    assert lab.events("h1/1") == []
    lab.run_until_quiescent()
    assert lab.reachable() == pairs(["h1/1", "h2/1"])
    lab.after(ReviveSwitch("s2"))
    assert lab.events("h1/2") == [PortEventKind.CLIENT_REREGISTER, PortEventKind.PORT_ACTIVE]
    assert lab.subnet.port("h1/2").lid == lid
    assert lab.reachable() == pairs(ALL)


def test_without_subnet_manager_what_works_goes_on(lab: Lab) -> None:
    lab.join("h1/1")
    lab.after(KillSubnetManager())
    assert lab.reachable() == pairs(ALL)
    lab.after(Cut("h1/1"))
    lab.after(Mend("h1/1"), ms=3000)
    assert lab.subnet.port("h1/1").state == PortState.INIT
    assert lab.reachable() == pairs(["h1/2", "h2/1", "h2/2"])
    lab.after(ReviveSubnetManager())
    assert PortEventKind.CLIENT_REREGISTER in lab.events("h2/2")
    assert lab.events("h1/1") == [PortEventKind.CLIENT_REREGISTER, PortEventKind.PORT_ACTIVE]
    assert lab.reachable() == pairs(ALL)


def test_a_revived_manager_forgot_who_was_in_a_group(lab: Lab) -> None:
    for port in ALL:
        lab.join(port)
    qpns = {port: lab.listen(port) for port in ALL}
    lab.after(KillSubnetManager())
    assert len(lab.multicast("h1/1", source_qpn=qpns["h1/1"])) == 3
    lab.after(ReviveSubnetManager())
    for port in ALL:
        assert isinstance(lab.join(port), McMemberRecord)
    assert len(lab.multicast("h1/1", source_qpn=qpns["h1/1"])) == 3


def test_a_standby_takes_over_when_the_switch_of_the_master_dies(lab: Lab) -> None:
    lab.after(KillSwitch("s1"), ms=200)
    assert lab.subnet.port("h1/2").sm_lid == lab.subnet.port("s2/0").lid
    assert lab.events("h1/2") == [PortEventKind.SM_CHANGE, PortEventKind.CLIENT_REREGISTER]
    assert isinstance(lab.join("h1/2"), McMemberRecord)
    assert lab.path("h1/2", "h2/2") not in (0x0300, 0x0500)
    lids = {port: lab.subnet.port(port).lid for port in ("h1/2", "h2/2")}
    lab.after(ReviveSwitch("s1"), ms=1000)
    assert lab.reachable() == pairs(ALL)
    assert {port: lab.subnet.port(port).lid for port in lids} == lids
    masters = [name for name, manager in lab.subnet.managers.items() if manager.is_master]
    assert masters == ["s2/0"]


def test_two_masters_become_one(lab: Lab) -> None:
    """Both halves of a subnet that was cut in two have a master; joined again, the lower GUID stays."""
    lab.do(Cut("s1/7"))
    lab.after(Cut("s1/8"), ms=2000)
    assert [manager.is_master for manager in lab.subnet.managers.values()] == [True, True]
    assert isinstance(lab.join("h2/2"), McMemberRecord)
    lab.after(Mend("s1/8"), ms=2000)
    assert [manager.is_master for manager in lab.subnet.managers.values()] == [True, False]
    assert {port.sm_lid for port in lab.subnet.end_ports()} == {lab.subnet.port("s1/0").lid}
    assert lab.reachable() == pairs(ALL)


def test_only_one_standby_takes_over() -> None:
    for timing in (Timing(), Timing.simulated()):
        lab = ring(Lab(timing=timing), 4).start()
        assert list(lab.subnet.managers) == ["s1/0", "s2/0", "s3/0"]
        lab.after(KillSwitch("s1"), ms=3000)
        assert [manager.is_master for manager in lab.subnet.managers.values()] == [False, True, False]
        took_over = [effect for effect in lab.seen if isinstance(effect, SubnetLog) and "took over" in effect.what]
        assert len(took_over) == 1


def test_killed_managers_stay_dead_with_their_switch(lab: Lab) -> None:
    lab.after(KillSubnetManager())
    lab.after(KillSwitch("s1"))
    lab.after(ReviveSwitch("s1"), ms=2000)
    assert not any(manager.alive for manager in lab.subnet.managers.values())
    lab.after(KillSwitch("s1"))
    lab.after(ReviveSubnetManager())
    lab.after(ReviveSwitch("s1"), ms=2000)
    assert [manager.is_master for manager in lab.subnet.managers.values()] == [False, True]
    assert lab.reachable() == pairs(ALL)


def test_requests_of_an_operator_need_a_manager(lab: Lab) -> None:
    lab.after(KillSubnetManager())
    for event in (SetPkeys("h1/1", (0xFFFF,)), ChangeLid("h1/1", 99), Reregister("h1/1")):
        with pytest.raises(Refused, match="no built-in subnet manager is alive"):
            lab.do(event)


def test_reregister_is_received_at_one_port(lab: Lab) -> None:
    lab.after(Reregister("h1/1"))
    assert lab.events("h1/1") == [PortEventKind.CLIENT_REREGISTER]
    assert lab.events("h1/2") == lab.events("h2/1") == []


def test_a_port_is_asked_to_register_once_its_request_can_arrive() -> None:
    """A port that stayed Active answers at once; the manager's own switch has just started, with empty tables."""
    lab = two_switches(Lab(timing=Timing.simulated())).start()
    lab.do(KillSwitch("s1"))
    lab.do(ReviveSwitch("s1"))
    lab.seen.clear()
    while PortEventKind.CLIENT_REREGISTER not in lab.events("h1/2"):
        at = lab.subnet.deadline()
        assert at is not None, "no port is asked"
        lab.now = max(lab.now, at)
        lab.seen += lab.subnet.tick(lab.now)
    assert isinstance(lab.join("h1/2"), McMemberRecord)


def test_another_lid(lab: Lab) -> None:
    for port in ALL:
        lab.join(port)
    lab.after(ChangeLid("h1/1", 0x1234))
    assert lab.events("h1/1") == [PortEventKind.LID_CHANGE]
    for other in ALL[1:]:  # they may know a path to the old one
        assert lab.events(other) == [PortEventKind.CLIENT_REREGISTER]
    assert lab.subnet.port("h1/1").lid == 0x1234
    assert lab.reachable() == pairs(ALL)
    lab.after(Cut("h1/1"))
    lab.after(Mend("h1/1"))
    assert lab.subnet.port("h1/1").lid == 0x1234


def test_the_highest_lid(lab: Lab) -> None:
    lab.after(ChangeLid("h2/2", 0xBFFF))
    sweep = next(effect.what for effect in lab.seen if isinstance(effect, SubnetLog) and "sweep" in effect.what)
    assert int(sweep.split(", ")[2].split()[0]) < 30  # blank blocks of the tables are not written
    assert lab.reachable() == pairs(ALL)


def test_the_managers_own_lid(lab: Lab) -> None:
    lab.after(ChangeLid("s1/0", 500))
    assert {port.sm_lid for port in lab.subnet.end_ports()} == {500}
    assert lab.events("h1/1") == [PortEventKind.SM_CHANGE]
    assert isinstance(lab.join("h1/1"), McMemberRecord)


def test_a_removed_pkey(lab: Lab) -> None:
    qpn = lab.listen("h2/1", None)
    assert lab.send("h1/1", "h2/1", qpn) == ["h2/1"]
    lab.after(SetPkeys("h2/1", (0x8001,)))
    assert lab.events("h2/1") == [PortEventKind.PKEY_CHANGE]
    assert lab.send("h1/1", "h2/1", qpn) == []
    assert lab.subnet.port("h2/1").info.p_key_violations == 1
    assert lab.path("h1/1", "h2/1") == 0x0300
    lab.after(SetPkeys("h2/1", (0xFFFF,)))
    assert lab.send("h1/1", "h2/1", qpn) == ["h2/1"]
    assert lab.after(SetPkeys("h2/1", (0xFFFF,))) != []
    assert lab.events("h2/1") == []


def test_a_lossy_cable_loses_by_the_seed_and_counts() -> None:
    def run(seed: int) -> tuple[int, int]:
        lab = two_switches(Lab(seed=seed)).start()
        qpn = lab.listen("h2/1", None)
        lab.after(MakeLossy("h1/1", 0.25))
        arrived = sum(len(lab.send("h1/1", "h2/1", qpn)) for _ in range(400))
        assert lab.subnet.counters("s1/1").symbol_errors == 400 - arrived
        assert lab.subnet.counters("h1/1").symbol_errors == 0
        return arrived, lab.subnet.counters("s1/1").receive_errors

    assert run(1) == run(1)
    assert run(1) != run(2)
    assert 260 < run(1)[0] < 340


def test_a_very_lossy_link_does_not_stop_the_manager(lab: Lab) -> None:
    lab.after(MakeLossy("s1/7", 1.0))
    lab.after(Cut("h1/1"), ms=1000)
    lab.after(Mend("h1/1"), ms=1000)
    assert lab.subnet.port("h1/1").state == PortState.ACTIVE
    lab.after(MakeLossy("s1/7", 0.0), ms=10_000)
    assert lab.reachable() == pairs(ALL)


def test_a_join_that_a_switch_did_not_learn_of_is_made_true_later(lab: Lab) -> None:
    """The write for one group is lost, and with it what is known of the switch: all other groups must stay."""
    for port in ALL:
        lab.listen(port)
        assert isinstance(lab.join(port), McMemberRecord)
    other, third = (bytes.fromhex(f"ff12401bffff0000000000000a0b0c{last}") for last in ("0d", "0e"))
    lab.create("h1/2", other)
    for link in ("s1/7", "s1/8"):
        lab.do(MakeLossy(link, 1.0))
    lab.join("h1/1", other, ms=95)  # four tries of 20 ms; no one is given up yet
    for link in ("s1/7", "s1/8"):
        lab.do(MakeLossy(link, 0.0))
    lab.create("h1/1", third)
    lab.run_until_quiescent(2000)
    lab.multicast("h1/1")
    assert set(lab.arrivals()) >= {"h2/1", "h1/2", "h2/2"}


def test_a_new_manager_clears_what_the_last_one_wrote(lab: Lab) -> None:
    """Groups that no one registers again: no switch may go on copying to them."""
    for number in range(40):  # more than one block of a table
        mgid = bytes.fromhex(f"ff12401bffff0000000000000a0b0c{number:02x}")
        record = lab.create("h1/1", mgid)
    assert isinstance(record, McMemberRecord)
    lab.join("h2/2", mgid)
    switches = [node for node in lab.subnet.nodes.values() if isinstance(node, Switch)]
    assert all(switch.masks[record.mlid] for switch in switches)
    lab.after(KillSubnetManager())
    lab.after(ReviveSubnetManager(), ms=500)
    assert not any(mask for switch in switches for mask in switch.masks.values())


def test_quiet_means_quiet(lab: Lab) -> None:
    """After a fault is over nothing goes on but a light sweep every ten seconds and the polls of the standby."""
    lab.after(Cut("h1/1"), ms=2000)
    lab.after(Mend("h1/1"), ms=2000)
    lab.seen.clear()
    before = lab.subnet.counters("s1/1")
    lab.run_until_quiescent(30_000)
    assert lab.seen == []
    assert lab.subnet.counters("s1/1") == before
    sent = lab.subnet.counters("s2/7").transmit_packets + lab.subnet.counters("s2/8").transmit_packets
    lab.run_until_quiescent(30_000)
    now = lab.subnet.counters("s2/7").transmit_packets + lab.subnet.counters("s2/8").transmit_packets
    assert now - sent <= 4 * 30 + 10


def test_a_light_sweep_finds_what_no_trap_reported(lab: Lab) -> None:
    """The trap of s2 has no way to the manager while both links are cut; then the manager dies for a moment."""
    lab.after(Cut("h1/1"))
    lab.seen.clear()
    lab.subnet.retrain(lab.subnet.port("h2/1"))  # as a power glitch would, with its trap
    lab.run_until_quiescent()
    assert lab.subnet.port("h2/1").state == PortState.ACTIVE


def test_back_to_back_link_is_found_without_traps() -> None:
    lab = Lab()
    for name in ("h1", "h2"):
        lab.subnet.add_hca(name, 1)
    lab.subnet.connect("h1/1", "h2/1")
    lab.start()
    lab.after(Cut("h1/1"))
    lab.after(Mend("h1/1"))
    assert lab.reachable() == pairs(["h1/1", "h2/1"])
    assert lab.subnet.port("h2/1").info.q_key_violations == 0
    assert QKEY


@pytest.mark.parametrize("timing", [Timing(), Timing.simulated()], ids=["live", "simulated"])
def test_a_port_whose_set_was_lost_is_asked_again(timing: Timing) -> None:
    for seed in range(20):
        lab = two_switches(Lab(timing=timing, seed=seed)).start()
        lab.do(MakeLossy("h1/1", 0.5))
        lab.after(Cut("h1/1"), ms=500)
        lab.after(Mend("h1/1"), ms=800)
        lab.after(MakeLossy("h1/1", 0.0), ms=30_000)
        assert lab.subnet.port("h1/1").state == PortState.ACTIVE, f"seed {seed}"


def test_a_group_that_ends_with_its_port_leaves_the_tables(lab: Lab) -> None:
    mgid = bytes.fromhex("ff12401bffff000000000000e0000009")
    record = lab.create("h2/1", mgid)
    assert isinstance(record, McMemberRecord)
    lab.join("h1/2", mgid, state=4)
    switches = [lab.subnet.node(name) for name in ("s1", "s2")]
    assert any(isinstance(switch, Switch) and switch.masks.get(record.mlid) for switch in switches)
    lab.after(Cut("h2/1"))
    assert not any(isinstance(switch, Switch) and switch.masks.get(record.mlid) for switch in switches)
