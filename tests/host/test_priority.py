"""What a lab is granted of priority without CAP_SYS_NICE: as much as the limits of its user allow."""

import os
import resource
import traceback
from collections.abc import Callable

import pytest

from ibbond.host import priority

NOBODY = 65534
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can set other users' limits")


def unprivileged(limit: int, value: int, ask: Callable[[], object]) -> str:
    """What a call says in a process of an ordinary user with this limit."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            try:
                resource.setrlimit(limit, (value, value))
            except ValueError:
                os.write(writer, b"limit")
                os._exit(0)
            os.setgroups([])
            os.setresuid(NOBODY, NOBODY, NOBODY)
            os.write(writer, repr(ask()).encode())
        except BaseException:
            os.write(writer, traceback.format_exc().encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as said:
        text = said.read()
    os.waitpid(child, 0)
    if text == "limit":
        pytest.skip("root of this machine may not raise limits (tests/kernel has this, too)")
    return text


def nice_and_policy() -> tuple[list[str], int, int]:
    granted = [each for each in priority.raise_priority() if not each.startswith("slices")]
    return granted, os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK


def test_nothing_is_granted_without_a_limit() -> None:
    assert unprivileged(resource.RLIMIT_NICE, 0, nice_and_policy) == repr(([], 0, os.SCHED_OTHER))


def test_the_limit_of_nice_is_used_up() -> None:
    said = unprivileged(resource.RLIMIT_NICE, 28, nice_and_policy)
    assert said.startswith("(['nice -8'"), said
    assert said.endswith(repr((-8, os.SCHED_OTHER))[1:]), said


def test_a_limit_above_what_is_wanted_gives_what_is_wanted() -> None:
    assert f"nice {priority.NICE}'" in unprivileged(resource.RLIMIT_NICE, 40, nice_and_policy)


def test_real_time_priority_takes_the_place_of_nice() -> None:
    try:
        os.sched_setscheduler(os.getpid(), os.SCHED_RR, os.sched_param(1))
    except OSError:
        pytest.skip("this machine gives no real-time priority")
    finally:
        os.sched_setscheduler(os.getpid(), os.SCHED_OTHER, os.sched_param(0))
    said = unprivileged(resource.RLIMIT_RTPRIO, 5, nice_and_policy)
    assert said == repr((["real-time priority 1"], 0, os.SCHED_RR)), said


def test_a_short_slice_needs_no_limit() -> None:
    if tuple(map(int, os.uname().release.split(".")[:2])) < (6, 12):
        pytest.skip("Linux 6.12 or newer")
    assert unprivileged(resource.RLIMIT_NICE, 0, lambda: priority.short_slice(os.getpid())) == "True"
