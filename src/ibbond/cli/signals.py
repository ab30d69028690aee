"""SIGTERM and SIGHUP end a command as Ctrl-C does: what it started is ended, what it changed for a while is undone."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from functools import partial

import click

from ibbond.host.signals import first_signal_raises


@contextlib.contextmanager
def signals_end_it(done: str) -> Iterator[Callable[[], None]]:
    """In this block the first signal raises; further ones do not disturb what is undone then. `done` says what was.

    The function that the block gets makes it too late: from then on none of them ends anything.
    """
    with first_signal_raises() as ignore:
        try:
            yield partial(ignore, for_good=True)
        except SystemExit as ending:
            if isinstance(ending.code, int) and ending.code > 128:
                click.echo(f"ibbond: ended by {signal.Signals(ending.code - 128).name}; {done}", err=True)
            raise
