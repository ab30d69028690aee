"""How commands print: one JSON object where it was asked for, short aligned text else.

Kept light: rich is imported only where something is drawn while it changes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import click
from click.core import ParameterSource

from ibbond.cli.completers import labs
from ibbond.errors import Refused

COLORS = {  # of states; devices and addresses have those of `ip -c`
    **dict.fromkeys(("up", "active", "runs", "ok", "REACHABLE"), "green"),
    **dict.fromkeys(("init", "armed", "lossy", "limited", "was killed", "warning", "SUSPECT"), "yellow"),
    **dict.fromkeys(("down", "no carrier", "cut", "missing", "error"), "red"),
}
LAB = "IBBOND_LAB"  # names a lab for all commands of a shell
F = TypeVar("F", bound=Callable[..., object])


def json_option(command: F) -> F:
    """`--json`, the same in every command."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")(command)


def not_empty(context: click.Context, parameter: click.Parameter, lab: str) -> str:
    """Refuse `--name ""`, such as an unset variable of a script: it must not lead to the default lab."""
    if not lab and context.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE:
        raise Refused("--name is empty", why="a lab needs a name", fix="Write --name LAB, or omit --name")
    return lab


def name_option(command: F) -> F:
    """`--name`, which lab is meant."""
    return click.option(
        "--name",
        "lab_name",
        default="",
        metavar="LAB",
        envvar=LAB,
        callback=not_empty,
        shell_complete=labs,
        help=f"The lab to use (default: ${LAB}, else lab; inside `lab exec`, that lab).",
    )(command)


def print_json(value: object) -> None:
    click.echo(json.dumps(value))


def done(as_json: bool, text: str, facts: Mapping[str, object]) -> None:
    """What a command that changed something says."""
    if as_json:
        print_json(facts)
    else:
        click.echo(text)


def state(word: str) -> str:
    """A state in its color; `click.echo` leaves colors out where the output is not a terminal."""
    return click.style(word, COLORS[word]) if word in COLORS else word


def device(name: str) -> str:
    return click.style(name, "cyan")


def addresses(texts: Iterable[object]) -> str:
    """IP addresses, IPv4 and IPv6 in colors of their own."""
    return " ".join(click.style(text, "blue" if ":" in text else "magenta") for text in map(str, texts))


def table(rows: Iterable[Sequence[object]], heads: Sequence[str] = ()) -> str:
    """Columns as wide as their longest word, two blanks apart; no trailing blanks."""
    lines = [[str(cell) for cell in row] for row in ([heads] if heads else [])] + [
        [str(cell) for cell in row] for row in rows
    ]
    if not lines:
        return ""
    widths = [max(width(line[i]) for line in lines if i < len(line)) for i in range(max(map(len, lines)))]
    return "\n".join(
        "  ".join(cell + " " * (most - width(cell)) for cell, most in zip(line, widths, strict=False)).rstrip()
        for line in lines
    )


def width(cell: str) -> int:
    """Columns at a terminal, where colors take none."""
    return len(click.unstyle(cell))


def as_dict(value: object) -> dict[str, object]:
    """An answer of a lab that is an object."""
    assert isinstance(value, dict), value
    return value
