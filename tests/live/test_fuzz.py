"""A running lab under everything that a hostile program in a host may send: it answers, forwards, and does not grow.

`IBBOND_FUZZ_SECONDS` is the time for all ways in together (`./test --soak`: 600); `IBBOND_FUZZ_SEED` repeats a run.
"""

import os
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ibbond import Lab
from ibbond.lab.state import Files
from tests.live import fuzzers
from tests.live.test_soak import at_rest, grown, occupied

SECONDS = float(os.environ.get("IBBOND_FUZZ_SECONDS", "12")) / len(fuzzers.ENTRIES)
SEED = int(os.environ.get("IBBOND_FUZZ_SEED", random.SystemRandom().randrange(1 << 32)))
GROWTH_KB = 12_288  # of resident memory: queues and caches that have a bound
CALM_S = 10.0


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


def fuzz(lab: Lab, entry: str, seed: int, seconds: float) -> int:
    done = lab["h1"].run([sys.executable, fuzzers.__file__, entry, str(seed), str(seconds)], timeout=seconds + 60)
    return int(done.stdout)


@pytest.mark.parametrize("entry", fuzzers.ENTRIES)
def test_the_lab_goes_on(lab: Lab, entry: str) -> None:
    print(f"again: IBBOND_FUZZ_SEED={SEED} IBBOND_FUZZ_SECONDS={SECONDS * len(fuzzers.ENTRIES):g}")
    pid = lab.status()["pid"]
    fuzz(lab, entry, SEED + 1, SECONDS / 2)  # logs and caches, which have a bound, fill up
    before = at_rest(pid)
    sent = fuzz(lab, entry, SEED, SECONDS / 2)
    assert sent > 20
    began = time.monotonic()
    status = lab.status()
    assert time.monotonic() - began < 5
    assert status["faults"] == {}, Files(lab.name).log.read_text()[-5000:]
    if entry == "umad":  # root may write the tables of switches, as on a fabric without M_Keys
        lab.kill("sm")
        lab.revive("sm")  # which writes them all again
        time.sleep(1)
    lab["h1"].run(["ping", "-c", "3", "-i", "0.2", "-W", "2", "10.0.0.2"])
    until = time.monotonic() + CALM_S
    while grown(before, after := occupied(pid)) and time.monotonic() < until:
        time.sleep(0.1)
    print(f"{entry}: {sent} sent; kB, descriptors, threads: {before}, then {after}")
    assert not grown(before, after), sorted(os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir())
    assert after[0] - before[0] < GROWTH_KB
