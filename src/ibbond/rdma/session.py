"""A block session as iSER has it, what both ends agree on: messages, the layout of memory, the ledger of writes.

Read first: RFC 7145 (iSER) for the exchange, docs/rdma.md for what happens at a failover. The ends are
`rdma.initiator` and `rdma.target`, both pure: events and time go in, requests of `rdma_cm.events` come out, so the
simulator and separate processes run the same code. Each write carries its number; the target executes in order, keeps
next to the disk a ledger of what it has executed, and says at log-in which number it wants next. Writes have no end:
disk and ledger are written round and round. The REQ has the initiator's name (as the ISID of RFC 7143, 10.12.5): a
target serves one session, and for another name begins a new one with an empty ledger. Left out: SCSI, several sessions
at a time, several connections in one, authentication.
"""

from __future__ import annotations

import hashlib
import struct

from ibbond.machine import MS

SERVICE_PORT = 3260
DEPTH = 16  # writes that may be in flight
BLOCK = 512
BLOCKS = 4096
LEDGER = 1 << 14  # entries of the ledger: a write is counted in the one that its number leaves as remainder
ENTRY = struct.Struct("!QQ")  # how many writes were executed, and the sum of their numbers
SUM_MASK = (1 << 64) - 1
MARK = int.from_bytes(b"blok")  # another service has none
HELLO = struct.Struct("!IQ")  # in REQ and REP: MARK, the initiator's name
BUSY = b"busy"  # in a REJ: the target serves another session
MESSAGE = struct.Struct("!IIQIIII")  # kind, key, number, offset, length, crc, extra
MESSAGE_BYTES = 64
LOGIN, LOGGED_IN, WRITE, WRITTEN, NOP = range(1, 6)

COMMANDS = 0  # where things are in the memory of both
ANSWERS = COMMANDS + 2 * DEPTH * MESSAGE_BYTES
DATA = ANSWERS + 2 * DEPTH * MESSAGE_BYTES
DISK = DATA + DEPTH * BLOCK
COUNTS = DISK + BLOCKS * BLOCK
MEMORY_BYTES = COUNTS + LEDGER * ENTRY.size

ACK_TIMEOUT = (
    11  # 8.4 ms; six times without an acknowledgment is 50 ms, which leaves as much for waiting and connecting
)
RETRY_COUNT = 5
RESPONSE_TIMEOUT = 13  # 34 ms until a connection request is repeated
CM_RETRIES = 3
NOP_AFTER = 20 * MS  # of waiting for the target, and again each time
AGAIN_AFTER = 5 * MS  # from a failed attempt to the next
BUSY_FOR = 1000 * MS  # an initiator asks a target that serves another session


def named(private: bytes) -> int | None:
    """The initiator's name in a REQ or REP; None in private data that are not of a block session."""
    if len(private) < HELLO.size:
        return None
    mark, name = HELLO.unpack_from(private)
    return int(name) if mark == MARK else None


def content(number: int) -> bytes:
    """The 512 bytes of a write: no two are the same."""
    return hashlib.shake_128(number.to_bytes(8)).digest(BLOCK)


def entry_at(number: int) -> int:
    """Where the ledger's entry for a write is in memory."""
    return COUNTS + number % LEDGER * ENTRY.size


def due_entry(index: int, writes: int) -> tuple[int, int]:
    """What an entry of the ledger holds when the first `writes` writes were executed once each."""
    count = len(range(index, writes, LEDGER))
    return count, (count * index + LEDGER * (count * (count - 1) // 2)) & SUM_MASK


def execute(memory: memoryview, number: int, data: bytes | memoryview) -> None:
    """The disk holds the data of this write, and the ledger says so."""
    at = DISK + number % BLOCKS * BLOCK
    memory[at : at + BLOCK] = data
    count, total = ENTRY.unpack_from(memory, entry_at(number))
    ENTRY.pack_into(memory, entry_at(number), count + 1, total + number & SUM_MASK)


def compare(memory: memoryview, writes: int) -> tuple[int, int]:
    """(lost, doubled): each block against the last write to it, each entry against the first `writes` writes."""
    lost = doubled = 0
    for number in range(max(0, writes - BLOCKS), writes):
        at = DISK + number % BLOCKS * BLOCK
        lost += memory[at : at + BLOCK] != content(number)
    for index in range(LEDGER):
        count, total = ENTRY.unpack_from(memory, entry_at(index))
        due, due_total = due_entry(index, writes)
        exchanged = int(count == due and total != due_total)  # one is missing and another was done twice
        lost += max(0, due - count) + exchanged
        doubled += max(0, count - due) + exchanged
    return lost, doubled
