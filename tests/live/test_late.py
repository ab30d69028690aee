"""A lab that is kept from running says so; one that loses packets does not."""

import os
import signal
import time
from pathlib import Path

from ibbond.backend.control_socket import Control
from tests.live.test_soak import TWO_HOSTS
from tests.live.view_lab import ViewLab, unique, view_lab


def worst_ms(lab: ViewLab) -> float:
    with Control.of(lab.name) as control:
        late = control.ask("late")
    assert isinstance(late, dict)
    return float(late["worst_ms"])


def test_a_lab_that_was_stopped_was_late(tmp_path: Path) -> None:
    with view_lab(unique("late"), TWO_HOSTS, tmp_path) as lab, Control.of(lab.name) as control:
        status = control.ask("status")
        assert isinstance(status, dict)
        os.kill(status["pid"], signal.SIGSTOP)
        time.sleep(1.0)
        os.kill(status["pid"], signal.SIGCONT)
        time.sleep(0.5)
        assert 700 < worst_ms(lab) < 30_000
        assert "the machine was busy: the lab ran up to" in lab.ibbond("lab", "status").stdout
        late = control.ask("late")
        assert isinstance(late, dict)
        assert max(until - since for since, until in late["spans"]) > 0.7e9


def test_lost_packets_are_no_lateness(tmp_path: Path) -> None:
    with view_lab(unique("lossy"), TWO_HOSTS, tmp_path) as lab:
        lab.ibbond("lab", "lose", "h1/ib0", "--percent", "50")
        before = worst_ms(lab)
        said = lab.run("ping", "-c", "50", "-i", "0.01", "-W", "1", "10.0.0.2").stdout
        assert " 0% packet loss" not in said
        after = worst_ms(lab)
        assert after == before or after < 500, "what it was late by is this machine's load"
