"""The process that undoes a drill when the drill cannot: it lives outside, is armed before the fault, and reads a pipe.

Run as `python keeper.py`, standard library only. One JSON object a line comes in: `{"arm": [[PROGRAM, ...], ...],
"within": SECONDS}` or `{"disarm": true}`; each is answered by a line. When the pipe closes or the time expires while it
is armed, it runs the commands, each until it succeeds, `ATTEMPTS` times at most. Signals that end the drill do not
reach it: it is a session of its own.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import time

ATTEMPTS = 5
PAUSE = 0.5  # seconds between two attempts


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    armed: list[list[str]] = []
    until = float("inf")
    pending = b""
    answer("ready")
    while True:
        readable, _, _ = select.select([0], [], [], max(0.0, min(until - time.monotonic(), 3600.0)))
        if not readable:
            if time.monotonic() >= until:
                undo(armed)
                armed, until = [], float("inf")
            continue
        piece = os.read(0, 65536)
        if not piece:
            undo(armed)
            return
        pending += piece
        while b"\n" in pending:
            line, pending = pending.split(b"\n", 1)
            request = json.loads(line)
            armed = request.get("arm", [])
            until = time.monotonic() + request["within"] if armed else float("inf")
            answer("armed" if armed else "disarmed")


def answer(word: str) -> None:
    with contextlib.suppress(OSError):  # the drill has just been killed
        os.write(1, word.encode() + b"\n")


def undo(commands: list[list[str]]) -> None:
    for command in commands:
        for _ in range(ATTEMPTS):
            quiet = subprocess.DEVNULL
            try:
                if subprocess.run(command, stdin=quiet, stdout=quiet, stderr=quiet, timeout=60).returncode == 0:
                    break
            except (OSError, subprocess.TimeoutExpired):
                pass
            time.sleep(PAUSE)


if __name__ == "__main__":
    main()
