"""What a host does when one of its devices changes: the notices of its namespace, turned into consequences.

Read first: `netdev/device` (the notices) and of Linux `inetdev_event`, `addrconf_notify`, `arp_netdev_event`. A notice
comes while some code, often a bond, is in the middle of changing the device: interfaces and groups follow at once,
bonds and packets after the cause has been handled. Left out: renaming; the names of a lab's devices stay.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ibbond.netdev.device import Device, NetdevEvent
from ibbond.stack.events import AddressChange, DeviceAppeared, DeviceChanged, DeviceVanished
from ibbond.stack.ip_layer import IpLayer

if TYPE_CHECKING:
    from ibbond.stack.host_stack import HostStack

SHOWN = frozenset(
    {NetdevEvent.UP, NetdevEvent.DOWN, NetdevEvent.CHANGE, NetdevEvent.CHANGEMTU}
)  # what a TUN shows of a device
PREPARED_FOR = frozenset({NetdevEvent.CHANGE, NetdevEvent.UP, NetdevEvent.CHANGEUPPER})  # see `standby`


class NetdevEvents:
    """Listens to the namespace of one host; subscribed after the host's bonds, so that these are notified first."""

    def __init__(self, host: HostStack) -> None:
        self._host = host
        self._carriers: dict[str, bool] = {}  # as last reported
        self._addresses: dict[str, bytes] = {}
        host.namespace.subscribe(self._on_netdev_event)

    def _on_netdev_event(self, notice: NetdevEvent, device: Device) -> None:
        host, name = self._host, device.name
        match notice:
            case NetdevEvent.REGISTER:
                self._registered(device)
            case NetdevEvent.UNREGISTER:
                host.later(partial(self._unregistered, device))
            case NetdevEvent.PRE_TYPE_CHANGE:
                host.ip[name].groups.unmap()
            case NetdevEvent.POST_TYPE_CHANGE:
                host.ip[name].groups.remap()
                self._addresses[name] = device.address
            case NetdevEvent.UP | NetdevEvent.DOWN:
                self._up_or_down(device)
            case NetdevEvent.CHANGE if device.carrier != self._carriers.get(name):
                host.generation.bump()
                self._carriers[name] = device.carrier
                host.happened("carrier", name, "on" if device.carrier else "off")
                host.touched(host.ip[name])  # addresses that came without a carrier are to be announced
                if device.carrier:
                    self._link_returned(device)
            case NetdevEvent.CHANGEADDR:
                self._readdressed(device)
            case NetdevEvent.CHANGEUPPER if (joined := host.bond_above(device)) is not None:
                host.later(partial(host.warn_of_mixed_modes, joined))
        host.links.noticed(host.now, notice, device)
        if notice in SHOWN:
            host.outbox.notify(DeviceChanged(host.name, name))
        bond = device.master.name if device.master is not None else name
        if bond in host.registry.bonds:
            host.bond_changed(bond)
            if host.standby is not None and notice is NetdevEvent.RX_MODE:
                host.standby.groups_changed(bond)
            elif host.standby is not None and notice in PREPARED_FOR:
                host.standby.changed(bond)

    def _registered(self, device: Device) -> None:
        host, name = self._host, device.name
        layer = host.ip[name] = IpLayer(device, host.next_hops, host.generation, host.group_limit)
        layer.forwarding = host.forwarding
        self._carriers[name] = device.carrier
        self._addresses[name] = device.address
        host.outbox.notify(DeviceAppeared(host.name, name))

    def _unregistered(self, device: Device) -> None:
        self._carriers.pop(device.name, None)
        self._addresses.pop(device.name, None)
        self._host.forget(device)
        self._host.outbox.notify(DeviceVanished(self._host.name, device.name))

    def _up_or_down(self, device: Device) -> None:
        host = self._host
        layer = host.ip[device.name]
        host.generation.bump()
        layer.groups.refresh()
        if not device.up:
            layer.neighbors.flush()
            host.touched(layer)
        host.happened("admin", device.name, "up" if device.up else "down")

    def _link_returned(self, device: Device) -> None:
        """Neighbors may have moved and announced that while this link was down: they are asked again when used.

        A bond may not have noticed, because of its downdelay. Linux flushes the neighbors of a device without carrier
        (`neigh_carrier_down`), and those of such a bond keep their addresses until they time out.
        """
        host = self._host
        bond = host.bond_above(device)
        if bond is not None and bond.active != device.name:
            return
        layer = host.ip[device.name if bond is None else bond.name]
        if not host.registry.rules.kernel("neighbors_flushed"):
            host.later(lambda: host.frames.send_all(host.now, layer, layer.readdressed(host.now)))

    def _readdressed(self, device: Device) -> None:
        """The link-layer address has changed: neighbors must learn it, and RDMA users are notified."""
        host = self._host
        old, new = self._addresses.get(device.name, b""), device.address
        if old == new:
            return
        self._addresses[device.name] = new
        host.generation.bump()
        layer = host.ip[device.name]
        host.touched(layer)
        if host.registry.rules.kernel("neighbors_flushed"):
            layer.neighbors.flush()
        else:
            host.later(lambda: host.frames.send_all(host.now, layer, layer.readdressed(host.now)))
        if device.driver.kind == "bond":
            host.outbox.notify(AddressChange(host.name, device.name, old, new))
            host.later(partial(host.rdma.failed_over, device))
