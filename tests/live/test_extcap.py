"""`ibbond-extcap` as tshark runs it: interfaces of running labs, link types, streams of packets."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ibbond import Lab
from tests.live.commands import IBBOND
from tests.live.ordinary_user import NOBODY, run_unprivileged

EXTCAP = Path(sys.executable).with_name("ibbond-extcap")
needs_tshark = pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as running:
        yield running


@pytest.fixture
def wireshark(tmp_path: Path) -> dict[str, str]:
    """An environment in which Wireshark's personal extcap directory (its place differs by version) has our program."""
    for folder in (".config/wireshark/extcap", ".local/lib/wireshark/extcap"):
        place = tmp_path / folder
        place.mkdir(parents=True)
        (place / EXTCAP.name).symlink_to(EXTCAP)
    surroundings = {name: value for name, value in os.environ.items() if name != "XDG_CONFIG_HOME"}
    return {**surroundings, "HOME": str(tmp_path)}


def extcap(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([EXTCAP, *words], capture_output=True, text=True, timeout=60, check=False)


@needs_tshark
def test_tshark_lists_devices_bonds_and_switch_ports(lab: Lab, wireshark: dict[str, str]) -> None:
    words = ["tshark", "-D"]
    listed = subprocess.run(words, env=wireshark, capture_output=True, text=True, timeout=120, check=True).stdout
    for end in ("h1/bond0", "h1/ib0", "h2/ib1", "s1/1", "s2/4"):
        assert f"{lab.name}:{end} (" in listed


@needs_tshark
@pytest.mark.parametrize("end", ["h1/bond0", "s1/1"])
def test_tshark_captures_a_stream(lab: Lab, wireshark: dict[str, str], tmp_path: Path, end: str) -> None:
    file = tmp_path / "stream.pcapng"
    words = ["tshark", "-q", "-i", f"{lab.name}:{end}", "-c", "6", "-w", str(file)]
    with subprocess.Popen(words, env=wireshark, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as tshark:
        until = time.monotonic() + 120
        while tshark.poll() is None and time.monotonic() < until:
            lab["h1"].run(["ping", "-c1", "10.0.0.2"])
        assert tshark.returncode == 0, tshark.communicate()
    read = ["tshark", "-r", str(file), "-Y", "icmp", "-T", "fields", "-e", "ip.src", "-e", "frame.protocols"]
    packets = subprocess.run(read, capture_output=True, text=True, check=True).stdout
    assert "10.0.0.1" in packets
    assert "10.0.0.2" in packets
    assert ("infiniband" in packets) == (end == "s1/1")
    assert not captures_of(lab)


def captures_of(lab: Lab) -> list[str]:
    """The programs that still capture from this lab, a moment after their reader is gone."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        found = [pid for pid in os.listdir("/proc") if pid.isdigit() and is_capture_of(lab, pid)]
        if not found:
            return []
        time.sleep(0.05)
    return found


def is_capture_of(lab: Lab, pid: str) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return b"ibbond-extcap" in words and b"--capture" in words and lab.name.encode() in words


def test_a_stream_ends_with_the_lab_and_with_its_reader(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with Lab() as lab:
        for end in ("reader", "lab"):
            words = [str(EXTCAP), "--capture", "--extcap-interface", f"{lab.name}:h1/bond0", "--fifo", str(fifo)]
            streaming = subprocess.Popen(words)
            with fifo.open("rb") as packets:
                assert packets.read(4) == b"\x4d\x3c\xb2\xa1"  # the head of a file, nanoseconds
                if end == "lab":
                    lab.stop()
                    assert streaming.wait(60) == 0
            assert streaming.wait(60) == 0


def test_interfaces_of_several_labs_are_listed_and_of_those_that_ended_no_longer(lab: Lab) -> None:
    with Lab() as other:
        both = extcap("--extcap-interfaces").stdout
        assert all(f"{{value={each.name}:h1/bond0}}" in both for each in (lab, other))
    one = extcap("--extcap-interfaces").stdout
    assert f"{{value={lab.name}:h1/bond0}}" in one
    assert f"{{value={other.name}:" not in one


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user takes root")
def test_an_ordinary_user_sees_and_captures_the_labs_of_that_user(lab: Lab) -> None:
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        os.chown(home, NOBODY, NOBODY)
        alone = run_unprivileged([str(EXTCAP), "--extcap-interfaces"], home)
        assert (alone.returncode, alone.stdout.count("value=")) == (0, 0), "no lab: a version and no interface"
        assert "extcap {version=" in alone.stdout
        if run_unprivileged([IBBOND, "lab", "up", "--name", "own"], home).returncode:
            pytest.skip("an ordinary user may not run labs here")
        try:
            listed = run_unprivileged([str(EXTCAP), "--extcap-interfaces"], home).stdout
            assert "{value=own:h1/bond0}" in listed
            assert lab.name not in listed
            stream = "mkfifo $HOME/fifo; $1 --capture --extcap-interface own:h1/bond0 --fifo $HOME/fifo"
            script = f"{stream} & head -c 4 $HOME/fifo | od -An -tx1"
            head = run_unprivileged(["sh", "-c", script, "sh", str(EXTCAP)], home).stdout
            assert head.split() == ["4d", "3c", "b2", "a1"]
        finally:
            run_unprivileged([IBBOND, "lab", "down", "--name", "own"], home)


def test_link_types_and_bad_words(lab: Lab, tmp_path: Path) -> None:
    for end, number in (("h1/bond0", 242), ("h1/ib0", 197), ("s1/2", 197)):
        assert f"dlt {{number={number}}}" in extcap("--extcap-dlts", "--extcap-interface", f"{lab.name}:{end}").stdout
    assert extcap("--extcap-config", "--extcap-interface", f"{lab.name}:h1/ib0").stdout == ""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    capture = ["--capture", "--fifo", str(fifo), "--extcap-interface"]
    with os.fdopen(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)):
        for words, said in (
            (["--extcap-dlts", "--extcap-interface", f"{lab.name}:h9/ib0"], "no interface"),
            ([*capture, "nonsense"], "no interface nonsense"),
            ([*capture, f"{lab.name}:h1/ib7"], "no cable at h1/ib7"),
            ([*capture, f"{lab.name}:h1/ib0", "--extcap-capture-filter", "icmp"], "Use a display filter"),
            ([], "a program for Wireshark and tshark to run"),
        ):
            done = extcap(*words)
            assert done.returncode == 2
            assert said in done.stderr
