"""Labs come, stay and go: what is there afterwards, whatever ended them."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ibbond.backend.control_socket import Control
from ibbond.errors import Refused
from tests.live.ordinary_user import NOBODY, run_unprivileged

SYSTEM_PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
IBBOND = str(Path(sys.executable).parent / "ibbond")
Run = subprocess.CompletedProcess[str]


def ibbond(*words: str, check: bool = True, timeout: float = 60) -> Run:
    done = subprocess.run([IBBOND, *words], text=True, capture_output=True, timeout=timeout, stdin=subprocess.DEVNULL)
    assert not check or done.returncode == 0, done.stderr
    return done


def traces(lab: str) -> dict[str, object]:
    """Everything that a lab of this name could leave on the machine."""
    netns = Path("/run/netns")
    return {
        "namespaces": sorted(p.name for p in netns.iterdir() if lab in p.name) if netns.is_dir() else [],
        "mounts": [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if lab in line],
        "files": sorted(p.name for p in Path("/run/ibbond").glob(f"{lab}.*")),
        "processes": [pid for pid in processes() if lab in environment_and_command(pid)],
    }


def processes() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit() and int(entry) != os.getpid()]


def environment_and_command(pid: int) -> str:
    text = ""
    for name in ("environ", "cmdline"):
        with contextlib.suppress(OSError):
            text += Path(f"/proc/{pid}/{name}").read_bytes().decode(errors="replace")
    return text if "IBBOND_CONTROL" in text or "ibbond.lab.daemon" in text else ""


NOTHING: dict[str, list[str]] = {"namespaces": [], "mounts": [], "files": [], "processes": []}


@pytest.fixture
def named(lab: str) -> Iterator[str]:
    """A lab name, and nothing of it afterwards."""
    yield lab
    ibbond("lab", "down", "--name", lab, check=False)


def pid_of(lab: str) -> int:
    return int(json.loads(ibbond("lab", "status", "--name", lab, "--json").stdout)["pid"])


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def until(condition: Callable[[], bool], seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def test_up_and_first_ping_within_three_seconds_and_nothing_after_down(named: str) -> None:
    before = time.monotonic()
    status = json.loads(ibbond("lab", "up", "--name", named, "--json").stdout)
    ibbond("lab", "exec", "--name", named, "h1", "--", "ping", "-c", "1", "-W", "2", "10.0.0.2")
    took = time.monotonic() - before
    assert status["hosts"]["h1"]["addresses"][0] == "10.0.0.1/24"
    assert status["hosts"]["h1"]["bonds"]["bond0"]["active"] == "ib0"
    assert status["hosts"]["h2"]["devices"]["eth0"]["kind"] == "ethernet"
    assert {cable["state"] for cable in status["cables"]} == {"up"}
    assert took < 10, f"{took:.1f} s"  # three on an idle machine, as the benchmark says
    memory = [line for line in Path(f"/proc/{status['pid']}/status").read_text().splitlines() if "VmRSS" in line]
    assert int(memory[0].split()[1]) < 80_000
    ibbond("lab", "down", "--name", named)
    assert traces(named) == NOTHING
    assert gone(status["pid"])


def test_down_ends_programs_inside(named: str) -> None:
    ibbond("lab", "up", "--name", named)
    program = subprocess.Popen([IBBOND, "lab", "exec", "--name", named, "h1", "--", "sleep", "1000"])
    stubborn = subprocess.Popen(
        [IBBOND, "lab", "exec", "--name", named, "h2", "--", "sh", "-c", "trap '' TERM; sleep 1000 & wait"]
    )
    time.sleep(1)
    ibbond("lab", "down", "--name", named)
    assert program.wait(5) != 0
    assert stubborn.wait(5) != 0
    assert traces(named) == NOTHING


def test_a_second_lab_of_the_name_is_refused_and_another_name_is_not(named: str) -> None:
    ibbond("lab", "up", "--name", named)
    pid = pid_of(named)
    second = ibbond("lab", "up", "--name", named, check=False)
    assert second.returncode == 2
    assert f"is already running (process {pid})" in second.stderr
    other = named + "b"
    ibbond("lab", "up", "--name", other)
    try:
        names = [lab["name"] for lab in json.loads(ibbond("lab", "list", "--json").stdout)["labs"]]
        assert {named, other} <= set(names)
    finally:
        ibbond("lab", "down", "--name", other)
    assert pid_of(named) == pid
    assert traces(other) == NOTHING


def test_of_several_that_start_it_at_once_one_does_and_its_log_stays(named: str) -> None:
    said = at_once(3, "lab", "up", "--name", named)
    assert sorted(code for _, code in said) == [0, 2, 2]
    assert all("is already running" in text for text, code in said if code == 2)
    assert (Path("/run/ibbond") / f"{named}.log").exists()
    ibbond("lab", "down", "--name", named)
    assert traces(named) == NOTHING


def test_a_lab_that_is_taken_down_while_it_starts_says_so(named: str, tmp_path: Path) -> None:
    (tmp_path / "many.toml").write_text("[fat_tree]\nhosts = 12\n")
    starting = subprocess.Popen(
        [IBBOND, "lab", "up", "--name", named, str(tmp_path / "many.toml")], stderr=subprocess.PIPE, text=True
    )

    def ask() -> bool:
        with contextlib.suppress(Refused), Control(Path("/run/ibbond") / f"{named}.sock") as control:
            control.ask("down")  # answered before the lab's first turn
            return True
        return False

    assert until(ask)
    assert "it was taken down while it started" in starting.communicate(timeout=30)[1]
    assert starting.returncode == 2
    assert traces(named) == NOTHING


@pytest.mark.parametrize("kill", [False, True])
def test_several_may_take_it_down_at_once(named: str, kill: bool) -> None:
    ibbond("lab", "up", "--name", named)
    if kill:
        os.kill(pid_of(named), signal.SIGKILL)
    for said, code in at_once(3, "lab", "down", "--name", named):
        assert code == 0 or "no lab" in said
        assert "--resume" not in said
    assert traces(named) == NOTHING


def at_once(times: int, *words: str) -> list[tuple[str, int]]:
    """What the same command says and ends with when it is run several times together."""
    running = [
        subprocess.Popen([IBBOND, *words], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for _ in range(times)
    ]
    return [(process.communicate(timeout=60)[0], process.returncode) for process in running]


def test_sigterm_is_a_proper_end(named: str) -> None:
    ibbond("lab", "up", "--name", named)
    pid = pid_of(named)
    os.kill(pid, signal.SIGTERM)
    assert until(lambda: gone(pid))
    assert traces(named) == NOTHING


def test_foreground_ends_with_ctrl_c(named: str) -> None:
    process = subprocess.Popen(
        [IBBOND, "lab", "up", "--name", named, "--foreground"], stdout=subprocess.PIPE, text=True, process_group=0
    )
    assert process.stdout is not None
    assert "is up" in process.stdout.readline()
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(15) == 130
    process.stdout.close()
    assert traces(named) == NOTHING


@pytest.mark.parametrize("seed", range(6))
def test_ctrl_c_at_any_moment_of_the_start_leaves_nothing(named: str, seed: int) -> None:
    moment = random.Random(seed).uniform(0.05, 0.9)
    process = subprocess.Popen(
        [IBBOND, "lab", "up", "--name", named], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, process_group=0
    )
    time.sleep(moment)
    os.killpg(process.pid, signal.SIGINT)
    code = process.wait(30)
    if code == 0:  # it was up before
        ibbond("lab", "down", "--name", named)
    assert traces(named) == NOTHING, f"interrupted after {moment:.3f} s"


@pytest.mark.parametrize("seed", range(4))
def test_kill_at_any_moment_of_the_start_and_the_next_one_starts(named: str, seed: int) -> None:
    moment = random.Random(seed).uniform(0.1, 0.9)
    process = subprocess.Popen(
        [IBBOND, "lab", "up", "--name", named], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    time.sleep(moment)
    for pid in processes():
        if child_of(pid, process.pid) or is_the_lab(pid, named):  # which is not a child of any process once it is up
            os.kill(pid, signal.SIGKILL)
    process.kill()
    process.wait(30)
    if seed % 2:
        ibbond("lab", "down", "--name", named, check=False)  # refused where the start had not begun
        assert traces(named) == NOTHING, f"killed after {moment:.3f} s"
    ibbond("lab", "up", "--name", named)
    ibbond("lab", "exec", "--name", named, "h2", "--", "ping", "-c", "1", "-W", "2", "10.0.0.1")
    ibbond("lab", "down", "--name", named)
    assert traces(named) == NOTHING


def is_the_lab(pid: int, name: str) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"ibbond.lab.daemon" in words and name.encode() in words


def child_of(pid: int, parent: int) -> bool:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) == parent
    except OSError:
        return False


def test_after_kill_9_down_cleans_and_up_starts_again(named: str) -> None:
    ibbond("lab", "up", "--name", named)
    inside = subprocess.Popen([IBBOND, "lab", "exec", "--name", named, "h1", "--", "sleep", "1000"])
    time.sleep(0.5)
    os.kill(pid_of(named), signal.SIGKILL)
    said = ibbond("lab", "status", "--name", named, check=False)
    assert said.returncode == 2
    assert "it was killed" in said.stderr
    assert "--resume" in said.stderr
    up = ibbond("lab", "up", "--name", named)
    assert "was killed: removing what it left" in up.stderr
    assert inside.wait(5) != 0
    os.kill(pid_of(named), signal.SIGKILL)
    assert "was killed" in ibbond("lab", "down", "--name", named).stdout
    assert traces(named) == NOTHING
    assert ibbond("lab", "down", "--name", named, check=False).returncode == 2


def test_a_lab_that_lost_its_lock_still_runs_and_is_taken_down(named: str) -> None:
    ibbond("lab", "up", "--name", named)
    pid = pid_of(named)
    lock = Path("/run/ibbond") / f"{named}.lock"
    lock.unlink()
    assert {"name": named, "state": "runs"} in json.loads(ibbond("lab", "list", "--json").stdout)["labs"]
    assert f"is already running (process {pid})" in ibbond("lab", "up", "--name", named, check=False).stderr
    lock.with_suffix(".sock").unlink()
    ibbond("lab", "down", "--name", named)
    assert gone(pid)
    assert traces(named) == NOTHING


def test_resume_takes_over_bonds_programs_and_connections(named: str, tmp_path: Path) -> None:
    ibbond("lab", "up", "--name", named)
    ibbond("bond", "set", "--name", named, "h1/bond0", "miimon", "50")
    ibbond("bond", "set", "--name", named, "h1/bond0", "primary", "ib1")
    ibbond("bond", "remove", "--name", named, "h2/bond0", "ib0")
    ibbond("bond", "create", "--name", named, "h2/bond1", "ib0", "--address", "10.1.0.2/24")
    ibbond("lab", "cut", "--name", named, "s1/3")
    server = subprocess.Popen(
        [IBBOND, "lab", "exec", "--name", named, "h2", "--", sys.executable, "-c", ECHO],
        stdin=subprocess.DEVNULL,
    )
    client = subprocess.Popen(
        [IBBOND, "lab", "exec", "--name", named, "h1", "--", sys.executable, "-c", TALK],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert client.stdin is not None
    assert client.stdout is not None
    assert client.stdout.readline() == "connected\n"
    time.sleep(0.5)  # what must be remembered is written down a little later
    os.kill(pid_of(named), signal.SIGKILL)
    ibbond("lab", "up", "--name", named, "--resume")
    client.stdin.write("after the kill\n")
    client.stdin.flush()
    assert client.stdout.readline() == "after the kill\n"
    shown = json.loads(ibbond("bond", "show", "--name", named, "h1/bond0", "--json").stdout)
    assert (shown["options"]["miimon"], shown["active"], shown["primary"]) == (50, "ib1", "ib1")
    bonds = json.loads(ibbond("bond", "list", "--name", named, "h2", "--json").stdout)["bonds"]
    assert {bond["name"]: [m["name"] for m in bond["members"]] for bond in bonds} == {
        "h2/bond0": ["ib1"],
        "h2/bond1": ["ib0"],
    }
    status = json.loads(ibbond("lab", "status", "--name", named, "--json").stdout)
    assert "10.1.0.2/24" in status["hosts"]["h2"]["addresses"]
    assert [cable["name"] for cable in status["cables"] if cable["state"] == "cut"] == ["s1/3"]
    for host, peer in (("h1", "h2"), ("h2", "h1")):
        script = f"hostname; ping -n -c 1 -W 2 {peer}"
        assert ibbond("lab", "exec", "--name", named, host, "--", "sh", "-c", script).stdout.startswith(f"{host}\nPING")
    client.stdin.close()
    client.stdout.close()
    assert client.wait(5) == 0
    ibbond("lab", "down", "--name", named)
    server.wait(5)
    assert traces(named) == NOTHING


@pytest.mark.skipif(shutil.which("opensm", path=SYSTEM_PATH) is None, reason="opensm is not installed")
@pytest.mark.parametrize("stays", [False, True])
def test_a_resumed_lab_has_one_opensm(named: str, stays: bool) -> None:
    ibbond("lab", "up", "--name", named, "--sm", "opensm")
    pid = pid_of(named)
    (old,) = opensm_of(named)
    os.kill(pid, signal.SIGKILL)
    assert until(lambda: gone(old))
    stayed = None
    if stays:  # as one that did not learn of the end of its parent
        command = Path(f"/run/ibbond/{named}.tools/opensm/opensm.conf")
        stayed = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/ibbond-{named}-h1", "sh", "-c", "sleep 1000; :", "-F", str(command)]
        )
        assert until(lambda: opensm_of(named) == [stayed.pid])
    ibbond("lab", "up", "--name", named, "--resume")
    (new,) = opensm_of(named)
    assert not stayed or stayed.wait(5) != 0
    ibbond("lab", "kill", "--name", named, "sm")
    ibbond("lab", "revive", "--name", named, "sm")
    assert until(lambda: len(opensm_of(named)) == 1 and opensm_of(named) != [new])
    ibbond("lab", "down", "--name", named)
    assert traces(named) == NOTHING


def opensm_of(lab: str) -> list[int]:
    found = []
    for pid in processes():
        with contextlib.suppress(OSError):
            if f"/{lab}.tools/opensm/opensm.conf\0".encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


ECHO = """
import socket
listener = socket.create_server(("10.0.0.2", 7000))
connection, _ = listener.accept()
while data := connection.recv(1000):
    connection.sendall(data)
"""
TALK = """
import socket, sys, time
for _ in range(100):
    try:
        connection = socket.create_connection(("10.0.0.2", 7000))
        break
    except OSError:
        time.sleep(0.1)
print("connected", flush=True)
for line in sys.stdin:
    connection.sendall(line.encode())
    print(connection.recv(1000).decode(), end="", flush=True)
"""


def test_resume_with_another_configuration_is_refused_and_changes_nothing(named: str, tmp_path: Path) -> None:
    ibbond("lab", "up", "--name", named)
    pid = pid_of(named)
    os.kill(pid, signal.SIGKILL)
    assert until(lambda: gone(pid))
    left = traces(named)
    (tmp_path / "other.toml").write_text("[fat_tree]\nhosts = 3\n")
    for words in (("--sm", "opensm"), ("--profile", "kernel-6.1"), (str(tmp_path / "other.toml"),)):
        said = ibbond("lab", "up", "--name", named, "--resume", *words, check=False)
        assert said.returncode == 2
        assert "it continues as it was: the default topology" in said.stderr
    assert f"{named}.log" in str(left["files"])
    assert traces(named) == left
    ibbond("lab", "up", "--name", named, "--resume", "--sm", "builtin", "--profile", "default")


def test_resume_of_nothing_is_refused(named: str) -> None:
    said = ibbond("lab", "up", "--name", named, "--resume", check=False)
    assert said.returncode == 2
    assert "nothing of it remains" in said.stderr
    assert traces(named) == NOTHING


@pytest.fixture
def unprivileged(named: str) -> Iterator[Callable[..., Run]]:
    """`ibbond` as an ordinary user, who finds the interpreter where root alone may read it."""
    with tempfile.TemporaryDirectory() as directory:
        os.chown(directory, NOBODY, NOBODY)

        def run(*words: str) -> Run:
            return run_unprivileged([IBBOND, *words], Path(directory))

        if run("lab", "list").returncode or run("lab", "up", "--name", named).returncode:
            pytest.skip("an ordinary user may not run labs here")
        yield run
        run("lab", "down", "--name", named)


@pytest.mark.parametrize("after", ["down", "up"])
def test_what_an_ordinary_users_lab_left_stays_when_resuming_is_refused_and_ends_then(
    named: str, unprivileged: Callable[..., Run], after: str
) -> None:
    pid = int(json.loads(unprivileged("lab", "status", "--name", named, "--json").stdout)["pid"])
    unprivileged("lab", "exec", "--name", named, "h1", "--", "sh", "-c", "sleep 1000 >/dev/null 2>&1 &")
    (program,) = [p for p in processes() if f"{named}.sock" in environment_and_command(p)]
    os.kill(pid, signal.SIGKILL)
    said = unprivileged("lab", "status", "--name", named).stderr
    assert "it was killed" in said
    assert "--resume" not in said
    refused = unprivileged("lab", "up", "--name", named, "--resume")
    assert refused.returncode == 2
    assert "hosts end with their lab" in refused.stderr
    assert json.loads(unprivileged("lab", "list", "--json").stdout)["labs"] == [{"name": named, "state": "was killed"}]
    assert not gone(program)
    done = unprivileged("lab", after, "--name", named)
    assert done.returncode == 0
    assert "--resume" not in done.stderr
    assert gone(program)


def test_the_socket_is_for_the_owner_only(named: str) -> None:
    ibbond("lab", "up", "--name", named)
    path = Path("/run/ibbond") / f"{named}.sock"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_capture_ends_with_its_lab(named: str, tmp_path: Path) -> None:
    ibbond("lab", "up", "--name", named)
    file = tmp_path / "bond.pcap"
    words = [IBBOND, "lab", "capture", "--name", named, "h1/bond0", str(file)]
    capture = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    assert until(file.exists)
    os.kill(pid_of(named), signal.SIGKILL)
    _, err = capture.communicate(timeout=30)
    assert capture.returncode == 2
    assert "the capture of h1/bond0 stopped: the lab ended" in err
