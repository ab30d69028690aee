"""What recorded devices are plugged into: a hub for InfiniBand, a bridge for Ethernet, and the one peer behind it.

Read first: tests/golden/kernel-6.1/README.md (`devices`, `peers`). Frames arrive at once. The hub brings a group's
frame to all devices and any other to the device that has the address; the bridge learns where addresses are. The peer
answers requests for its addresses. Left out: lost frames, speeds, everything else that a peer might say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ibbond.errors import Malformed
from ibbond.netdev.device import Device
from ibbond.wire import arp, nd
from ibbond.wire.ipoib import ETHERTYPE_ARP, ETHERTYPE_IPV6


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame without its link-layer header, and the two addresses that were in it."""

    ethertype: int
    source: bytes
    destination: bytes
    payload: bytes


Deliver = Callable[[Device, Frame], None]


class Segment:
    """The devices of one kind, the peer, and how frames find them. `deliver` hands a frame to a device."""

    def __init__(self, peer_address: bytes, deliver: Deliver) -> None:
        self.peer_address = peer_address
        self.peer_ips: list[bytes] = []
        self._deliver = deliver
        self._devices: list[Device] = []
        self._learned: dict[bytes, Device] = {}

    def remove_ip(self, ip: bytes) -> None:
        """`ip addr del`: with the first IPv4 address of a /24 the peer loses the later ones of that network too."""
        network, place = ip[:3], self.peer_ips.index(ip)
        first = all(other[:3] != network or len(other) != 4 for other in self.peer_ips[:place])
        goes = {ip} | {
            other for other in self.peer_ips if len(ip) == len(other) == 4 and other[:3] == network and first
        }
        self.peer_ips = [other for other in self.peer_ips if other not in goes]

    def plug(self, device: Device) -> None:
        self._devices.append(device)

    def send(self, sender: Device, frame: Frame) -> None:
        """A frame enters from a device."""
        self._learned[frame.source] = sender
        self._forward(sender, frame)
        if frame.destination == self.peer_address or is_group(frame.destination):
            answer = self._answer(frame)
            if answer is not None:
                self._forward(None, answer)

    def _forward(self, sender: Device | None, frame: Frame) -> None:
        for device in self._receivers(frame):
            if device is not sender and device.usable:
                self._deliver(device, frame)

    def _receivers(self, frame: Frame) -> list[Device]:
        if is_group(frame.destination):
            return list(self._devices)
        if len(frame.destination) == 20:
            return [device for device in self._devices if device.address == frame.destination]
        if frame.destination == self.peer_address:
            return []
        where = self._learned.get(frame.destination)
        return [where] if where is not None else list(self._devices)

    def _answer(self, frame: Frame) -> Frame | None:
        try:
            if frame.ethertype == ETHERTYPE_ARP:
                asked = arp.Arp.parse(frame.payload)
                if asked.operation != arp.REQUEST or asked.target_ip not in self.peer_ips:
                    return None
                answer = arp.reply(asked, self.peer_address)
                return Frame(ETHERTYPE_ARP, self.peer_address, asked.sender_hardware, answer.pack())
            if frame.ethertype == ETHERTYPE_IPV6 and nd.is_message(frame.payload):
                return self._answer_solicitation(nd.parse(frame.payload), frame.source)
        except Malformed:
            return None
        return None

    def _answer_solicitation(self, asked: nd.Message, asker: bytes) -> Frame | None:
        if not isinstance(asked, nd.NeighborSolicitation) or asked.target not in self.peer_ips:
            return None
        known = asked.source != nd.UNSPECIFIED
        answer = nd.NeighborAdvertisement(
            source=asked.target,
            destination=asked.source if known else nd.ALL_NODES,
            target=asked.target,
            link_address=self.peer_address,
            solicited=known,
            override=True,
        )
        to = asked.link_address or asker if known else group_of(self.peer_address)
        return Frame(ETHERTYPE_IPV6, self.peer_address, to, answer.pack())


def is_group(address: bytes) -> bool:
    """Whether a link-layer address is a group's: the GID's first byte on InfiniBand, a bit on Ethernet."""
    return address[4] == 0xFF if len(address) == 20 else bool(address[:1]) and bool(address[0] & 1)


def group_of(address: bytes) -> bytes:
    """The broadcast address of the length of this one."""
    return b"\x00\xff\xff\xff\xff" + bytes(15) if len(address) == 20 else b"\xff" * 6
