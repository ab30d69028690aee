"""What the process that carries the traffic asks of Linux: to be run before others, and not to pause.

Read first: sched(7) on autogroups (plain nice counts only inside a session when they are on), sched_setattr(2), docs of
gc. Measured on a busy two-core machine: without priority the 99th percentile of the reaction to a lost carrier was
60 ms, with it 2 ms. What needs no privilege is asked for always: since Linux 6.12 a short slice lets a task that wakes
up run sooner. Where nice is refused and RLIMIT_RTPRIO allows it, real-time priority takes its place.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import resource
import struct
import sys
from pathlib import Path

NICE = -15
SLICE_NS = 100_000  # the shortest that Linux takes
SYS_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}  # sched_getattr has the next number
SCHED_ATTR = struct.Struct("=IIQiIQQQ")  # size, policy, flags, nice, real-time priority, runtime, deadline, period
SWITCH_INTERVAL_S = 0.0005  # how long another thread may keep the interpreter from the loop
YOUNG_OBJECTS = 20_000  # allocations between two collections of the youngest generation


def raise_priority(process: int | None = None) -> list[str]:
    """Ask for priority, for this process or another one; what was granted, in words.

    With CAP_SYS_NICE it is `NICE`; without it as much as RLIMIT_NICE or RLIMIT_RTPRIO allows, which is nothing nearly
    everywhere.
    """
    process = process or os.getpid()
    granted = _raise_nice(process) or _become_real_time(process)
    if not any(each.startswith("real-time") for each in granted) and short_slice(process):
        granted.append(f"slices of {SLICE_NS / 1e6:g} ms")
    return granted


def _become_real_time(process: int) -> list[str]:
    """The lowest real-time priority, where RLIMIT_RTPRIO allows one; what it starts is not real-time."""
    if resource.prlimit(process, resource.RLIMIT_RTPRIO)[0] < 1:
        return []
    try:
        os.sched_setscheduler(process, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    except OSError:
        return []
    return ["real-time priority 1"]


def short_slice(process: int) -> bool:
    """Ask for short slices (Linux 6.12; kernels before take the call and do nothing); whether they are granted now."""
    if os.uname().machine not in SYS_SCHED_SETATTR:
        return False
    system = ctypes.CDLL(None, use_errno=True)
    number = SYS_SCHED_SETATTR[os.uname().machine]
    nice = os.getpriority(os.PRIO_PROCESS, process)
    wanted = ctypes.create_string_buffer(SCHED_ATTR.pack(SCHED_ATTR.size, os.SCHED_OTHER, 0, nice, 0, SLICE_NS, 0, 0))
    reported = ctypes.create_string_buffer(SCHED_ATTR.size)
    if system.syscall(number, process, wanted, 0):
        return False
    if system.syscall(number + 1, process, reported, SCHED_ATTR.size, 0):
        return False
    return int(SCHED_ATTR.unpack(reported.raw)[5]) == SLICE_NS


def _raise_nice(process: int) -> list[str]:
    granted = []
    most = resource.prlimit(process, resource.RLIMIT_NICE)[0]
    for nice in dict.fromkeys((NICE, max(NICE, 20 - most))):  # getrlimit(2): 20 - limit
        if nice >= 0:
            break
        try:
            os.setpriority(os.PRIO_PROCESS, process, nice)
        except OSError:
            continue
        granted.append(f"nice {nice}")
        with contextlib.suppress(OSError):
            if os.getsid(process) == process:  # the group is its alone: no shell's other children get it
                Path(f"/proc/{process}/autogroup").write_text(str(nice))
                granted.append(f"autogroup nice {nice}")
        break
    return granted


def avoid_pauses() -> None:
    """Keep the garbage collector away from what lives forever, and other threads from holding the interpreter."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 50, 100)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
