"""Whatever is done to a bond in whatever order, it keeps its promises (both profiles, random requests and cables)."""

from contextlib import suppress

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ibbond.bonding import events as e
from ibbond.bonding.bond import Bond
from ibbond.bonding.effects import FailedOver, Prepare
from ibbond.bonding.member import Link
from ibbond.bonding.options import OPTIONS
from ibbond.errors import Refused
from ibbond.machine import MS
from ibbond.netdev.device import Flags
from ibbond.wire.hardware_type import INFINIBAND
from tests.bonding.bond_host import Host

MEMBERS = st.sampled_from(["ib1", "ib2", "ib3", "eth1", "eth2"])
GROUPS = [bytes.fromhex(f"00ffffffff12401bffff0000000000000000000{number}") for number in (1, 2)]
WRITES = st.sampled_from(
    [
        ("miimon", "0"),
        ("miimon", "100"),
        ("miimon", "70"),
        ("updelay", "200"),
        ("updelay", "0"),
        ("downdelay", "150"),
        ("downdelay", "0"),
        ("peer_notif_delay", "200"),
        ("num_grat_arp", "0"),
        ("num_grat_arp", "4"),
        ("resend_igmp", "3"),
        ("primary", "ib1"),
        ("primary", "ib2"),
        ("primary", "\n"),
        ("primary_reselect", "always"),
        ("primary_reselect", "better"),
        ("primary_reselect", "failure"),
        ("active_slave", "ib1"),
        ("active_slave", "ib2"),
        ("active_slave", "\n"),
        ("arp_interval", "100"),
        ("arp_interval", "0"),
        ("arp_ip_target", "+10.0.0.9"),
        ("arp_ip_target", "-10.0.0.9"),
        ("arp_validate", "all"),
        ("arp_validate", "none"),
        ("ns_ip6_target", "+fe80::9"),
        ("link_events", "0"),
        ("link_events", "1"),
        ("handover_ms", "20"),
        ("fail_over_mac", "follow"),
        ("fail_over_mac", "none"),
        ("mode", "balance-rr"),
        ("mode", "active-backup"),
        ("queue_id", "ib1:3"),
        ("num_unsol_na", "nonsense"),
    ]
)


class Operators(RuleBasedStateMachine):
    """Random operators and a random network."""

    profile = "default"

    @initialize()
    def start(self) -> None:
        self.host = Host(self.profile)
        self.bond: Bond = self.host.bond(mode=1, miimon=100)
        self.own = {device.name: (device.address, device.mtu) for device in self.host.namespace}

    def ask(self, event: e.BondEvent) -> None:
        with suppress(Refused):
            self.host.do(self.bond, event)
        self.host.effects += self.host.run_due(self.bond)  # what was said before a refusal
        if self.bond.gone:
            self.bond = self.host.bond("bond0", mode=1, miimon=100)

    @rule(name=MEMBERS)
    def add(self, name: str) -> None:
        self.ask(e.AddMember(name))

    @rule(name=MEMBERS)
    def remove(self, name: str) -> None:
        self.ask(e.RemoveMember(name))

    @rule(write=WRITES)
    def write(self, write: tuple[str, str]) -> None:
        self.ask(e.SetOption(*write))

    @rule(up=st.booleans())
    def set_admin(self, up: bool) -> None:
        self.ask(e.Open() if up else e.Close())

    @rule(name=MEMBERS, on=st.booleans())
    def plug(self, name: str, on: bool) -> None:
        self.host.plug(name, on)

    @rule(name=MEMBERS, priority=st.integers(-2, 2))
    def prioritise(self, name: str, priority: int) -> None:
        self.ask(e.SetPriority(name, priority))

    @rule(ms=st.sampled_from([1, 30, 100, 450]))
    def wait(self, ms: int) -> None:
        self.host.wait(ms)

    @rule()
    def answer(self) -> None:
        for effect in [effect for effect in self.host.effects if isinstance(effect, Prepare)]:
            self.ask(e.Ready(effect.name))
        self.host.effects.clear()

    @rule(name=MEMBERS)
    def receive(self, name: str) -> None:
        self.ask(e.FrameSeen(name))
        self.ask(e.ArpSeen(name, INFINIBAND, 20, 2, bytes((10, 0, 0, 9)), bytes((10, 0, 0, 1))))

    @rule(group=st.sampled_from(GROUPS), join=st.booleans())
    def join(self, group: bytes, join: bool) -> None:
        present = group in self.bond.device.multicast
        if join and not present:
            self.bond.device.add_multicast(group)
        elif present and not join:
            self.bond.device.remove_multicast(group)

    @rule(mtu=st.sampled_from([1500, 2044, 60, 100_000]))
    def set_mtu(self, mtu: int) -> None:
        self.ask(e.SetMtu(mtu))

    @invariant()
    def time_is_asked_for_in_the_future(self) -> None:
        deadline = self.bond.deadline()
        assert deadline is None or deadline > self.host.now

    @invariant()
    def membership_is_seen_the_same_from_both_sides(self) -> None:
        members = {name: member.device for name, member in self.bond.members.items()}
        for device in self.host.namespace:
            if device is self.bond.device:
                continue
            assert (device.master is self.bond.device) is (device.name in members)
            assert bool(device.flags & Flags.SLAVE) is (device.name in members)
        assert self.bond.device.lowers == list(members.values())
        assert all(device.mtu == self.bond.device.mtu for device in members.values())
        assert all(device.type == self.bond.device.type for device in members.values())

    @invariant()
    def who_left_has_everything_back(self) -> None:
        for name, (address, mtu) in self.own.items():
            device = self.host.device(name)
            if device.master is None and device is not self.bond.device:
                assert (device.address, device.mtu, device.up) == (address, mtu, False)

    @invariant()
    def one_member_at_most_is_active_and_receives(self) -> None:
        bond = self.bond
        assert bond.active is None or bond.active in bond.members
        if not bond.values.active_backup:
            return
        assert bond.route() == bond.active
        receivers = [name for name in bond.members if bond.accepts(name, self.host.now, unicast=False)]
        assert len(receivers) <= 1
        if bond.active is not None:
            assert receivers == [bond.active]

    @invariant()
    def the_bond_shows_the_active_members_address(self) -> None:
        bond = self.bond
        if bond.active is not None and bond.values.active_backup:
            active = bond.members[bond.active].device
            if bond.values.fail_over_mac == 1:
                assert bond.device.address == active.address
            elif bond.device.type == 1:
                assert active.address == bond.device.address

    @invariant()
    def the_active_member_has_the_bonds_groups_and_no_other(self) -> None:
        bond = self.bond
        if not bond.values.active_backup:
            return
        for name, member in bond.members.items():
            for group in GROUPS:
                held = group in member.device.multicast
                wanted = bond.device.up and name == bond.active and group in bond.device.multicast
                if len(group) == bond.device.addr_len:
                    assert held is wanted, (name, group.hex())

    @invariant()
    def carrier_is_somebodys_link(self) -> None:
        links = [member.link for member in self.bond.members.values()]
        if self.bond.device.carrier:
            assert Link.UP in links or Link.FAIL in links
        elif self.bond.device.up:
            assert Link.UP not in links

    @invariant()
    def a_snapshot_has_every_option(self) -> None:
        options = self.bond.snapshot().options
        missing = [name for name, option in OPTIONS.items() if name not in options and not option.read_only]
        assert not missing

    def teardown(self) -> None:
        """When the network is whole again and all delays are over, a usable member carries the traffic."""
        if not hasattr(self, "bond"):
            return
        host, bond = self.host, self.bond
        host.effects.clear()
        for name in self.own:
            if name.startswith(("ib", "eth")):
                host.plug(name, True)
        if not bond.members or not bond.values.active_backup:
            return
        self.ask(e.Open())
        self.ask(e.SetOption("arp_interval", "0"))
        self.ask(e.SetOption("miimon", "100"))
        host.wait(100_000)
        assert bond.active is not None
        assert bond.members[bond.active].link is Link.UP
        assert bond.device.carrier
        for effect in host.effects:
            if isinstance(effect, FailedOver):
                assert effect.old != effect.new
        now = host.now
        assert host.wait(10_000) == []  # a bond in peace is silent
        assert host.now == now + 10_000 * MS


class KernelOperators(Operators):
    profile = "kernel-6.1"


SLOWLY = settings(max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck))
TestOurs = Operators.TestCase
TestOurs.settings = SLOWLY
TestKernels = KernelOperators.TestCase
TestKernels.settings = SLOWLY
