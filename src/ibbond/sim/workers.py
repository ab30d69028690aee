"""Who runs the seeds: the cores of this machine, or a Dask cluster; the results are the same for the same seeds.

Read first: concurrent.futures; distributed's `Client.get_executor`, which is one of its executors. The workers of a
cluster need the same version of ibbond as the client; stories travel to them as text. Left out: what is run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from ibbond.errors import Refused

CONNECT_SECONDS = 10


@contextmanager
def workers(count: int | None = None, on: str | None = None) -> Iterator[Executor]:
    """Processes on this machine (all cores without a count), or the Dask scheduler at an address `tcp://HOST:PORT`.

    Refused if Dask is not installed or no scheduler answers at the address, and at the end if a process was killed.
    """
    if on is None:
        count = count or len(os.sched_getaffinity(0))
        try:
            with ProcessPoolExecutor(count) as pool:
                yield pool
        except BrokenProcessPool:
            raise Refused(
                "cannot run all seeds",
                why="a worker process was killed, as the kernel does when memory is short (see dmesg)",
                fix=f"Use fewer than {count} processes with --workers, or a smaller story"
                if count > 1
                else "Use a smaller story",
            ) from None
        return
    try:
        from distributed import Client
    except ImportError:
        raise Refused(
            f"cannot run on {on}",
            why="Dask distributed is not installed",
            fix="Install the extra: pip install 'ibbond[sweep]'",
        ) from None
    try:
        client = Client(on, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise Refused(
            f"cannot run on {on}",
            why=str(error) or "no scheduler answers at this address",
            fix="Start one with `dask scheduler`, and workers with `dask worker`",
        ) from None
    with client, client.get_executor() as pool:
        yield pool
