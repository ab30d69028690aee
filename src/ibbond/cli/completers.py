"""What a shell offers to complete: names of labs, hosts, cables, bonds, members, options and their values.

Read first: click's page "Shell Completion". A lab is asked for its names; one that does not run has none. Left out:
files and commands, which the shell completes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import click

Completer = Callable[[click.Context, click.Parameter, str], list[str]]


def _completer(names: Callable[[click.Context], Iterable[str]]) -> Completer:
    """A completer of these names; words that are there already are not offered again."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
        given = ctx.params.get(param.name or "") if param.nargs == -1 else None
        found: list[str] = []
        with contextlib.suppress(Exception):  # a completion that fails must not disturb the line that is typed
            found = [name for name in names(ctx) if name.startswith(incomplete) and name not in (given or ())]
        return found

    return complete


def _labs(_ctx: click.Context) -> Iterable[str]:
    from ibbond.lab.state import names

    return names()


def _status(ctx: click.Context) -> dict[str, dict[str, dict[str, dict[str, object]]]]:
    from ibbond.backend.control_socket import Control

    with Control.of(ctx.params.get("lab_name") or os.environ.get("IBBOND_LAB", "")) as control:
        status = control.ask("status")
    assert isinstance(status, dict)
    return status


def _cables(ctx: click.Context) -> Iterable[str]:
    """For `cut` those that are plugged, for `mend` those that are cut."""
    cables: list[dict[str, object]] = _status(ctx)["cables"]  # type: ignore[assignment]
    wanted = {"mend": (True,), "cut": (False,)}.get(ctx.info_name or "", (True, False))
    return [str(cable["name"]) for cable in cables if (cable["state"] == "cut") in wanted]


def _hosts(ctx: click.Context) -> Iterable[str]:
    return _status(ctx)["hosts"]


def _of_hosts(*kinds: str) -> Callable[[click.Context], Iterable[str]]:
    def names(ctx: click.Context) -> Iterable[str]:
        hosts = _status(ctx)["hosts"]
        return [f"{host}/{device}" for host, facts in hosts.items() for kind in kinds for device in facts[kind]]

    return names


def _nodes(ctx: click.Context) -> Iterable[str]:
    status = _status(ctx)
    cables: list[dict[str, list[str]]] = status["cables"]  # type: ignore[assignment]
    ends = [end.partition("/")[0] for cable in cables for end in cable["ends"]]
    ports = [str(device["port"]) for host in status["hosts"].values() for device in _with_port(host["devices"])]
    return dict.fromkeys([*ends, *(port.partition("/")[0] for port in ports), "sm"])


def _with_port(devices: dict[str, object]) -> list[dict[str, object]]:
    return [device for device in devices.values() if isinstance(device, dict) and "port" in device]


def _bonds(ctx: click.Context) -> Iterable[str]:
    """Of the lab, and of this host."""
    with contextlib.suppress(OSError):
        yield from Path("/sys/class/net/bonding_masters").read_text().split()
    yield from _of_hosts("bonds")(ctx)


def _members(ctx: click.Context) -> Iterable[str]:
    host, slash, _ = str(ctx.params.get("bond", "")).rpartition("/")
    if not slash:
        return [path.name for path in Path("/sys/class/net").iterdir()]
    return list(_status(ctx)["hosts"][host]["devices"])


def _options(_ctx: click.Context) -> Iterable[str]:
    from ibbond.bonding.options import OPTIONS

    return [name for name, option in OPTIONS.items() if not option.read_only]


def _settings(ctx: click.Context) -> Iterable[str]:
    """Names of options, and after a name its values."""
    from ibbond.bonding.option import Kind
    from ibbond.bonding.options import OPTIONS

    words = [word for word in ctx.params.get("settings") or () if "=" not in word]
    if len(words) % 2 == 0:
        return _options(ctx)
    option = OPTIONS[words[-1]]
    return _members(ctx) if option.kind is Kind.NAME else [word.text for word in option.words]


labs = _completer(_labs)
hosts = _completer(_hosts)
cables = _completer(_cables)
nodes = _completer(_nodes)
bonds = _completer(_bonds)
devices = _completer(_of_hosts("bonds", "devices"))
ports = _completer(_of_hosts("devices"))
members = _completer(_members)
options = _completer(_options)
settings = _completer(_settings)
