"""ip(8) commands in a recorded world: what iproute2 6.1 refuses, what Linux 6.1 does.

The exit statuses are those of Debian 12's ip (6.1.0): 1 and 255 are its own, 2 is the kernel's refusal.
"""

import pytest

from ibbond.abi.recording import DeviceSpec, Recording, Step
from ibbond.replay.steps import Answer, Steps
from ibbond.replay.world import RecordedWorld


class Machine:
    """A bond of two InfiniBand members that is up, `bond0`, and `ib2`."""

    def __init__(self) -> None:
        devices = {name: DeviceSpec("infiniband") for name in ("ib0", "ib1", "ib2")}
        self.world = RecordedWorld(Recording("ip", (), devices=devices, monitor=True), "kernel-6.1")
        self.steps = Steps(self.world)
        for name, value in (("mode", "1"), ("miimon", "100")):
            if name == "mode":
                self.perform(Step("masters", value="+bond0"))
            self.perform(Step("write", path=f"bonding/{name}", value=value))
        self.perform(Step("enslave", slave="ib0"))
        self.perform(Step("enslave", slave="ib1"))
        self.perform(Step("up", dev="bond0"))
        assert self.read("slaves") == "ib0 ib1"

    def perform(self, step: Step) -> Answer:
        return self.steps.perform(step)

    def ip(self, arguments: str) -> int | None:
        return self.perform(Step("ip", args=arguments)).rc

    def read(self, name: str) -> str:
        return str(self.perform(Step("read", path=f"bonding/{name}")).expect).strip()

    def link(self, name: str) -> dict[str, object]:
        facts = self.perform(Step("link", dev=name)).expect
        assert isinstance(facts, dict)
        return facts


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.mark.parametrize(
    ("arguments", "rc"),
    [
        ("link set nope up", 1),
        ("link set bond0 type bond primary nope", 1),
        ("link set bond0 type bond active_slave nope", 1),
        ("link add bond1 type bond primary nope", 1),
        ("link set ib2 master nope", 255),
        ("link del nope", 1),
        ("addr add 10.0.0.1/24 dev nope", 1),
        ("addr del 10.0.0.1/24 dev nope", 1),
        ("addr flush dev nope", 1),
        ("link set bond0 type bond peer_notif_delay 3", 1),
        ("link set bond0 type bond num_peer_notif 3", 1),
        ("link set bond0 type bond coupled_control on", 1),
        ("link set bond0 type bond num_unsol_na 300", 255),
        ("link set bond0 type bond miimon off", 255),
        ("link set bond0 type bond miimon", 255),
        ("link set bond0 type bond mode nope", 255),
        ("link set bond0 type bond arp_validate 7", 255),
        ("link set bond0 type bond arp_ip_target 1.2.3.400", 1),
        ("link set ib0 type bond_slave foo 1", 1),
        ("link set ib0 type bond_slave prio x", 255),
        ("link set bond0 txqueuelen abc", 255),
        ("link set bond0 mtu 2147483648", 255),
        ("link set bond0 mtu -1", 2),
        ("link set ib2 type bond miimon 5", 2),
        ("link add ib2 type bond", 2),
        ("link set bond0 type bond arp_interval 100 miimon 100", 2),
    ],
)
def test_what_is_refused_changes_nothing(machine: Machine, arguments: str, rc: int) -> None:
    before = [machine.link(name) for name in ("bond0", "ib0", "ib2")], machine.perform(Step("proc", dev="bond0"))
    assert machine.ip(arguments) == rc
    assert (
        [machine.link(name) for name in ("bond0", "ib0", "ib2")],
        machine.perform(Step("proc", dev="bond0")),
    ) == before
    assert machine.world.registry.masters() == ["bond0"]


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        ("num_unsol_na 3", "num_grat_arp", "3"),
        ("num_unsol_na 3 num_grat_arp 0x5", "num_unsol_na", "5"),
        ("peer_notify_delay 300", "peer_notif_delay", "300"),
        ("primary ib1", "primary", "ib1"),
        ("active_slave ib1", "active_slave", "ib1"),
        ("active_slave ib1 clear_active_slave", "active_slave", "ib0"),
        ("lacp_active off", "lacp_active", "on 1"),
        ("miimon 0 arp_interval 100 arp_ip_target 10.0.0.9,10.0.0.8,", "arp_ip_target", "10.0.0.9 10.0.0.8"),
    ],
)
def test_options_of_a_bond(machine: Machine, arguments: str, name: str, value: str) -> None:
    assert machine.ip(f"link set bond0 type bond {arguments}") == (2 if "lacp" in arguments else 0)
    assert machine.read(name) == value


def test_clearing_the_active_member_chooses_again(machine: Machine) -> None:
    assert machine.ip("link set bond0 type bond active_slave ib1") == 0
    assert machine.ip("link set bond0 type bond clear_active_slave") == 0
    assert machine.read("active_slave") == "ib0"


def test_what_every_device_has(machine: Machine) -> None:
    before = machine.link("bond0")
    assert machine.ip("link set bond0 txqueuelen 77 multicast off arp off") == 0
    facts = machine.link("bond0")
    assert facts["tx_queue_len"] == "77"
    names = facts["flag_names"]
    assert isinstance(names, list)
    assert "MULTICAST" not in names
    assert "NOARP" in names
    assert machine.ip("link set bond0 multicast on arp on") == 0
    assert machine.link("bond0") == {**before, "tx_queue_len": "77"}


def test_addresses_are_flushed(machine: Machine) -> None:
    for address in ("10.0.0.1/24", "10.0.0.2/24", "2001:db8::1/64"):
        assert machine.ip(f"addr add {address} dev bond0 nodad") == 0
    bond = machine.world.device("bond0")
    assert machine.ip("-6 addr flush dev bond0") == 0
    assert len(machine.world.ip.addresses(bond)) == 2
    assert machine.ip("addr flush dev bond0") == 0
    assert machine.world.ip.addresses(bond) == []
    assert machine.ip("addr flush dev bond0") == 0


def test_without_arp_there_is_no_gratuitous_arp(machine: Machine) -> None:
    machine.ip("addr add 10.0.0.1/24 dev bond0")
    for words, announced in (("arp off", False), ("arp on", True)):
        machine.ip(f"link set bond0 {words}")
        machine.world.trace.frames.clear()
        assert machine.ip(f"link set bond0 type bond active_slave {'ib1' if words == 'arp off' else 'ib0'}") == 0
        machine.perform(Step("wait_ms", ms=300))
        assert any("arp" in frame.facts for frame in machine.world.trace.frames) is announced


def test_a_bond_is_made_with_what_it_is_to_have(machine: Machine) -> None:
    assert machine.ip("link add bond2 mtu 2000 txqueuelen 5 type bond mode 1") == 0
    facts = machine.link("bond2")
    assert (facts["mtu"], facts["tx_queue_len"]) == ("2000", "5")
    assert machine.perform(Step("read", dev="bond2", path="bonding/mode")).expect == "active-backup 1\n"
    assert machine.ip("link add bond5 mtu 66000 type bond") == 2
    assert machine.ip("link add type bond") == 0
    assert machine.ip("link add b%dc%d type bond") == 2
    assert machine.world.registry.masters() == ["bond0", "bond2", "bond1"]
    assert machine.ip("link del dev bond2 type bond") == 0
    assert machine.world.registry.masters() == ["bond0", "bond1"]
