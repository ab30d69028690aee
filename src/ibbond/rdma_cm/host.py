"""What RDMA CM needs of the host around it, as a protocol: `stack.rdma_host` meets it.

IP addresses are 4 or 16 bytes; a device is named, and what is asked of a name that is unknown is empty.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from ibbond.fabric.events import FailQueuePair, Post, SendMad
from ibbond.netdev.device import Device
from ibbond.rdma_cm.events import RdmaEvent


class RdmaHost(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def ports(self) -> tuple[str, ...]:
        """The ports at which the host has IPoIB devices."""
        ...

    def device(self, name: str) -> Device:
        """The device of this name; `Refused` if there is none."""
        ...

    def device_to(self, destination: bytes) -> Device | None:
        """The device by which packets to this IP address leave."""
        ...

    def device_with(self, address: bytes) -> Device | None:
        """The device that has this IP address."""
        ...

    def devices_at(self, port: str) -> Iterable[Device]:
        """The IPoIB devices at this port."""
        ...

    def owns(self, device: str, address: bytes) -> bool:
        """Whether this device has this IP address."""
        ...

    def own_address(self, length: int) -> bytes:
        """An IP address of this length that a usable IPoIB device has; empty if none has."""
        ...

    def source_for(self, device: str, destination: bytes) -> bytes:
        """The IP address from which this device sends to the destination."""
        ...

    def next_hop(self, device: str, destination: bytes) -> bytes:
        """The IP address of the neighbor that packets to the destination go to."""
        ...

    def neighbor(self, device: str, address: bytes) -> bytes:
        """The 20-byte address of this neighbor; empty while it is not known."""
        ...

    def resolve(self, now: int, device: str, address: bytes) -> None:
        """Find this neighbor's 20-byte address, or confirm it."""
        ...

    def send(self, effect: SendMad | Post | FailQueuePair) -> None: ...

    def notify(self, event: RdmaEvent) -> None: ...
