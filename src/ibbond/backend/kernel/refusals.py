"""Why this host's bonding driver refused a write, in words: the errno, the file, and the driver's own log line.

Read first: spec of the driver's errors in drivers/net/bonding/bond_main.c (`bond_enslave`) and bond_options.c
(`__bond_opt_set`). Each row was seen on the real driver. Left out: anything that is decided before a write.
"""

from __future__ import annotations

import errno
import os
from typing import NamedTuple

from ibbond.errors import Refused


class Reason(NamedTuple):
    why: str
    fix: str


MASTERS = {
    errno.ENOENT: Reason("the bonding driver is not loaded", "Load it: modprobe bonding max_bonds=0"),
    errno.EEXIST: Reason("there is a device of that name", "Choose another name, or delete that device first"),
    errno.ENODEV: Reason("there is no bond of that name", "See ibbond bond list"),
    errno.EPERM: Reason("the driver accepts only +NAME and -NAME here, and only from root", "Run as root"),
}
ADD = {
    errno.ENODEV: Reason("there is no device of that name", "See ip link; is its driver loaded?"),
    errno.EBUSY: Reason("it belongs to another bond, bridge or team already", "Remove it there first: ip link show"),
    errno.EPERM: Reason("the device is up, or of a kind that cannot be a member", "Set it down first"),
    errno.EINVAL: Reason("its type differs from that of the present members", "Use members of one type in a bond"),
    errno.EOPNOTSUPP: Reason(
        "InfiniBand devices can be members in mode active-backup with fail_over_mac active only",
        "Set mode active-backup before members join",
    ),
}
REMOVE = {
    errno.ENODEV: Reason("there is no device of that name", "See ibbond bond show"),
    errno.EINVAL: Reason("it is not a member of this bond", "See ibbond bond show"),
}
ACTIVE = {
    errno.EINVAL: Reason(
        "it is not a member, its link is down, or the bond has no active member",
        "Switch to a member that ibbond bond show lists as up",
    ),
    errno.ENODEV: Reason("there is no device of that name", "See ibbond bond show"),
    errno.EACCES: Reason("this mode has no active member to choose", "Use mode active-backup"),
}
OPTION = {
    errno.EACCES: Reason("the option does not exist in the bond's mode", "Set another mode first: ibbond options"),
    errno.ENOTEMPTY: Reason("the bond has members", "Set it before members join, or ask for the interruption"),
    errno.EBUSY: Reason("the bond is up", "Set the bond down first, or ask for the interruption"),
    errno.EINVAL: Reason("the driver does not accept that value", "See ibbond options for the words and limits"),
    errno.EPERM: Reason(
        "the driver does not accept that value now (delays need miimon, targets a sign, the writer root)",
        "See ibbond options for when it is refused",
    ),
    errno.ENOENT: Reason("this kernel has no such option", "See ls of the bond's bonding directory"),
}
MTU = {errno.EINVAL: Reason("a member or the bond does not support that MTU", "Datagram mode takes 2044 on 2 KB links")}
OTHER = {
    errno.EACCES: Reason("permission denied", "Run as root"),
    errno.EROFS: Reason("sysfs is mounted read-only here", "Run on the host itself, not in this container"),
    errno.ENOENT: Reason("there is no such file", "Check that the device still exists: ip link"),
}


def explain(name: str, text: str, code: int, log: list[str]) -> Refused:
    """The refusal of one write. `name` is the file, `log` what the driver logged meanwhile."""
    reason = _reason(name, text, code)
    why = f"{reason.why} ({errno_name(code)})"
    if log:
        why += f"; the kernel logged: {log[-1]}"
    return Refused(f"cannot write {text!r} to {name}", why=why, fix=reason.fix, code=code)


def errno_name(code: int) -> str:
    """The kernel's word: 95 has two in C, of which it is EOPNOTSUPP that strace and the kernel's sources show."""
    return "EOPNOTSUPP" if code == errno.EOPNOTSUPP else errno.errorcode.get(code, str(code))


def _reason(name: str, text: str, code: int) -> Reason:
    for table in (_table(name, text), OTHER):
        if code in table:
            return table[code]
    return Reason(os.strerror(code), "See the kernel log: dmesg")


def _table(name: str, text: str) -> dict[int, Reason]:
    if name.endswith("/bonding_masters"):
        return MASTERS
    if name.endswith("/bonding/slaves"):
        return ADD if text.startswith("+") else REMOVE
    if name.endswith("/bonding/active_slave"):
        return ACTIVE
    if "/bonding/" in name:
        return OPTION
    return MTU if name.endswith("/mtu") else {}
