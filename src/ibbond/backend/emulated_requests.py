"""What a text written to an option asks of one of ibbond's bonds: the kernel's files, and options without a file.

Read first: `abi.sysfs_text`; ip-link(8), `bond` and `bond_slave`, for those that the kernel has in netlink only: there
`ns_ip6_target` names the whole list and `prio` belongs to a member. Here `+ADDRESS` and `-ADDRESS` change the list, as
with `arp_ip_target`, an address without a sign names all of it, and `prio` is MEMBER:NUMBER, as `queue_id` is.
Left out: carrying requests out (`emulated`).
"""

from __future__ import annotations

import errno
import ipaddress
import re
from collections.abc import Iterator

from ibbond.abi.sysfs_text import bond_request
from ibbond.bonding.bond import Bond
from ibbond.bonding.events import BondEvent, SetOption, SetPriority
from ibbond.bonding.option import Kind
from ibbond.bonding.options import OPTIONS
from ibbond.errors import Refused

Request = tuple[BondEvent, BondEvent | None]  # and what takes it back, where others may follow it
PAIR = re.compile(r"([^\s/:]+):([+-]?[0-9]{1,10})", re.ASCII)


def requests(bond: Bond, name: str, text: str) -> list[Request]:
    """The events of one write, in their order. Refused before the first one for what can be seen now."""
    option = OPTIONS.get(name)
    if option is None or not (option.ours or option.netlink_only):
        return [(bond_request(name, text), None)]
    if option.of_member:
        return list(_priorities(bond, text))
    if option.kind is Kind.TARGETS6 and text.strip()[:1] not in ("+", "-"):
        return list(_whole_list(bond, name, text))
    return [(SetOption(name, text.strip() if option.kind is Kind.TARGETS6 else text), None)]


def _priorities(bond: Bond, text: str) -> Iterator[Request]:
    limits = OPTIONS["prio"].limits
    assert limits is not None
    low, high = limits
    members = {member.name: member.priority for member in bond.members.values()}
    words = text.split()
    for word in words or [""]:
        pair = PAIR.fullmatch(word)
        if pair is None or not low <= int(pair.group(2)) <= high:
            why = f"{word!r} is not MEMBER:NUMBER with a number of {low} to {high}"
            raise _refused(bond, "prio", why, f"For example: {next(iter(members), 'ib0')}:5")
        if pair.group(1) not in members:
            known = ", ".join(members) or "none"
            raise _refused(bond, "prio", f"{pair.group(1)} is not its member", f"Its members: {known}", errno.ENODEV)
    for word in words:
        member, _, number = word.partition(":")
        yield SetPriority(member, int(number)), SetPriority(member, members[member])


def _whole_list(bond: Bond, name: str, text: str) -> Iterator[Request]:
    """Addresses between blanks or commas take the place of those that are there; none at all empties the list."""
    wanted = list(dict.fromkeys(_address(bond, name, word) for word in text.replace(",", " ").split()))
    present = [ipaddress.IPv6Address(each) for each in bond.values.ns_ip6_target]
    if wanted == present:
        return
    for address in reversed(present):  # taken back the other way round, they are in their order again
        yield SetOption(name, f"-{address}"), SetOption(name, f"+{address}")
    for address in wanted:
        yield SetOption(name, f"+{address}"), SetOption(name, f"-{address}")


def _address(bond: Bond, name: str, word: str) -> ipaddress.IPv6Address:
    try:
        return ipaddress.IPv6Address(word)
    except ValueError:
        fix = "Write +ADDRESS to add, -ADDRESS to remove, or all of them"
        raise _refused(bond, name, f"{word!r} is not an IPv6 address", fix) from None


def _refused(bond: Bond, name: str, why: str, fix: str, code: int = errno.EINVAL) -> Refused:
    return Refused(f"cannot set {name} of {bond.name}", why=why, fix=fix, code=code)
