"""Files named on the command line: read, located, or tried before the work whose result they will hold."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

import ibbond
from ibbond.errors import Refused
from ibbond.host.input_file import read_input_text

if TYPE_CHECKING:
    from ibbond.topology.known_host import KnownHost

FROM = click.option(
    "--from",
    "fabric",
    type=click.Path(path_type=Path),
    help="Build the fabric described in this file of ibnetdiscover or OpenSM (opensm-subnet.lst).",
)
BUNDLES = click.option(
    "--bundle",
    "bundles",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A bundle of ibbond collect, or a directory of bundles, for the devices and bonds of these hosts.",
)


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


def read_topology(file: Path | None) -> tuple[str, str]:
    """The text of a topology and where it is from."""
    if file is None:
        from ibbond.topology.default import TWO_HOSTS

        return TWO_HOSTS, "the default topology"
    return read_input_text(file, "Give the path of a topology file (docs/topology.md)"), str(file)


def import_topology(file: Path, bundles: Sequence[Path] = ()) -> tuple[str, str]:
    """A fabric that ibnetdiscover or OpenSM wrote, as a topology: text and source; what is left out goes to stderr.

    Hosts of which there are bundles of `ibbond collect` have their own names, devices and bonds.
    """
    return imported(read_input_text(file, "Give the path of a file that ibnetdiscover or OpenSM wrote"), file, bundles)


def imported(text: str, file: Path, bundles: Sequence[Path]) -> tuple[str, str]:
    """The same for a text that was read already."""
    from ibbond.topology.imported import import_fabric

    known: list[KnownHost] = []
    if bundles:
        from ibbond.cli.signals import signals_end_it
        from ibbond.ops.known_hosts import known_hosts

        with signals_end_it("the unpacked files were removed"):
            known = known_hosts(bundles)
    found = import_fabric(text, str(file), known)
    for note in found.notes:
        click.echo(f"{file}: {note}", err=True)
    return found.text, str(file)


def only_with_from() -> Refused:
    why = "bundles name the hosts of a fabric that ibnetdiscover or OpenSM wrote"
    return Refused("cannot use --bundle without --from", why=why, fix="Name the fabric: --from FILE")


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
