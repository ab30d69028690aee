"""One lab host in the real world: its namespaces, its TUNs, what its kernel and its users did, as events.

Read first: rtnetlink(7); `stack.events` for the events. The kernel is the truth for IP addresses, routes, groups and
what users did with `ip link`; the model is the truth for carrier, MTU limits and everything of bonding. Messages of
the kernel are only hints that something changed: states are read when they are acted on, so that a message of the past
cannot undo what came after it. Left out: moving packets, the loop.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from ibbond.bonding.option import NAME_CHARACTERS
from ibbond.errors import Refused
from ibbond.host import rtnetlink
from ibbond.host.groups import GroupFiles
from ibbond.host.namespace import NetNamespace
from ibbond.host.rtnetlink import Link, RouteListener, RouteSocket
from ibbond.host.tun import Tun, open_tap, open_tun
from ibbond.netdev.device import Device
from ibbond.netdev.namespace import Namespace
from ibbond.stack.events import (
    AddressesAre,
    DeleteBond,
    GroupsAre,
    HostEvent,
    RouteEntry,
    RoutesAre,
    SetAdmin,
    SetDeviceMtu,
)
from ibbond.topology.model import Host
from ibbond.wire.hardware_type import INFINIBAND
from ibbond.wire.hwaddr import LINK_LOCAL_PREFIX

DETECTION_MS = 300
ADDRESS_MESSAGES = frozenset((rtnetlink.NEWADDR, rtnetlink.DELADDR))
ROUTE_MESSAGES = frozenset((rtnetlink.NEWROUTE, rtnetlink.DELROUTE))
LINK_MESSAGES = frozenset((rtnetlink.NEWLINK, rtnetlink.DELLINK))
GROUP_MESSAGES = frozenset((rtnetlink.NEWMULTICAST, rtnetlink.DELMULTICAST))
ALL_MESSAGES = LINK_MESSAGES | ADDRESS_MESSAGES | ROUTE_MESSAGES | GROUP_MESSAGES
MAX_KEPT_GROUPS = 4096  # of a device that has more than can be read


class LiveHost:
    """The kernel's side of one host of the network; `devices` is the model's side of the same host."""

    def __init__(self, name: str, space: NetNamespace, devices: Namespace) -> None:
        self.name = name
        self.space = space
        self.tuns: dict[str, Tun] = {}
        self.deleted: list[str] = []  # devices whose TUN a user has deleted (`ip link delete`), seen by `changes`
        self.undone: list[str] = []  # what users did to devices and was undone, in words, seen by `changes`
        self._devices = devices
        self._link_locals: dict[str, bytes] = {}
        self._addresses: dict[str, tuple[tuple[bytes, int], ...]] = {}
        self._routes: tuple[RouteEntry, ...] = ()
        self._groups: dict[str, tuple[bytes, ...]] = {}
        self._kinds: frozenset[int] = frozenset()  # of messages, whose subjects are still to be read
        self._up: dict[int, bool] = {}  # of every link, when its routes and groups were last read
        self.listener = space.run_in(RouteListener)  # before the first read of what it watches
        self.kernel = space.run_in(RouteSocket)
        self._group_files = GroupFiles(space)

    def check_name(self, name: str) -> None:
        """Refused (EEXIST) where the kernel has a device of this name that the model does not know."""
        name = name[:NAME_CHARACTERS]
        if name in self._devices:
            return  # the model refuses that itself
        if any(link.name == name for link in self.kernel.links()):
            raise Refused(
                f"cannot create {name}",
                why=f"{self.name} has a device of that name",
                fix="Choose another name, or remove it first",
                code=errno.EEXIST,
            )

    def open_device(self, device: Device, *, persist: bool = False) -> Tun:
        """Give a device of the model its TUN; `show` gives it the model's state. `Refused` when there can be none."""
        if device.driver.kind == "ethernet":
            tun = open_tap(self.space, self.kernel, device.name, device.address)
        else:
            tun = open_tun(self.space, self.kernel, device.name, mtu=device.mtu)
            with contextlib.suppress(OSError):  # "host unreachable" comes from the host's own address
                self.set_sysctl(f"net/ipv4/conf/{device.name}/accept_local", "1")
            self._detect_duplicates(tun)
        if persist:
            tun.keep(True)
        self.tuns[device.name] = tun
        return tun

    def _detect_duplicates(self, tun: Tun) -> None:
        """Have the kernel do duplicate address detection, which it leaves out on a TUN (`ipv6_add_dev`).

        It takes `DETECTION_MS` instead of one to two seconds: a subnet inside one machine answers in milliseconds.
        """
        conf = f"net/ipv6/conf/{tun.name}"
        with contextlib.suppress(OSError):  # no IPv6 in this kernel, or a container whose /proc/sys is read-only
            self.kernel.set_arp(tun.index)
            self.kernel.set_retransmit(tun.index, DETECTION_MS)
            self.set_sysctl(f"{conf}/router_solicitation_delay", "0")  # detection begins after a part of this
            self.set_sysctl(f"{conf}/accept_dad", "1")

    def close_device(self, name: str) -> None:
        """The device left the model: its TUN goes, with addresses and routes."""
        tun = self.tuns.pop(name, None)
        if tun is not None:
            with contextlib.suppress(OSError):
                tun.keep(False)
            tun.close()
        for known in (self._link_locals, self._addresses, self._groups):
            known.pop(name, None)

    def close(self) -> None:
        """Close every descriptor. TUNs that are not persistent disappear."""
        for tun in self.tuns.values():
            tun.close()
        self.tuns.clear()
        self._group_files.close()
        self.listener.close()
        self.kernel.close()

    def show(self, device: Device) -> None:
        """Have the TUN show carrier, MTU and admin state of the model, link-local address included."""
        tun = self.tuns.get(device.name)
        if tun is None:
            return
        try:
            tun.set_carrier(device.carrier)
            link = self.kernel.link_at(tun.index)
            if link.mtu != device.mtu:
                tun.set_mtu(device.mtu)
            if link.up != device.up:
                tun.set_up(device.up)
                if not device.up:
                    self._link_locals.pop(device.name, None)  # the kernel has taken it away
            self._show_link_local(device, tun)
        except OSError as problem:
            if problem.errno not in (errno.ENODEV, errno.EBADFD):  # deleted by its user: a message says so
                raise

    def listen(self) -> None:
        """Take in what the kernel says happened: `changes` reads it. Not blocking."""
        try:
            self._kinds |= {message.type for message in self.listener.receive()}
        except OSError as problem:
            if problem.errno != errno.ENOBUFS:
                raise
            self._kinds |= ALL_MESSAGES  # some were lost

    def groups_changed(self) -> None:
        """Programs may have joined or left groups: `changes` reads them."""
        self._kinds |= GROUP_MESSAGES

    def changes(self) -> list[HostEvent]:
        """What happened in this host's kernel since the last call, as far as `listen` and `groups_changed` know."""
        kinds, self._kinds = self._kinds, frozenset()
        events: list[HostEvent] = []
        were_up = self._up
        if kinds & LINK_MESSAGES:
            events += self._link_changes()
        silently = self._up != were_up  # no message reports the routes and groups that disappear with a link
        if kinds & ADDRESS_MESSAGES:
            events += self._address_changes()
        if kinds & ROUTE_MESSAGES or silently:
            events += self._route_changes()
        if kinds & GROUP_MESSAGES or silently:
            events += self._group_changes()
        return events

    def everything(self) -> list[HostEvent]:
        """Read everything and report what differs from what was reported."""
        self._kinds = ALL_MESSAGES
        return self.changes()

    def _group_changes(self) -> list[HostEvent]:
        """The groups of devices whose groups changed."""
        found = self._group_files.read()
        events: list[HostEvent] = []
        for name in self.tuns:
            before, groups = self._groups.get(name, ()), found.get(name, ())
            if not self._group_files.complete:  # the oldest are missing
                groups = tuple(dict.fromkeys((*before[:MAX_KEPT_GROUPS], *groups)))
            if groups != before:
                self._groups[name] = groups
                events.append(GroupsAre(name, groups))
        return events

    def configure(self, host: Host) -> None:
        """Give the kernel what the topology says of this host: addresses, routes, forwarding. Needs its devices.

        `Refused` when a gateway cannot be reached.
        """
        if host.forward:
            self.set_sysctl("net/ipv4/ip_forward", "1")
            with contextlib.suppress(OSError):  # no IPv6 in this kernel
                self.set_sysctl("net/ipv6/conf/all/forwarding", "1")
        for device, address in host.addresses():
            self.add_address(device, address.packed, address.network.prefixlen)
        for route in host.routes:
            to = route.destination
            try:
                self.add_route(to.network_address.packed, to.prefixlen, route.gateway.packed)
            except OSError as error:
                raise Refused(
                    f"cannot route {to} of {host.name} to {route.gateway}",
                    why=error.strerror or str(error),
                    fix="Check that the device that leads there is up",
                    code=error.errno or 0,
                ) from None

    def add_address(self, device: str, address: bytes, prefix: int) -> None:
        """`ip address replace ADDRESS/PREFIX dev DEVICE`; OSError of the kernel."""
        self.kernel.add_address(self._index(device), address, prefix)

    def add_route(self, destination: bytes, prefix: int, gateway: bytes) -> None:
        """`ip route replace DESTINATION/PREFIX via GATEWAY`; OSError when the gateway cannot be reached."""
        self.kernel.add_route(destination, prefix, gateway=gateway)

    def set_sysctl(self, path: str, value: str) -> None:
        """Write a file below /proc/sys that belongs to the network namespace (`net/ipv4/ip_forward`)."""
        self.space.run_in(lambda: Path("/proc/sys", path).write_text(value))

    def _link_changes(self) -> list[HostEvent]:
        """Admin states and MTUs that users gave TUNs, and TUNs that they deleted."""
        found = {link.index: link for link in self.kernel.links()}
        self._up = {index: link.up for index, link in found.items()}
        self.deleted = [name for name, tun in self.tuns.items() if tun.index not in found]
        events: list[HostEvent] = []
        for name, tun in self.tuns.items():
            device, link = self._devices.get(name), found.get(tun.index)
            if link is not None and link.name != name:
                self._call_back(tun, name, link.name)
            if link is not None and link.carrier not in (None, tun.carrier):
                self._restore_carrier(tun)
            if device is not None:
                events += self._difference(device, link)
        return events

    def _call_back(self, tun: Tun, name: str, other: str) -> None:
        """Names are the topology's: ports, files and requests go by them."""
        with contextlib.suppress(OSError):  # its new name is taken, or this kernel renames nothing that is up
            self.kernel.rename(tun.index, name)
            self.undone.append(f"{name} was renamed to {other} and is {name} again: a lab's names stay")

    def _restore_carrier(self, tun: Tun) -> None:
        """`ip link set carrier off` works on a TUN device, but not on a bond or IPoIB device."""
        with contextlib.suppress(OSError):  # deleted meanwhile
            tun.restore_carrier()
            state = "on" if tun.carrier else "off"
            self.undone.append(f"the carrier of {tun.name} was changed and is {state} again: only its cable decides it")

    def _difference(self, device: Device, link: Link | None) -> Iterator[HostEvent]:
        if link is None:
            if device.driver.kind == "bond":
                yield DeleteBond(device.name)
            return
        if link.up != device.up:
            if not link.up:
                self._link_locals.pop(device.name, None)
            yield SetAdmin(device.name, link.up)
        if link.mtu != device.mtu:
            yield SetDeviceMtu(device.name, link.mtu)

    def _address_changes(self) -> list[HostEvent]:
        names = {tun.index: name for name, tun in self.tuns.items()}
        found: dict[str, list[tuple[bytes, int]]] = {name: [] for name in self.tuns}
        for address in self.kernel.addresses():
            if address.index in names and address.usable:
                found[names[address.index]].append((address.address, address.prefix))
        events: list[HostEvent] = []
        for name, addresses in found.items():
            if tuple(addresses) != self._addresses.get(name, ()):
                self._addresses[name] = tuple(addresses)
                events.append(AddressesAre(name, tuple(addresses)))
        return events

    def _route_changes(self) -> list[HostEvent]:
        routes = tuple(self._entries(self.kernel.routes()))
        if routes == self._routes:
            return []
        self._routes = routes
        return [RoutesAre(routes)]

    def _entries(self, routes: Iterable[rtnetlink.Route]) -> Iterator[RouteEntry]:
        names = {tun.index: name for name, tun in self.tuns.items()}
        for route in routes:
            for index, gateway in route.hops:
                if index in names:
                    yield RouteEntry(route.destination, route.prefix, names[index], gateway, route.metric)

    def _show_link_local(self, device: Device, tun: Tun) -> None:
        """What addrconf does for a device of type InfiniBand (`addrconf_ifid_infiniband`), but our TUN has no address.

        A member of a bond has none; a bond keeps its first one through failovers until it is set down.
        """
        known = self._link_locals.get(device.name)
        wanted = device.up and device.master is None and device.type == INFINIBAND and device.addr_len == 20
        if wanted and known is None:
            address = self._link_local_of(tun) or _link_local(device.address)
            with contextlib.suppress(OSError):  # no IPv6 in this kernel, or switched off
                self.kernel.add_address(tun.index, address, 64, as_kernel=True)
                self._link_locals[device.name] = address
        elif known is not None and not wanted:
            with contextlib.suppress(OSError):
                self.kernel.delete_address(tun.index, known, 64)
            del self._link_locals[device.name]

    def _link_local_of(self, tun: Tun) -> bytes | None:
        """The one that a TUN has from before the lab was killed."""
        addresses = (each.address for each in self.kernel.addresses() if each.index == tun.index)
        return next((address for address in addresses if address.startswith(LINK_LOCAL_PREFIX)), None)

    def _index(self, device: str) -> int:
        if device not in self.tuns:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), device)
        return self.tuns[device].index


def _link_local(hardware: bytes) -> bytes:
    """fe80:: and the port GUID with the universal bit set, whatever it was (`addrconf_ifid_infiniband`)."""
    guid = bytearray(hardware[12:])
    guid[0] |= 0x02
    return LINK_LOCAL_PREFIX + bytes(guid)
