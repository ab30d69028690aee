"""Options that the kernel's bonding driver has in netlink only, read and written as texts, as files have them.

Read first: abi/bond_attributes.py. `ns_ip6_target` is the whole list; `prio` reads `ib0:0 ib1:5` and is written
MEMBER:NUMBER. Left out: options that have files.
"""

from __future__ import annotations

import errno
import ipaddress
import os

from ibbond.abi.bond_attributes import change_bond, change_member, read_bond
from ibbond.abi.netlink_attributes import LINK, LinkInfo
from ibbond.backend.kernel.files import CLASS_NET, HostFiles
from ibbond.bonding.option import Kind, Option
from ibbond.errors import Malformed, Refused
from ibbond.host.rtnetlink import GETLINK, NEWLINK, RouteSocket


def link_info(routes: RouteSocket, device: str) -> LinkInfo | None:
    """What rtnetlink says of a device; None when it is gone."""
    try:
        index = routes.link(device).index
        return LinkInfo.parse(routes.request(GETLINK, 0, LINK.pack(0, 0, index, 0, 0))[0].body)
    except (OSError, IndexError, Malformed):
        return None


def read_option(routes: RouteSocket, files: HostFiles, bond: str, option: Option) -> str:
    """The text of one option. Refused (ENOENT) where this kernel does not have it."""
    if option.of_member:
        members = (files.text(f"{CLASS_NET}/{bond}/bonding/slaves") or "").split()
        pairs = [(member, link_info(routes, member)) for member in members]
        return " ".join(f"{member}:{link.member.priority}" for member, link in pairs if link and link.member)
    link = link_info(routes, bond)
    value = read_bond(link.bond).get(option.name) if link is not None else None
    if value is None:
        why = os.strerror(errno.ENOENT)
        raise Refused(f"cannot read {option.name} of {bond}", why=why, fix="See ibbond options", code=errno.ENOENT)
    return " ".join(str(ipaddress.ip_address(each)) for each in value) if isinstance(value, tuple) else str(value)


def write_option(routes: RouteSocket, bond: str, option: Option, text: str) -> None:
    """Set one option. OSError of the kernel."""
    if option.of_member:
        member, _, number = text.strip().rpartition(":")
        body = change_member(routes.link(member).index, {option.name: int(number)})
    elif option.kind is Kind.TARGETS6:
        targets = tuple(ipaddress.IPv6Address(word).packed for word in text.split())
        body = change_bond(routes.link(bond).index, {option.name: targets})
    else:
        body = change_bond(routes.link(bond).index, {option.name: int(text)})
    routes.request(NEWLINK, 0, body)
