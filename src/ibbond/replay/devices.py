"""The devices of a recorded world: how each kind behaves when it is opened, renumbered or pulled.

Read first: tests/golden/kernel-6.1/README.md (`devices`, and `World` below "What counts as passed"). A device has
carrier while it is up and its cable is plugged in. Left out: the bond's own device, which the bonding driver makes.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

from ibbond.abi.recording import DeviceSpec
from ibbond.errors import Refused
from ibbond.netdev.device import AddressOrigin, Device, Flags
from ibbond.wire.group_address import ETHERNET_BROADCAST, broadcast_address
from ibbond.wire.hardware_type import ETHERNET, INFINIBAND, NONE
from ibbond.wire.hwaddr import parse_address_text
from ibbond.wire.ipoib import CONNECTED_MTU

GID_PREFIX = "fe:80:00:00:00:00:00:00:00:02:c9:03:00:00"
LOOPBACK = 772  # ARPHRD_LOOPBACK
TUN_FLAGS = Flags.POINTOPOINT | Flags.NOARP | Flags.MULTICAST
ETHERNET_FLAGS = Flags.BROADCAST | Flags.MULTICAST


@dataclass(frozen=True, slots=True)
class Kind:
    """What all devices of one type have in common."""

    driver: str
    type: int
    flags: Flags
    tx_queue_len: int
    max_mtu: int
    origin: AddressOrigin
    mtu: int = 1500
    header_bytes: int = 14
    can_set_address: bool = False
    vlan_challenged: bool = False
    speed: int | None = None
    duplex: str | None = None


KINDS = {
    "infiniband": Kind(
        "ipoib",
        INFINIBAND,
        ETHERNET_FLAGS,
        256,
        CONNECTED_MTU,
        AddressOrigin.SET,
        mtu=2044,
        header_bytes=24,
        vlan_challenged=True,
    ),
    "ether": Kind(
        "ethernet",
        ETHERNET,
        ETHERNET_FLAGS,
        1000,
        65535,
        AddressOrigin.SET,
        can_set_address=True,
        speed=10000,
        duplex="full",
    ),
    "none": Kind("tun", NONE, TUN_FLAGS, 500, 65535, AddressOrigin.PERMANENT, header_bytes=0, speed=10, duplex="full"),
    "infiniband-tap": Kind(
        "tun",
        INFINIBAND,
        ETHERNET_FLAGS,
        1000,
        65521,
        AddressOrigin.RANDOM,
        can_set_address=True,
        speed=10,
        duplex="full",
    ),
    "infiniband-tun": Kind(
        "tun", INFINIBAND, TUN_FLAGS, 500, 65535, AddressOrigin.PERMANENT, header_bytes=0, speed=10, duplex="full"
    ),
    "loopback": Kind(
        "loopback", LOOPBACK, Flags.LOOPBACK, 1000, 2**31 - 1, AddressOrigin.PERMANENT, mtu=65536, vlan_challenged=True
    ),
}


class RecordedDriver:
    """One device's driver; `plugged` is its cable."""

    def __init__(self, kind: Kind, *, plugged: bool = True) -> None:
        self.kind = kind.driver
        self.can_set_address = kind.can_set_address
        self.vlan_challenged = kind.vlan_challenged
        self.plugged = plugged
        self._kind = kind

    def open(self, device: Device) -> None:
        device.carrier = self.plugged
        device.link_watch_pending = self.plugged and self.kind == "ethernet"  # others have their carrier before

    def close(self, device: Device) -> None:
        device.carrier = False

    def check_mtu(self, device: Device, mtu: int) -> None:
        """The device's own limits are all there is."""

    def check_address(self, device: Device, address: bytes) -> None:
        if len(address) == 6 and (address[0] & 1 or not any(address)):
            raise Refused(
                f"cannot set the address of {device.name} to {address.hex(':')}",
                why="it is not a unicast address",
                fix="Use an address whose first byte is even",
                code=errno.EADDRNOTAVAIL,
            )

    def speed(self, device: Device) -> int | None:
        return self._kind.speed

    def duplex(self, device: Device) -> str | None:
        return self._kind.duplex

    def plug(self, device: Device, *, on: bool) -> None:
        """Plug the cable in, or pull it."""
        self.plugged = on
        device.set_carrier(on and device.up)


def make_device(name: str, spec: DeviceSpec, number: int) -> Device:
    """The `number`-th device of a case, as it is before step 0."""
    kind = KINDS[spec.type]
    address = parse_address_text(spec.address or default_address(spec.type, number)) if _has_address(spec.type) else b""
    broadcast = b""
    if address:
        broadcast = broadcast_address(0xFFFF) if kind.type == INFINIBAND else ETHERNET_BROADCAST
    return Device(
        name=name,
        driver=RecordedDriver(kind, plugged=spec.carrier),
        type=kind.type,
        address=address,
        broadcast=broadcast,
        mtu=spec.mtu or kind.mtu,
        max_mtu=kind.max_mtu,
        flags=kind.flags,
        address_origin=kind.origin,
        permanent_address=address,
        hard_header_len=kind.header_bytes,
        tx_queue_len=kind.tx_queue_len,
    )


def make_loopback() -> Device:
    """`lo`, which is up."""
    kind = KINDS["loopback"]
    return Device(
        name="lo",
        driver=RecordedDriver(kind),
        type=kind.type,
        address=bytes(6),
        broadcast=bytes(6),
        mtu=kind.mtu,
        min_mtu=0,
        max_mtu=kind.max_mtu,
        flags=kind.flags | Flags.UP,
        carrier=True,
        tx_queue_len=kind.tx_queue_len,
    )


def default_address(type_: str, number: int) -> str:
    """The address of the `number`-th device (from 0) where the recording names none."""
    if type_ == "infiniband":
        return f"80:00:02:{8 + number:02x}:{GID_PREFIX}:10:{number + 1:02x}"
    return f"02:00:00:00:00:{number + 1:02x}"


def _has_address(type_: str) -> bool:
    return type_ in ("infiniband", "ether")
