"""A lab that is kept from running says so; one that loses packets does not."""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from ibbond.backend.control_socket import Control
from tests.live.test_soak import TWO_HOSTS
from tests.live.view_lab import ViewLab, ibbond, unique, view_lab


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


def probed(lab: ViewLab, seconds: str = "2") -> dict[str, Any]:
    facts = json.loads(
        ibbond("lab", "probe", "--name", lab.name, "--seconds", seconds, "--json", "h1", "h2", check=False).stdout
    )
    assert isinstance(facts, dict)
    return facts


def test_lost_packets_are_not_lateness(tmp_path: Path) -> None:
    """A tenth of them gets lost on cables, and is reported as lost, whatever this machine does meanwhile."""
    with view_lab(unique("lossy"), TWO_HOSTS, tmp_path) as lab:
        for host in ("h1", "h2"):
            lab.ibbond("lab", "lose", f"{host}/ib0", "--percent", "10")
        facts = probed(lab)
        for protocol in ("udp", "multicast"):
            row = facts["protocols"][protocol]
            assert row["sent"] - row["received"] == row["lost"] > row["sent"] // 20, facts


def test_lateness_is_not_lost_packets(tmp_path: Path) -> None:
    """The lab is stopped for longer than its devices have room for what is sent meanwhile."""
    with view_lab(unique("stopped"), TWO_HOSTS, tmp_path) as lab, Control.of(lab.name) as control:
        status = control.ask("status")
        assert isinstance(status, dict)
        pid = status["pid"]
        command = (
            f"import os, signal, time; os.kill({pid}, signal.SIGSTOP); time.sleep(1.5); os.kill({pid}, signal.SIGCONT)"
        )
        said = ibbond(
            *("lab", "probe", "--name", lab.name, "--json", "h1", "h2", "--", sys.executable, "-c", command),
            check=False,
        ).stdout
        facts = json.loads(said)
        assert facts["late_ms"] > 1000
        assert any("the machine was busy" in note.lower() for note in facts["notes"])
        assert facts["protocols"]["tcp"]["outage_ms"] < 1200, facts
        assert facts["protocols"]["icmp"]["lost"] <= 2, facts
        top = lab.ibbond("lab", "top", "--times", "1", "--every", "0.2", "--json").stdout
        assert json.loads(top)["late_ms"] is not None
