"""The commands of a topology's hosts (`exec`), run when a lab has just become ready.

Each runs as `ibbond lab exec HOST` would run it, one after the other, to its end; what they print goes to the lab's
log. A lab of which a command fails does not start. Left out: reading them (`topology.host_programs`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path

from ibbond.backend.control_socket import Control
from ibbond.errors import Refused
from ibbond.lab.exec import cannot_run, handle_and_directory
from ibbond.topology.model import Topology

COMMAND_SECONDS = 60.0


def run_commands(topology: Topology, lab: str, log: Path) -> None:
    """Run all commands of all hosts; `Refused` names the first that fails."""
    commands = [(host.name, number, words) for host in topology.hosts for number, words in enumerate(host.exec, 1)]
    if commands:
        with Control.of(lab) as control:
            for host, number, words in commands:
                run_command(control, host, number, words, log)


def run_command(control: Control, host: str, number: int, words: tuple[str, ...], log: Path) -> None:
    shown = words[2] if words[:2] == ("/bin/sh", "-c") else " ".join(words)
    what = f"command {number} of host {host} failed: {shown}"
    with log.open("ab") as output:
        before = output.tell()
        handle, directory = handle_and_directory(control, host, words[0])
        try:
            process = handle.popen(
                words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=directory, start_new_session=True
            )
        except OSError as error:
            raise cannot_run(words[0], host, error) from None
        finally:
            handle.close()
    try:
        code = process.wait(COMMAND_SECONDS)
    except subprocess.TimeoutExpired:
        fix = "Let a program that stays go to the background: write & after it"
        raise Refused(what, why=f"it did not end within {COMMAND_SECONDS:.0f} s", fix=fix) from None
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if code:
        said = log.read_bytes()[before:].decode(errors="replace").strip().splitlines()[-1:]
        ended = f"signal {-code} ended it" if code < 0 else f"it ended with {code}"
        why = ": ".join([ended, *said])
        raise Refused(what, why=why, fix=f"Correct exec of host {host} in the topology")
