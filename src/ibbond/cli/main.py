"""The `ibbond` command: a table of commands, each imported when it is used, and how a refusal reaches people.

Exit codes everywhere: 0 done, 1 done and the answer is bad (a protocol did not survive, findings, failed cases), 2 the
request was refused or could not be read, 130 interrupted. A new command is one row of `COMMANDS`.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

import click

from ibbond import __version__
from ibbond.cli.usage import Group, refusal
from ibbond.errors import Refused

REFUSED = 2
INTERRUPTED = 130
NOT_WRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)
NO_OUTPUT = OSError(errno.EBADF, "standard output is closed")
ASK_OTHERS = ("lab", "bond", "fabric", "watch", "ib-bond", "map", "exporter")  # a lab or the kernel reads their words
ANY_BYTES = (["lab", "topology"], ["lab", "exec"])  # but not these: files, words of other programs


class Row(NamedTuple):
    """Where a command lives, and what `ibbond --help` says of it without importing it."""

    target: str  # "module:attribute"
    help: str


COMMANDS: dict[str, Row] = {
    "demo": Row("ibbond.cli.demo:demo", "Pull cables under real traffic and measure what each protocol lost."),
    "lab": Row("ibbond.cli.lab:lab", "Hosts, switches and cables on this machine: up, exec, cut, mend, capture, down."),
    "bond": Row("ibbond.cli.bond:bond", "Bonds of a lab host (h1/bond0) or of this host (bond0)."),
    "fabric": Row("ibbond.cli.fabric:fabric", "The subnet of a lab: ports, routes, multicast groups, counters."),
    "addr": Row("ibbond.cli.explain:addr", "Explain the 20-byte addresses of IPoIB."),
    "drill": Row("ibbond.cli.drill:drill", "Make a bond fail on purpose, measure the outage, undo it, report."),
    "sim": Row("ibbond.cli.sim:sim", "Simulated stories under a virtual clock: run one seed or many."),
    "options": Row("ibbond.cli.options:options", "Reference of bonding options: values, modes, errors."),
    "map": Row("ibbond.cli.map:show_map", "Which bond uses which port of which RDMA adapter."),
    "check": Row("ibbond.cli.check:check", "Find what is wrong with bonds, why, and how to fix it."),
    "watch": Row("ibbond.cli.watch:watch", "Print changes of bonds as they happen."),
    "exporter": Row("ibbond.cli.exporter:exporter", "Export the state of bonds to Prometheus."),
    "config": Row("ibbond.cli.config:config", "Lint, render, convert and compare configuration files of every tool."),
    "apply": Row("ibbond.cli.apply:apply", "Make this host's bonds what /etc/ibbond/bonds.toml says."),
    "wait": Row("ibbond.cli.wait:wait", "Wait until a bond exists, is active and has an address."),
    "collect": Row("ibbond.cli.collect:collect", "Save a support bundle of this host for ibbond check --root."),
    "ib-bond": Row("ibbond.cli.ib_bond:ib_bond", "The one-line tool of 2007, for today's driver."),
    "completion": Row("ibbond.cli.completion:completion", "Shell completion for bash, zsh or fish."),
    "conform": Row("ibbond.cli.conform:conform", "Compare ibbond's driver with recordings of the kernel's."),
}


class LazyGroup(Group):
    """A group whose commands are rows of a table."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        row = COMMANDS.get(cmd_name)
        if row is None:
            return None
        module, _, attribute = row.target.partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, row.help) for name, row in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="ibbond")
@click.pass_context
def ibbond(context: click.Context) -> None:
    """High availability for IP over InfiniBand: one address that survives a cut cable.

    Write a lab's device as HOST/DEVICE (h1/bond0, h1/ib0). A plain name (bond0) is a device of this host, or inside
    `ibbond lab exec h1` of that host. Options precede arguments.
    """
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":  # no-color.org; every command inherits it
        context.color = False


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line and exit with its code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # a file's name goes out as it came in
    sys.exit(run(words))


def run(words: list[str]) -> int:
    """Run a command line; the exit code. Refusals are printed for people, and as JSON too where that was asked for."""
    if sys.stdout is None:
        return refuse_error(NO_OUTPUT, words)
    try:
        refuse_other_bytes(words)
        result = ibbond.main(args=words, prog_name="ibbond", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except Refused as request:
        return refuse(str(request), request, words)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return REFUSED
    except click.ClickException as error:
        usage_error = refusal(error)
        return refuse(str(usage_error), usage_error, words)
    except (KeyboardInterrupt, click.Abort) as end:
        print(". ".join(["ibbond: interrupted", *getattr(end, "__notes__", ())]), file=sys.stderr)
        return INTERRUPTED
    except SystemExit as end:
        if notes := getattr(end, "__notes__", ()):
            print(". ".join(["ibbond: ended by a signal", *notes]), file=sys.stderr)
        raise
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has exited
        return 0
    except OSError as error:
        return refuse_error(error, words)


def refuse_error(error: OSError, words: list[str]) -> int:
    """An unexpected error of the system."""
    why = error.strerror or str(error)
    if error.errno in NOT_WRITTEN:
        refused = Refused("cannot write the output", why=why, fix="Free some space, or write to another place")
    elif error.filename:
        refused = Refused(f"cannot use {error.filename}", why=why, fix="Check its path and permissions")
    else:
        refused = Refused("the system refused a request", why=why, fix="Resolve that and try again")
    return refuse(str(refused), refused, words)


def refuse_other_bytes(words: list[str]) -> None:
    """Names that are not UTF-8: neither a lab nor the kernel has such, and their text files cannot hold them."""
    if words[:1] and words[0] in ASK_OTHERS and words[:2] not in ANY_BYTES:
        for word in words:
            try:
                word.encode()
            except UnicodeEncodeError:
                shown = word.encode(errors="backslashreplace").decode()
                raise Refused(f"cannot read {shown}", why="it is not valid UTF-8", fix="Use another name") from None


def refuse(text: str, refused: Refused, words: list[str]) -> int:
    if asked_for_json(words):
        print_error_object(refused.what, refused.why, refused.fix)
    print(f"ibbond: {text}", file=sys.stderr)
    return REFUSED


def asked_for_json(words: list[str]) -> bool:
    """Whether `--json` stands among our own words, which end where another program's begin."""
    own = words[: words.index("--")] if "--" in words else words
    return "--json" in own


def print_error_object(what: str, why: str, fix: str) -> None:
    import json

    with contextlib.suppress(OSError):  # the error may be that nothing can be written
        print(json.dumps({"error": {"what": what, "why": why, "fix": fix}}), flush=True)
