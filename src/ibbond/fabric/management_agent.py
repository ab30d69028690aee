"""The subnet management agent of a node: it answers every SMP and applies what is set.

Read first: InfiniBand Architecture volume 1, 14.2.5 (attributes), 14.2.4 (M_Key), 13.4.7 (status). The built-in subnet
manager, OpenSM and diagnostic tools all come through `answer`; nothing else changes a port. A request that is
refused (bad method, attribute or value) changes nothing. Left out: vendor attributes, SM_Key checks.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from ibbond.errors import Malformed
from ibbond.fabric.node import Node
from ibbond.fabric.port import GUIDS_PER_PORT, PKEYS_PER_PORT, Port
from ibbond.fabric.port_states import PORT_TABLE, SET_PHYSICAL, SET_STATE, PortInput, PortReaction
from ibbond.fabric.switch import LINEAR_CAP, Switch
from ibbond.machine import SECOND
from ibbond.verbs.verbs import FIRST_MLID, PortEventKind
from ibbond.wire.mad import ManagementClass, Method, Status
from ibbond.wire.port_info import MTU_BYTES, PhysicalState, PortInfo, seen_through
from ibbond.wire.smp import (
    MAX_HOPS,
    MLIDS_PER_BLOCK,
    MULTICAST_CAP,
    PORTS_PER_POSITION,
    Block16,
    GuidInfo,
    NodeType,
    SlToVl,
    SmpAttribute,
    SwitchInfo,
    VlArbitration,
)

_REQUEST = struct.Struct("!3xB12xH2xIQ")  # method, attribute, modifier, M_Key
RETURNING = 0x8000  # the D bit, in the word of the status
DEFAULT_LANES = SlToVl((0, 1, 2, 3, 4, 5, 6, 7) * 2).pack()
EMPTY = bytes(64)


class Listener(Protocol):
    """Who carries out what an SMP changed beyond the node itself: the subnet."""

    def port_event(self, port: Port, kind: PortEventKind) -> None: ...

    def routes_changed(self) -> None:
        """A table or a port state that forwarding looks at is different now."""
        ...

    def retrain(self, port: Port) -> None:
        """The link goes down, and up again to Init."""
        ...

    def disable(self, port: Port) -> None:
        """The link goes down and stays so until it is enabled."""
        ...

    def m_key_violated(self, port: Port) -> None: ...


class _Wrong(Exception):
    """The request is answered with this status, and nothing has changed."""

    def __init__(self, status: Status) -> None:
        self.status = status


@dataclass(slots=True)
class _Question:
    now: int
    node: Node
    port: Port  # the port that the SMP came in by; port 0 when it was sent from the node itself
    listener: Listener
    sets: bool
    modifier: int
    m_key: int
    data: bytes

    @property
    def end_port(self) -> Port:
        """The port that end-port attributes without a port number are about."""
        return self.node.ports[0] if self.node.node_type == NodeType.SWITCH else self.port

    def numbered(self, number: int) -> Port:
        """The port of a PortInfo or table modifier; 0 on a channel adapter is the one that was asked."""
        if number == 0 and self.node.node_type != NodeType.SWITCH:
            return self.port
        port = self.node.ports.get(number)
        if port is None:
            raise _Wrong(Status.BAD_VALUE)
        return port

    def switch(self) -> Switch:
        if not isinstance(self.node, Switch):
            raise _Wrong(Status.BAD_ATTRIBUTE)
        return self.node

    def read_only(self) -> None:
        if self.sets:
            raise _Wrong(Status.BAD_ATTRIBUTE)  # 13.4.7: a method that the attribute does not have


def answer(now: int, node: Node, port: Port, mad: bytes, listener: Listener) -> bytes | None:
    """The GetResp to a Get or Set that reached `node` by `port`; None when the M_Key forbids an answer.

    Both are the 256 bytes of the MAD, for a sweep is thousands of them: of the request all is kept but method, status
    and data. `Malformed` when the hops do not fit the path.
    """
    directed = mad[1] == ManagementClass.SUBNET_DIRECTED_ROUTE
    if directed and (mad[7] > MAX_HOPS or mad[6] > mad[7] + 1):
        raise Malformed(f"a directed route has at most {MAX_HOPS} hops: pointer {mad[6]}, count {mad[7]}")
    method, attribute, modifier, m_key = _REQUEST.unpack_from(mad)
    question = _Question(now, node, port, listener, method == Method.SET, modifier, m_key, mad[64:128])
    if method not in (Method.GET, Method.SET):
        return _response(mad, directed, question.data, Status.BAD_METHOD)
    if not _m_key_allows(question):
        listener.m_key_violated(question.end_port)
        return None
    carry_out = ATTRIBUTES.get(attribute)
    if carry_out is None:
        return _response(mad, directed, question.data, Status.BAD_ATTRIBUTE)
    try:
        return _response(mad, directed, carry_out(question), Status.OK)
    except _Wrong as wrong:
        return _response(mad, directed, question.data, wrong.status)


def _response(mad: bytes, directed: bool, data: bytes, status: int) -> bytes:
    word = (status | RETURNING if directed else status).to_bytes(2)
    return b"%b%c%b%b%b%b" % (mad[:3], Method.GET_RESP, word, mad[6:64], data, mad[128:])


def _m_key_allows(question: _Question) -> bool:
    """14.2.4.1: a Set needs the key; with protection 2 or 3 a Get does too, until the lease has run out.

    The lease starts with the first violation, and anyone who knows the key stops it.
    """
    port = question.end_port
    if port.info.m_key in (0, question.m_key):
        port.m_key_expires_at = None
        return True
    if port.m_key_expires_at is not None and question.now >= port.m_key_expires_at:
        port.m_key_expires_at = None
        port.change(m_key_protect=0)
    if not question.sets and port.info.m_key_protect < 2:
        return True
    if port.m_key_expires_at is None and port.info.m_key_lease and port.info.m_key_protect:
        port.m_key_expires_at = question.now + port.info.m_key_lease * SECOND
    port.change(m_key_violations=min(port.info.m_key_violations + 1, 0xFFFF))
    return False


def _node_description(question: _Question) -> bytes:
    question.read_only()
    return question.node.description.pack()


def _node_info(question: _Question) -> bytes:
    question.read_only()
    return question.node.info_through(question.port).pack()


def _switch_info(question: _Question) -> bytes:
    switch = question.switch()
    if question.sets:
        asked = SwitchInfo.parse(question.data)
        if asked.linear_top > LINEAR_CAP:
            raise _Wrong(Status.BAD_VALUE)
        change = switch.info.port_state_change and not asked.port_state_change
        moved = switch.info.linear_top != asked.linear_top
        switch.info = replace(
            switch.info,
            linear_top=asked.linear_top,
            multicast_top=asked.multicast_top,
            default_port=asked.default_port,
            default_multicast_primary=asked.default_multicast_primary,
            default_multicast_not_primary=asked.default_multicast_not_primary,
            lifetime=asked.lifetime,
            port_state_change=change,
        )
        if moved:
            question.listener.routes_changed()
    return switch.info.pack()


def _guid_info(question: _Question) -> bytes:
    if question.modifier != 0:
        raise _Wrong(Status.BAD_VALUE)
    port = question.end_port
    if question.sets:
        guids = GuidInfo.parse(question.data).guids
        port.guids[1:GUIDS_PER_PORT] = guids[1:]
    return GuidInfo(tuple(port.guids)).pack()


def _port_info(question: _Question) -> bytes:
    port = question.numbered(question.modifier & 0xFF)
    if question.sets:
        set_port_info(port, PortInfo.parse(question.data), question.listener)
    info = port.info
    hides_key = question.m_key != info.m_key and info.m_key_protect == 1
    return seen_through(port.packed_info(), question.port.number, hides_key=hides_key)


def set_port_info(port: Port, asked: PortInfo, listener: Listener) -> None:
    """Carry out a PortInfo Set: all of it, or nothing and a status (14.2.5.6)."""
    before = port.info
    changes = _link_changes(port, asked)
    if any(PORT_TABLE[port.link_state, change][0] is PortReaction.REFUSE for change in changes):
        raise _Wrong(Status.BAD_VALUE)
    if asked.down_default not in (0, PhysicalState.SLEEP, PhysicalState.POLLING) or 8 <= asked.speed_enabled <= 14:
        raise _Wrong(Status.BAD_VALUE)
    if asked.neighbor_mtu and (asked.neighbor_mtu not in MTU_BYTES or asked.neighbor_mtu > before.mtu_cap):
        raise _Wrong(Status.BAD_VALUE)
    if asked.operational_vls > before.vl_cap or asked.width_enabled & ~before.width_supported not in (0, 0xFC):
        raise _Wrong(Status.BAD_VALUE)
    if port.is_end_port and not (0 < asked.lid < FIRST_MLID and asked.sm_lid < FIRST_MLID and asked.lmc == 0):
        raise _Wrong(Status.BAD_VALUE)
    port.change(**_written(port, asked))
    if port.is_end_port:
        _report_addresses(port, before, asked, listener)
    if changes:
        _set_link_state(port, changes[-1], listener)


def _written(port: Port, asked: PortInfo) -> dict[str, int]:
    """The fields that a Set writes, link state aside; those of an external switch port are fewer."""
    before = port.info
    fields = {
        "width_enabled": asked.width_enabled if 0 < asked.width_enabled <= 0xF else before.width_enabled,
        "speed_enabled": asked.speed_enabled if 0 < asked.speed_enabled < 8 else before.speed_enabled,
        "neighbor_mtu": asked.neighbor_mtu or before.neighbor_mtu,
        "operational_vls": asked.operational_vls or before.operational_vls,
        "down_default": asked.down_default or before.down_default,
        "vl_high_limit": asked.vl_high_limit,
        "hoq_life": asked.hoq_life,
        "vl_stall_count": asked.vl_stall_count,
        "local_phy_errors": asked.local_phy_errors,
        "overrun_errors": asked.overrun_errors,
        "m_key_violations": asked.m_key_violations and before.m_key_violations,
        "p_key_violations": asked.p_key_violations and before.p_key_violations,
        "q_key_violations": asked.q_key_violations and before.q_key_violations,
    }
    if port.is_end_port:
        fields |= {
            "m_key": asked.m_key,
            "m_key_protect": asked.m_key_protect,
            "m_key_lease": asked.m_key_lease,
            "gid_prefix": asked.gid_prefix,
            "lid": asked.lid,
            "sm_lid": asked.sm_lid,
            "sm_sl": asked.sm_sl,
            "subnet_timeout": asked.subnet_timeout,
        }
    return fields


def _report_addresses(port: Port, before: PortInfo, asked: PortInfo, listener: Listener) -> None:
    """Events in the order in which a driver finds them in the SMP that it snooped."""
    if port.lid != before.lid:
        listener.routes_changed()
        listener.port_event(port, PortEventKind.LID_CHANGE)
    if port.info.gid_prefix != before.gid_prefix:
        listener.port_event(port, PortEventKind.GID_CHANGE)
    if (port.sm_lid, port.info.sm_sl) != (before.sm_lid, before.sm_sl):
        listener.port_event(port, PortEventKind.SM_CHANGE)
    if asked.client_reregister:
        listener.port_event(port, PortEventKind.CLIENT_REREGISTER)


def _link_changes(port: Port, asked: PortInfo) -> list[PortInput]:
    """What is asked of the link: by its state, then by its physical state, which counts if there are both."""
    try:
        changes = [SET_STATE[asked.state]] if asked.state else []
        changes += [SET_PHYSICAL[asked.physical_state]] if asked.physical_state else []
    except KeyError:
        raise _Wrong(Status.BAD_VALUE) from None
    always_up = port.number == 0 and port.node.node_type == NodeType.SWITCH
    return [] if always_up else changes


def _set_link_state(port: Port, change: PortInput, listener: Listener) -> None:
    match PORT_TABLE[port.link_state, change][0]:
        case PortReaction.DISABLE:
            listener.disable(port)
        case PortReaction.RETRAIN:
            listener.retrain(port)
        case PortReaction.CHANGE:
            port.step(change)
            listener.routes_changed()
        case PortReaction.ACTIVATE:
            port.step(change)
            listener.routes_changed()
            listener.port_event(port, PortEventKind.PORT_ACTIVE)


def _pkey_table(question: _Question) -> bytes:
    block, number = question.modifier & 0xFFFF, question.modifier >> 16
    port = question.numbered(number) if question.node.node_type == NodeType.SWITCH else question.port
    first = block * 32
    if first >= PKEYS_PER_PORT or not port.is_end_port:  # no enforcement, no tables of external ports (14.2.5.7)
        raise _Wrong(Status.BAD_VALUE)
    if question.sets:
        table = list(port.pkey_table)
        table[first : first + 32] = Block16.parse(question.data).entries
        if table != port.pkey_table:
            port.pkey_table = table
            question.listener.routes_changed()
            if port.is_end_port:
                question.listener.port_event(port, PortEventKind.PKEY_CHANGE)
    return Block16(tuple(port.pkey_table[first : first + 32])).pack()


def _sl_to_vl(question: _Question) -> bytes:
    """The modifier is input port << 8 | output port on a switch, ignored elsewhere."""
    modifier = question.modifier & 0xFFFF
    on_switch = question.node.node_type == NodeType.SWITCH
    port = question.numbered(modifier & 0xFF) if on_switch else question.port
    key = question.numbered(modifier >> 8).number if on_switch else 0
    if question.sets:
        port.sl_to_vl[key] = SlToVl.parse(question.data).pack()
    return port.sl_to_vl.get(key, DEFAULT_LANES)


def _vl_arbitration(question: _Question) -> bytes:
    """The modifier is block << 16 | port; blocks 1, 2 are the low priority table, 3, 4 the high one."""
    block, number = question.modifier >> 16, question.modifier & 0xFF
    port = question.numbered(number) if question.node.node_type == NodeType.SWITCH else question.port
    if block not in (1, 2, 3, 4):
        raise _Wrong(Status.BAD_VALUE)
    if question.sets:
        port.vl_arbitration[block] = VlArbitration.parse(question.data).pack()
    return port.vl_arbitration.get(block, EMPTY)


def _linear_table(question: _Question) -> bytes:
    switch, block = question.switch(), question.modifier
    if block > LINEAR_CAP // 64:
        raise _Wrong(Status.BAD_VALUE)
    if question.sets and switch.linear_block(block) != question.data:
        switch.linear[block * 64 : block * 64 + 64] = question.data
        question.listener.routes_changed()
    return switch.linear_block(block)


def _multicast_table(question: _Question) -> bytes:
    switch, modifier = question.switch(), question.modifier
    block, position = modifier & 0x1FF, modifier >> 28
    if block >= MULTICAST_CAP // MLIDS_PER_BLOCK or position * PORTS_PER_POSITION > switch.port_count:
        raise _Wrong(Status.BAD_VALUE)
    if question.sets:
        entries = Block16.parse(question.data).entries
        if entries != switch.multicast_block(block, position):
            switch.write_multicast_block(block, position, entries)
            question.listener.routes_changed()
    return Block16(switch.multicast_block(block, position)).pack()


ATTRIBUTES: dict[int, Callable[[_Question], bytes]] = {
    SmpAttribute.NODE_DESCRIPTION: _node_description,
    SmpAttribute.NODE_INFO: _node_info,
    SmpAttribute.SWITCH_INFO: _switch_info,
    SmpAttribute.GUID_INFO: _guid_info,
    SmpAttribute.PORT_INFO: _port_info,
    SmpAttribute.PKEY_TABLE: _pkey_table,
    SmpAttribute.SL_TO_VL: _sl_to_vl,
    SmpAttribute.VL_ARBITRATION: _vl_arbitration,
    SmpAttribute.LINEAR_FORWARDING_TABLE: _linear_table,
    SmpAttribute.MULTICAST_FORWARDING_TABLE: _multicast_table,
}
