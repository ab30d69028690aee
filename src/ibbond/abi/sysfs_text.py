"""The texts of the bonding driver's sysfs files: rendered from snapshots, read back into values, written as requests.

Read first: `drivers/net/bonding/bond_sysfs.c` and `bond_sysfs_slave.c` of Linux; the files of a device of any kind are
in `device_text`. Every file of a bond is a row of the table of options, so this module knows kinds of rows, not
options. Left out: who may open a file (modes are given, not enforced) and errors of a real file system.
"""

from __future__ import annotations

import errno
import ipaddress
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ibbond.abi.device_text import parse_address, render_address
from ibbond.bonding.option import NAME_CHARACTERS, Kind, Mode, Option
from ibbond.bonding.options import OPTIONS
from ibbond.bonding.snapshot import BondSnapshot, MemberSnapshot
from ibbond.errors import Malformed, Refused

if TYPE_CHECKING:  # readers of a host's files need no events, and 16 classes take time to make
    from ibbond.bonding.events import BondEvent

READ_ONLY, READ_WRITE = 0o444, 0o644
BOND_FILES: dict[str, int] = {
    option.name: READ_ONLY if option.read_only else READ_WRITE
    for option in sorted(OPTIONS.values(), key=lambda option: option.name)
    if option.has_file
}
"""The files of /sys/class/net/BOND/bonding and their modes."""
MEMBER_FILES: dict[str, int] = dict.fromkeys(
    (
        "ad_actor_oper_port_state",
        "ad_aggregator_id",
        "ad_partner_oper_port_state",
        "link_failure_count",
        "mii_status",
        "perm_hwaddr",
        "queue_id",
        "state",
    ),
    READ_ONLY,
)
"""The files of /sys/class/net/MEMBER/bonding_slave and their modes."""
PAGE = 4096
MORE = "++more++ "


# -- bonding_masters --------------------------------------------------------------------------------------------------


def render_masters(names: Iterable[str]) -> str:
    """/sys/class/net/bonding_masters: the names of the bonds, nothing at all when there are none."""
    return _words(names)


def parse_masters(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def masters_request(text: str) -> tuple[str, str]:
    """What was written to bonding_masters, as (`+` or `-`, name); a longer name is cut. Refused (EPERM)."""
    return _command(text, "bonding_masters")


# -- the files of a bond ----------------------------------------------------------------------------------------------


def read_bond(bond: BondSnapshot, name: str) -> str:
    """The text of bonding/NAME. Refused (ENOENT) where there is no such file."""
    return render_option(bond, _file(name))


def render_option(bond: BondSnapshot, option: Option) -> str:
    """The text of an option, as its file has it; one that has no file reads as if it had."""
    name = option.name
    mode = bond.options["mode"]
    assert isinstance(mode, int)
    if Mode(mode) not in option.readable_in:
        return ""
    match option.kind:
        case Kind.VALUE if option.of_member:
            return _words(f"{member.name}:{member.priority}" for member in bond.members)
        case Kind.VALUE:
            value = bond.options[name]
            assert isinstance(value, int), f"{name} is {value!r}"
            return f"{option.word_of(value)} {value}\n" if option.shows_word else f"{value}\n"
        case Kind.MEMBERS:
            return _words(member.name for member in bond.members)
        case Kind.NAME:
            shown = bond.active if name == "active_slave" else bond.primary
            return f"{shown}\n" if shown else ""
        case Kind.QUEUES:
            return _words(f"{member.name}:{member.queue_id}" for member in bond.members)
        case Kind.TARGETS | Kind.TARGETS6:
            targets = bond.options[name]
            assert isinstance(targets, tuple), f"{name} is {targets!r}"
            return _words(str(ipaddress.ip_address(target)) for target in targets)
        case Kind.ADDRESS:
            address = bond.options[name]
            assert isinstance(address, bytes), f"{name} is {address!r}"
            return render_address(address)
        case Kind.FACT:
            return _fact(bond, name)


def parse_bond(name: str, text: str) -> object:
    """What bonding/NAME says: an int, a name or None, a tuple, bytes; None also where the file is empty.

    `queue_id` gives pairs of name and number, `mii_status` whether the bond has carrier. Raises `Malformed`.
    """
    option = _file(name)
    line = text.removesuffix("\n")
    try:
        match option.kind:
            case Kind.VALUE:
                return int(line.split()[-1]) if line.strip() else None
            case Kind.MEMBERS:
                return tuple(line.removesuffix(MORE).split())
            case Kind.NAME:
                return line or None
            case Kind.QUEUES:
                pairs = (word.rpartition(":") for word in line.split())
                return tuple((member, int(number)) for member, _, number in pairs)
            case Kind.TARGETS | Kind.TARGETS6:
                return tuple(ipaddress.ip_address(word).packed for word in line.split())
            case Kind.ADDRESS:
                return parse_address(line) if line else None
            case Kind.FACT:
                if name == "mii_status":
                    return line == "up"
                if not line:
                    return None
                return parse_address(line) if ":" in line else int(line)
    except ValueError as error:
        raise Malformed(f"bonding/{name} says {text!r}: {error}") from None


def bond_request(name: str, text: str) -> BondEvent:
    """What one write(2) to bonding/NAME asks of the bond. Refused: ENOENT, EACCES (read-only), EPERM (slaves)."""
    from ibbond.bonding.events import AddMember, RemoveMember, SetOption

    option = _file(name)
    if option.read_only:
        raise Refused(
            f"cannot write bonding/{name}",
            why="it is read-only",
            fix="Set the option that determines it",
            code=errno.EACCES,
        )
    if option.kind is not Kind.MEMBERS:
        return SetOption(name, text)
    sign, member = _command(text, "slaves")
    return AddMember(member) if sign == "+" else RemoveMember(member)


# -- the files of a member --------------------------------------------------------------------------------------------


def read_member(bond: BondSnapshot, member: MemberSnapshot, name: str) -> str:
    """The text of bonding_slave/NAME. Refused (ENOENT) where there is no such file."""
    port = member.lacp if bond.options["mode"] == Mode.LACP else None
    texts = {
        "state": member.state,
        "mii_status": member.link,
        "link_failure_count": str(member.link_failure_count),
        "perm_hwaddr": member.permanent_address.hex(":"),
        "queue_id": str(member.queue_id),
        "ad_aggregator_id": str(port.aggregator) if port else "N/A",
        "ad_actor_oper_port_state": str(port.actor.state) if port else "N/A",
        "ad_partner_oper_port_state": str(port.partner.state) if port else "N/A",
    }
    if name not in texts:
        raise _no_file(f"bonding_slave/{name}")
    return texts[name] + "\n"


# -- helpers ----------------------------------------------------------------------------------------------------------


def _file(name: str) -> Option:
    if name not in BOND_FILES:
        raise _no_file(f"bonding/{name}")
    return OPTIONS[name]


def _no_file(path: str) -> Refused:
    return Refused(
        f"cannot open {path}",
        why="the bonding driver has no such file",
        fix="List the directory to see its files",
        code=errno.ENOENT,
    )


def _fact(bond: BondSnapshot, name: str) -> str:
    if name == "mii_status":
        return "up\n" if bond.carrier else "down\n"
    aggregator = bond.lacp.aggregator
    if name == "ad_partner_mac":
        return render_address(aggregator.partner_address) if aggregator else ""
    numbers = {
        "ad_aggregator": aggregator.identifier if aggregator else 0,
        "ad_num_ports": aggregator.ports if aggregator else 0,
        "ad_actor_key": aggregator.actor_key if aggregator else 0,
        "ad_partner_key": aggregator.partner_key if aggregator else 0,
    }
    return f"{numbers[name]}\n"


def _words(words: Iterable[str]) -> str:
    """Words between blanks and a newline, no more than a page; nothing for none."""
    text = ""
    for word in words:
        if len(text) > PAGE - NAME_CHARACTERS - 10:
            text += MORE
            break
        text += f"{word} "
    return f"{text[:-1]}\n" if text else ""


def _command(text: str, file: str) -> tuple[str, str]:
    """`+NAME` or `-NAME`, as `sscanf("%16s")` and `dev_valid_name` take it."""
    words = text.split(None, 1)
    command = words[0][: NAME_CHARACTERS + 1] if words else ""
    sign, name = command[:1], command[1:]
    if sign not in ("+", "-") or not name or name in (".", "..") or "/" in name or ":" in name:
        raise Refused(
            f"cannot write {text!r} to {file}",
            why="it is not a command",
            fix="Write +NAME to add, -NAME to remove",
            code=errno.EPERM,
        )
    return sign, name
