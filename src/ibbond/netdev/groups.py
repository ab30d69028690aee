"""The link-layer address lists of a device: which multicast (or extra unicast) addresses it must receive.

Read first: `net/core/dev_addr_lists.c`. Entries are counted, because a bond and the member's own IP stack may both
want one; the order is the order of arrival. `sync` copies a bond's list onto a member, as `dev_mc_sync` does: it marks
what it has copied, and takes back what the bond no longer wants. The kernel looks at the whole list each time; here
readers are given the entries that have changed, so that one more address costs the same however many there are.
"""

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass

MAX_JOURNAL = 1024  # changes kept for a reader; one that has fallen further behind looks at the whole list


@dataclass(slots=True)
class _Entry:
    users: int = 1
    copies: int = 0  # how many other lists hold it because of this one (sync_cnt)
    copied: bool = False  # it is (also) here because another list was synced to this one


class AddressList:
    """A counted list of link-layer addresses (`dev->mc`, `dev->uc`)."""

    __slots__ = ("_entries", "_journals")

    def __init__(self) -> None:
        self._entries: dict[bytes, _Entry] = {}
        self._journals: dict[Hashable, dict[bytes, None]] = {}  # reader -> what has changed since it last asked

    def changes(self, reader: Hashable) -> Iterable[bytes] | None:
        """The addresses whose entries changed since this reader last asked, in order; None: look at the whole list."""
        changed = self._journals.get(reader)
        self._journals[reader] = {}
        return changed

    def add(self, address: bytes) -> bool:
        """Count one user more; True when the address is new in the list."""
        entry = self._entries.get(address)
        if entry is None:
            self._entries[address] = _Entry()
            self._note(address)
            return True
        entry.users += 1
        return False

    def remove(self, address: bytes) -> bool:
        """Count one user less; True when the address has left the list. Unknown addresses are ignored."""
        entry = self._entries.get(address)
        if entry is None:
            return False
        entry.users -= 1
        self._note(address)
        if entry.users > 0:
            return False
        del self._entries[address]
        return True

    def flush(self) -> None:
        self._entries.clear()
        self._journals.clear()

    def sync(self, target: "AddressList") -> None:
        """Copy what the single `target` does not have of this list yet, take back what only the copy kept alive."""
        for address, entry in self._changed(target):
            if not entry.copies:
                self._copy(address, entry, target)
            elif entry.users == 1:
                self._take_back(address, entry, target)

    def sync_multiple(self, target: "AddressList") -> None:
        """As `sync`, for a list that is kept on several targets at once (`dev_mc_sync_multiple`)."""
        for address, entry in self._changed(target):
            if entry.copies == entry.users:
                self._take_back(address, entry, target)
            else:
                self._copy(address, entry, target)

    def unsync(self, target: "AddressList") -> None:
        """Take all that was copied off `target` again (`dev_mc_unsync`)."""
        for address, entry in tuple(self._entries.items()):
            if entry.copies:
                self._take_back(address, entry, target)
        self._journals.clear()  # what is copied nowhere now may be copied to any target

    def users(self, address: bytes) -> int:
        entry = self._entries.get(address)
        return entry.users if entry else 0

    def _note(self, address: bytes) -> None:
        """The entry has changed in a way that matters to readers."""
        for reader, journal in tuple(self._journals.items()):
            journal[address] = None
            if len(journal) > MAX_JOURNAL:
                del self._journals[reader]

    def _changed(self, target: "AddressList") -> list[tuple[bytes, _Entry]]:
        """The entries at which a sync to `target` has to look."""
        changed = self.changes(target)
        addresses = tuple(self._entries) if changed is None else changed
        return [(address, entry) for address in addresses if (entry := self._entries.get(address)) is not None]

    def _copy(self, address: bytes, entry: _Entry, target: "AddressList") -> None:
        theirs = target._entries.get(address)
        if theirs is None:
            target._entries[address] = _Entry(copied=True)
            target._note(address)
        elif theirs.copied:
            if entry.copies:
                return  # it has the copy already
            theirs.users += 1
        else:
            theirs.users += 1
            theirs.copied = True
        entry.copies += 1
        entry.users += 1

    def _take_back(self, address: bytes, entry: _Entry, target: "AddressList") -> None:
        theirs = target._entries.get(address)
        if theirs is None or not theirs.copied:
            return
        theirs.copied = False
        target.remove(address)
        entry.copies -= 1
        self.remove(address)

    def __iter__(self) -> Iterator[bytes]:
        return iter(tuple(self._entries))

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, address: object) -> bool:
        return address in self._entries
