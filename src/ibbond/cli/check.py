"""`ibbond check`: what is wrong with bonds, why, and the fix. Exit 0 clean, 1 findings, 2 nothing could be judged.

Read first: ops/check.py, docs/checks.md. Works on this host, on a saved copy (`--root`), and on a lab host (h1/bond0).
Left out: changing anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ibbond.cli import completers
from ibbond.cli.output import json_option, name_option, print_json, state
from ibbond.errors import Refused

if TYPE_CHECKING:
    from ibbond.backend.contract import Backend
    from ibbond.backend.kernel.bonds import KernelBackend
    from ibbond.ops.facts import HostFacts
    from ibbond.ops.needs import Unknown
    from ibbond.ops.read_network import IpFacts
    from ibbond.ops.rule import Finding

FINDINGS = 1
UNREADABLE = 2
MAX_FACTS = 8
PORT_STATES = {"up": "ACTIVE", "cut": "DOWN"}  # others are named as sysfs names them
DOCUMENT = "docs/checks.md"


@click.command()
@name_option
@click.argument("bonds", nargs=-1, metavar="[BOND]...", shell_complete=completers.bonds)
@click.option(
    "--root",
    type=click.Path(path_type=Path),
    help="A saved copy: a directory, an archive, or a text of /proc/net/bonding.",
)
@click.option("--expect", metavar="A,B", default="", help="The names of the members that each bond should have.")
@click.option("--ignore", multiple=True, metavar="RULE", help="Skip this rule; repeatable.")
@click.option(
    "--max-failures",
    default=2,
    show_default=True,
    help="The number of link failures of a member that counts as normal.",
)
@click.option("--list-rules", is_flag=True, help="List all rules: id and subject.")
@click.option("--nagios", is_flag=True, help="Print one line for Nagios; exit status 0 to 3 (ok to unknown).")
@json_option
def check(
    lab_name: str,
    bonds: tuple[str, ...],
    root: Path | None,
    expect: str,
    ignore: tuple[str, ...],
    max_failures: int,
    list_rules: bool,
    nagios: bool,
    as_json: bool,
) -> int:
    """Find what would keep bonds from surviving a failure: what is wrong, why, and how to fix it.

    Without BOND, checks all bonds of the current host. Facts that cannot be read are not guessed; they are listed as
    unknown. Exit status: 0 if nothing was found (notes do not count), 1 if something was, 2 if nothing could be
    checked; with --nagios 0 to 3.
    """
    from ibbond.ops.check import is_clean, unknown

    if list_rules:
        print_rules(as_json)
        return 0
    if nagios and as_json:
        raise Refused("cannot print both", why="--nagios and --json exclude each other", fix="Choose one of these")
    look = partial(judged, bonds, lab_name, root, expect, ignore, max_failures)
    if nagios:
        return for_nagios(look)
    facts, findings = look()
    clean = is_clean(findings)
    untold = {bond.name: unknown(facts, bond, ignore=ignore) for bond in facts.bonds}
    if as_json:
        print_json(as_object(facts, findings, untold, clean=clean))
    else:
        click.echo(report(facts, findings, untold))
    if not facts.bonds and not findings:
        return UNREADABLE
    return 0 if clean else FINDINGS


def as_object(
    facts: HostFacts, findings: Sequence[Finding], untold: dict[str, Unknown], *, clean: bool
) -> dict[str, object]:
    """What `--json` prints."""
    return {
        "kernel": facts.release or None,
        "bonds": [bond.name for bond in facts.bonds],
        "clean": clean,
        "findings": [finding.as_json() for finding in findings],
        "unknown": {
            bond: {"facts": list(each.facts), "silent_rules": list(each.rules)}
            for bond, each in untold.items()
            if each.facts
        },
        "unreadable": dict(facts.unreadable),
    }


def judged(
    bonds: Sequence[str], lab: str, root: Path | None, expect: str, ignore: Sequence[str], max_failures: int
) -> tuple[HostFacts, list[Finding]]:
    """What is known of the bonds, and what the rules find."""
    from ibbond.ops.check import RULES
    from ibbond.ops.check import check as judge

    if wrong := [rule for rule in ignore if rule not in RULES]:
        raise Refused(f"no rule {wrong[0]}", why="no rule has that id", fix="See ibbond check --list-rules")
    facts = read(bonds, lab, root, [name for name in expect.split(",") if name], max_failures)
    return facts, judge(facts, ignore=ignore)


def for_nagios(look: Callable[[], tuple[HostFacts, list[Finding]]]) -> int:
    """One line, whatever happens; the exit status."""
    from ibbond.ops.nagios import ServiceState, line, sentence

    try:
        text, status = line(*look())
    except Refused as refusal:
        status = ServiceState.UNKNOWN
        text = sentence(status, f"{refusal.what}: {refusal.why}")
    except OSError as error:
        status = ServiceState.UNKNOWN
        text = sentence(status, str(error))
    click.echo(text)
    return int(status)


def read(bonds: Sequence[str], lab: str, root: Path | None, expect: list[str], max_failures: int) -> HostFacts:
    """The facts of the named bonds, or of all."""
    from ibbond.cli.bond import saved_host
    from ibbond.ops.read_facts import kernel_facts

    host, names = ("", list(bonds)) if root is not None else where(bonds, lab)
    if root is not None:
        with saved_host(root) as kernel:
            facts = kernel_facts(kernel, chosen(kernel, names), failures_allowed=max_failures)
            facts = of_these(facts, names, str(root))
    elif host:
        from ibbond.cli.addr import backend_of

        backend = backend_of(host, lab)
        names = names or backend.read("bonding_masters").split()
        facts = of_lab_host(backend, names, lab, max_failures=max_failures)
    else:
        from ibbond.backend.kernel.bonds import KernelBackend

        kernel = KernelBackend()
        facts = kernel_facts(kernel, chosen(kernel, names), failures_allowed=max_failures)
        facts = of_these(facts, names, "this host")
    return expecting(facts, expect)


def expecting(facts: HostFacts, members: Sequence[str]) -> HostFacts:
    """With these members expected of each bond, whatever its files say; as read where there are none."""
    from dataclasses import replace

    from ibbond.config.desired import Match
    from ibbond.ops.facts import Expected

    if not members:
        return facts
    expected = tuple(Expected(Match((name,)), "--expect") for name in members)
    return replace(facts, bonds=tuple(replace(bond, expected=expected) for bond in facts.bonds))


def of_lab_host(
    backend: Backend, names: list[str], lab: str, *, max_failures: int = 2, settle: bool = True
) -> HostFacts:
    """The facts of bonds of a lab host; without `settle` nothing waits for duplicate address detection."""
    from ibbond.ops.read_facts import lab_facts

    host, status = backend.where, status_of(lab)
    return lab_facts(
        backend,
        names,
        cables_of(host, status),
        pkeys=pkeys_of(host, status),
        ip=ip_of(host, lab, set(names) if settle else set()),
        profile=str(status["profile"]),
        lab=lab,
        failures_allowed=max_failures,
    )


def status_of(lab: str) -> dict[str, object]:
    """What `ibbond lab status --json` prints."""
    from ibbond.backend.control_socket import Control
    from ibbond.cli.output import as_dict

    with Control.of(lab) as control:
        return as_dict(control.ask("status"))


def ip_of(host: str, lab: str, bonds: set[str]) -> IpFacts:
    """What the kernel of a lab host has, once it has ended its search for duplicates of the bonds' addresses."""
    import msgspec

    from ibbond.backend.control_socket import Control
    from ibbond.ops.read_network import IpFacts, settled

    with Control.of(lab) as control:

        def read() -> IpFacts:
            return msgspec.convert(control.ask("ip", host=host), IpFacts)

        return settled(read, bonds)


def pkeys_of(host: str, status: dict[str, object]) -> dict[str, tuple[int, ...]]:
    """The P_Key table of the port below each device of a lab host; IPoIB itself shows full members only."""
    from ibbond.cli.output import as_dict

    devices = as_dict(as_dict(as_dict(status["hosts"])[host])["devices"])
    tables = {name: as_dict(device).get("pkeys") for name, device in devices.items()}
    return {name: tuple(int(key, 0) for key in table) for name, table in tables.items() if isinstance(table, list)}


def cables_of(host: str, status: dict[str, object]) -> dict[str, tuple[str, str]]:
    """The switch and the port's state of each of a lab host's cables, by device."""
    cables = status["cables"]
    assert isinstance(cables, list)
    found: dict[str, tuple[str, str]] = {}
    for cable in cables:
        first, second = cable["ends"]
        state = PORT_STATES.get(str(cable["state"]), str(cable["state"]).upper())
        for end, other in ((first, second), (second, first)):
            owner, _, device = str(end).partition("/")
            if owner == host:
                found[device] = (str(other).partition("/")[0], state)
    return found


def where(bonds: Sequence[str], lab: str) -> tuple[str, list[str]]:
    """The one host whose bonds these are, empty for this one, and their names there."""
    from ibbond.cli.addr import parse_device, parse_host

    names = [parse_device(bond, lab) for bond in bonds]
    hosts = {name.host for name in names} or {parse_host("", lab)}
    if len(hosts) > 1:
        raise Refused("cannot check bonds of several hosts at once", why="they differ", fix="Check one host at a time")
    return hosts.pop(), [name.device for name in names]


def chosen(kernel: KernelBackend, names: list[str]) -> list[str]:
    """The named bonds that exist, or all."""
    found = kernel.bonds()
    return [name for name in names if name in found] if names else found


def of_these(facts: HostFacts, names: list[str], place: str) -> HostFacts:
    """Of the files, too, what concerns the named bonds. Refused for a name that neither the host nor its files have."""
    from dataclasses import replace

    desired = facts.desired
    known = sorted({*facts.bond_names, *(bond.name for bond in desired.bonds if bond.is_defined)})
    for name in names:
        if name not in known:
            raise Refused(
                f"cannot check {name}",
                why=f"{place} has no bond of that name",
                fix=f"Its bonds are {', '.join(known) or 'none'}",
            )
    if not known:
        fix = "Create one: ibbond bond create bond0" if place == "this host" else "Use a copy of a host that has bonds"
        raise Refused(f"cannot check the bonds of {place}", why="it has none", fix=fix)
    if not names:
        return facts
    return replace(facts, desired=replace(desired, bonds=[bond for bond in desired.bonds if bond.name in names]))


def report(facts: HostFacts, findings: list[Finding], untold: dict[str, Unknown]) -> str:
    """For people: bond by bond."""
    from ibbond.ops.rule import Severity

    lines: list[str] = []
    names = dict.fromkeys([*(bond.name for bond in facts.bonds), *(finding.bond for finding in findings)])
    for name in names:
        own = [finding for finding in findings if finding.bond == name]
        counts = {each: sum(f.severity is each for f in own) for each in Severity}
        words = [f"{n} {each.value}{'' if n == 1 else 's'}" for each, n in counts.items() if n]
        lines.append(f"{name}: {', '.join(words) if words else 'clean'}")
        for finding in own:
            lines.append(f"  {state(finding.severity.value)}: {finding.found.what} [{finding.rule.id}]")
            lines.append(f"    why: {finding.why}.")
            lines.append(f"    fix: {finding.found.fix}")
        if (each := untold.get(name)) is not None and each.facts:
            lines.append(f"  unknown: {unknown_text(each.facts)}; {len(each.rules)} rules could not be applied in full")
    lines += [f"{sentence}; nothing of it was judged" for sentence in facts.unreadable.values()]
    return "\n".join(lines)


def unknown_text(facts: tuple[str, ...]) -> str:
    """The first facts, and how many more there are: a text of one bond alone leaves dozens unknown."""
    shown, more = facts[:MAX_FACTS], len(facts) - MAX_FACTS
    return ", ".join(shown) + (f" and {more} more (see --json)" if more > 0 else "")


def print_rules(as_json: bool) -> None:
    from ibbond.cli.output import table
    from ibbond.ops.check import RULES

    if as_json:
        rules = [
            {"id": r.id, "severity": r.severity.value, "title": r.title, "why": r.why, "quirk": r.quirk or None}
            for r in RULES.values()
        ]
        print_json({"rules": rules})
        return
    rows = [(rule.id, rule.severity.value, rule.title) for rule in RULES.values()]
    click.echo(table(rows, ("RULE", "SEVERITY", "ABOUT")))
    click.echo(f"\nEach has a section in {DOCUMENT}.")
