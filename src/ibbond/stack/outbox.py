"""What one host wants done outside of itself, in the order in which it must be done.

Frames, MADs and packets go first, notifications of people and files come after: a peer must not wait for a log line.
"""

from __future__ import annotations

from ibbond.fabric.events import FailQueuePair, Post, SendDatagram, SendMad
from ibbond.stack.events import Deliver, NetworkEffect

HostEffect = SendDatagram | SendMad | Post | FailQueuePair | NetworkEffect


class Outbox:
    """Gathers effects while the host handles one event."""

    def __init__(self) -> None:
        self._traffic: list[HostEffect] = []
        self._notifications: list[HostEffect] = []

    def send(self, effect: SendDatagram | SendMad | Post | FailQueuePair | Deliver) -> None:
        self._traffic.append(effect)

    def notify(self, effect: NetworkEffect) -> None:
        self._notifications.append(effect)

    def take(self) -> list[HostEffect]:
        effects = self._traffic + self._notifications
        self._traffic, self._notifications = [], []
        return effects
