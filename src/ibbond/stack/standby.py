"""Ready before it breaks: backups are in the bond's groups and know the paths to its neighbors all the time.

Joining a group and asking for a path take answers of the subnet administrator, and at a cut no member is left that
could receive meanwhile. So every member of an active-backup bond is kept prepared as for a planned switch; its receive
filter drops what it receives until it is active. The kernel's backups are in no group of the bond (row `cold_standby`
of `bonding/quirks`). Left out: `all_slaves_active`, where every group would then be received twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ibbond.bonding.bond import Bond
from ibbond.machine import MS, SECOND

if TYPE_CHECKING:
    from ibbond.stack.host_stack import HostStack

AGAIN = 4 * SECOND  # interfaces give a preparation up after ten
SOON = 100 * MS  # for new neighbors, which come in crowds
NEIGHBORS = 128  # whose paths are asked for ahead


class Standby:
    """Prepares the members of one host's bonds."""

    def __init__(self, host: HostStack) -> None:
        self._host = host
        self._due: dict[str, int] = {}
        self._asked: set[str] = set()
        self._followed: set[str] = set()  # bonds of which some groups have changed
        self._known: dict[str, int] = {}  # how much the neighbors had changed when they were looked at last

    def changed(self, bond: str) -> None:
        """A member or its carrier has changed: prepare again when the current change is done."""
        if bond not in self._asked:
            self._asked.add(bond)
            self._host.later(lambda: self._prepare(bond))

    def groups_changed(self, bond: str) -> None:
        """The bond's groups: the same, but where it is prepared already it is enough to look at what has changed."""
        if bond not in self._due:
            self.changed(bond)
        elif bond not in self._asked and bond not in self._followed:
            self._followed.add(bond)
            self._host.later(lambda: self._follow(bond))

    def neighbors_changed(self, bond: str, count: int) -> None:
        """The neighbors of a bond have changed so many times."""
        if bond in self._due and self._known.get(bond) != count:
            self._known[bond] = count
            self._due[bond] = min(self._due[bond], self._host.now + SOON)

    def tick(self, now: int) -> None:
        for bond in [name for name, due in self._due.items() if due <= now]:
            self._prepare(bond)

    def deadline(self) -> int | None:
        return min(self._due.values(), default=None)

    def _prepare(self, name: str) -> None:
        self._asked.discard(name)
        host = self._host
        bond = host.registry.bonds.get(name)
        if bond is None or not self._applies(bond):
            self._due.pop(name, None)
            return
        bond.device.multicast.changes(self)  # from here on
        known = host.ip[name].neighbors
        neighbors = [entry.hardware for entry in known if entry.hardware][:NEIGHBORS]
        for member in bond.members:
            if host.links.get(member) is not None:
                host.links.prepare(host.now, member, bond.device.multicast, neighbors)
        self._known[name] = known.changes
        self._due[name] = host.now + AGAIN

    def _follow(self, name: str) -> None:
        self._followed.discard(name)
        host = self._host
        bond = host.registry.bonds.get(name)
        groups = bond.device.multicast if bond is not None and self._applies(bond) else None
        changed = groups.changes(self) if groups is not None else None
        if bond is None or groups is None or changed is None:
            self._prepare(name)
            return
        changes = [(group, group in groups) for group in changed]
        for member in bond.members:
            if host.links.get(member) is not None:
                host.links.prepare_more(host.now, member, changes)

    def _applies(self, bond: Bond) -> bool:
        values = bond.values
        return bond.device.up and values.active_backup and not values.all_slaves_active and len(bond.members) > 1
