"""The P_Key of one interface: where it comes from, whether the port has it, and in which form it is used.

Read first: Linux's `update_parent_pkey`, `update_child_pkey` and `ipoib_pkey_dev_check_presence`. Joins, paths and
broadcast addresses use the full-member form; packets carry the key as it is in the port's table, because two
limited members may not talk.
"""

from __future__ import annotations

from ibbond.ipoib.events import PortFacts
from ibbond.wire.pkey import FULL_MEMBER


class Partition:
    """`own` None follows index 0 of the port's table (a parent interface); a number is a child's key."""

    def __init__(self, port: PortFacts, own: int | None) -> None:
        self._port = port
        self._own = None if own is None else own | FULL_MEMBER
        self.present = False
        self.key = self._own or FULL_MEMBER  # full-member form; the last one known while absent
        self.table_key = self.key
        self.read()

    def read(self) -> bool:
        """Look into the table again; True when the key, or whether it is there, differs from before."""
        before = (self.present, self.key)
        entry = self._entry()
        self.present = entry is not None
        if entry is not None:
            self.key, self.table_key = entry | FULL_MEMBER, entry
        return before != (self.present, self.key)

    def _entry(self) -> int | None:
        """The table's entry, the full-member one where it has both; None when there is none."""
        pkeys = self._port.pkeys
        if self._own is None:
            return pkeys[0] if pkeys and pkeys[0] & ~FULL_MEMBER else None
        return max((key for key in pkeys if key and key | FULL_MEMBER == self._own), default=None)
