"""Commands of uverbs and rings of librxe: read back as written, bent bytes read or refused, nothing else."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibbond.errors import Malformed
from ibbond.wire import rxe, uverbs, uverbs_answers
from ibbond.wire.rxe import PRODUCER, ReceiveRequest, Ring, RingShape, SendFlags, SendOpcode, SendRequest, Sge
from ibbond.wire.uverbs import CreateAh, CreateQp, Envelope, ModifyQp, Path, QpMask, RegMr, Unknown

U32, U64 = st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 64) - 1)


@given(st.integers(0, 60), st.booleans(), st.binary(max_size=200))
def test_any_bytes_are_a_command_or_refused(number: int, extended: bool, body: bytes) -> None:
    command = number | (uverbs.EXTENDED if extended else 0)
    raw = struct.pack("=IHH", command, 0, 4) + body
    for cut in (raw, raw[:7]):
        try:
            envelope, request = uverbs.parse(cut)
        except Malformed:
            continue
        assert isinstance(envelope, Envelope)
        assert isinstance(request, tuple)


def test_a_plain_command_is_read_where_the_header_says() -> None:
    raw = struct.pack("=IHHQQQQII", 9, 12, 3, 0xAAAA, 1, 2, 3, 4, 5)
    envelope, request = uverbs.parse(raw)
    assert envelope == Envelope(0xAAAA, 12, 0, False)
    assert request == RegMr(start=1, length=2, va=3, pd=4, access=5)


def test_an_extended_command_has_its_response_in_the_header() -> None:
    body = struct.pack("=Q9I3BxII", 7, *range(9), 1, uverbs.QpType.RC, 0, 0, 0)
    raw = struct.pack("=IHHQHHI", 24 | uverbs.EXTENDED, 0, 5, 0xBBBB, 0, 4, 0) + body
    envelope, request = uverbs.parse(raw)
    assert envelope == Envelope(0xBBBB, 40, 32, True)
    assert request == CreateQp(7, 0, 1, 2, 3, 4, 5, 6, 7, 8, 1, uverbs.QpType.RC, 0)


def test_an_unknown_command_is_named() -> None:
    assert uverbs.parse(struct.pack("=IHH", 29, 0, 0))[1] == Unknown(29, False)


PATHS = st.builds(
    Path, st.binary(min_size=16, max_size=16), U32, st.integers(0, 0xFFFF), *[st.integers(0, 255) for _ in range(8)]
)


@given(PATHS, U32, st.integers(0, 6))
def test_modify_has_its_path_and_state(path: Path, handle: int, state: int) -> None:
    rest = struct.pack("=7I2H14B2x", handle, int(QpMask.STATE | QpMask.AV), *[0] * 5, 0, 0, state, *[0] * 13)
    raw = struct.pack("=IHH", 26, 0, 0) + uverbs.pack_path(path) + uverbs.pack_path(Path()) + rest
    request = uverbs.parse(raw)[1]
    assert isinstance(request, ModifyQp)
    assert (request.path, request.handle, request.state) == (path, handle, state)


@given(PATHS, U64, U32)
def test_an_address_handle_has_another_order(path: Path, user: int, pd: int) -> None:
    raw = struct.pack("=IHHQQII", 5, 0, 0, 1, user, pd, 0) + uverbs.pack_ah_path(path)
    assert uverbs.parse(raw)[1] == CreateAh(user, pd, path)


@pytest.mark.parametrize("room", [0, 4, 12, 20, 40])
def test_no_answer_is_longer_than_the_room_that_was_said(room: int) -> None:
    assert len(Envelope(1, room, 0, False).fit(bytes(12), bytes(16))) <= room
    assert len(Envelope(1, room, 8, True).fit(bytes(12), bytes(16))) == room + 8


def test_answers_have_the_sizes_of_the_kernel_structures() -> None:
    limits = uverbs_answers.DeviceLimits(1)
    assert len(uverbs_answers.pack_device(1, 2, limits, extended=False)) == 176
    assert len(uverbs_answers.pack_device(1, 2, limits, extended=True)) == 304
    assert len(uverbs_answers.pack_port(uverbs_answers.PortAttributes(*range(19)))) == 40
    modify = ModifyQp(Path(), Path(), *[0] * 23)
    assert len(uverbs_answers.pack_query_qp(modify, uverbs_answers.QpCaps(1, 2, 3, 4, 5), all_signaled=True)) == 128


PIECES = st.lists(st.builds(Sge, U64, st.integers(0, 1 << 27), U32), max_size=8).map(tuple)


@st.composite
def sends(draw: st.DrawFn) -> SendRequest:
    opcode = draw(st.sampled_from(SendOpcode))
    inline = draw(st.binary(max_size=64)) if draw(st.booleans()) else None
    pieces = draw(PIECES) if inline is None else ()
    atomic = opcode in (SendOpcode.COMPARE_SWAP, SendOpcode.FETCH_ADD)
    length = len(inline) if inline is not None else sum(piece.length for piece in pieces)
    flags = draw(st.integers(0, 7)) | (SendFlags.INLINE if inline is not None else 0)
    return SendRequest(
        draw(U64), opcode, flags, draw(st.binary(min_size=4, max_size=4)), length, pieces, inline or b"",
        draw(U64), draw(U32), draw(U64) if atomic else 0, draw(U64) if atomic else 0, 0, 0, 0,
    )  # fmt: skip


@given(sends())
def test_a_send_request_is_read_as_it_was_written(request: SendRequest) -> None:
    raw = rxe.pack_send(request).ljust(1024, b"\0")
    found = rxe.parse_send(memoryview(raw), 0, max_pieces=8, max_inline=64)
    assert found._replace(remote_qpn=0, remote_qkey=0, address_handle=0) == request


@given(st.binary(min_size=1024, max_size=1024))
def test_any_slot_is_a_request_or_malformed(raw: bytes) -> None:
    for read in (
        lambda: rxe.parse_send(memoryview(raw), 0, max_pieces=8, max_inline=64),
        lambda: rxe.parse_receive(memoryview(raw), 0, max_pieces=8),
    ):
        try:
            read()
        except Malformed:
            continue


@given(st.integers(0, 1 << 40), PIECES)
def test_a_receive_request_is_read_as_it_was_written(number: int, pieces: tuple[Sge, ...]) -> None:
    request = ReceiveRequest(number, pieces)
    raw = rxe.pack_receive(request).ljust(512, b"\0")
    assert rxe.parse_receive(memoryview(raw), 0, max_pieces=8) == request


@given(st.integers(1, 5000), st.integers(1, 600))
def test_a_shape_has_room_for_what_was_asked(entries: int, element: int) -> None:
    shape = RingShape.of(entries, element)
    assert shape.entries >= entries
    assert shape.slot_bytes >= element
    assert rxe.SLOTS + shape.slots * shape.slot_bytes <= shape.total
    assert shape.total % rxe.PAGE == 0


@given(st.lists(st.tuples(st.booleans(), U32), max_size=60))
def test_a_ring_stays_within_its_memory_whatever_a_program_writes(steps: list[tuple[bool, int]]) -> None:
    shape = rxe.completion_shape(3)
    memory = bytearray(shape.total + 64)
    ring = Ring(memoryview(memory)[: shape.total], shape)
    for produce, word in steps:
        if produce:
            ring.produce(b"\xff" * rxe.COMPLETION_BYTES)
        else:
            ring.words[PRODUCER if word & 1 else rxe.CONSUMER] = word
            ring.advance_consumer()
        assert 0 <= ring.at(ring.producer) < shape.total
    assert memory[shape.total :] == bytes(64)


@given(st.integers(1, 40), st.integers(1, 40), U32, U32)
def test_what_waits_moves_to_another_ring_in_its_order(old: int, new: int, consumer: int, producer: int) -> None:
    before, after = (Ring(memoryview(bytearray(shape.total)), shape) for shape in map(rxe.completion_shape, (old, new)))
    for index in range(before.mask + 1):
        before.data[before.at(index)] = index
    before.words[rxe.CONSUMER], before.words[PRODUCER] = consumer, producer
    expected = [(before.consumer + step) & before.mask for step in range(before.waiting())]
    fits = len(expected) <= after.mask
    assert after.copy_waiting(before) is fits
    assert [after.data[after.at(after.consumer + step)] for step in range(after.waiting())] == (
        expected if fits else []
    )


def test_a_resize_is_read_behind_its_response() -> None:
    raw = struct.pack("=IHHQII", 19, 6, 6, 0xAAAA, 3, 100)
    assert uverbs.parse(raw) == (Envelope(0xAAAA, 24, 0, False), uverbs.ResizeCq(3, 100))


def test_a_full_ring_takes_nothing_more() -> None:
    shape = rxe.completion_shape(3)
    ring = Ring(memoryview(bytearray(shape.total)), shape)
    assert [ring.produce(b"x") for _ in range(4)] == [True, True, True, False]
    ring.advance_consumer()
    assert ring.produce(b"x")
