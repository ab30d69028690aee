"""NETLINK_RDMA messages: how libibverbs, librdmacm and rdma(8) ask which adapters there are.

Read first: rdma/rdma_netlink.h of Linux and `drivers/infiniband/core/nldev.c`; netlink(7) for headers and attributes.
Numbers are in host order. Left out: everything that changes something, statistics, resource tracking.
"""

from __future__ import annotations

import enum
import errno
import struct
from collections.abc import Iterable
from typing import NamedTuple

from ibbond.errors import Malformed

CLIENT_NLDEV = 5
DRIVER_RXE = 14  # enum rdma_driver_id: the provider library that serves the queues
NLM_F_ACK, NLM_F_DUMP, NLM_F_MULTI = 0x4, 0x300, 0x2
NLMSG_ERROR, NLMSG_DONE = 2, 3
TYPE_MASK = 0x3FFF  # of an attribute's type, without the flags for nesting and byte order
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")


class Command(enum.IntEnum):
    """`enum rdma_nldev_command`."""

    GET = 1
    PORT_GET = 5
    SYS_GET = 6
    GET_CHARDEV = 15


class Attribute(enum.IntEnum):
    """`enum rdma_nldev_attr`."""

    DEV_INDEX = 1
    DEV_NAME = 2
    PORT_INDEX = 3
    CAP_FLAGS = 4
    FW_VERSION = 5
    NODE_GUID = 6
    SYS_IMAGE_GUID = 7
    SUBNET_PREFIX = 8
    LID = 9
    SM_LID = 10
    LMC = 11
    PORT_STATE = 12
    PORT_PHYS_STATE = 13
    DEV_NODE_TYPE = 14
    SYS_ATTR_NETNS_MODE = 66
    DEV_PROTOCOL = 67
    CHARDEV_TYPE = 69
    CHARDEV_NAME = 70
    CHARDEV_ABI = 71
    CHARDEV = 72
    UVERBS_DRIVER_ID = 73
    SYS_ATTR_COPY_ON_FORK = 93


class Question(NamedTuple):
    """A request; `attributes` have their payload as it came."""

    type: int
    flags: int
    sequence: int
    port: int
    attributes: dict[int, bytes]

    @property
    def command(self) -> int | None:
        """The command of the device client; None for another client's."""
        return self.type & 0x3FF if self.type >> 10 == CLIENT_NLDEV else None

    @property
    def dump(self) -> bool:
        return self.flags & NLM_F_DUMP == NLM_F_DUMP

    def number(self, attribute: Attribute) -> int | None:
        raw = self.attributes.get(attribute)
        return int.from_bytes(raw, "little") if raw is not None and len(raw) in (1, 2, 4, 8) else None

    def text(self, attribute: Attribute) -> str:
        return self.attributes.get(attribute, b"").rstrip(b"\0").decode(errors="replace")


def parse(raw: bytes) -> Question:
    """One message; `Malformed` where it is shorter than it says, or an attribute is."""
    if len(raw) < _HEADER.size:
        raise Malformed(f"a netlink message needs {_HEADER.size} bytes, got {len(raw)}")
    length, kind, flags, sequence, port = _HEADER.unpack_from(raw)
    if not _HEADER.size <= length <= len(raw):
        raise Malformed(f"a netlink message of {len(raw)} bytes says that it has {length}")
    attributes: dict[int, bytes] = {}
    at = _HEADER.size
    while at + _ATTRIBUTE.size <= length:
        size, name = _ATTRIBUTE.unpack_from(raw, at)
        if size < _ATTRIBUTE.size or at + size > length:
            raise Malformed(f"a netlink attribute of {size} bytes")
        attributes[name & TYPE_MASK] = bytes(raw[at + _ATTRIBUTE.size : at + size])
        at += size + -size % 4
    return Question(kind, flags, sequence, port, attributes)


def answers(question: Question, bodies: Iterable[bytes] | None) -> list[bytes]:
    """What goes back, packet by packet; None for what is not served, no bodies for what does not exist."""
    if bodies is None:
        return [_error(question, -errno.EOPNOTSUPP)]
    found = list(bodies)
    if question.dump:
        messages = [_message(question.type, NLM_F_MULTI, question, body) for body in found]
        return [b"".join([*messages, _message(NLMSG_DONE, NLM_F_MULTI, question, bytes(4))])]
    if not found:
        return [_error(question, -errno.EINVAL)]
    messages = [_message(question.type, 0, question, body) for body in found]
    return [*messages, *([_error(question, 0)] if question.flags & NLM_F_ACK else [])]


def _message(kind: int, flags: int, question: Question, body: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, question.sequence, question.port) + body


def _error(question: Question, code: int) -> bytes:
    about = _HEADER.pack(_HEADER.size, question.type, question.flags, question.sequence, question.port)
    return _message(NLMSG_ERROR, 0, question, struct.pack("=i", code) + about)


def attribute(kind: Attribute, value: bytes | str) -> bytes:
    raw = value.encode() + b"\0" if isinstance(value, str) else value
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(raw), kind) + raw + bytes(-len(raw) % 4)


def u8(kind: Attribute, value: int) -> bytes:
    return attribute(kind, struct.pack("=B", value))


def u32(kind: Attribute, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


def u64(kind: Attribute, value: int) -> bytes:
    return attribute(kind, struct.pack("=Q", value))


def device_number(major: int, minor: int) -> int:
    """As `huge_encode_dev` writes it."""
    return (minor & 0xFF) | major << 8 | (minor & ~0xFF) << 12
