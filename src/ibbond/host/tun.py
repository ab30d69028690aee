"""A TUN device of a lab host: where the host's IP stack hands us packets and takes ours.

Read first: Documentation/networking/tuntap.rst, linux/if_tun.h, linux/virtio_net.h (the 10-byte header in front of
every packet). A TUN of type 32 is created, typed before it is ever up, and never cycled: the kernel refuses a type
change of a device that is up, and a cycle drops routes. Left out: moving packets (pump.py), multi-queue.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from dataclasses import dataclass, field
from typing import Final

from ibbond.errors import Refused
from ibbond.host.namespace import NetNamespace
from ibbond.host.rtnetlink import RouteSocket
from ibbond.wire.hardware_type import INFINIBAND

DEVICE = "/dev/net/tun"

TUNSETIFF, TUNSETPERSIST, TUNSETLINK = 0x400454CA, 0x400454CB, 0x400454CD
TUNSETOFFLOAD, TUNSETVNETLE, TUNSETCARRIER = 0x400454D0, 0x400454DC, 0x400454E2
IFF_TUN, IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0001, 0x0002, 0x1000, 0x4000
CSUM, TSO4, TSO6, USO4, USO6 = 0x01, 0x02, 0x04, 0x20, 0x40

OFFLOAD_BYTES: Final = 10  # struct virtio_net_hdr
NO_OFFLOAD: Final = bytes(OFFLOAD_BYTES)
OFFLOADS = (CSUM | TSO4 | TSO6 | USO4 | USO6, CSUM | TSO4 | TSO6, 0)  # USO came with Linux 6.2


@dataclass(slots=True)
class Tun:
    """One open TUN or TAP. Every packet read or written has `OFFLOAD_BYTES` of virtio-net header in front."""

    name: str
    fd: int
    index: int
    offloads: int
    routes: RouteSocket = field(repr=False)  # requests to the namespace it lives in; shared, not ours to close
    carrier: bool = True

    def set_carrier(self, up: bool) -> None:
        """What `ip link` shows as LOWER_UP or NO-CARRIER; without it the kernel hands us no packets."""
        if up != self.carrier:
            self.carrier = up
            self.restore_carrier()

    def restore_carrier(self) -> None:
        """Show the carrier again that was set last."""
        fcntl.ioctl(self.fd, TUNSETCARRIER, struct.pack("=i", self.carrier))

    def set_up(self, up: bool) -> None:
        self.routes.set_up(self.index, up)

    def set_mtu(self, mtu: int) -> None:
        self.routes.set_mtu(self.index, mtu)

    def keep(self, persist: bool) -> None:
        """Whether the device outlives the descriptor (a lab that will be resumed), or goes with it."""
        fcntl.ioctl(self.fd, TUNSETPERSIST, int(persist))

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def open_tun(space: NetNamespace, routes: RouteSocket, name: str, *, mtu: int, queue_packets: int = 1000) -> Tun:
    """A TUN of type InfiniBand in the host, down, or the one that a killed lab kept there."""
    tun = _open(space, routes, name, IFF_TUN, queue_packets)
    try:
        link = routes.link(name)
        if link.type != INFINIBAND:
            fcntl.ioctl(tun.fd, TUNSETLINK, INFINIBAND)
        routes.no_link_local(tun.index)
        if link.mtu != mtu:
            tun.set_mtu(mtu)
    except BaseException:
        tun.close()
        raise
    return tun


def open_tap(space: NetNamespace, routes: RouteSocket, name: str, address: bytes, *, queue_packets: int = 100) -> Tun:
    """An Ethernet device with this 6-byte address, down: it stands for a host's eth0 and leads nowhere."""
    tap = _open(space, routes, name, IFF_TAP, queue_packets)
    try:
        if routes.link(name).address != address:
            routes.set_address(tap.index, address)
    except BaseException:
        tap.close()
        raise
    return tap


def available() -> str | None:
    """None where TUN devices can be opened, else the reason why not."""
    try:
        os.close(os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as problem:
        return f"{DEVICE}: {os.strerror(problem.errno or 0)}"
    return None


def _open(space: NetNamespace, routes: RouteSocket, name: str, kind: int, queue_packets: int) -> Tun:
    try:
        return space.run_in(lambda: _made(routes, name, kind, queue_packets))
    except OSError as problem:
        absent = problem.filename == DEVICE or problem.errno == errno.ENOTTY  # ENOTTY: the file is another device
        reason = os.strerror(problem.errno or 0)
        if problem.errno == errno.ENOTTY:
            reason = "it is not the TUN device"
        raise Refused(
            f"cannot create {name} in {space.name}",
            why=f"{DEVICE if absent else name}: {reason}",
            fix="Load the tun module (modprobe tun), or in a container allow the device /dev/net/tun"
            if absent
            else "Check whether another program holds a device of that name there, and whether you may create devices",
            code=problem.errno or errno.EINVAL,
        ) from None


def _made(routes: RouteSocket, name: str, kind: int, queue_packets: int) -> Tun:
    descriptor = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("=16sH22x", name.encode(), kind | IFF_NO_PI | IFF_VNET_HDR))
        fcntl.ioctl(descriptor, TUNSETVNETLE, struct.pack("=i", 1))  # the header is little-endian on every machine
        tun = Tun(name, descriptor, routes.link(name).index, _offload(descriptor), routes)
        fcntl.ioctl(descriptor, TUNSETCARRIER, struct.pack("=i", 1))
        routes.set_queue_length(tun.index, queue_packets)
    except OSError:
        os.close(descriptor)
        raise
    return tun


def _offload(descriptor: int) -> int:
    """Enable GSO: the kernel passes super-packets, as far as this kernel supports it."""
    for wanted in OFFLOADS:
        with contextlib.suppress(OSError):
            fcntl.ioctl(descriptor, TUNSETOFFLOAD, wanted)
            return wanted
    return 0
