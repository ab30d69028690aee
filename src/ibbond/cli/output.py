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


def table(rows: Iterable[Sequence[object]], heads: Sequence[str] = ()) -> str:
    """Columns as wide as their longest word, two blanks apart; no trailing blanks."""
    lines = [[str(cell) for cell in row] for row in ([heads] if heads else [])] + [
        [str(cell) for cell in row] for row in rows
    ]
    if not lines:
        return ""
    widths = [max(len(line[i]) for line in lines if i < len(line)) for i in range(max(map(len, lines)))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=False)).rstrip() for line in lines
    )


def as_dict(value: object) -> dict[str, object]:
    """An answer of a lab that is an object."""
    assert isinstance(value, dict), value
    return value
