"""The link-layer address lists of a device: which multicast (or extra unicast) addresses it must receive.

Read first: `net/core/dev_addr_lists.c`. Entries are counted, because a bond and the member's own IP stack may both
want one; the order is the order of arrival.
"""

from collections.abc import Iterator


class AddressList:
    """A counted list of link-layer addresses (`dev->mc`, `dev->uc`)."""

    __slots__ = ("_users",)

    def __init__(self) -> None:
        self._users: dict[bytes, int] = {}

    def add(self, address: bytes) -> bool:
        """Count one user more; True when the address is new in the list."""
        users = self._users.get(address, 0)
        self._users[address] = users + 1
        return users == 0

    def remove(self, address: bytes) -> bool:
        """Count one user less; True when the address has left the list. Unknown addresses are ignored."""
        users = self._users.get(address, 0)
        if users > 1:
            self._users[address] = users - 1
            return False
        return self._users.pop(address, None) is not None

    def flush(self) -> None:
        self._users.clear()

    def users(self, address: bytes) -> int:
        return self._users.get(address, 0)

    def __iter__(self) -> Iterator[bytes]:
        return iter(tuple(self._users))

    def __len__(self) -> int:
        return len(self._users)

    def __contains__(self, address: object) -> bool:
        return address in self._users
