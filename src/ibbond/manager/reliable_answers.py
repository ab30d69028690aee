"""Tables that do not fit into one MAD: how the subnet administrator sends them in segments.

Read first: InfiniBand Architecture volume 1, 13.6 (RMPP), and `drivers/infiniband/core/mad_rmpp.c` for what payload
lengths count. The first segment goes out at once, the others when the receiver acknowledges and opens its window.
Left out: sending again what was lost; the asker asks again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ibbond.machine import SECOND
from ibbond.verbs.verbs import ManagementDatagram
from ibbond.wire.sa import RMPP_OVERHEAD, RMPP_VERSION, SA_DATA_BYTES, Rmpp, RmppFlags, RmppType, SaMad

SEGMENT_BYTES = RMPP_OVERHEAD + SA_DATA_BYTES
KEEP_NS = 4 * SECOND  # how long the rest of a table waits for its acknowledgments
Transaction = tuple[int, int, int]  # LID, QPN, transaction id of the asker


@dataclass(slots=True)
class _Transfer:
    to: ManagementDatagram
    segments: list[SaMad]
    sent: int
    until: int


class ReliableAnswers:
    """The transfers in progress."""

    def __init__(self) -> None:
        self._transfers: dict[Transaction, _Transfer] = {}

    def begin(self, now: int, to: ManagementDatagram, reply: SaMad, data: bytes) -> list[ManagementDatagram]:
        """Send a table; `to` is the address of the answer, `reply` its header. The first segment is returned."""
        self._transfers = {key: kept for key, kept in self._transfers.items() if kept.until > now}
        parts = [data[at : at + SA_DATA_BYTES] for at in range(0, len(data), SA_DATA_BYTES)] or [b""]
        segments = [self._segment(reply, parts, number) for number in range(len(parts))]
        if len(segments) > 1:
            key = (to.destination_lid, to.destination_qpn, reply.transaction_id)
            self._transfers[key] = _Transfer(to, segments, 1, now + KEEP_NS)
        return [replace(to, mad=segments[0].pack())]

    def control(self, asker: ManagementDatagram, mad: SaMad) -> list[ManagementDatagram]:
        """An ACK, STOP or ABORT came in: the segments that may go out now."""
        key = (asker.source_lid, asker.source_qpn, mad.transaction_id)
        transfer = self._transfers.get(key)
        if transfer is None:
            return []
        if mad.rmpp.type != RmppType.ACK or mad.rmpp.segment >= len(transfer.segments):
            del self._transfers[key]
            return []
        window = transfer.segments[transfer.sent : mad.rmpp.payload_bytes]  # an ACK has the new window's end there
        transfer.sent += len(window)
        return [replace(transfer.to, mad=segment.pack()) for segment in window]

    def _segment(self, reply: SaMad, parts: list[bytes], number: int) -> SaMad:
        first, last = number == 0, number == len(parts) - 1
        flags = RmppFlags.ACTIVE | (RmppFlags.FIRST if first else 0) | (RmppFlags.LAST if last else 0)
        length = 0
        if first:
            length = sum(len(part) for part in parts) + len(parts) * RMPP_OVERHEAD
        elif last:
            length = len(parts[-1]) + RMPP_OVERHEAD
        rmpp = Rmpp(RmppType.DATA, int(flags), number + 1, length, version=RMPP_VERSION)
        return replace(reply, data=parts[number], rmpp=rmpp)
