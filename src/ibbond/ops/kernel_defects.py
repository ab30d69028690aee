"""Defects of kernels that concern hosts with IPoIB bonds, and are no behavior of the driver: `check` names them.

Read first: `bonding.quirks`, which has the behavior. A row says in which releases the cure is, one of each stable line
that has it, and where that is written; a line without one is taken not to have it. Left out: defects whose releases no
source names.
"""

from __future__ import annotations

from dataclasses import dataclass

from ibbond.bonding.option import Version
from ibbond.bonding.quirks import has_defect


@dataclass(frozen=True, slots=True)
class KernelDefect:
    """`since` is the first release with it, `until` the first one of the main line without it."""

    name: str
    what: str
    why: str
    do: str
    source: str
    since: Version
    until: Version
    cured: tuple[Version, ...] = ()

    def in_kernel(self, version: Version) -> bool:
        """Whether that release has it; see `has_defect`."""
        return has_defect(version, self.since, self.until, self.cured)


DEFECTS = (
    KernelDefect(
        "CVE-2026-43456",
        "a bond that takes a tunnel device as a member can crash the kernel",
        "The support for IPoIB of 2007 lets a bond call its member's functions with the bond's own data",
        "Update the kernel; until then let only trusted users make bonds (CAP_NET_ADMIN, also in user namespaces)",
        "bonding: fix type confusion in bond_setup_by_slave() (Fixes: 1284cd3a2b74)",
        since=(2, 6, 24),
        until=(7, 0),
        cured=((6, 12, 78), (6, 18, 19), (6, 19, 9)),
    ),
)

LOCKTIME_IGNORED_SINCE: Version = (4, 13)
"""From here on a gratuitous ARP always replaces an entry (commit 7d472a59c0e5, "arp: always override existing neigh
entries with gratuitous ARP"); before, one that follows another change within `locktime` is ignored unless `arp_accept`
is 1."""
