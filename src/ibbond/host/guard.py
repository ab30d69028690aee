"""What happens when something fails while it handles what a host sent: it is logged and counted, and the lab continues.

Guarded, which is every way in from a host (`Entry`): packets of its TUN devices, messages of its kernel, MADs, RDMA
requests, requests over the control socket, accesses to the sysfs view; then whatever the machines do later because of
it (timers, effects, listeners). The exception's class does not matter. A `Refused` that nothing turned into an answer
and an `AssertionError` (a broken promise of one of our machines) end the handling of that one event, because a host
that can make a promise break must not be able to take the other hosts down with it. The client of the descriptor is
dropped, and a descriptor without a client rests for `PAUSE_NS`, so that a handler which fails without reading cannot
keep the loop busy. A machine that fails on time is ticked again after `stack.network.RETRY_NS`.

Fatal are three things. Until the lab is ready, everything: it does not start. Later, a failure of the loop's own
bookkeeping (its epoll set, its timer, the network's next deadline), for without these the lab would stand still and
look alive. And what is not an `Exception`: KeyboardInterrupt and SystemExit. A lab that ends this way keeps its log.

Left out: bytes that cannot be parsed. They are expected, counted apart (`malformed`) and no fault.
"""

from __future__ import annotations

import enum
import sys
import traceback
from collections import Counter
from collections.abc import Callable

PAUSE_NS = 10_000_000
WHOLE = 3  # tracebacks of one place; later ones only at powers of ten, for a host may repeat what it did


class Entry(enum.StrEnum):
    """How something got in."""

    PACKET = "packet"
    NETLINK = "netlink"
    UMAD = "umad"
    RDMA = "rdma"
    CONTROL = "control"
    SYSFS = "sysfs"
    MANAGER = "manager"  # the process of an OpenSM
    TIMER = "timer"
    DEVICE = "device"  # an effect that could not be carried out in a host
    LISTENER = "listener"


class Faults:
    """Exceptions and unreadable bytes, by how they got in. From any thread."""

    def __init__(self, write: Callable[[str], object] | None = None) -> None:
        self.counts: Counter[Entry] = Counter()
        self.malformed: Counter[Entry] = Counter()
        self._places: Counter[tuple[str, int]] = Counter()
        self._write = write

    def note(self, entry: Entry, error: BaseException) -> None:
        """Count an exception and write its traceback to the log, unless the same one fills it already."""
        self.counts[entry] += 1
        place = _place(error)
        self._places[place] += 1
        times = self._places[place]
        if times > WHOLE and times != 10 ** (len(str(times)) - 1):
            return
        text = "".join(traceback.format_exception(error))
        (self._write or _to_log)(f"fault ({entry}, time {times} at this place):\n{text}")

    def guard(self, entry: Entry, call: Callable[[], object], drop: Callable[[], object] | None = None) -> bool:
        """Make a call; when it fails count that, and drop the client it was made for. Whether it went well."""
        try:
            call()
        except Exception as error:
            self.note(entry, error)
            if drop is not None:
                self.guard(entry, drop)
            return False
        return True

    def facts(self) -> dict[str, dict[str, int]]:
        """What `lab status` shows: {"faults": {entry: count}, "malformed": {entry: count}}."""
        return {"faults": _plain(self.counts), "malformed": _plain(self.malformed)}


def _plain(counts: Counter[Entry]) -> dict[str, int]:
    return {str(entry): count for entry, count in sorted(counts.items())}


def _place(error: BaseException) -> tuple[str, int]:
    """The innermost line of the traceback."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return (trace.tb_frame.f_code.co_filename, trace.tb_lineno) if trace is not None else ("", 0)


def _to_log(text: str) -> None:
    print(text, file=sys.stderr, end="", flush=True)
