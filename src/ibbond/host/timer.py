"""A timer that an epoll set can wait for, with nanoseconds: epoll's own timeout counts in milliseconds.

Read first: timerfd_create(2). Python has it from 3.13 on, so ctypes here.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import time

from ibbond.machine import SECOND

TFD_NONBLOCK, TFD_CLOEXEC, TFD_TIMER_ABSTIME = 0o4000, 0o2000000, 1

_libc = ctypes.CDLL(None, use_errno=True)


class _Times(ctypes.Structure):
    """struct itimerspec on machines whose time_t is a long."""

    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("at_s", ctypes.c_long),
        ("at_ns", ctypes.c_long),
    )


class Timer:
    """Becomes readable at a time of CLOCK_MONOTONIC."""

    def __init__(self) -> None:
        self._fd = _libc.timerfd_create(time.CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)
        if self._fd < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        self._at: int | None = None

    def fileno(self) -> int:
        return int(self._fd)

    def set(self, at: int | None) -> None:
        """Ring at this monotonic nanosecond (at once when it is past), or not at all. Replaces the time set before."""
        if at == self._at:
            return
        self._at = at
        when = max(at, 1) if at is not None else 0  # zero would disarm it
        times = _Times(0, 0, when // SECOND, when % SECOND)
        if _libc.timerfd_settime(self._fd, TFD_TIMER_ABSTIME, ctypes.byref(times), None):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))

    def rang(self) -> None:
        """Take the ring notice; the timer is unset now."""
        self._at = None
        with contextlib.suppress(BlockingIOError):  # set again between the wake-up and now
            os.read(self._fd, 8)

    def close(self) -> None:
        os.close(self._fd)
