"""The packet filter of a host's watch, run instruction by instruction: it lets through what phases are made of."""

import struct

import pytest

from ibbond.drill.host_watch import (
    IFINDEX,
    INSTRUCTION,
    JUMP_EQUAL,
    LOAD_BYTE,
    PACKET_OUTGOING,
    PACKET_TYPE,
    PROTOCOL,
    RETURN,
    wanted_packets,
)

BOND, MEMBER, PORT = 7, 3, 7001
INCOMING = 0
ARP, IPV4, IPV6, PPPOE = 0x0806, 0x0800, 0x86DD, 0x8863


def udp(port: int) -> bytes:
    return bytes(9) + b"\x11" + bytes(10) + struct.pack("!HH", 1, port) + bytes(40)


def passes(packet: bytes, ifindex: int, protocol: int, kind: int) -> bool:
    """What the kernel's interpreter does with the program."""
    raw = wanted_packets(BOND, PORT)
    program = [INSTRUCTION.unpack_from(raw, at) for at in range(0, len(raw), INSTRUCTION.size)]
    facts = {PROTOCOL: protocol, PACKET_TYPE: kind, IFINDEX: ifindex}
    at = accumulator = 0
    while True:
        code, if_true, if_false, k = program[at]
        at += 1
        if code == RETURN:
            return bool(k > 0)
        if code == JUMP_EQUAL:
            at += if_true if accumulator == k else if_false
        elif k in facts:
            accumulator = facts[k]
        else:
            accumulator = packet[k] if code == LOAD_BYTE else int.from_bytes(packet[k : k + 2])


@pytest.mark.parametrize(
    ("packet", "ifindex", "protocol", "kind", "wanted"),
    [
        (udp(PORT), MEMBER, IPV4, INCOMING, True),
        (udp(PORT), MEMBER, IPV4, PACKET_OUTGOING, False),
        (udp(PORT), BOND, IPV4, INCOMING, False),
        (udp(7002), MEMBER, IPV4, INCOMING, False),
        (bytes(60), MEMBER, IPV4, INCOMING, False),
        (bytes(60), MEMBER, ARP, PACKET_OUTGOING, True),
        (bytes(60), MEMBER, IPV6, PACKET_OUTGOING, True),
        (bytes(60), BOND, ARP, PACKET_OUTGOING, False),
        (bytes(60), MEMBER, PPPOE, INCOMING, False),
    ],
)
def test_the_filter(packet: bytes, ifindex: int, protocol: int, kind: int, wanted: bool) -> None:
    assert passes(packet, ifindex, protocol, kind) is wanted
