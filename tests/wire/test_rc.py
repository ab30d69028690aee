"""Packets of reliable connections: written and read back, bent ones refused, messages put together."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibbond.errors import Malformed
from ibbond.wire.ib import UdPacket
from ibbond.wire.rc import ACK_HEADED, ATOMIC_HEADED, IMMEDIATE_HEADED, RDMA_HEADED, RcOpcode, RcPacket, SentMessages


@st.composite
def packets(draw: st.DrawFn) -> RcPacket:
    opcode = draw(st.sampled_from(RcOpcode))
    small, large = st.integers(0, 0xFF), st.integers(0, 0xFFFFFF)
    atomic, answer = opcode in ATOMIC_HEADED, opcode in ACK_HEADED
    rdma = opcode in RDMA_HEADED
    return RcPacket(
        draw(st.integers(1, 0xBFFF)),
        draw(st.integers(1, 0xBFFF)),
        draw(st.integers(0, 0xFFFF)),
        draw(large),
        draw(large),
        opcode,
        draw(st.binary(max_size=64)),
        service_level=draw(st.integers(0, 15)),
        remote_address=draw(large) if rdma or atomic else 0,
        remote_key=draw(large) if rdma or atomic else 0,
        length=draw(large) if rdma else 0,
        syndrome=draw(small) if answer else 0,
        sequence=draw(large) if answer else 0,
        immediate=draw(st.binary(min_size=4, max_size=4)) if opcode in IMMEDIATE_HEADED else b"",
        swap_add=draw(large) if atomic else 0,
        compare=draw(large) if atomic else 0,
        original=draw(large) if opcode is RcOpcode.ATOMIC_ACKNOWLEDGE else 0,
    )


@given(packets())
def test_what_is_written_is_read_back(packet: RcPacket) -> None:
    assert RcPacket.parse(packet.pack()) == packet


@given(packets(), st.data())
def test_bent_bytes_are_read_or_refused(packet: RcPacket, data: st.DataObject) -> None:
    raw = bytearray(packet.pack())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    for bent in (bytes(raw), bytes(raw[: data.draw(st.integers(0, len(raw)))])):
        try:
            RcPacket.parse(bent)
        except Malformed:
            continue


def test_a_datagram_is_refused() -> None:
    with pytest.raises(Malformed, match="opcode 0x64"):
        RcPacket.parse(UdPacket(1, 2, 3, 4, 5, 0xFFFF, b"data").pack())


def sent(opcode: RcOpcode, psn: int, payload: bytes, qpn: int = 9) -> RcPacket:
    return RcPacket(1, 2, 0xFFFF, qpn, psn, opcode, payload)


def test_messages_are_put_together_for_each_queue_pair() -> None:
    messages = SentMessages()
    assert messages.take(sent(RcOpcode.SEND_FIRST, 0xFFFFFF, b"a")) is None
    assert messages.take(sent(RcOpcode.SEND_ONLY, 5, b"other", qpn=10)) == b"other"
    assert messages.take(sent(RcOpcode.SEND_MIDDLE, 0, b"b")) is None
    assert messages.take(sent(RcOpcode.ACKNOWLEDGE, 0, b"")) is None
    assert messages.take(sent(RcOpcode.SEND_LAST, 1, b"c")) == b"abc"


def test_a_message_with_a_gap_is_no_message() -> None:
    messages = SentMessages()
    assert messages.take(sent(RcOpcode.SEND_LAST, 7, b"end of one that began before the capture")) is None
    messages.take(sent(RcOpcode.SEND_FIRST, 8, b"a"))
    assert messages.take(sent(RcOpcode.SEND_LAST, 10, b"c")) is None
    messages.take(sent(RcOpcode.SEND_FIRST, 20, b"a"))
    messages.take(sent(RcOpcode.SEND_FIRST, 20, b"a"))  # repeated by its sender
    assert messages.take(sent(RcOpcode.SEND_LAST, 21, b"b")) == b"ab"
