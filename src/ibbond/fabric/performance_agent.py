"""The performance management agent of a node: it reports and clears the counters of its ports.

Read first: InfiniBand Architecture volume 1, 16.1. Port 255 is all ports together; on an adapter port 0 is a wrong
port. Left out: samples and per-lane counters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

from ibbond.fabric.node import Node
from ibbond.fabric.port import PortCounters
from ibbond.wire.mad import Method, Status
from ibbond.wire.perf import (
    ALL_PORTS,
    PerfAttribute,
    PerfMad,
    PortCountersAttribute,
    PortCountersExtendedAttribute,
)
from ibbond.wire.sa_records import ClassPortInfo

ALL_PORT_SELECT, EXTENDED_WIDTHS = 1 << 8, 1 << 9
CLASSIC = tuple(field.name for field in fields(PortCountersAttribute)[3:])
# in the order of the bits of the select field
CLASSIC_BITS = tuple(name for name in CLASSIC if name not in ("qp1_dropped", "transmit_wait"))
EXTENDED_BITS = (
    *("transmit_words", "receive_words", "transmit_packets", "receive_packets"),
    *("transmit_unicast", "receive_unicast", "transmit_multicast", "receive_multicast"),
)


def answer(node: Node, mad: PerfMad) -> PerfMad:
    """The GetResp to a Get or Set of a performance attribute; nothing changes when its status is an error."""
    reply = replace(mad, method=Method.GET_RESP)
    if mad.method not in (Method.GET, Method.SET):
        return replace(reply, status=Status.BAD_METHOD)
    if mad.attribute == PerfAttribute.CLASS_PORT_INFO:
        if mad.method == Method.SET:
            return replace(reply, status=Status.BAD_ATTRIBUTE)  # 13.4.7: a method that the attribute does not have
        return replace(reply, data=ClassPortInfo(ALL_PORT_SELECT | EXTENDED_WIDTHS).pack())
    if mad.attribute not in (PerfAttribute.PORT_COUNTERS, PerfAttribute.PORT_COUNTERS_EXTENDED):
        return replace(reply, status=Status.BAD_ATTRIBUTE)
    number = mad.data[1]
    chosen = [
        port.counters for port in node.ports.values() if number == port.number or (number == ALL_PORTS and port.number)
    ]
    if not chosen:
        return replace(reply, status=Status.BAD_VALUE)
    if mad.attribute == PerfAttribute.PORT_COUNTERS:
        if mad.method == Method.SET:
            _write(chosen, PortCountersAttribute.parse(mad.data))
        return replace(reply, data=_classic(number, chosen).pack())
    if mad.method == Method.SET:
        _write(chosen, PortCountersExtendedAttribute.parse(mad.data))
    return replace(reply, data=_extended(number, chosen).pack())


def _classic(number: int, chosen: Sequence[PortCounters]) -> PortCountersAttribute:
    sums = {name: sum(getattr(counters, name, 0) for counters in chosen) for name in CLASSIC}
    return PortCountersAttribute(number, **sums)


def _extended(number: int, chosen: Sequence[PortCounters]) -> PortCountersExtendedAttribute:
    sums = {name: sum(getattr(counters, name, 0) for counters in chosen) for name in EXTENDED_BITS}
    return PortCountersExtendedAttribute(number, **sums)


def _write(chosen: Sequence[PortCounters], asked: PortCountersAttribute | PortCountersExtendedAttribute) -> None:
    """Write the counters that the select field names, and no other."""
    bits = CLASSIC_BITS if isinstance(asked, PortCountersAttribute) else EXTENDED_BITS
    for counters in chosen:
        counters.write({name: getattr(asked, name) for bit, name in enumerate(bits) if asked.select >> bit & 1})
