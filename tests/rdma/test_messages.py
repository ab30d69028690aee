"""What programs and their host's adapter say to each other: every value comes back, nothing else gets in."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibbond.errors import Malformed
from ibbond.fabric.reliable_verbs import Completion, Operation, Receive, Status, Work
from ibbond.rdma.messages import KINDS, NotDone, Register, Registered, pack, parse
from ibbond.stack import rdma_events as cm

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
    st.builds(cm.RdmaNews, number, st.sampled_from(cm.RdmaKind), number, octets, number, text),
    st.builds(cm.WorkOver, number, completion),
    st.just(Register()),
    st.builds(Registered, number),
    st.builds(NotDone, text, number),
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
        b'{"": "PostWork", "id": 7, "request": {"": "Destroy", "id": 1}}',
        b'{"": "Accept", "id": 7, "private": "xyz"}',
        b'{"": "WorkOver", "id": 7, "completion": {"": "Completion", "number": 1, "operation": "eat", "status": "x"}}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_message(raw: bytes) -> None:
    with pytest.raises(Malformed):
        parse(raw)
