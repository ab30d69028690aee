"""A cable between two ports: plugged or not, faultless or lossy.

Read first: InfiniBand Architecture volume 1, 7.2 (link states). Left out: bit errors that get through, and skew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ibbond.fabric.port import Port


class Cable:
    """Two ends. `epoch` counts cuts: a packet that entered in an older epoch was on the cable when it was cut."""

    __slots__ = ("a", "b", "epoch", "loss", "plugged")

    def __init__(self, a: Port, b: Port) -> None:
        self.a = a
        self.b = b
        self.plugged = True
        self.loss = 0.0
        self.epoch = 0

    def other(self, port: Port) -> Port:
        return self.b if port is self.a else self.a
