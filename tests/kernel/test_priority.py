"""What a lab is granted of priority by the limits of an ordinary user, where root may set limits: see tests/host."""

import pytest

from tests.kernel.virtual_machine import Host

ASK = """
import os, resource
from ibbond.host import priority
os.setsid()
resource.setrlimit(resource.RLIMIT_{limit}, ({value}, {value}))
os.setgroups([])
os.setresuid(65534, 65534, 65534)
granted = [each for each in priority.raise_priority() if not each.startswith("slices")]
answer = [granted, os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK]
"""
OTHER, ROUND_ROBIN = 0, 2


@pytest.mark.parametrize(
    ("limit", "value", "first", "nice", "policy"),
    [
        ("NICE", 0, None, 0, OTHER),
        ("NICE", 28, "nice -8", -8, OTHER),
        ("NICE", 40, "nice -15", -15, OTHER),
        ("RTPRIO", 5, "real-time priority 1", 0, ROUND_ROBIN),
    ],
)
def test_limits_give_priority(host: Host, limit: str, value: int, first: str | None, nice: int, policy: int) -> None:
    answer = host.python(ASK.format(limit=limit, value=value))
    assert isinstance(answer, list)
    granted, *rest = answer
    assert (next(iter(granted), None), rest) == (first, [nice, policy])
