"""Requests and events of RDMA CM as JSON, exchanged by a program and its host's adapter over a Unix socket.

Read first: `rdma_cm.events`. Bytes are hexadecimal, enums their values, values carry their class's name. Memory is
not in messages: it comes as a descriptor with `Register`. Requests are answered in their order; those that carry a
`question` (a number of the program's) are answered by a message that carries it too. Left out: what a request needs
besides values that fit their fields (`rdma_cm.users`).
"""

from __future__ import annotations

import enum
import errno
import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, get_type_hints

from ibbond.errors import Malformed, Refused
from ibbond.rdma_cm.events import (
    ARRIVED_IDS,
    Accept,
    Connect,
    Destroy,
    Disconnect,
    Listen,
    MakeQueuePair,
    PostWork,
    RdmaCmEvent,
    RdmaKind,
    RdmaRequest,
    Reject,
    ResolveAddress,
    ResolveRoute,
    WorkCompleted,
)
from ibbond.verbs.reliable_verbs import Completion, Operation, Receive, Status, Work

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

SOCKET_NAME = "\0ibbond-rdma"  # abstract: each network namespace has its own
MAX_BYTES = 1 << 17  # bytes of a packet
MAX_INLINE = 60_000  # bytes of an inline message; in hexadecimal they fit a packet
MAX_MESSAGE = 1 << 23  # bytes, as soft RoCE has it (`RXE_PORT_MAX_MSG_SZ`): the lab copies it in one go
MAX_MEMORY = 1 << 32  # bytes of one region


@dataclass(frozen=True, slots=True)
class Register:
    """The descriptor of a memfd that comes along; it must be sealed against shrinking. Answered by `Registered`."""

    question: int = -1


@dataclass(frozen=True, slots=True)
class Registered:
    key: int
    question: int = -1


@dataclass(frozen=True, slots=True)
class Settle:
    """Answered by `Settled` when all that was asked before is done or refused."""

    question: int = -1


@dataclass(frozen=True, slots=True)
class Settled:
    question: int = -1


@dataclass(frozen=True, slots=True)
class NotDone:
    """A request was refused, in the words of `Refused`; `code` is an errno."""

    what: str
    why: str
    fix: str
    code: int
    question: int = -1


KINDS: tuple[type[DataclassInstance], ...] = (
    *(Listen, ResolveAddress, ResolveRoute, MakeQueuePair, Connect, Accept, Reject, Disconnect, Destroy, PostWork),
    *(RdmaCmEvent, WorkCompleted, Work, Receive, Completion, Register, Registered, Settle, Settled, NotDone),
)


NEW_ID, ANY_ID = range(ARRIVED_IDS), range(1 << 32)  # those of connection requests are above
PORT, TIME, NUMBER, KEY = range(1 << 16), range(1 << 31), range(1 << 64), range(1 << 32)
PLACE, LENGTH = range(1 << 63), range(MAX_MESSAGE + 1)
RANGES: dict[type, dict[str, range]] = {
    Listen: {"id": NEW_ID, "port": PORT},
    ResolveAddress: {"id": NEW_ID, "port": PORT, "timeout_ms": TIME},
    ResolveRoute: {"id": ANY_ID, "timeout_ms": TIME},
    MakeQueuePair: {"id": ANY_ID},
    Connect: {"id": ANY_ID},
    Accept: {"id": ANY_ID},
    Reject: {"id": ANY_ID},
    Disconnect: {"id": ANY_ID},
    Destroy: {"id": ANY_ID},
    PostWork: {"id": ANY_ID},
    Work: {
        "number": NUMBER,
        "key": KEY,
        "offset": PLACE,
        "length": LENGTH,
        "remote_key": KEY,
        "remote_offset": PLACE,
    },
    Receive: {"number": NUMBER, "key": KEY, "offset": PLACE, "length": LENGTH},
}
ADDRESS_BYTES: dict[type, tuple[str, tuple[int, ...]]] = {
    Listen: ("address", (0, 4, 16)),
    ResolveAddress: ("destination", (4, 16)),
}


def admitted(request: RdmaRequest) -> RdmaRequest:
    """The request when its values fit their fields, else `Refused`; what depends on an id is the stack's to say."""
    _check_ranges(request)
    kind = type(request)
    if kind in ADDRESS_BYTES:
        name, sizes = ADDRESS_BYTES[kind]
        size = len(getattr(request, name))
        if size not in sizes:
            raise _unfit(request, f"{name} has {size} bytes", f"Give it {' or '.join(map(str, sizes))}")
    if isinstance(request, PostWork):
        _check_ranges(request.request)
        if isinstance(request.request, Work):
            _check_work(request.request)
    return request


def _check_ranges(value: object) -> None:
    for name, wanted in RANGES[type(value)].items():
        number = getattr(value, name)
        if number is not None and number not in wanted:
            raise _unfit(value, f"{name} is {number}", f"Give it {wanted[0]} to {wanted[-1]}")


def _check_work(work: Work) -> None:
    if work.operation is Operation.RECEIVE:
        raise _unfit(work, "its operation is receive", "Post a Receive")
    if work.offload:
        raise _unfit(work, "offload is reserved for IPoIB's own messages", "Leave it empty")
    if work.inline and work.operation is Operation.READ:
        raise _unfit(work, "a read cannot be inline", "Specify memory by key, offset and length")
    if len(work.inline) > MAX_INLINE:
        raise too_large(f"inline has {len(work.inline)} bytes, at most {MAX_INLINE} fit")


def too_large(why: str) -> Refused:
    fix = "Register memory and specify the bytes by key, offset and length"
    return Refused("cannot post this work", why=why, fix=fix, code=errno.EMSGSIZE)


def _unfit(value: object, why: str, fix: str) -> Refused:
    return Refused(f"cannot accept this {type(value).__name__}", why=why, fix=fix, code=errno.EINVAL)


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
        raise Malformed(f"not an RDMA message: {error}") from None


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
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):  # type: ignore[arg-type]
        raise ValueError(f"{value!r} does not belong here")
    return value


# Each message is looked up once, not at every packet: a lab that carries a session parses thousands in a second.
FIELDS: dict[type, tuple[str, ...]] = {kind: tuple(each.name for each in fields(kind)) for kind in KINDS}
READERS: dict[str, tuple[Callable[..., object], dict[str, object]]] = {
    kind.__name__: (kind, get_type_hints(kind)) for kind in KINDS
}
ENUMS: dict[object, type[enum.Enum]] = {kind: kind for kind in (RdmaKind, Operation, Status)}
