"""What takes long is not done in a turn of the lab's loop: others ask meanwhile, and packets flow."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ibbond.fabric.hca import Hca
from ibbond.host.capture import Captures, PortCapture
from ibbond.host.rdma_view import RdmaView
from ibbond.machine import MS
from ibbond.stack.events import FrameCaptured
from ibbond.tools.rdma_hosts import RdmaHosts
from tests.live.running_lab import RunningLab

MAX_TURN_S = 0.06  # a slice of 5 ms, and a machine that is shared
SLOW_S = 0.004


def longest_turn(lab: RunningLab, work: Callable[[], object]) -> tuple[float, float]:
    """How long others had to wait for the loop at most while this was done, and how long it took; seconds."""
    thread = threading.Thread(target=work)
    began = time.monotonic()
    thread.start()
    longest = 0.0
    while thread.is_alive():
        asked = time.monotonic()
        lab.loop.ask(lambda: None)
        longest = max(longest, time.monotonic() - asked)
        time.sleep(0.001)
    thread.join()
    return longest, time.monotonic() - began


def test_the_first_program_of_a_host_does_not_hold_up_the_lab(
    lab2: RunningLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its RDMA devices are hundreds of files: on a disk they took 200 ms, and no packet moved."""
    write = RdmaView._write

    def slowly(view: RdmaView, path: str, text: str) -> None:
        time.sleep(SLOW_S)
        write(view, path, text)

    monkeypatch.setattr(RdmaView, "_write", slowly)
    hca = lab2.loop.network.subnet.node("h1")
    assert isinstance(hca, Hca)
    hosts = lab2.loop.ask(lambda: RdmaHosts(lab2.loop, lab2.spaces, {"h1": [hca]}, tmp_path / "rdma"))
    try:
        longest, took = longest_turn(lab2, lambda: hosts.open("h1"))
        assert took > 10 * MAX_TURN_S, "so many files"
        assert longest < MAX_TURN_S
        shown = lab2.run("h1", "cat /sys/class/infiniband/mlx4_0/ports/1/state").stdout
        assert "ACTIVE" in shown
    finally:
        lab2.loop.ask(hosts.close)


def test_the_end_of_a_capture_does_not_hold_up_the_lab(
    lab2: RunningLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that waits is made into records, a little in each turn."""
    record, frames = PortCapture.record, 300

    def slowly(capture: PortCapture, at: int, captured: FrameCaptured) -> bytes:
        time.sleep(SLOW_S)
        return record(capture, at, captured)

    with (tmp_path / "port.erf").open("wb") as opened:
        captures = lab2.loop.ask(lambda: Captures(lab2.loop))
        capture = lab2.loop.ask(lambda: captures.start_port("h1/1", opened.fileno()))
        lab2.run("h1", "ping -c 3 -i 0.2 10.0.0.2")
        before = capture.frames
        monkeypatch.setattr(PortCapture, "record", slowly)

        def fill() -> None:
            frame = FrameCaptured("h1/1", bytes(100), sent=True)
            now = lab2.loop.now()
            captures._backlog._waiting.extend([(now - MS, None, frame)] * frames)

        lab2.loop.ask(fill)
        longest, took = longest_turn(lab2, lambda: captures.stop(capture))
    assert capture.frames >= before + frames, "nothing is left out"
    assert took > frames * SLOW_S
    assert longest < MAX_TURN_S
