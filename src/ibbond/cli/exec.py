"""`ibbond lab exec` and `ibbond lab shell`: programs of this machine inside a lab host."""

from __future__ import annotations

import os
import sys

import click

from ibbond.cli import completers
from ibbond.cli.output import json_option, name_option, print_json
from ibbond.errors import Refused

EXEC = {"allow_interspersed_args": False, "ignore_unknown_options": False}


@click.command("exec", context_settings=EXEC)
@name_option
@json_option
@click.argument("host", shell_complete=completers.hosts)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_(lab_name: str, as_json: bool, host: str, command: tuple[str, ...]) -> None:
    """Run COMMAND in HOST and exit with its status: ibbond lab exec h1 -- ping 10.0.0.2

    The command sees the host's devices, addresses and routes, and this machine's files. ibbond's own options precede
    HOST. With --json, output and exit status are one object.
    """
    from ibbond.backend.control_socket import Control
    from ibbond.lab.exec import become, run

    words = command[1:] if command[0] == "--" else command
    if not words or not words[0]:
        raise Refused(
            "the program to run is missing",
            why="nothing was given after the host",
            fix="For example: ibbond lab exec h1 -- ping 10.0.0.2",
        )
    control = Control.of(lab_name)
    if not as_json:
        sys.stdout.flush()
        become(control, host, words)
    ended = run(control, host, words)
    print_json(
        {
            "exit": ended.returncode,
            "stdout": ended.stdout.decode(errors="replace"),
            "stderr": ended.stderr.decode(errors="replace"),
        }
    )
    sys.stdout.flush()
    sys.exit(ended.returncode)


@click.command(context_settings=EXEC)
@name_option
@click.argument("host", shell_complete=completers.hosts)
def shell(lab_name: str, host: str) -> None:
    """Open a shell in HOST, where a plain `bond0` is that host's bond."""
    from ibbond.backend.control_socket import Control
    from ibbond.lab.exec import become

    sys.stdout.flush()
    become(Control.of(lab_name), host, [os.environ.get("SHELL") or "/bin/sh"])
