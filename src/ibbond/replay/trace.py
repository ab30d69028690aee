"""What our driver was seen to do during a case, in the terms of a recording: four projections of one run.

Read first: tests/golden/kernel-6.1/README.md, sections Events and "What counts as passed". Times are virtual
milliseconds from step 0. Left out: what of it must agree with a recording (`replay/compare_events`).
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

from ibbond.abi.kernel_log import Verdict
from ibbond.replay.segment import Frame
from ibbond.wire import arp
from ibbond.wire.ip import ICMPV6, IGMP
from ibbond.wire.ipoib import ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6
from ibbond.wire.nd import NeighborAdvertisement, NeighborSolicitation

Facts = dict[str, object]


@dataclass(frozen=True, slots=True)
class SeenVerdict:
    t_ms: float
    step: int
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class SeenFrame:
    t_ms: float
    step: int
    device: str
    facts: Facts


@dataclass(frozen=True, slots=True)
class SeenNotice:
    t_ms: float
    step: int
    event: str


@dataclass(slots=True)
class Trace:
    """`states` has the values of each key in order, without repetitions, from the first `up` of the bond."""

    verdicts: list[SeenVerdict] = field(default_factory=list)
    lines: list[tuple[float, str]] = field(default_factory=list)
    frames: list[SeenFrame] = field(default_factory=list)
    notices: list[SeenNotice] = field(default_factory=list)
    states: dict[str, list[str]] = field(default_factory=dict)

    def state(self, key: str, value: str) -> None:
        values = self.states.setdefault(key, [])
        if not values or values[-1] != value:
            values.append(value)


def frame_facts(frame: Frame) -> Facts | None:
    """What a recording says of a frame: ARP, IGMP and neighbor discovery; None for any other."""
    data = frame.payload
    if frame.ethertype == ETHERTYPE_ARP:
        packet = arp.Arp.parse(data)
        return {
            "arp": "request" if packet.operation == arp.REQUEST else "reply",
            "hrd": packet.hardware_type,
            "hln": len(packet.sender_hardware),
            "sha": packet.sender_hardware.hex(":"),
            "spa": str(ipaddress.IPv4Address(packet.sender_ip)),
            "tha": packet.target_hardware.hex(":"),
            "tpa": str(ipaddress.IPv4Address(packet.target_ip)),
        }
    if frame.ethertype == ETHERTYPE_IPV4 and len(data) > 20 and data[9] == IGMP:
        body = data[(data[0] & 15) * 4 :]
        to = ipaddress.IPv4Address(data[16:20])
        return {"igmp": f"0x{body[0]:02x}", "dst": str(to), "body": body.hex()}
    if frame.ethertype == ETHERTYPE_IPV6 and len(data) >= 64 and data[6] == ICMPV6:
        names = {NeighborSolicitation.KIND: "NS", NeighborAdvertisement.KIND: "NA"}
        if data[40] not in names:
            return None
        return {
            "icmp6": names[data[40]],
            "target": str(ipaddress.IPv6Address(data[48:64])),
            "flags": f"0x{data[44]:02x}",
            "src": str(ipaddress.IPv6Address(data[8:24])),
            "dst": str(ipaddress.IPv6Address(data[24:40])),
            "options": data[64:].hex(),
        }
    return None
