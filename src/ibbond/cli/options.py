"""`ibbond options`: the reference of all bonding options, printed from the table that the driver uses.

Read first: `bonding.options`. Left out: setting them (`ibbond bond set`).
"""

from __future__ import annotations

import difflib
import textwrap

import click

from ibbond.bonding.option import ALL_MODES, Kind, Mode, Option
from ibbond.bonding.options import OPTIONS
from ibbond.bonding.quirks import PROFILES
from ibbond.cli import completers
from ibbond.cli.output import json_option, print_json, table
from ibbond.errors import Refused

KERNEL = PROFILES["kernel-6.1"]
OURS = PROFILES["default"]
DOC_COLUMNS = 70
KIND_TEXTS = {
    Kind.NAME: "the name of a member; an empty line clears it",
    Kind.MEMBERS: "+NAME adds a member, -NAME removes one",
    Kind.QUEUES: "NAME:ID",
    Kind.TARGETS: "+A.B.C.D adds an address, -A.B.C.D removes one",
    Kind.TARGETS6: "+ADDRESS adds an address, -ADDRESS removes one, addresses without a sign are the whole list",
    Kind.ADDRESS: "six octets with colons",
    Kind.FACT: "read-only",
}


@click.command()
@click.argument("name", required=False, shell_complete=completers.options)
@click.option("--markdown", is_flag=True, help="Print docs/options.md.")
@json_option
def options(name: str | None, markdown: bool, as_json: bool) -> None:
    """Print the reference of bonding options: all of them, or the one called NAME.

    For each option: ibbond's default, the kernel's default, the accepted words and numbers, the modes that have it, and
    when a write fails.
    """
    if markdown:
        click.echo(document(), nl=False)
        return
    if name is None:
        rows = list(OPTIONS.values())
        if as_json:
            print_json({"options": [facts(option) for option in rows]})
        else:
            click.echo(overview(rows))
        return
    option = find(name)
    if as_json:
        print_json(facts(option))
    else:
        click.echo(page(option))


def find(name: str) -> Option:
    """The row of that name. Refused with the nearest names if there is none."""
    if name in OPTIONS:
        return OPTIONS[name]
    near = difflib.get_close_matches(name, OPTIONS, n=3, cutoff=0.5)
    raise Refused(
        f"cannot explain {name}",
        why="there is no bonding option of that name",
        fix=f"Did you mean {' or '.join(near)}? See ibbond options {near[0]}"
        if near
        else "See all of them: ibbond options",
    )


def our_default(option: Option) -> str | None:
    """ibbond's default as the sysfs file shows it; None if a new bond has no value."""
    return _default(option, OURS.defaults.get(option.name, option.default))


def kernel_default(option: Option) -> str | None:
    """The value in a new bond of the kernel's; None where it has no such option, or no value."""
    return None if option.ours else _default(option, KERNEL.defaults.get(option.name, option.default))


def _default(option: Option, value: int) -> str | None:
    if option.kind is not Kind.VALUE:
        return None
    return f"{option.word_of(value)} {value}" if option.shows_word else str(value)


def values(option: Option) -> str:
    """What may be written."""
    if option.kind is not Kind.VALUE:
        return KIND_TEXTS[option.kind]
    parts = [f"{word.text} ({word.number})" for word in option.words]
    if option.default_word is not None and not any(word.text == "default" for word in option.words):
        parts.append(f"default ({option.default_word})")
    if option.limits is not None:
        parts.insert(0, f"{option.limits[0]} to {option.limits[1]}{f' {option.unit}' if option.unit else ''}")
    return f"{'MEMBER:NUMBER, ' if option.of_member else ''}{', '.join(parts)}"


def modes(option: Option) -> str:
    if option.modes == ALL_MODES:
        return "all"
    return ", ".join(mode.word for mode in Mode if mode in option.modes)


def refusals(option: Option) -> list[str]:
    """When a write fails, and with which errno, in the order in which the driver looks."""
    if option.read_only:
        return ["always (EACCES): it is read-only"]
    found = []
    if option.modes != ALL_MODES:
        found.append("in another mode (EACCES)")
    if option.no_members:
        found.append("while the bond has members (ENOTEMPTY)")
    if option.bond_down:
        found.append("while the bond is up (EBUSY)")
    match option.kind:
        case Kind.VALUE:
            found.append("for any other value (EINVAL)")
        case Kind.MEMBERS:
            found.append("without + or - (EPERM), for an unknown device (ENODEV), and as joining or leaving is refused")
        case Kind.QUEUES:
            found.append("for anything but a member and a queue that no other member has (EPERM)")
        case Kind.TARGETS | Kind.TARGETS6:
            found.append("without + or - or an address (EPERM); for 0, broadcast, a known or an unknown one (EINVAL)")
        case Kind.NAME if option.name == "active_slave":
            found.append("for an unknown device (ENODEV), for a device that is not a member or not up (EINVAL)")
        case Kind.ADDRESS:
            found.append("for anything but a unicast address (EINVAL)")
        case _:
            pass
    if option.counted_in_runs:
        found.append("while miimon is 0 (EPERM)")
    return found


def facts(option: Option) -> dict[str, object]:
    """One row as JSON."""
    return {
        "name": option.name,
        "doc": option.doc,
        "our_value": our_default(option),
        "kernel_default": kernel_default(option),
        "words": {word.text: word.number for word in option.words},
        "limits": list(option.limits) if option.limits else None,
        "unit": option.unit or None,
        "modes": [mode.word for mode in Mode if mode in option.modes],
        "refused": refusals(option),
        "netlink": option.netlink,
        "sysfs": option.has_file,
        "read_only": option.read_only,
        "ours": option.ours,
        "of_member": option.of_member,
        "since": ".".join(map(str, option.since)),
    }


def overview(rows: list[Option]) -> str:
    lines = [
        (
            option.name,
            our_default(option) or "-",
            kernel_default(option) or "-",
            modes(option),
            textwrap.shorten(option.doc.split(". ")[0], DOC_COLUMNS, placeholder=" ..."),
        )
        for option in rows
    ]
    return table(lines, heads=("option", "our value", "kernel 6.1", "modes", "what it is"))


def details(option: Option) -> list[tuple[str, str]]:
    """All that the table says of one option, as labels and texts."""
    where = "a setting of ibbond, no sysfs file" if option.ours else f"bonding/{option.name}"
    if option.netlink_only:
        where = "netlink only"
    return [
        ("our value", our_default(option) or "none"),
        ("kernel's", "no such option" if option.ours else kernel_default(option) or "none"),
        ("takes", values(option)),
        ("modes", modes(option)),
        ("refused", "; ".join(refusals(option)) or "never"),
        ("where", where + (f" (netlink attribute {option.netlink})" if option.netlink is not None else "")),
        ("since", "Linux " + ".".join(map(str, option.since)) if not option.ours else "ibbond"),
    ]


def page(option: Option) -> str:
    """One option for people at a terminal."""
    head = textwrap.fill(f"{option.name}: {option.doc}", 110)
    body = [
        textwrap.fill(text, 110, initial_indent=f"  {label:<10} ", subsequent_indent=" " * 13)
        for label, text in details(option)
    ]
    return "\n".join([head, *body])


def document() -> str:
    """The reference as a page of the documentation."""
    parts = [
        "# Options of a bond",
        "",
        "Made from the table that the driver uses: `ibbond options --markdown > docs/options.md`. Where the page says",
        "`bonding/NAME`, the option is a file below `/sys/class/net/bond0`. `ibbond bond set` takes the same words,",
        "also for what the kernel has in netlink only.",
    ]
    for option in OPTIONS.values():
        parts += [
            "",
            f"## {option.name}",
            "",
            option.doc,
            "",
            *(f"* {label}: {text}" for label, text in details(option)),
        ]
    return "\n".join(parts) + "\n"
