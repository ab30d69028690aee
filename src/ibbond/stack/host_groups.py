"""The IP multicast groups of one device, and the link-layer addresses that receive them.

Read first: `ip_mc_up`, `ip_mc_unmap`, `ip_mc_remap` (net/ipv4/igmp.c), `addrconf_join_solict`. Which link-layer
address belongs to a group depends on the device's type and broadcast address at the moment of mapping. That was the
defect of 2007: a bond that was up before its first member joined 224.0.0.1 as an Ethernet device, and no code mapped
it again. Here the events of a type change do (`unmap`, `remap`). Each join costs the same, however many groups there
are. The programs of a host may be in `MAX_GROUPS` of them: a subnet has room for few (`fabric.switch.MULTICAST_CAP`),
and one program must not take them all.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from ibbond.netdev.device import Device
from ibbond.wire.group_address import map_group
from ibbond.wire.nd import ALL_NODES, solicited_node

ALL_HOSTS = bytes((224, 0, 0, 1))
EVERYBODYS = (ALL_HOSTS, ALL_NODES)  # every device is in these
MAX_GROUPS = 512  # that the programs of one host are in, over all of its devices


class GroupLimit:
    """How many groups more the programs of one host may join; whose groups wait for one that is left."""

    def __init__(self, limit: int = MAX_GROUPS) -> None:
        self.left = limit
        self._waiting: OrderedDict[HostGroups, None] = OrderedDict()

    def take(self, groups: HostGroups) -> bool:
        """Count one group more; False when there are too many, and `groups` is notified when that changes."""
        if self.left <= 0:
            self._waiting[groups] = None
            return False
        self.left -= 1
        return True

    def settle(self) -> None:
        """Give away what has become free."""
        while self._waiting and self.left > 0:
            groups, _ = self._waiting.popitem(last=False)
            groups.join_waiting()


class HostGroups:
    """Keeps `device.multicast` equal to the groups that the host wants there; groups are 4 or 16 bytes."""

    def __init__(self, device: Device, limit: GroupLimit | None = None) -> None:
        self._device = device
        self._limit = GroupLimit() if limit is None else limit
        self._joined: dict[bytes, None] = {}  # by programs, in order of arrival
        self._waiting: OrderedDict[bytes, None] = OrderedDict()  # likewise, beyond the limit
        self._own: dict[bytes, None] = {}  # solicited-node groups of the device's addresses
        self._mapped: dict[bytes, bytes] = {}  # group -> the address put into the device's list
        self._between_types = False
        if device.up:
            self.refresh()

    @property
    def joined(self) -> tuple[bytes, ...]:
        """The groups that IGMP and MLD report: all but all-hosts and all-nodes, which are never reported."""
        return tuple(self._joined | self._own)

    @property
    def beyond_limit(self) -> int:
        """How many groups the programs want in vain."""
        return len(self._waiting)

    def set(self, groups: Iterable[bytes]) -> bool:
        """Replace the groups of programs; whether that changed the device's list."""
        wanted = dict.fromkeys(groups)
        gone = [(group, False) for group in (*self._joined, *self._waiting) if group not in wanted]
        return self.change([*gone, *((group, True) for group in wanted)])

    def join(self, group: bytes) -> bool:
        return self.change([(group, True)])

    def leave(self, group: bytes) -> bool:
        return self.change([(group, False)])

    def change(self, changes: Iterable[tuple[bytes, bool]]) -> bool:
        """Groups that programs have joined (True) or left, in order; whether that changed the device's list."""
        changed = False
        for group, joined in changes:
            if joined:
                changed |= self._join(group)
            else:
                changed |= self._leave(group)
        if changed:
            self._device.rx_mode_changed()
        self._limit.settle()
        return changed

    def set_addresses(self, addresses: Iterable[bytes]) -> bool:
        """The device's IP addresses: each IPv6 address joins its solicited-node group."""
        before, self._own = (
            self._own,
            dict.fromkeys(solicited_node(address) for address in addresses if len(address) == 16),
        )
        changed = False
        for group in self._own:
            changed |= self._map(group)
        for group in before:
            if group not in self._own and group not in self._joined:
                changed |= self._unmap(group)
        if changed:
            self._device.rx_mode_changed()
        return changed

    def refresh(self) -> bool:
        """Bring the device's list in line: everything while the device is up, nothing while it is down."""
        wanted: dict[bytes, bytes] = {}
        if self._device.up and not self._between_types:
            for group in (*EVERYBODYS, *self._joined, *self._own):
                wanted[group] = self._mapped.get(group) or self._address_of(group)
        return self._replace(wanted)

    def join_waiting(self) -> None:
        """There may be room for groups that were beyond the limit."""
        changed = False
        while self._waiting and self._limit.take(self):
            group, _ = self._waiting.popitem(last=False)
            self._joined[group] = None
            changed |= self._map(group)
        if changed:
            self._device.rx_mode_changed()

    def forget(self) -> None:
        """The device is gone: its groups make room for those of others."""
        self._limit.left += len(self._joined)
        self._joined.clear()
        self._waiting.clear()
        self._limit.settle()

    def unmap(self) -> None:
        """The device's type is about to change: addresses of the old mapping go."""
        self._between_types = True
        self._replace({})

    def remap(self) -> None:
        """The device's type or broadcast address has changed: map the same groups again."""
        self._between_types = False
        self._replace({})
        self.refresh()

    def _join(self, group: bytes) -> bool:
        if group in EVERYBODYS or group in self._joined or group in self._waiting:
            return False
        if not self._limit.take(self):
            self._waiting[group] = None
            return False
        self._joined[group] = None
        return self._map(group)

    def _leave(self, group: bytes) -> bool:
        if group in self._waiting:
            del self._waiting[group]
        if group not in self._joined:
            return False
        del self._joined[group]
        self._limit.left += 1
        return group not in self._own and self._unmap(group)

    def _map(self, group: bytes) -> bool:
        if not self._device.up or self._between_types or group in self._mapped:
            return False
        address = self._mapped[group] = self._address_of(group)
        self._device.multicast.add(address)
        return True

    def _unmap(self, group: bytes) -> bool:
        address = self._mapped.pop(group, None)
        if address is None:
            return False
        self._device.multicast.remove(address)
        return True

    def _address_of(self, group: bytes) -> bytes:
        return map_group(group, self._device.type, self._device.broadcast)

    def _replace(self, wanted: dict[bytes, bytes]) -> bool:
        """New addresses come before old ones go: a group that keeps its address under another name stays joined."""
        if wanted == self._mapped:
            return False
        had, self._mapped = self._mapped, wanted
        for group, address in wanted.items():
            if had.get(group) != address:
                self._device.multicast.add(address)
        for group, address in had.items():
            if wanted.get(group) != address:
                self._device.multicast.remove(address)
        self._device.rx_mode_changed()
        return True
