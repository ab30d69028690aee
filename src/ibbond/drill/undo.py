"""The undo of a fault, armed before it outside of this process: a keeper process, and with systemd a timer besides.

Read first: `drill.keeper`, systemd-run(1). Either alone brings the member back when the drill is killed at any step;
the timer also when the whole session is. Undoing twice is harmless: every undo command succeeds, or fails without
effect, when there is nothing left to undo.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ibbond.errors import Refused

KEEPER = Path(__file__).with_name("keeper.py")
SYSTEMD = Path("/run/systemd/system")
Command = tuple[str, ...]


class Undo:
    """Arms and disarms. `close` while armed undoes; so does the end of this process, whatever ends it."""

    def __init__(self, *, with_timer: bool, environment: Mapping[str, str] | None = None) -> None:
        self.timer = f"ibbond-drill-{os.getpid()}"
        self.with_timer = with_timer and SYSTEMD.is_dir() and shutil.which("systemd-run") is not None
        self.process = subprocess.Popen(
            [sys.executable, "-IS", str(KEEPER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            env=environment,
        )
        self._expect("ready")

    def arm(self, commands: Sequence[Command], within: float) -> None:
        """Have these commands run when this process ends, or after `within` seconds; `Refused` if that fails."""
        self._say({"arm": [list(command) for command in commands], "within": within})
        self._expect("armed")
        if self.with_timer and commands:
            script = "; ".join(shlex.join(command) for command in commands)
            self._systemd(
                "systemd-run", f"--on-active={within:.0f}", f"--unit={self.timer}", "--collect", "sh", "-c", script
            )

    def disarm(self) -> None:
        """The fault has been undone."""
        if self.with_timer:
            with contextlib.suppress(Refused):
                self._systemd("systemctl", "stop", f"{self.timer}.timer")
        self._say({"disarm": True})
        self._expect("disarmed")

    def close(self) -> None:
        """The end of the keeper; while it is armed it undoes first, and this waits for it."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=120)

    def _say(self, request: dict[str, object]) -> None:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
        except OSError as error:
            raise not_armed(str(error)) from None

    def _expect(self, word: str) -> None:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().decode().strip()
        if line != word:
            raise not_armed(f"the process that keeps the undo answered {line!r}")

    def _systemd(self, *command: str) -> None:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise not_armed(f"{command[0]} failed: {done.stderr.strip()}")


def not_armed(why: str) -> Refused:
    return Refused("cannot arm the undo", why=why, fix="Nothing was changed; see what ended that process")
