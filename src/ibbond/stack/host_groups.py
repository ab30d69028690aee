"""The IP multicast groups of one device, and the link-layer addresses that receive them.

Read first: `ip_mc_up`, `ip_mc_unmap`, `ip_mc_remap` (net/ipv4/igmp.c), `addrconf_join_solict`, and spec/bonding
section 3.1. Which link-layer address belongs to a group depends on the device's type and broadcast address at the
moment of mapping. That was the defect of 2007: a bond that was up before its first member joined 224.0.0.1 as an
Ethernet device, and nobody mapped it again. Here the notices of a type change do (`unmap`, `remap`).
"""

from __future__ import annotations

from collections.abc import Iterable

from ibbond.netdev.device import Device
from ibbond.wire.group_address import map_group
from ibbond.wire.nd import ALL_NODES, solicited_node

ALL_HOSTS = bytes((224, 0, 0, 1))


class HostGroups:
    """Keeps `device.multicast` equal to the groups that the host wants there; groups are 4 or 16 bytes."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._joined: dict[bytes, None] = {}  # by programs, in order of arrival
        self._own: tuple[bytes, ...] = ()  # solicited-node groups of the device's addresses
        self._mapped: dict[bytes, bytes] = {}  # group -> the address put into the device's list
        self._between_types = False
        if device.up:
            self.refresh()

    @property
    def joined(self) -> tuple[bytes, ...]:
        """The groups that IGMP and MLD report: all but all-hosts and all-nodes, which nobody reports."""
        return tuple(dict.fromkeys((*self._joined, *self._own)))

    def set(self, groups: Iterable[bytes]) -> bool:
        """Replace the groups of programs; whether that changed the device's list."""
        self._joined = dict.fromkeys(group for group in groups if group not in (ALL_HOSTS, ALL_NODES))
        return self.refresh()

    def join(self, group: bytes) -> bool:
        if group not in (ALL_HOSTS, ALL_NODES):
            self._joined[group] = None
        return self.refresh()

    def leave(self, group: bytes) -> bool:
        self._joined.pop(group, None)
        return self.refresh()

    def set_addresses(self, addresses: Iterable[bytes]) -> bool:
        """The device's IP addresses: each IPv6 one hears its solicited-node group."""
        self._own = tuple(dict.fromkeys(solicited_node(address) for address in addresses if len(address) == 16))
        return self.refresh()

    def refresh(self) -> bool:
        """Bring the device's list in line: everything while the device is up, nothing while it is down."""
        wanted: dict[bytes, bytes] = {}
        if self._device.up and not self._between_types:
            for group in (ALL_HOSTS, ALL_NODES, *self._joined, *self._own):
                wanted[group] = self._mapped.get(group) or self._map(group)
        return self._replace(wanted)

    def unmap(self) -> None:
        """The device's type is about to change: addresses of the old mapping go."""
        self._between_types = True
        self._replace({})

    def remap(self) -> None:
        """The device's type or broadcast address is another one now: the same groups by the new mapping."""
        self._between_types = False
        self._replace({})
        self.refresh()

    def _map(self, group: bytes) -> bytes:
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
