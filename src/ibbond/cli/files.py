"""Files named on the command line: read, located, or tried before the work whose result they will hold."""

from __future__ import annotations

import os
from pathlib import Path

import click
from click.shell_completion import CompletionItem

import ibbond
from ibbond.errors import Refused


def shipped_scenarios() -> dict[str, Path]:
    """The scenarios that come with ibbond, by name: in the wheel beside the code, in a clone beside `src`."""
    package = Path(ibbond.__file__).parent
    folder = next((each for each in (package / "scenarios", package.parents[1] / "scenarios") if each.is_dir()), None)
    return {file.stem: file for file in sorted(folder.glob("*.toml"))} if folder is not None else {}


class ScenarioFile(click.Path):
    """A scenario: a file, or the name of one that comes with ibbond (`two_hosts`)."""

    def __init__(self) -> None:
        super().__init__(exists=True, dir_okay=False, readable=True, path_type=Path)

    def convert(
        self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None
    ) -> str | bytes | os.PathLike[str]:
        shipped = shipped_scenarios()
        if not os.path.exists(value):
            value = shipped.get(os.fspath(value).removesuffix(".toml"), value)
        if not os.path.exists(value) and shipped:
            self.fail(f"File '{value}' does not exist, and ibbond has only {', '.join(shipped)}", param, ctx)
        return super().convert(value, param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        found = [CompletionItem(name) for name in shipped_scenarios() if name.startswith(incomplete)]
        return found or super().shell_complete(ctx, param, incomplete)


def read_text(file: Path, fix: str) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else "it is not a text file"
        raise Refused(f"cannot read {file}", why=why, fix=fix) from None


def read_topology(file: Path | None) -> tuple[str, str]:
    """The text of a topology and where it is from."""
    if file is None:
        from ibbond.topology.default import TWO_HOSTS

        return TWO_HOSTS, "the default topology"
    return read_text(file, "Give the path of a topology file (docs/topology.md)"), str(file)


def import_topology(file: Path) -> tuple[str, str, list[str]]:
    """A fabric that ibnetdiscover or OpenSM wrote, as a topology: text, source, and notes on what is left out."""
    from ibbond.topology.imported import import_fabric

    imported = import_fabric(read_text(file, "Give the path of a file that ibnetdiscover or OpenSM wrote"), str(file))
    return imported.text, str(file), imported.notes


def absolute(file: Path) -> Path:
    try:
        return file.absolute()
    except FileNotFoundError:
        raise Refused(
            f"cannot find {file}",
            why="the working directory no longer exists",
            fix="Change to another directory",
        ) from None


def try_to_write(file: Path) -> None:
    """`Refused` if the file cannot be written; it stays unchanged."""
    from ibbond.host.output_file import open_output

    is_new = not os.path.lexists(file)
    os.close(open_output(file, flags=os.O_APPEND))
    if is_new:
        file.unlink()
