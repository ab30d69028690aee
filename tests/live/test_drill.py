"""`ibbond drill` in a lab: every class and its undo, probes against tshark, kill -9 at every step, refusals."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from ibbond.backend.control_socket import Control
from ibbond.demo.probe import endpoints
from ibbond.drill.classes import CLASSES
from ibbond.drill.flows import cost
from ibbond.drill.phases import Phase
from ibbond.drill.traffic import Programs

IBBOND = str(Path(sys.executable).parent / "ibbond")
NAME = f"drill{os.getpid()}"
QUIET_SECONDS = float(os.environ.get("IBBOND_DRILL_QUIET_SECONDS", "3"))
ROUNDS = int(os.environ.get("IBBOND_DRILL_ROUNDS", "1"))
TWO_ADAPTERS = """
[switches]
s1 = {}
s2 = {}

[[links]]
between = ["s1", "s2"]
count = 2

[hosts.h1]
ports = { ib0 = "s1", ib1 = { to = "s2", hca = 2 } }

[hosts.h1.bonds.bond0]
members = ["ib0", "ib1"]
addresses = ["10.0.0.1/24", "fd00::1/64"]

[hosts.h2]
ports = { ib0 = "s1", ib1 = "s2" }

[hosts.h2.bonds.bond0]
members = ["ib0", "ib1"]
addresses = ["10.0.0.2/24", "fd00::2/64"]
"""
MOVING = [name for name, row in CLASSES.items() if row.traffic.name == "STOPS" and not row.silent]


def ibbond(*words: str, code: int | None = 0, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [IBBOND, *words], text=True, capture_output=True, timeout=timeout, stdin=subprocess.DEVNULL, check=False
    )
    assert code is None or done.returncode == code, f"{words} ended with {done.returncode}: {done.stdout}{done.stderr}"
    return done


@pytest.fixture(scope="module", params=["one adapter", "two adapters"])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    words = ["lab", "up", "--name", NAME]
    if request.param == "two adapters":
        file = tmp_path_factory.mktemp("topology") / "two.toml"
        file.write_text(TWO_ADAPTERS)
        words.append(str(file))
    ibbond(*words)
    yield NAME
    ibbond("lab", "down", "--name", NAME)


@pytest.fixture(scope="module")
def simple_lab() -> Iterator[str]:
    name = f"{NAME}s"
    ibbond("lab", "up", "--name", name)
    yield name
    ibbond("lab", "down", "--name", name)


def both_up(name: str, seconds: float = 20) -> bool:
    """Whether both members of h1/bond0 are up, and their cables whole and without losses, within so long."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with Control.of(name) as control:
            status = control.ask("status")
            assert isinstance(status, dict)
            snapshot = control.ask("snapshot", host="h1", bond="bond0")
            assert isinstance(snapshot, dict)
        members = {member["name"]: member["link"] for member in snapshot["members"]}
        cables = [(cable["state"], cable["loss_percent"]) for cable in status["cables"]]
        if members == {"ib0": "up", "ib1": "up"} and set(cables) == {("up", 0.0)} and status["manager"]["alive"]:
            return True
        time.sleep(0.1)
    return False


def was_busy(directory: Path) -> bool:
    return any("busy" in note for note in json.loads((directory / "drill.json").read_text())["notes"])


@pytest.mark.slow
@pytest.mark.skipif("IBBOND_DRILL_ROUNDS" not in os.environ, reason="minutes long: ./test --full and --soak")
def test_every_class_and_its_reversion(lab: str, tmp_path: Path) -> None:
    done = ibbond(
        "drill", "h1/bond0", "--name", lab, "--rounds", str(ROUNDS), "--json", "--report", str(tmp_path),
        code=1, timeout=400 + 200 * ROUNDS,
    )  # fmt: skip
    found = json.loads(done.stdout)
    saved = json.loads((tmp_path / "drill.json").read_text())
    runs = {(run["class"], run["round"]): run for run in saved["runs"]}
    left_out = {each["class"]: each["why"] for each in found["not_tested"]}
    one_adapter = "adapter-removed" in left_out
    expected = [name for name in CLASSES if name not in left_out]
    if shutil.which("ibportstate") or Path("/usr/sbin/ibportstate").exists():
        assert set(left_out) == ({"adapter-removed"} if one_adapter else {"port-disabled"})
    assert list(runs) == [
        (name, number) for c in expected for number in range(1, ROUNDS + 1) for name in (c, f"{c} reversion")
    ]
    for key, run in runs.items():
        unseen = [sentence for sentence in run["disagreements"] if "did not show" in sentence]
        assert not unseen, f"{key}: {unseen}"
        assert not run["failures"], f"{key}: {run['failures']}"
        if key[0] in MOVING:
            names = [phase["name"] for phase in run["phases"]]
            assert names[0] == "cause"
            assert names[-1] == Phase.FIRST_PACKET.value
        if not was_busy(tmp_path):
            assert run["sum_agrees"], f"{key}: {run['disagreements']}"
            assert run["gap_ms"] < 400 or key[0] == "silent-death", key
    silent = runs["silent-death", 1]
    assert silent["gap_ms"] >= 1400, "nothing but the undo ended it"
    assert found["verdict"] == "fail", "which is over the budget"
    assert both_up(lab)


def test_probes_in_quiet_times_report_no_disruption(simple_lab: str) -> None:
    """Nothing is done to the lab, and a drill would see nothing: ten minutes long in `./test --full`."""
    with Control.of(simple_lab) as control, endpoints(control, ("h1", "h2")) as (one, two):
        programs = Programs(one, two, 5000)
        assert programs.ready(30) == []
        start = time.monotonic_ns()
        time.sleep(QUIET_SECONDS)
        end = time.monotonic_ns()
        flows, _ = programs.end()
        late = control.ask("late")
    assert isinstance(late, dict)
    if any(until > start for _, until in late["spans"]):
        pytest.skip("the machine was busy: the lab fell behind, which may lose probes")
    for flow in flows:
        found = cost(flow, start, end, in_flight_ns=0)
        assert (found.lost, found.disruptions, found.duplicates) == (0, 0, 0), found


needs_tshark = pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")


@needs_tshark
def test_a_capture_of_the_switches_agrees_with_the_report(simple_lab: str, tmp_path: Path) -> None:
    files = [tmp_path / f"{switch}.erf.pcap" for switch in ("s1", "s2")]
    captures = [
        subprocess.Popen(
            [IBBOND, "lab", "capture", "--name", simple_lab, f"{switch}/1", str(file)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for switch, file in zip(("s1", "s2"), files, strict=True)
    ]
    try:
        for capture in captures:
            assert capture.stderr is not None
            assert "capturing" in capture.stderr.readline()
        words = ("--name", simple_lab, "--rounds", "1", "--class", "cut", "--spacing", "4ms", "--report", str(tmp_path))
        ibbond("drill", "h1/bond0", *words, code=None)
    finally:
        for capture in captures:
            capture.send_signal(signal.SIGINT)
        for capture in captures:
            capture.communicate(timeout=120)
    saved = json.loads((tmp_path / "drill.json").read_text())
    cut = saved["runs"][0]
    (session,) = (each for each in cut["flows"] if each["protocol"] == "rdma")
    assert session["gap_ms"] < 5000, "a session over RDMA CM connects again"
    flow = next(each for each in cut["flows"] if (each["protocol"], each["direction"]) == ("udp", "h2 > h1"))
    offset = time.time_ns() - time.monotonic_ns()
    since, until = ((cut[key] + offset) / 1e9 for key in ("at_ns", "until_ns"))
    times = sorted(at for file in files for at in probe_times(file) if since - 0.1 < at < until)
    gap = max(b - a for a, b in pairwise(times)) * 1000 - saved["spacing_ms"]
    allowed = 2 * flow["resolution_ms"]  # the report's last and first arrival are one probe off at most each
    assert abs(gap - flow["gap_ms"]) <= allowed, f"tshark: {gap:.1f} ms, report: {flow}"


def probe_times(file: Path) -> list[float]:
    """When a switch sent the peer's probes to the drilled host, as tshark reads it."""
    words = ["tshark", "-r", str(file), "-Y", "udp.dstport == 7001 && ip.dst == 10.0.0.1", "-T", "fields"]
    done = subprocess.run([*words, "-e", "frame.time_epoch"], text=True, capture_output=True, timeout=120, check=True)
    return [float(line) for line in done.stdout.split()]


STEPS = ("watch", "arm", "do", "active", "sleep", "undo", "disarm", "is_redundant", "sightings")
KILLED = """
import os, signal, sys
from ibbond.backend.control_socket import Control
from ibbond.drill import runner
from ibbond.drill.lab_world import LabWorld

name, step, when = sys.argv[1:]

class Killed(LabWorld):
    pass

def deadly(call, matches):
    def wrapped(self, *words, **options):
        here = matches(options)
        if here and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = call(self, *words, **options)
        if here and when == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return wrapped

if step in ("do", "undo"):
    Killed.apply = deadly(LabWorld.apply, lambda options: options["undo"] == (step == "undo"))
else:
    setattr(Killed, step, deadly(getattr(LabWorld, step), lambda options: True))
with Control.of(name) as control:
    runner.drill(Killed(control, "h1", "bond0", "h2", 5000, ()), ["cut"], 1, 10**9, print, spacing_ns=5000000)
"""


@pytest.mark.parametrize("when", ["before", "after"] if "IBBOND_DRILL_ROUNDS" in os.environ else ["after"])
@pytest.mark.parametrize("step", STEPS)
def test_kill_9_at_every_step_leaves_both_members_up(simple_lab: str, step: str, when: str) -> None:
    words = [sys.executable, "-c", KILLED, simple_lab, step, when]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert both_up(simple_lab), f"killed {when} {step}"


def test_ctrl_c_undoes_at_once(simple_lab: str) -> None:
    words = [IBBOND, "drill", "h1/bond0", "--name", simple_lab, "--class", "manager-away", "--rounds", "3"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with Control.of(simple_lab) as control:
        until = time.monotonic() + 60
        while control.ask("status")["manager"]["alive"]:  # type: ignore[index]
            assert time.monotonic() < until
            time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert both_up(simple_lab, 1)


def test_what_is_refused_changes_nothing(simple_lab: str, tmp_path: Path) -> None:
    name = ("--name", simple_lab)
    (tmp_path / "file").write_text("")
    for words, why in (
        (("h1/bond9", *name), "bond9"),
        (("h9/bond0", *name), "h9"),
        (("bond0",), "no peer was given"),
        (("h1/bond0", *name, "--class", "melt"), "no class melt"),
        (("h1/bond0", *name, "--peer", "h1"), "from h1 to itself"),
        (("h1/bond0", *name, "--peer", "h9"), "h9"),
        (("h1/bond0", *name, "--budget", "0s"), "0s"),
        (("h1/bond0", *name, "--spacing", "3us"), "100 or more"),
        (("h1/bond0", *name, "--rounds", "0"), "0"),
        (("h1/bond0", *name, "--report", str(tmp_path / "file")), "is a file"),
        (("h1/bond0", "--sim", str(tmp_path / "none.toml")), "none.toml"),
        ((*name,), "no bond was given"),
    ):
        done = ibbond("drill", *words, code=2)
        assert why in done.stderr, f"{words}: {done.stderr}"
    ibbond("lab", "cut", *name, "h1/ib1")
    try:
        assert "no second member could take over" in ibbond("drill", "h1/bond0", *name, code=2).stderr
    finally:
        ibbond("lab", "mend", *name, "h1/ib1")
    assert both_up(simple_lab)


def test_a_dry_run_prints_commands_and_changes_nothing(simple_lab: str) -> None:
    with Control.of(simple_lab) as control:
        before = len(control.ask("past_events"))  # type: ignore[arg-type]
        plans = json.loads(ibbond("drill", "h1/bond0", "--name", simple_lab, "--dry-run", "--json").stdout)["plans"]
        assert len(control.ask("past_events")) == before  # type: ignore[arg-type]
    by_name = {plan["class"]: plan for plan in plans}
    assert by_name["cut"]["do"][0][1:3] == ["lab", "cut"]
    assert by_name["cut"]["undo"][0][1:3] == ["lab", "mend"]
    assert "left_out" in by_name["adapter-removed"]


def test_a_printed_command_is_what_a_person_can_run(simple_lab: str) -> None:
    """The undo that is kept outside is run as a command: each must be one, and harmless where nothing is to undo."""
    plans = json.loads(ibbond("drill", "h1/bond0", "--name", simple_lab, "--dry-run", "--json").stdout)["plans"]
    for plan in plans:
        if plan["class"] in ("admin-down", "cut", "pkey-taken", "silent-death", "planned-switch"):
            for command in (*plan["do"], *plan["undo"]):
                done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
                assert done.returncode == 0, f"{command}: {done.stderr}"
            assert both_up(simple_lab), plan["class"]
