"""One host as RDMA CM sees it: devices, IP addresses, neighbors, and the way out.

Read first: `rdma_cm.host`, the protocol that this meets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from ipaddress import ip_address

from ibbond.netdev.device import Device
from ibbond.netdev.namespace import Namespace
from ibbond.stack.ip_layer import IpLayer
from ibbond.stack.ipoib_interfaces import IpoibInterfaces
from ibbond.stack.next_hop import NextHops
from ibbond.stack.outbox import Outbox
from ibbond.stack.outgoing import IpEffect


class HostForRdma:
    def __init__(
        self,
        name: str,
        namespace: Namespace,
        next_hops: NextHops,
        layers: Mapping[str, IpLayer],
        links: IpoibInterfaces,
        outbox: Outbox,
        device: Callable[[str], Device],
        send_all: Callable[[int, IpLayer, Iterable[IpEffect]], None],
    ) -> None:
        self.name = name
        self.device = device
        self.send = outbox.send
        self.notify = outbox.notify
        self._namespace = namespace
        self._next_hops = next_hops
        self._layers = layers
        self._links = links
        self._send_all = send_all

    @property
    def ports(self) -> tuple[str, ...]:
        return self._links.ports

    def device_to(self, destination: bytes) -> Device | None:
        name = self._next_hops.device_for(destination)
        return self._namespace.get(name) if name is not None else None

    def device_with(self, address: bytes) -> Device | None:
        name = next((name for name, layer in self._layers.items() if layer.owns(address)), None)
        return self._namespace.get(name) if name is not None else None

    def devices_at(self, port: str) -> Iterator[Device]:
        return (interface.device for interface in self._links if interface.port.name == port)

    def owns(self, device: str, address: bytes) -> bool:
        layer = self._layers.get(device)
        return layer is not None and layer.owns(address)

    def own_address(self, length: int) -> bytes:
        found = (
            address
            for name, layer in self._layers.items()
            if (device := self._namespace.get(name)) is not None and device.usable and len(device.address) == 20
            for address, _ in layer.addresses
            if len(address) == length and not ip_address(address).is_link_local
        )
        return next(found, b"")

    def source_for(self, device: str, destination: bytes) -> bytes:
        return self._layers[device].source_for(destination)

    def next_hop(self, device: str, destination: bytes) -> bytes:
        return self._layers[device].next_hop(destination)

    def neighbor(self, device: str, address: bytes) -> bytes:
        layer = self._layers.get(device)
        entry = layer.neighbors.get(address) if layer is not None else None
        return entry.hardware if entry is not None else b""

    def resolve(self, now: int, device: str, address: bytes) -> None:
        layer = self._layers[device]
        self._send_all(now, layer, layer.resolve(now, address))
