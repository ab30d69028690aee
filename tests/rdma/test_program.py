"""An end of the block session as a process: what it takes from its command line."""

import subprocess
import sys

import pytest

from ibbond.rdma.initiator import Initiator
from ibbond.rdma.session import MEMORY_BYTES


@pytest.mark.parametrize("spacing", ["0", "-1", "x", ""])
def test_writes_without_time_between_them_are_refused(spacing: str) -> None:
    words = [sys.executable, "-m", "ibbond.rdma.program", "initiator", "10.0.0.2", f"--spacing-us={spacing}"]
    done = subprocess.run(words, text=True, capture_output=True, timeout=60, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout) == (2, "")
    refusal = f"argument --spacing-us: {spacing!r} is not a whole number of microseconds from 1 up\n"
    assert done.stderr.endswith(refusal)


@pytest.mark.parametrize("spacing_ns", [0, -1])
def test_an_initiator_has_time_between_its_writes(spacing_ns: int) -> None:
    with pytest.raises(AssertionError):
        Initiator(memoryview(bytearray(MEMORY_BYTES)), 1, bytes(4), name=1, spacing_ns=spacing_ns)
