"""A lab that is kept from running says so; one that loses packets does not."""

import json
import os
import signal
import sys
import time
from typing import Any

from ibbond import Lab
from tests.live.commands import ibbond, sound_lab
from tests.live.test_soak import TWO_HOSTS


def test_a_lab_that_was_stopped_was_late() -> None:
    with sound_lab(TWO_HOSTS) as lab:
        pid = lab.status()["pid"]
        os.kill(pid, signal.SIGSTOP)
        time.sleep(1.0)
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.5)
        assert "the machine was busy: the lab ran up to" in ibbond("lab", "status", lab=lab).stdout
        late = lab.ask("late")
        assert isinstance(late, dict)
        assert 700 < late["worst_ms"] < 30_000
        assert max(until - since for since, until in late["spans"]) > 0.7e9


def probed(lab: Lab, seconds: str = "2") -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(
        ibbond("lab", "probe", "--name", lab.name, "--seconds", seconds, "--json", "h1", "h2", check=False).stdout
    )
    return facts


def test_lost_packets_are_not_lateness() -> None:
    """A tenth of them gets lost on cables, and is reported as lost, whatever this machine does meanwhile."""
    with sound_lab(TWO_HOSTS) as lab:
        lab.lose("h1/ib0", "h2/ib0", percent=10)
        facts = probed(lab)
        for protocol in ("udp", "multicast"):
            row = facts["protocols"][protocol]
            assert row["sent"] - row["received"] == row["lost"] > row["sent"] // 20, facts


def test_lateness_is_not_lost_packets() -> None:
    """The lab is stopped for longer than its devices have room for what is sent meanwhile."""
    with sound_lab(TWO_HOSTS) as lab:
        pid = lab.status()["pid"]
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
        top = ibbond("lab", "top", "--times", "1", "--every", "0.2", "--json", lab=lab).stdout
        assert json.loads(top)["late_ms"] is not None
