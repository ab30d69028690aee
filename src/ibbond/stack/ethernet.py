"""An Ethernet device that leads nowhere: there to show what a bond of IPoIB devices refuses.

Read first: `drivers/net/dummy.c`. What is sent is counted and gone; nothing ever arrives. Left out: everything else.
"""

from __future__ import annotations

from ibbond.netdev.device import Device
from ibbond.stack.outgoing import Outgoing
from ibbond.wire.hardware_type import ETHERNET

FIRST_OCTET = 0x02  # locally administered
HEADER_BYTES = 14


class DummyDriver:
    """Takes any address and any MTU that the device's limits allow."""

    kind = "ethernet"
    can_set_address = True
    vlan_challenged = False

    def open(self, device: Device) -> None:
        """Always possible."""

    def close(self, device: Device) -> None:
        """Always possible."""

    def check_mtu(self, device: Device, mtu: int) -> None:
        """Nothing beyond the device's limits."""

    def check_address(self, device: Device, address: bytes) -> None:
        """Nothing to say against it."""

    def speed(self, device: Device) -> int | None:
        return None

    def duplex(self, device: Device) -> str | None:
        return None


def ethernet_device(name: str, number: int) -> Device:
    """A device with a made-up address; `number` makes the devices of a world differ."""
    address = bytes((FIRST_OCTET,)) + number.to_bytes(5)
    return Device(
        name,
        DummyDriver(),
        ETHERNET,
        address,
        b"\xff" * len(address),
        permanent_address=address,
        carrier=True,
    )


def swallow(device: Device, frame: Outgoing) -> None:
    """Send a frame to nowhere."""
    device.statistics.tx_packets += 1
    device.statistics.tx_bytes += len(frame.payload) + HEADER_BYTES
