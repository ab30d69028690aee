"""Requests and news of RDMA CM as JSON: what a program and its host's adapter say to each other over a Unix socket.

Read first: `stack.rdma_events`. Bytes are hexadecimal, enums their values, values carry their class's name. Memory is
not in messages: it comes as a descriptor with `Register`.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from typing import get_type_hints

from ibbond.errors import Malformed
from ibbond.fabric.reliable_verbs import Completion, Receive, Work
from ibbond.stack.rdma_events import (
    Accept,
    Connect,
    Destroy,
    Disconnect,
    Listen,
    MakeQueuePair,
    PostWork,
    RdmaNews,
    Reject,
    ResolveAddress,
    ResolveRoute,
    WorkOver,
)

SOCKET_NAME = "\0ibbond-rdma"  # abstract: each network namespace has its own


@dataclass(frozen=True, slots=True)
class Register:
    """The descriptor of a memfd that comes along; it must be sealed against shrinking. Answered by `Registered`."""


@dataclass(frozen=True, slots=True)
class Registered:
    key: int


@dataclass(frozen=True, slots=True)
class NotDone:
    """A request was refused; `code` is an errno."""

    text: str
    code: int


KINDS: dict[str, Callable[..., object]] = {
    kind.__name__: kind
    for kind in (
        *(Listen, ResolveAddress, ResolveRoute, MakeQueuePair, Connect, Accept, Reject, Disconnect, Destroy, PostWork),
        *(RdmaNews, WorkOver, Work, Receive, Completion, Register, Registered, NotDone),
    )
}


def pack(value: object) -> bytes:
    return json.dumps(_plain(value), separators=(",", ":")).encode()


def parse(raw: bytes) -> object:
    """Raises `Malformed` for anything that `pack` does not make."""
    try:
        return _value(json.loads(raw))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Malformed(f"no RDMA message: {error}") from None


def _plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return {"": type(value).__name__, **{each.name: _plain(getattr(value, each.name)) for each in fields(value)}}
    if isinstance(value, bytes):
        return value.hex()
    return value.value if isinstance(value, enum.Enum) else value


def _value(plain: dict[str, object]) -> object:
    kind = KINDS[str(plain.pop(""))]
    hints = get_type_hints(kind)
    return kind(**{name: _field(hints[name], value) for name, value in plain.items()})


def _field(hint: object, value: object) -> object:
    if isinstance(value, dict):
        found = _value(value)
        if not isinstance(found, hint):  # type: ignore[arg-type]
            raise ValueError(f"{type(found).__name__} does not belong here")
        return found
    if hint is bytes:
        return bytes.fromhex(str(value))
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return hint(value)
    if not isinstance(value, hint):  # type: ignore[arg-type]
        raise ValueError(f"{value!r} does not belong here")
    return value
