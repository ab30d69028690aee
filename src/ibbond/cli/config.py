"""`ibbond config ...`: configuration files of every tool, read, judged, written, compared; nothing of the host changes.

Read first: config/files.py, docs/configuration.md. Exit codes: 0 clean, complete or equal; 1 findings, losses or
differences; 2 what cannot be read, with nothing written. Left out: applying (cli/apply.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ibbond.cli.output import json_option, print_json, table
from ibbond.cli.usage import Group
from ibbond.errors import Refused

if TYPE_CHECKING:
    from ibbond.config.desired import Desired, Problem
    from ibbond.config.files import Rendering
    from ibbond.config.gaps import Loss
    from ibbond.config.sources import Loaded

FINDINGS, UNREADABLE = 1, 2
BONDS_TOML = "/etc/ibbond/bonds.toml"
PATHS = click.argument("paths", nargs=-1, metavar="PATH...", type=click.Path(path_type=Path))
FORMAT = click.option("--format", "as_format", default="", metavar="FORMAT", help="Read PATH as this format.")
TO = click.option("--to", "to", default="", metavar="FORMAT", help="The format to write; omit it to list the formats.")
FOR = click.option("--for", "for_version", default="", metavar="VERSION", help="The version of the tool that reads it.")
LOSSY = click.option("--lossy", is_flag=True, help="Write the files even if settings are lost; the losses are listed.")
OUTPUT = click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Write the files below this directory; by default they are printed.",
)


@click.group(cls=Group)
def config() -> None:
    """Configuration files of NetworkManager, networkd, netplan, ifupdown and others: lint, convert, compare."""


@config.command()
@PATHS
@FORMAT
@click.option("--ignore", multiple=True, metavar="RULE", help="Skip this rule; repeatable.")
@json_option
def lint(paths: tuple[Path, ...], as_format: str, ignore: tuple[str, ...], as_json: bool) -> int:
    """Find settings that the tool or the driver would ignore, refuse or interpret differently.

    PATH is a file or a directory of files; a copy of a host's root directory is read as that host would read it. Exit
    status: 0 if clean, 1 with findings, 2 if a file cannot be read.
    """
    from ibbond.config.traps import traps
    from ibbond.ops.check import RULES

    loaded = load(paths, as_format, strict=False)
    problems = [problem for problem in traps(loaded.desired) if problem.kind not in ignore]
    files = sum(loaded.formats.values())
    if as_json:
        findings = [
            {
                "rule": problem.kind,
                "severity": RULES[problem.kind].severity.value,
                "file": problem.source.file,
                "line": problem.source.line or None,
                "bond": problem.bond or None,
                "what": problem.what,
                "why": RULES[problem.kind].why,
                "fix": problem.fix,
            }
            for problem in problems
        ]
        print_json({"files": files, "formats": loaded.formats, "findings": findings, "clean": not findings})
    else:
        for problem in problems:
            rule = RULES[problem.kind]
            click.echo(f"{sentence(problem)} [{rule.severity.value}: {problem.kind}]\n    fix: {problem.fix}")
        count = f"{len(problems)} finding{'' if len(problems) == 1 else 's'}" if problems else "clean"
        passed = f", {loaded.passed} in unknown formats" if loaded.passed else ""
        click.echo(f"{files} file{'' if files == 1 else 's'}{passed}: {count}")
    if loaded.unreadable:
        return UNREADABLE
    return FINDINGS if problems else 0


@config.command()
@click.argument("file", default=BONDS_TOML, type=click.Path(path_type=Path))
@TO
@FOR
@LOSSY
@OUTPUT
@json_option
def render(file: Path, to: str, for_version: str, lossy: bool, output: Path | None, as_json: bool) -> int:
    """Write a bonds.toml (default /etc/ibbond/bonds.toml) in another tool's format: config render --to networkd

    Lists each setting that this version of the format cannot express, and what becomes of it. If there are any, writes
    nothing and exits with status 1, unless --lossy is given.
    """
    if not to:
        return print_formats(as_json)
    return write(load([file], "bonds.toml").desired, to, for_version, lossy, output, as_json)


@config.command()
@PATHS
@FORMAT
@TO
@FOR
@LOSSY
@OUTPUT
@json_option
def convert(
    paths: tuple[Path, ...],
    as_format: str,
    to: str,
    for_version: str,
    lossy: bool,
    output: Path | None,
    as_json: bool,
) -> int:
    """From any format to any other: config convert /etc/netplan --to networkmanager"""
    if not to:
        return print_formats(as_json)
    return write(load(paths, as_format).desired, to, for_version, lossy, output, as_json)


@config.command("import")
@PATHS
@FORMAT
@OUTPUT
@json_option
def import_(paths: tuple[Path, ...], as_format: str, output: Path | None, as_json: bool) -> int:
    """Print files of other tools as bonds.toml: config import /etc/network/interfaces"""
    return write(load(paths, as_format).desired, "bonds.toml", "", False, output, as_json)


@config.command()
@click.argument("bonds", nargs=-1, metavar="[BOND]...")
@OUTPUT
@json_option
def export(bonds: tuple[str, ...], output: Path | None, as_json: bool) -> int:
    """Print the live bonds of this host as bonds.toml."""
    return write(live(bonds), "bonds.toml", "", False, output, as_json)


@config.command()
@click.argument("first", metavar="A", type=click.Path(path_type=Path))
@click.argument("second", metavar="[B]", required=False, type=click.Path(path_type=Path))
@json_option
def diff(first: Path, second: Path | None, as_json: bool) -> int:
    """Compare two configurations, in whatever formats, setting by setting; without B with the live bonds.

    The order of members is not compared, and of live bonds neither are options, transport modes and MTUs that A does
    not name.
    """
    from ibbond.config.fields import compared

    states = (load([first]).desired, load([second]).desired if second else live(()))
    left, right = ({key: tuple(sorted(texts)) for key, texts in compared(each).items()} for each in states)
    rows = [
        (of, name, ", ".join(left.get((of, name), ())), ", ".join(right.get((of, name), ())))
        for of, name in sorted(left.keys() | right.keys())
        if left.get((of, name)) != right.get((of, name))
        and (second or (of, name) in left or not (name.startswith("option.") or name in ("transport", "mtu")))
    ]
    if as_json:
        keys = ("of", "setting", "first", "second")
        print_json({"equal": not rows, "differences": [dict(zip(keys, row, strict=True)) for row in rows]})
    elif rows:
        shown = [tuple(cell or "-" for cell in row) for row in rows]
        click.echo(table(shown, ("OF", "SETTING", str(first), str(second or "live"))))
    else:
        click.echo("no difference")
    return FINDINGS if rows else 0


def load(paths: tuple[Path, ...] | list[Path], as_format: str = "", *, strict: bool = True) -> Loaded:
    """What these files want. `strict`: Refused for the first line that cannot be read."""
    from ibbond.config.files import READERS
    from ibbond.config.sources import load as load_files
    from ibbond.topology.reader import unknown

    if as_format and as_format not in READERS:
        raise unknown(f"no format {as_format}", as_format, READERS)
    if not paths:
        raise Refused("no path was given", why="there is nothing to read", fix="Give files or directories")
    loaded = load_files(paths, as_format)
    if strict:
        for problem in loaded.unreadable:
            raise Refused(sentence(problem), why="the whole file is rejected", fix=problem.fix)
        if not loaded.desired.bonds:
            raise Refused(
                f"no bond in {', '.join(map(str, paths))}", why="these files define none", fix="Give other files"
            )
    return loaded


def sentence(problem: Problem) -> str:
    """The place and what is wrong there."""
    what = problem.what
    return what if what.startswith(problem.source.file) else f"{problem.source}: {what}"


def live(bonds: tuple[str, ...]) -> Desired:
    """The live bonds of this host."""
    from ibbond.backend.kernel.bonds import KernelBackend
    from ibbond.ops.export import exported
    from ibbond.topology.model import listed

    host = KernelBackend()
    known = host.bonds()
    for name in bonds:
        if name not in known:
            raise Refused(
                f"no bond {name}", why=f"the bonds of this host are: {listed(known)}", fix="Choose one of these"
            )
    if not known:
        raise Refused("no bond to export", why="this host has none", fix="Create one: ibbond bond create bond0")
    return exported(host, bonds or known)


def write(desired: Desired, to: str, for_version: str, lossy: bool, output: Path | None, as_json: bool) -> int:
    """Print or write a desired state in a format; 1 where it does not hold everything and that was not allowed."""
    from ibbond.config.files import RENDERERS, default_version, parsed_version
    from ibbond.config.files import render as rendered
    from ibbond.topology.reader import unknown

    if to not in RENDERERS:
        raise unknown(f"no format {to}", to, RENDERERS)
    try:
        version = parsed_version(for_version) if for_version else default_version(to)
    except ValueError:
        raise Refused(f"--for {for_version}", why="it is not a version", fix="Write for example --for 257") from None
    rendering = rendered(desired, to, version)
    allowed = lossy or rendering.is_complete
    if output is not None and allowed:
        write_files(rendering.files, output)
    if as_json:
        files = rendering.files if allowed else {}
        losses = [as_dict(loss) for loss in rendering.losses]
        print_json({"format": to, "complete": rendering.is_complete, "losses": losses, "files": files})
    else:
        report(rendering, to, version, allowed, output)
    return 0 if allowed else FINDINGS


def as_dict(loss: Loss) -> dict[str, object]:
    field = loss.field
    return {
        "of": field.of,
        "setting": field.name,
        "value": field.text,
        "becomes": loss.becomes,
        "harmless": loss.harmless,
        "source": str(field.source),
    }


def report(rendering: Rendering, to: str, version: tuple[int, ...], allowed: bool, output: Path | None) -> None:
    """Losses go to standard error, so that the text can be redirected."""
    from ibbond.config.files import RENDERERS

    row = RENDERERS[to]
    tool = f"{row.tool} {'.'.join(map(str, version))}".strip()
    for loss in rendering.losses:
        click.echo(f"{tool}: {'note: ' if loss.harmless else ''}{loss}", err=True)
    if not allowed:
        click.echo("Nothing was written: allow the losses with --lossy, or use another format", err=True)
        return
    if not row.verified:
        click.echo(f"{tool}: not verified by the tool", err=True)
    if output is not None:
        for path in rendering.files:
            click.echo(str(output / path))
    elif len(rendering.files) == 1:
        click.echo(next(iter(rendering.files.values())), nl=False)
    else:
        click.echo("\n".join(f"# {path}\n{text}" for path, text in rendering.files.items()), nl=False)


def write_files(files: dict[str, str], output: Path) -> None:
    """All of them or none: a path that leads out of `output` or exists already is refused before."""
    from ibbond.config.sources import shown

    base = output.resolve()
    for path in files:
        target = base / path
        if not target.parent.resolve().is_relative_to(base):
            raise Refused(f"cannot write {shown(target)}", why=f"it is not below {output}", fix="Use another directory")
        if target.is_symlink() or target.exists():
            raise Refused(f"cannot write {shown(target)}", why="it exists", fix="Use an empty directory")
    for path, text in files.items():
        target = base / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        if path.endswith(".nmconnection"):
            target.chmod(0o600)


def print_formats(as_json: bool) -> int:
    from ibbond.config.files import RENDERERS

    if as_json:
        rows = [
            {"format": name, "tool": row.tool, "versions": list(row.versions), "verified": row.verified}
            for name, row in RENDERERS.items()
        ]
        print_json({"formats": rows})
    else:
        lines = [
            (name, row.tool, ", ".join(row.versions), "" if row.verified else "not verified by the tool")
            for name, row in RENDERERS.items()
        ]
        click.echo(table(lines, ("FORMAT", "FOR", "VERSIONS", "")))
    return 0
