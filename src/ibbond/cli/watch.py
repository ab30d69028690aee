"""`ibbond watch`: each change of this host's bonds as it happens, one line or one JSON object each.

Read first: backend/kernel/watch.py. It waits on the kernel's own messages; nothing is polled. Left out: history.
"""

from __future__ import annotations

import sys

import click

from ibbond.cli import completers
from ibbond.cli.addr import backend_of, parse_host
from ibbond.cli.output import name_option


@click.command()
@name_option
@click.argument("host", required=False, default="", shell_complete=completers.hosts)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each change.")
def watch(lab_name: str, host: str, as_json: bool) -> None:
    """Print changes of bonds until Ctrl-C: active member, carriers, link states, counters, addresses, options.

    Watches the bonds of a lab HOST, or of the current host. After the first line, no change is missed.
    """
    import json

    out = sys.stdout
    for change in backend_of(parse_host(host, lab_name), lab_name).watch():
        out.write((json.dumps(change) if as_json else line(change)) + "\n")
        out.flush()


def line(change: dict[str, object]) -> str:
    """`    12.3 ms  bond0  active  ib0 -> ib1`"""
    t_ms = change.get("t_ms", 0.0)
    words = [f"{t_ms:>10} ms", str(change.get("where", "")), str(change.get("what", ""))]
    if "old" in change or "new" in change:
        words.append(f"{shown(change.get('old'))} -> {shown(change.get('new'))}")
    rest = {key: value for key, value in change.items() if key not in ("t_ms", "where", "what", "old", "new")}
    words += [f"{key} {shown(value)}" for key, value in rest.items()]
    return "  ".join(word for word in words if word)


def shown(value: object) -> str:
    match value:
        case None | "" | []:
            return "-"
        case bool():
            return "yes" if value else "no"
        case list():
            return ",".join(map(str, value))
    return str(value)
