"""The bond as a network device: what opening, closing, a new MTU and a new address mean for its members.

Read first: `bond_open`, `bond_close`, `bond_change_mtu`, `bond_set_mac_address` and `bond_setup` of the kernel's
driver. Left out: transmit and receive (`datapath`).
"""

from __future__ import annotations

from ibbond.bonding import announcements, failover, identity, lacp
from ibbond.bonding.member import Link, Member
from ibbond.bonding.option import Mode
from ibbond.bonding.state import BondTimer, State
from ibbond.errors import Refused
from ibbond.netdev.device import AddressOrigin, Device, Flags, NetdevEvent
from ibbond.wire.hardware_type import ETHERNET


class BondDriver:
    """The `Driver` of a bond's device."""

    kind = "bond"
    can_set_address = True

    def __init__(self) -> None:
        self._state: State | None = None

    def attach(self, state: State) -> None:
        """The state comes after the device, which comes after its driver."""
        self._state = state

    @property
    def state(self) -> State:
        assert self._state is not None, "a bond's device is used before the bond is made"
        return self._state

    @property
    def vlan_challenged(self) -> bool:
        """A bond is what its members are."""
        return any(member.device.driver.vlan_challenged for member in self.state.members.values())

    def open(self, device: Device) -> None:
        """`bond_open`: receive filters as they should be, and the first run of the monitor due at once."""
        state, values = self.state, self.state.values
        state.say_what_mode_carries()
        for member in state.members.values():
            if values.uses_primary and member is not state.active_member:
                failover.set_inactive(state, member)
            elif values.kind is not Mode.LACP:
                failover.set_active(state, member)
        if values.arp_interval:
            state.run_arp_monitor_now()
            state.probing = True
        elif values.miimon or values.link_events:
            state.run_monitor_now()
        lacp.open_bond(state)

    def close(self, device: Device) -> None:
        """`bond_close`: nothing is monitored or announced while the bond is down; members stay as they are."""
        state = self.state
        state.timers.stop(BondTimer.MONITOR, BondTimer.ARP, BondTimer.LACP)
        state.preparation = None
        state.probing = False
        announcements.stop(state)
        if state.values.uses_primary:
            receivers = [state.active_member] if state.active_member else []
        else:
            receivers = list(state.members.values())
        for member in receivers:
            failover.unsync_lists(state, member)

    def check_mtu(self, device: Device, mtu: int) -> None:
        """All members take the MTU, or none does."""
        done: list[Member] = []
        for member in self.state.members.values():
            try:
                member.device.set_mtu(mtu)
            except Refused:
                for changed in done:
                    changed.device.set_mtu(device.mtu)
                raise
            done.append(member)

    def check_address(self, device: Device, address: bytes) -> None:
        raise AssertionError("a bond's address is set by BondDevice.set_address")

    def speed(self, device: Device) -> int | None:
        """The sum over the members that can transmit."""
        speeds = [m.speed for m in self._transmitters() if m.speed is not None]
        return sum(speeds) if speeds else None

    def duplex(self, device: Device) -> str | None:
        return next((m.duplex for m in self._transmitters() if m.duplex is not None), None)

    def _transmitters(self) -> list[Member]:
        members = self.state.members.values()
        return [m for m in members if m.usable and m.link is Link.UP and not m.backup]


class BondDevice(Device):
    """A bond's device: setting its address is the bond's own affair."""

    __slots__ = ()

    @classmethod
    def new(cls, name: str, driver: BondDriver, address: bytes) -> BondDevice:
        """`bond_setup`: an Ethernet device without carrier that takes any MTU."""
        return cls(
            name=name,
            driver=driver,
            type=ETHERNET,
            address=address,
            broadcast=b"\xff" * len(address),
            flags=Flags.BROADCAST | Flags.MULTICAST | Flags.MASTER,
            max_mtu=identity.MAX_MTU,
            address_origin=AddressOrigin.RANDOM,
        )

    def set_address(self, address: bytes, origin: AddressOrigin) -> None:
        driver = self.driver
        assert isinstance(driver, BondDriver)
        self.notify(NetdevEvent.PRE_CHANGEADDR)
        identity.set_address_by_hand(driver.state, address)
        self.address_origin = origin
        self.notify(NetdevEvent.CHANGEADDR)
