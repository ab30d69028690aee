"""The demo as an ordinary user: it keeps traffic, or says that the machine was too busy for it."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest

from tests.live.commands import IBBOND
from tests.live.ordinary_user import NOBODY, run_unprivileged


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user takes root")
def test_the_demo_of_an_ordinary_user_survives_or_says_why_not() -> None:
    with tempfile.TemporaryDirectory() as directory:
        os.chown(directory, NOBODY, NOBODY)
        if run_unprivileged([IBBOND, "lab", "up"], Path(directory)).returncode:
            pytest.skip("an ordinary user may not run labs here")
        assert run_unprivileged([IBBOND, "lab", "down"], Path(directory)).returncode == 0
        done = run_unprivileged([IBBOND, "demo", "--rounds", "2", "--json"], Path(directory), timeout=120)
        assert done.returncode in (0, 1), done.stderr
        facts = json.loads(done.stdout)
        assert set(facts["protocols"]) == {"icmp", "udp", "tcp", "multicast"}
        if not facts["survived"]:
            assert facts["late_ms"] > 20, "nothing else takes packets away"
        text = run_unprivileged([IBBOND, "demo", "--rounds", "1"], Path(directory), timeout=120).stdout
        assert "every protocol survived" in text or "the machine was busy" in text.lower()
