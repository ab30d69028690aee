"""The MTU of an interface: what its link carries, and what the administrator asked for.

Read first: `ipoib_change_mtu` and `ipoib_set_mode` in Linux's `ipoib_main.c`. In datagram mode the broadcast group sets
the limit, in connected mode 65520 bytes is one for all.
"""

from __future__ import annotations

from ibbond.ipoib.events import InterfaceEffect, MtuIs
from ibbond.ipoib.transmit import TransmitSide
from ibbond.wire.ipoib import CONNECTED_MTU


class Mtu:
    """`connected` is the interface's mode; `asked` an administrator's choice below what the link carries."""

    def __init__(self, outlet: TransmitSide) -> None:
        self._outlet = outlet
        self.connected = False
        self.asked: int | None = None

    @property
    def max_mtu(self) -> int:
        return CONNECTED_MTU if self.connected else self._outlet.mtu

    def was_set(self) -> None:
        """The device's MTU was set: kept as a request if it is below the link's; it cannot exceed the link's."""
        mtu = self._outlet.device.mtu
        self.asked = mtu if mtu < self.max_mtu else None

    def set_mode(self, connected: bool) -> None:
        """A requested MTU is forgotten in connected mode; on the way back it is kept as far as the group carries it."""
        self.connected = connected
        if connected:
            self.asked = None
        else:
            self.was_set()

    def fit(self) -> list[InterfaceEffect]:
        """What the device's MTU has to be, when it is something else."""
        mtu = self.max_mtu if self.asked is None else min(self.asked, self.max_mtu)
        return [MtuIs(mtu)] if mtu != self._outlet.device.mtu else []
