"""The messages of libumad2sim: how unmodified InfiniBand tools speak to a subnet that is not a kernel's.

Read first: umad2sim.c and sim_client.c of ibsim (linux-rdma). Tools preload that library; it turns /dev/infiniband/umad
into datagrams on abstract Unix sockets: 80-byte control messages in the byte order of the host, and 288-byte packets
that carry one MAD. Left out: its UDP mode.
"""

import enum
import struct
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self

from ibbond.errors import Malformed
from ibbond.wire.mad import MAD_BYTES

MAGIC = 0xDEADBEEF
CONTROL_DATA_BYTES = 64
SA_DATA_VISIBLE = 168  # of the 200 bytes of subnet administration data, what reaches a tool through the library
TIMED_OUT = 110  # ETIMEDOUT, as the kernel reports an unanswered MAD


class ControlType(enum.IntEnum):
    ERROR = 0
    CONNECT = 1
    DISCONNECT = 2
    GET_PORT = 3
    GET_VENDOR = 4
    GET_GID = 5
    GET_GUID = 6
    GET_NODE_INFO = 7
    GET_PORT_INFO = 8
    SET_IS_SM = 9
    GET_PKEYS = 10


@dataclass(frozen=True, slots=True)
class Control:
    """A control message and, with the data replaced, its answer."""

    LAYOUT: ClassVar = struct.Struct("=IIII64s")
    client: int
    type: int
    length: int
    data: bytes

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        if len(raw) != cls.LAYOUT.size:
            raise Malformed(f"a control message has {cls.LAYOUT.size} bytes, got {len(raw)}")
        magic, client, kind, length, data = cls.LAYOUT.unpack(raw)
        if magic != MAGIC:
            raise Malformed(f"a control message begins with {MAGIC:#x}, got {magic:#x}")
        return cls(client, kind, length, data)

    def pack(self) -> bytes:
        data = self.data[:CONTROL_DATA_BYTES].ljust(CONTROL_DATA_BYTES, b"\0")
        return self.LAYOUT.pack(MAGIC, self.client, self.type, self.length, data)


@dataclass(frozen=True, slots=True)
class Connect:
    """The data of CONNECT: who comes (its process), and to which node (`Hca2`, `Hca2:1`; empty: the default)."""

    LAYOUT: ClassVar = struct.Struct("=III32s")
    number: int  # process of the client; in the answer the number it gets
    queue_pair: int
    is_sm: int
    node: str

    @classmethod
    def parse(cls, data: bytes) -> Self:
        if len(data) < cls.LAYOUT.size:
            raise Malformed(f"CONNECT has {cls.LAYOUT.size} bytes of data, got {len(data)}")
        number, queue_pair, is_sm, name = cls.LAYOUT.unpack_from(data)
        return cls(number, queue_pair, is_sm, name.partition(b"\0")[0].decode("ascii", "replace"))

    def pack(self) -> bytes:
        return self.LAYOUT.pack(self.number, self.queue_pair, self.is_sm, self.node.encode()[:31])


_PACKET = struct.Struct("!HxxHxxIII4xQ256s")


class UmadPacket(NamedTuple):
    """One MAD between a tool and the subnet. LIDs of 0xffff mean directed route; `length` is as the sender said it."""

    destination_lid: int
    source_lid: int
    destination_qpn: int
    source_qpn: int
    mad: bytes
    status: int = 0
    length: int = MAD_BYTES

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        if len(raw) != _PACKET.size:
            raise Malformed(f"a MAD packet has {_PACKET.size} bytes, got {len(raw)}")
        dlid, slid, dqp, sqp, status, length, mad = _PACKET.unpack(raw)
        return cls(dlid, slid, dqp, sqp, mad, status, length)

    def pack(self) -> bytes:
        return _PACKET.pack(
            self.destination_lid,
            self.source_lid,
            self.destination_qpn,
            self.source_qpn,
            self.status,
            self.length,
            self.mad.ljust(MAD_BYTES, b"\0"),
        )


assert Control.LAYOUT.size == 80
assert _PACKET.size == 288


def socket_name(base: str, what: str) -> bytes:
    """An abstract socket's name; the NUL at its end belongs to it."""
    return b"\0" + f"{base}:{what}".encode() + b"\0"
