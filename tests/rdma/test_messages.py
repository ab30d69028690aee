"""What programs and their host's adapter say to each other: every value comes back, nothing else gets in."""

import contextlib
import errno
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibbond.errors import Malformed, Refused
from ibbond.rdma.messages import KINDS, NotDone, Register, Registered, Settle, Settled, admitted, pack, parse
from ibbond.rdma_cm import events as cm
from ibbond.verbs.reliable_verbs import Completion, Operation, Receive, Status, Work

number, text, octets = st.integers(0, 2**32), st.text(max_size=20), st.binary(max_size=64)
work = st.builds(Work, number, st.sampled_from(Operation), number, number, number, number, number, octets)
receive = st.builds(Receive, number, number, number, number)
completion = st.builds(Completion, number, st.sampled_from(Operation), st.sampled_from(Status), number)
values = st.one_of(
    st.builds(cm.Listen, number, number, octets),
    st.builds(cm.ResolveAddress, number, octets, number, number),
    st.builds(cm.ResolveRoute, number, number),
    st.builds(cm.MakeQueuePair, number),
    st.builds(cm.Connect, number, octets, number, number, st.none() | number, number, number),
    st.builds(cm.Accept, number, octets),
    st.builds(cm.Reject, number, octets),
    st.builds(cm.Disconnect, number),
    st.builds(cm.Destroy, number),
    st.builds(cm.PostWork, number, work | receive),
    st.builds(cm.RdmaCmEvent, number, st.sampled_from(cm.RdmaKind), number, octets, number, text),
    st.builds(cm.WorkCompleted, number, completion),
    st.builds(Register, number),
    st.builds(Registered, number, number),
    st.builds(Settle, number),
    st.builds(Settled, number),
    st.builds(NotDone, text, text, text, number, number),
)


@given(st.lists(values, min_size=1, max_size=5))
def test_what_is_packed_comes_back(sent: list[object]) -> None:
    assert parse(pack(*sent)) == sent


@given(st.binary(max_size=200))
def test_bytes_are_a_message_or_malformed(raw: bytes) -> None:
    with pytest.raises(Malformed):
        parse(raw + b"\xff")
    with contextlib.suppress(Malformed):
        parse(raw)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


@given(st.sampled_from(KINDS), st.dictionaries(st.sampled_from(["id", "request", "number", "key", ""]), plain))
def test_any_json_is_a_message_or_malformed(kind: type, fields: dict[str, object]) -> None:
    for value in (fields, {**fields, "": kind.__name__}, [{**fields, "": kind.__name__}]):
        with contextlib.suppress(Malformed):
            parse(json.dumps(value).encode())


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{}",
        b"7",
        b'{"": "Popen"}',
        b'{"": "Destroy"}',
        b'{"": "Destroy", "id": "7"}',
        b'{"": "Destroy", "id": 7, "more": 1}',
        b'{"": "Destroy", "id": true}',
        b'{"": "PostWork", "id": 7, "request": {"": "Destroy", "id": 1}}',
        b'{"": "Accept", "id": 7, "private": "xyz"}',
        b'{"": "WorkCompleted", "id": 7, "completion": {"": "Completion", "number": 1, "operation": "x"}}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_message(raw: bytes) -> None:
    with pytest.raises(Malformed):
        parse(raw)


def posted(**words: object) -> cm.PostWork:
    return cm.PostWork(0, Work(**{"number": 0, "operation": Operation.SEND, **words}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("request_", "code", "word"),
    [
        (cm.ResolveAddress(-1, bytes(4), 7), errno.EINVAL, "id is -1"),
        (cm.ResolveAddress(cm.ARRIVED_IDS, bytes(4), 7), errno.EINVAL, "0 to 16777215"),
        (cm.ResolveAddress(0, bytes(5), 7), errno.EINVAL, "4 or 16"),
        (cm.ResolveAddress(0, bytes(4), 1 << 16), errno.EINVAL, "65535"),
        (cm.ResolveAddress(0, bytes(4), 7, timeout_ms=-1), errno.EINVAL, "timeout_ms is -1"),
        (cm.ResolveRoute(0, timeout_ms=1 << 70), errno.EINVAL, "timeout_ms"),
        (cm.Listen(0, -1), errno.EINVAL, "port is -1"),
        (cm.Listen(0, 7, bytes(3)), errno.EINVAL, "0 or 4 or 16"),
        (cm.Destroy(-1), errno.EINVAL, "id is -1"),
        (cm.Disconnect(1 << 32), errno.EINVAL, "id is"),
        (posted(number=-1), errno.EINVAL, "number is -1"),
        (posted(length=-1), errno.EINVAL, "length is -1"),
        (posted(offset=1 << 63), errno.EINVAL, "offset"),
        (posted(key=1 << 32), errno.EINVAL, "key"),
        (posted(remote_key=-1), errno.EINVAL, "remote_key"),
        (posted(operation=Operation.RECEIVE), errno.EINVAL, "Receive"),
        (posted(operation=Operation.READ, inline=b"x"), errno.EINVAL, "inline"),
        (posted(inline=b"x", offload=b"x"), errno.EINVAL, "offload"),
        (posted(inline=bytes(60_001)), errno.EMSGSIZE, "60001 bytes"),
        (cm.PostWork(0, Receive(0, 0, 0, 1 << 40)), errno.EINVAL, "length"),
    ],
)
def test_values_that_fit_no_field_are_refused(request_: cm.RdmaRequest, code: int, word: str) -> None:
    with pytest.raises(Refused, match=word) as refusal:
        admitted(request_)
    assert refusal.value.code == code


def test_values_at_the_edge_are_admitted() -> None:
    for request in (
        cm.ResolveAddress(cm.ARRIVED_IDS - 1, bytes(16), 65535),
        cm.Connect(cm.ARRIVED_IDS, bytes(56), ack_timeout=31, response_timeout=31, cm_retries=15),
        cm.Accept(cm.ARRIVED_IDS + 1, bytes(196)),
        cm.Reject(cm.ARRIVED_IDS + 1, bytes(148)),
        posted(number=(1 << 64) - 1, length=1 << 23, offset=(1 << 63) - 1),
    ):
        assert admitted(request) == request
