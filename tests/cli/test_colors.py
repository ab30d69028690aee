"""Colors are for people at a terminal: states, devices and addresses as `ip -c` has them; never for programs."""

import os
import pty
import subprocess
import sys

import click

from ibbond.cli.lab import describe
from ibbond.cli.output import state, table

ESCAPE = "\x1b["
STATUS: dict[str, object] = {
    "name": "lab",
    "topology": "the default topology",
    "pid": 1,
    "manager": {"alive": False},
    "sysfs": {"why_not": None},
    "hosts": {
        "h1": {
            "bonds": {
                "bond0": {
                    "up": True,
                    "carrier": True,
                    "active": "ib1",
                    "members": ["ib0", "ib1"],
                    "addresses": ["10.0.0.1/24", "fd00::1/64"],
                }
            },
            "devices": {"ib0": {"up": True, "carrier": False, "master": "bond0", "addresses": []}},
        }
    },
    "cables": [
        {"ends": ["h1/ib0", "s1/1"], "state": "cut", "loss_percent": 0},
        {"ends": ["h1/ib1", "s2/1"], "state": "up", "loss_percent": 2.5},
    ],
}


def at_a_terminal(*words: str, **environment: str) -> str:
    """The output of a command whose standard output is a terminal."""
    ours, theirs = pty.openpty()
    kept = {key: value for key, value in os.environ.items() if key != "NO_COLOR"} | {"TERM": "xterm"}
    with subprocess.Popen(
        [sys.executable, "-m", "ibbond", *words], stdout=theirs, stdin=theirs, env=kept | environment
    ) as running:
        os.close(theirs)
        read = bytearray()
        while True:
            try:
                more = os.read(ours, 4096)
            except OSError:  # EIO: the other end is closed
                break
            if not more:
                break
            read += more
        assert running.wait() in (0, 1)
    os.close(ours)
    return read.decode()


def test_a_status_shows_what_is_cut_in_red() -> None:
    text = describe(STATUS)
    for word, color in (("cut", "red"), ("no carrier", "red"), ("up", "green"), ("h1/bond0", "cyan")):
        assert click.style(word, color) in text
    for address, color in (("10.0.0.1/24", "magenta"), ("fd00::1/64", "blue")):
        assert click.style(address, color) in text
    assert click.style(", loses 2.5 %", "yellow") in text
    lines = [line.split() for line in click.unstyle(text).splitlines() if line.startswith("h1/")]
    assert lines[0] == ["h1/bond0", "up", "active", "ib1", "of", "ib0,", "ib1", "10.0.0.1/24", "fd00::1/64"]


def test_columns_are_as_wide_as_what_is_seen_of_them() -> None:
    rows = [("a", state("up"), "x"), ("b", state("no carrier"), "y")]
    assert click.unstyle(table(rows)) == "a  up          x\nb  no carrier  y"


def test_colors_only_at_a_terminal_that_wants_them() -> None:
    listing = ("lab", "doctor")
    assert ESCAPE in at_a_terminal(*listing)
    assert ESCAPE not in at_a_terminal(*listing, NO_COLOR="1")
    assert ESCAPE not in at_a_terminal(*listing, TERM="dumb")
    assert ESCAPE not in at_a_terminal(*listing, "--json")
    piped = subprocess.run([sys.executable, "-m", "ibbond", *listing], capture_output=True, text=True, check=False)
    assert ESCAPE not in piped.stdout
