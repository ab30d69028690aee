"""Requests and news of RDMA CM as JSON: what a program and its host's adapter say to each other over a Unix socket.

Read first: `stack.rdma_events`. Bytes are hexadecimal, enums their values, values carry their class's name. Memory is
not in messages: it comes as a descriptor with `Register`.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, get_type_hints

from ibbond.errors import Malformed
from ibbond.fabric.reliable_verbs import Completion, Operation, Receive, Status, Work
from ibbond.stack.rdma_events import (
    Accept,
    Connect,
    Destroy,
    Disconnect,
    Listen,
    MakeQueuePair,
    PostWork,
    RdmaKind,
    RdmaNews,
    Reject,
    ResolveAddress,
    ResolveRoute,
    WorkOver,
)

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

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


KINDS: tuple[type[DataclassInstance], ...] = (
    *(Listen, ResolveAddress, ResolveRoute, MakeQueuePair, Connect, Accept, Reject, Disconnect, Destroy, PostWork),
    *(RdmaNews, WorkOver, Work, Receive, Completion, Register, Registered, NotDone),
)


def pack(*values: object) -> bytes:
    """One message, or several to be taken in this order."""
    plain = [_plain(value) for value in values]
    return json.dumps(plain[0] if len(plain) == 1 else plain, separators=(",", ":")).encode()


def parse(raw: bytes) -> list[object]:
    """The messages of one packet. Raises `Malformed` for anything that `pack` does not make."""
    try:
        plain = json.loads(raw.decode())
        return [_value(each) for each in plain] if isinstance(plain, list) else [_value(plain)]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Malformed(f"no RDMA message: {error}") from None


def _plain(value: object) -> object:
    names = FIELDS.get(type(value))
    if names is not None:
        return {"": type(value).__name__, **{name: _plain(getattr(value, name)) for name in names}}
    if isinstance(value, bytes):
        return value.hex()
    return value.value if isinstance(value, enum.Enum) else value


def _value(plain: dict[str, object]) -> object:
    kind, hints = READERS[str(plain.pop(""))]
    return kind(**{name: _field(hints[name], value) for name, value in plain.items()})


def _field(hint: object, value: object) -> object:
    if isinstance(value, dict):
        found = _value(value)
        if not isinstance(found, hint):  # type: ignore[arg-type]
            raise ValueError(f"{type(found).__name__} does not belong here")
        return found
    if hint is bytes:
        return bytes.fromhex(str(value))
    if hint in ENUMS:
        return ENUMS[hint](value)
    if not isinstance(value, hint):  # type: ignore[arg-type]
        raise ValueError(f"{value!r} does not belong here")
    return value


# Each message is looked up once, not at every packet: a lab that carries a session parses thousands in a second.
FIELDS: dict[type, tuple[str, ...]] = {kind: tuple(each.name for each in fields(kind)) for kind in KINDS}
READERS: dict[str, tuple[Callable[..., object], dict[str, object]]] = {
    kind.__name__: (kind, get_type_hints(kind)) for kind in KINDS
}
ENUMS: dict[object, type[enum.Enum]] = {kind: kind for kind in (RdmaKind, Operation, Status)}
