"""The first signal ends the current work by an exception, so that it can be undone; further ones do not disturb that.

SIGINT raises KeyboardInterrupt, SIGTERM and SIGHUP raise SystemExit with 128 and the signal's number. Read first:
signal(7). Signals that are ignored stay so (nohup, a shell's `&`). Left out: telling people (cli/signals.py).
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn, Protocol

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def fork(in_child: signal.Handlers = signal.SIG_DFL) -> int:
    """`os.fork`, whose child is not interrupted in Python: there these signals are handled so from the beginning.

    A Ctrl-C goes to the whole process group, and a child in which Python raised it would print a traceback.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, NUMBERS)
    try:
        child = os.fork()
        if child == 0:
            for number in NUMBERS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    signal.signal(number, in_child)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return child


class Ignore(Protocol):
    def __call__(self, for_good: bool = False) -> None: ...


@contextlib.contextmanager
def first_signal_raises() -> Iterator[Ignore]:
    """The block gets a function that makes signals too late: none ends anything in the rest of it, or `for_good`.

    Does nothing outside the main thread, which is where Python delivers signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda for_good=False: None
        return
    before = {number: signal.getsignal(number) for number in NUMBERS}
    heeded = [number for number in NUMBERS if before[number] is not signal.SIG_IGN]

    def too_late(for_good: bool = False) -> None:
        for number in heeded:
            signal.signal(number, signal.SIG_IGN)
        if for_good:
            heeded.clear()

    def end(number: int, frame: FrameType | None) -> NoReturn:
        too_late()
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    for number in heeded:
        signal.signal(number, end)
    try:
        yield too_late
    finally:
        for number in heeded:
            signal.signal(number, before[number])
