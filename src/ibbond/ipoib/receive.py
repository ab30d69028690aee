"""What arrives at an interface: which datagrams are for it, what kind they are, and what they carry.

Read first: `ipoib_ib_handle_rx_wc` in Linux's `ipoib_ib.c` and `ipoib_cm_handle_rx_wc` in `ipoib_cm.c`.
"""

from __future__ import annotations

from ibbond.ipoib.events import Frame
from ibbond.ipoib.membership import Membership
from ibbond.ipoib.transmit import TransmitSide
from ibbond.verbs.verbs import FIRST_MLID, Datagram
from ibbond.wire.ipoib import ENCAPSULATION_BYTES
from ibbond.wire.offload import segment_count


class ReceiveSide:
    """The receiving side of one interface; it shares device, port and queue pair with the sending side."""

    def __init__(self, outlet: TransmitSide, groups: Membership) -> None:
        self._device = outlet.device
        self._port = outlet.port
        self._qpn = outlet.qpn
        self._groups = groups
        self.malformed = 0

    def read(self, datagram: Datagram, *, running: bool) -> Frame | None:
        """What a datagram brings; None when it is for others, our own reflected, or unreadable (counted)."""
        group = datagram.destination_gid if datagram.destination_lid >= FIRST_MLID else None
        if group is not None:
            if not self._groups.receives(group) or self._reflected(datagram):
                return None
        elif datagram.destination_qpn != self._qpn:
            return None
        if not running:
            self._device.statistics.rx_dropped += 1
            return None
        return self._frame(
            datagram.payload,
            datagram.offload,
            self._kind(datagram),
            (datagram.source_lid, datagram.source_qpn, datagram.source_gid),
        )

    def read_message(self, peer_qpn: int, payload: bytes, offload: bytes) -> Frame | None:
        """What a message of a reliable connection brings."""
        return self._frame(payload, offload, "host", (0, peer_qpn, None))

    def _frame(self, payload: bytes, offload: bytes, kind: str, source: tuple[int, int, bytes | None]) -> Frame | None:
        statistics = self._device.statistics
        if len(payload) < ENCAPSULATION_BYTES:
            statistics.rx_errors += 1
            self.malformed += 1
            return None
        packet = payload[ENCAPSULATION_BYTES:]
        statistics.rx_packets += segment_count(offload, packet) if offload else 1
        statistics.rx_bytes += len(packet)
        if kind == "multicast":
            statistics.multicast += 1
        lid, qpn, gid = source
        return Frame(int.from_bytes(payload[:2]), packet, kind, offload, lid, qpn, gid)

    def _reflected(self, datagram: Datagram) -> bool:
        """Our own multicast, come back: same LID and queue pair, and no other port's GID in the GRH."""
        if datagram.source_lid != self._port.lid or datagram.source_qpn != self._qpn:
            return False
        return datagram.source_gid is None or datagram.source_gid[8:] == self._port.gid[8:]

    def _kind(self, datagram: Datagram) -> str:
        gid = datagram.destination_gid
        if gid is None or gid[0] != 0xFF:
            return "host"
        return "broadcast" if gid == self._device.broadcast[4:] else "multicast"
