"""The bonds of one host: what bonding_masters is read from and written to.

Read first: `bonding_store_bonds` (bond_sysfs.c) and `bond_create` of the kernel's driver. The registry also receives
the events that the namespace reports of devices and passes them to the bonds. Left out: the bonds themselves.
"""

import errno
from collections.abc import Callable, Collection

from ibbond.bonding.bond import Bond
from ibbond.bonding.effects import BondEffect, Log
from ibbond.bonding.option import NAME_CHARACTERS, first_word, is_device_name
from ibbond.bonding.quirks import Rules
from ibbond.errors import Refused
from ibbond.netdev.device import Device, NetdevEvent
from ibbond.netdev.namespace import Namespace


class Registry:
    """All bonds of a namespace, in the order of creation.

    `profile` and `without` choose the rows of `quirks`; `log` gets every kernel-like log line at once, with the name of
    its bond, also those that explain a refusal (they are effects too, of the next call).
    """

    def __init__(
        self,
        namespace: Namespace,
        *,
        profile: str = "default",
        without: Collection[str] = (),
        log: Callable[[str, Log], None] | None = None,
    ) -> None:
        self.namespace = namespace
        self.rules = Rules.of(profile, without)
        self.bonds: dict[str, Bond] = {}
        self._log = log
        namespace.subscribe(self._on_netdev_event)

    def masters(self) -> list[str]:
        return list(self.bonds)

    def create(self, now: int, name: str) -> Bond:
        """`+NAME`: EEXIST when a device has that name; `%d` in it is a number (`Namespace.free_name`).

        Longer names are cut to 15 characters, as the kernel does.
        """
        name = name[:NAME_CHARACTERS]
        if not is_device_name(name):
            raise Refused(
                f"cannot create a bond named {name!r}",
                why="that is not a valid device name",
                fix="Use up to 15 characters without blanks, / and :",
                code=errno.EPERM,
            )
        name = self.namespace.free_name(name)
        bond = Bond(name, self.namespace, self.rules, self._log)
        self.bonds[name] = bond
        return bond

    def delete(self, now: int, name: str) -> list[BondEffect]:
        """`-NAME`: releases the members; ENODEV when there is no such bond. The effects are the bond's last ones."""
        bond = self.bonds.get(name)
        if bond is None:
            raise Refused(
                f"cannot delete {name}", why="there is no such bond", fix="See bonding_masters", code=errno.ENODEV
            )
        effects = bond.destroy(now)
        self.bonds.pop(name, None)
        return effects

    def write_masters(self, now: int, text: str) -> Bond | list[BondEffect]:
        """One write(2) to bonding_masters: EPERM for what is not a command."""
        command = first_word(text)[: NAME_CHARACTERS + 1]
        if command[:1] not in ("+", "-") or not is_device_name(command[1:]):
            raise Refused(
                f"cannot execute {text.strip()!r}",
                why="it is not a command",
                fix="Write +NAME or -NAME",
                code=errno.EPERM,
            )
        return self.create(now, command[1:]) if command[0] == "+" else self.delete(now, command[1:])

    def bond_of(self, device: str) -> Bond | None:
        """The bond that this device is a member of."""
        return next((bond for bond in self.bonds.values() if device in bond.members), None)

    def _on_netdev_event(self, notice: NetdevEvent, device: Device) -> None:
        for bond in tuple(self.bonds.values()):
            bond.on_netdev_event(notice, device)
        if notice is NetdevEvent.UNREGISTER:
            self.bonds = {name: bond for name, bond in self.bonds.items() if bond.device is not device}
        elif notice is NetdevEvent.CHANGENAME:
            self.bonds = {bond.name: bond for bond in self.bonds.values()}
