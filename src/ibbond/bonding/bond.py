"""One bond: chooses the member that carries the traffic. Reads no clock and does no I/O.

`handle` takes requests and facts, `tick` runs what is due, both return what must happen outside, in order; a refused
request raises `Refused`, and what it did or said before that comes with the next call. Read first: `events` and
`effects`. Left out: the behavior itself, one subject a file in this room.
"""

from collections.abc import Callable

from ibbond.bonding import (
    adaptive,
    announcements,
    arp_monitor,
    datapath,
    departure,
    failover,
    identity,
    lacp,
    miimon,
    selection,
    setters,
    solicited,
    view,
)
from ibbond.bonding import events as e
from ibbond.bonding.driver import BondDevice, BondDriver
from ibbond.bonding.effects import BondEffect, Log
from ibbond.bonding.member import Member
from ibbond.bonding.option import NAME_CHARACTERS
from ibbond.bonding.quirks import Rules
from ibbond.bonding.snapshot import BondSnapshot
from ibbond.bonding.state import BondTimer, State
from ibbond.bonding.values import Values, initial
from ibbond.errors import Refused
from ibbond.machine import earliest
from ibbond.netdev.device import AddressOrigin, Device, NetdevEvent, Statistics
from ibbond.netdev.namespace import Namespace


class Bond:
    """A bond and its device. `active` is the name of the member in use, `members` are in the order of joining."""

    def __init__(
        self, name: str, namespace: Namespace, rules: Rules, log: Callable[[str, Log], None] | None = None
    ) -> None:
        driver = BondDriver()
        device = BondDevice.new(name, driver, bytes(identity.ETHERNET_BYTES))
        self._state = State(device, namespace, rules, initial(rules), log)
        self._carriers_changed = False
        driver.attach(self._state)
        namespace.register(device)
        identity.make_up_address(self._state)

    @property
    def name(self) -> str:
        """The name of its device."""
        return self._state.name

    @property
    def device(self) -> Device:
        """The bond's own device."""
        return self._state.device

    @property
    def members(self) -> dict[str, Member]:
        """The members by name, in the order in which they were added."""
        return self._state.members

    @property
    def active(self) -> str | None:
        """None also in modes that use all members."""
        return self._state.active if self._state.values.uses_primary else None

    @property
    def on_trial(self) -> str | None:
        """The member by which the ARP monitor probes while none is active; it is in state active meanwhile."""
        return self._state.arp_member.name if self._state.arp_member else None

    @property
    def values(self) -> Values:
        """The present values of all options."""
        return self._state.values

    @property
    def rules(self) -> Rules:
        """Which quirks of which kernel the bond has (its profile)."""
        return self._state.rules

    @property
    def gone(self) -> bool:
        """The bond was destroyed; its device has left the namespace."""
        return self._state.gone

    def handle(self, now: int, event: e.BondEvent) -> list[BondEffect]:
        """A request (may raise `Refused`) or a fact."""
        self._state.now = now
        self._dispatch(event)
        return self._settle()

    def tick(self, now: int) -> list[BondEffect]:
        """Run what is due, each thing once: a monitor that is late is not run twice."""
        state = self._state
        state.now = now
        if state.preparation is not None and state.preparation.until <= now:
            selection.finish_preparation(state)
        if state.timers.expired(BondTimer.MONITOR, now):
            miimon.run(state)
        if (delay_ends_at := miimon.delay_deadline(state)) is not None and delay_ends_at <= now and state.running:
            miimon.carrier_changed(state)
        if state.timers.expired(BondTimer.ARP, now):
            arp_monitor.run(state)
        if state.timers.expired(BondTimer.LACP, now):
            lacp.run(state)
            failover.set_carrier(state)
        if state.timers.expired(BondTimer.OVERHEARING, now):
            adaptive.stop_overhearing(state)
        if state.timers.expired(BondTimer.REPORTS, now):
            announcements.send_reports(state)
        return self._settle()

    def deadline(self) -> int | None:
        state = self._state
        if state.effects or self._carriers_changed:
            return state.now
        return earliest(
            state.timers.next(),
            announcements.deadline(state),
            miimon.delay_deadline(state) if state.running else None,
            state.preparation.until if state.preparation is not None else None,
        )

    def monitor_deadline(self) -> int | None:
        """When the next run of the MII or ARP monitor is due; None while neither is on."""
        return earliest(self._state.timers.get(BondTimer.MONITOR), self._state.timers.get(BondTimer.ARP))

    def route(self, queue: int = 0) -> str | None:
        """The name of the member that sends a frame (of transmit queue `queue`), or None: drop it."""
        member = datapath.route(self._state, queue)
        return member.name if member is not None else None

    def accepts(self, member: str, now: int, unicast: bool = True) -> bool:
        """May a frame that came in at this member go up? `unicast`: it was sent to this host alone."""
        return member in self.members and datapath.accepts(self._state, self.members[member], now, unicast)

    def hands_over(self, now: int) -> bool:
        """Is a handover going on, in which frames of the member that was active before may still come?"""
        return datapath.hands_over(self._state, now)

    def snapshot(self) -> BondSnapshot:
        """The whole state as a value: what sysfs, procfs and netlink show."""
        return view.snapshot(self._state)

    def statistics(self) -> Statistics:
        """The bond's counters, up to now: what its members counted while they were its members."""
        return datapath.fold_statistics(self._state)

    def destroy(self, now: int) -> list[BondEffect]:
        """Release all members and take the bond's device out of its namespace."""
        self._state.now = now
        if not self._state.gone:
            departure.destroy(self._state)
        return self._state.take_effects()

    def on_netdev_event(self, notice: NetdevEvent, device: Device) -> None:
        """A netdev event of the bond's own device or of a member's; effects come with the next call."""
        state = self._state
        if device is state.device:
            self._on_own_event(notice)
            return
        member = state.member_of(device)
        if member is None:
            return
        match notice:
            case NetdevEvent.UP | NetdevEvent.DOWN | NetdevEvent.CHANGE:
                member.refresh_speed()
                self._carriers_changed = True
            case NetdevEvent.UNREGISTER:
                departure.member_unregistered(state, device)
            case NetdevEvent.CHANGENAME:
                self._rename(member)
            case NetdevEvent.CHANGEADDR:
                self._member_has_new_address(member)

    def _on_own_event(self, notice: NetdevEvent) -> None:
        state = self._state
        match notice:
            case NetdevEvent.RX_MODE:
                failover.rx_mode_changed(state)
            case NetdevEvent.RX_FLAGS:
                failover.rx_flags_changed(state)
            case NetdevEvent.UNREGISTER if not state.gone:
                departure.dissolve(state)

    def _dispatch(self, event: e.BondEvent) -> None:
        state = self._state
        match event:
            case e.AddMember(name) | e.RemoveMember(name):
                sign = "+" if isinstance(event, e.AddMember) else "-"
                setters.write(state, "slaves", sign + name)
            case e.SetOption(option, text):
                setters.write(state, option, text)
            case e.Open():
                state.device.open()
            case e.Close():
                state.device.close()
            case e.SetMtu(mtu):
                state.device.set_mtu(mtu)
            case e.SetAddress(address):
                state.device.set_address(address, AddressOrigin.SET)
            case e.SetPriority(name, priority):
                setters.set_priority(state, self._member(name), priority)
            case e.MemberChanged():
                self._carriers_changed = True
            case e.MemberUnregistered(name):
                if name in state.members:
                    departure.member_unregistered(state, state.members[name].device)
            case e.MemberRenamed(_, name):
                self._renamed(name)
            case e.Ready(name):
                if state.preparation is not None and state.preparation.target.name == name:
                    selection.finish_preparation(state)
            case e.ArpSeen(name=name) | e.NeighborDiscoverySeen(name=name) | e.FrameSeen(name=name):
                if name in state.members:
                    arp_monitor.frame_seen(state, state.members[name], event)
            case e.AddressesChanged(addresses):
                state.ip_addresses = frozenset(addresses)

    def _settle(self) -> list[BondEffect]:
        """What follows from an event: carriers that changed meanwhile, announcements that are due."""
        state = self._state
        if self._carriers_changed:
            self._carriers_changed = False
            if state.running and state.values.link_events:
                watch = arp_monitor if state.values.arp_interval else miimon
                watch.carrier_changed(state)
        solicited.refresh(state)
        announcements.settle(state)
        return state.take_effects()

    def _member(self, name: str) -> Member:
        if name not in self.members:
            raise Refused(
                f"cannot set {name}", why=f"it is not a member of {self.name}", fix="The file slaves lists the members"
            )
        return self.members[name]

    def _renamed(self, name: str) -> None:
        for member in self.members.values():
            if member.name == name:
                self._rename(member)
                return

    def _rename(self, member: Member) -> None:
        """`bond_slave_netdev_event`, CHANGENAME: the primary is a name."""
        state = self._state
        if state.members.get(member.name) is member:
            return
        state.members = {entry.name: entry for entry in state.members.values()}
        state.changed("slaves")
        if not state.values.uses_primary or not state.values.primary:
            return
        before = state.primary_member
        if member is before:
            state.primary_member = None
        elif member.name == state.values.primary[:NAME_CHARACTERS]:
            state.primary_member = member
        else:
            return
        now_primary = state.primary_member.name if state.primary_member else "none"
        state.say(f"Primary slave changed to {now_primary}, reselecting active slave")
        selection.select_active(state)

    def _member_has_new_address(self, member: Member) -> None:
        """The kernel does not look, see the row `member_address_ignored`."""
        state = self._state
        follows = state.values.active_backup and state.values.fail_over_mac == identity.ACTIVE
        if member is not state.active_member or not follows or state.rules.kernel("member_address_ignored"):
            return
        if state.device.address != member.device.address:
            identity.follow_active(state, member, None)
            announcements.start(state)
