"""SIGTERM and SIGHUP end a command as Ctrl-C does: what it started is ended, what it changed for a while is undone."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

import click


@contextlib.contextmanager
def signals_end_it(done: str) -> Iterator[Callable[[], None]]:
    """In this block the first signal raises; further ones do not disturb what is undone then. `done` says what was.

    Signals that are ignored stay so (nohup, a shell's `&`). The function that the block gets makes it too late: from
    then on none of them ends anything.
    """
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    heeded = [number for number in numbers if before[number] is not signal.SIG_IGN]

    def ignore() -> None:
        for number in heeded:
            signal.signal(number, signal.SIG_IGN)

    def too_late() -> None:
        ignore()
        heeded.clear()

    def end(number: int, frame: FrameType | None) -> NoReturn:
        ignore()
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    for number in heeded:
        signal.signal(number, end)
    try:
        yield too_late
    except SystemExit as ending:
        if isinstance(ending.code, int) and ending.code > 128:
            click.echo(f"ibbond: ended by {signal.Signals(ending.code - 128).name}; {done}", err=True)
        raise
    finally:
        for number in heeded:
            signal.signal(number, before[number])
