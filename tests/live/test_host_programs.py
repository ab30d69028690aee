"""`files` and `exec` of topology files: what a host sees and runs, also after a kill, and keepalived as one file."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ibbond import Lab, TopologyBuilder
from ibbond.errors import Refused
from tests.live.ordinary_user import NOBODY, run_unprivileged

IBBOND = str(Path(sys.executable).with_name("ibbond"))
EXAMPLES = Path(__file__).parents[2] / "examples"


def two_hosts(**options: object) -> TopologyBuilder:
    """h1 with these options, and h2."""
    return (
        TopologyBuilder()
        .switch("s1")
        .host("h1", ports={"ib0": "s1"}, addresses=["10.0.0.1/24"], **options)  # type: ignore[arg-type]
        .host("h2", ports={"ib0": "s1"}, addresses=["10.0.0.2/24"])
    )


def cmdline(process: str) -> bytes:
    """Empty where the process has ended, also when its parent has not looked yet."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""


FILES = {
    "/etc/ibbond-test/deep/down.conf": "deep\n",
    "/etc/ibbond-test/flat.conf": "flat\n",
    "/etc/hosts": "192.0.2.1 elsewhere\n",
    "/usr/local/bin/ibbond-test-hello": {"text": "#!/bin/sh\necho hello from $(uname -n)\n", "mode": 0o755},
}


def test_files_are_seen_in_their_host_only() -> None:
    before = sorted(os.listdir("/etc")), Path("/etc/hosts").read_text()
    with Lab(two_hosts(files=FILES)) as lab:
        h1, h2 = lab["h1"], lab["h2"]
        assert h1.run(["ibbond-test-hello"]).stdout == "hello from h1\n"
        shown = h1.run(["sh", "-c", "cat /etc/ibbond-test/flat.conf /etc/ibbond-test/deep/* /etc/hosts"]).stdout
        assert shown == "flat\ndeep\n192.0.2.1 elsewhere\n"
        here = set(h1.run(["ls", "-A", "/etc"]).stdout.split())
        assert here - {"ibbond-test"} == set(os.listdir("/etc"))
        assert h1.run(["cat", "/etc/passwd"]).stdout == Path("/etc/passwd").read_text()
        assert h2.run(["ls", "/etc/ibbond-test"], check=False).returncode
        assert "192.0.2.1" not in h2.run(["cat", "/etc/hosts"]).stdout
    assert (sorted(os.listdir("/etc")), Path("/etc/hosts").read_text()) == before


def test_commands_run_in_order_when_the_bonds_are_up(tmp_path: Path) -> None:
    said = tmp_path / "said"
    commands = [f"echo one; ping -c1 -w5 10.0.0.2 && echo two > {said}", ["sh", "-c", f"cat {said}; sleep 600 &"]]
    with Lab(two_hosts(exec=commands)) as lab:
        assert said.read_text() == "two\n"
        (sleeper,) = lab["h1"].run(["sh", "-c", "pgrep -x sleep --ns $$ --nslist net"]).stdout.split()
    assert not cmdline(sleeper)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"exec": ["true", "echo no such thing >&2; exit 3"]}, "command 2 of host h1 failed: echo .*with 3: no such"),
        ({"exec": [["nosuchprogram"]]}, "cannot run nosuchprogram in h1"),
        ({"exec": ["kill -9 $$"]}, "signal 9 ended it"),
        ({"files": {"/etc/passwd/x": ""}}, "/etc/passwd is not a directory"),
        ({"files": {"/etc/ssl": ""}}, "it is a directory on this machine"),
        ({"files": {"/nosuchdirectory/x": ""}}, "/nosuchdirectory does not exist on this machine"),
    ],
)
def test_what_cannot_be_done_is_said_and_leaves_nothing(options: dict[str, object], words: str) -> None:
    lab = Lab(two_hosts(**options))
    with pytest.raises(Refused, match=words):
        lab.start()
    with pytest.raises(Refused, match=words):  # and not "runs already", or "was killed"
        lab.start()


@pytest.fixture
def named(lab: str) -> Iterator[str]:
    yield lab
    subprocess.run([IBBOND, "lab", "down", "--name", lab], capture_output=True, check=False)


def test_a_resumed_lab_has_its_files_and_does_not_run_commands_again(named: str, tmp_path: Path) -> None:
    said, file = tmp_path / "said", tmp_path / "lab.toml"
    file.write_text(two_hosts(files=FILES, exec=[f"echo run >> {said}; sleep 600 &"]).text())
    up = [IBBOND, "lab", "up", "--name", named, "--json"]
    started = json.loads(subprocess.run([*up, str(file)], capture_output=True, check=True).stdout)
    os.kill(started["pid"], signal.SIGKILL)
    subprocess.run([*up, "--resume"], capture_output=True, check=True)
    for host, found in (("h1", 0), ("h2", 1)):  # h2 had no program, so that its mounts are made again
        words = [IBBOND, "lab", "exec", "--name", named, host, "--", "test", "-e", "/etc/ibbond-test/deep/down.conf"]
        assert subprocess.run(words, check=False).returncode == found
    assert said.read_text() == "run\n"


def test_an_ordinary_users_hosts_have_files_and_commands(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    for directory in (home, *list(tmp_path.parents)[:2], tmp_path):
        directory.chmod(0o755)
    os.chown(home, NOBODY, NOBODY)
    (home / "lab.toml").write_text(two_hosts(files=FILES, exec=[f"ibbond-test-hello > {home}/said"]).text())
    script = f"{IBBOND} lab up --name user {home}/lab.toml && {IBBOND} lab down --name user"
    done = run_unprivileged(["sh", "-c", script], home)
    if "cannot make" in done.stderr or "/dev/net/tun" in done.stderr:
        pytest.skip(f"an ordinary user may not run labs here: {done.stderr}")
    assert done.returncode == 0, done.stderr
    assert (home / "said").read_text() == "hello from h1\n"


@pytest.mark.skipif(not shutil.which("keepalived", path="/usr/sbin:/usr/bin"), reason="keepalived is not installed")
def test_keepalived_as_one_file() -> None:
    def holds(host: str) -> bool:
        return "10.0.0.100" in lab[host].run(["ip", "-4", "address", "show", "bond0"]).stdout

    with Lab(EXAMPLES / "keepalived.toml") as lab:
        lab.wait(lambda: holds("h1"), within=30)
        lab["h3"].run(["ping", "-c1", "-w5", "10.0.0.100"])
        lab.cut("h1/ib0", "h1/ib1")
        lab.wait(lambda: holds("h2"), within=30)
        lab["h3"].run(["ping", "-c1", "-w5", "10.0.0.100"])
        lab.mend("h1/ib0", "h1/ib1")
        lab.wait(lambda: holds("h1") and not holds("h2"), within=30)
        lab["h3"].run(["ping", "-c1", "-w5", "10.0.0.100"])
