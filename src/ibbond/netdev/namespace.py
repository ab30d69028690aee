"""The devices of one host, by name, and the listeners to their changes.

Read first: `register_netdevice` and the netdevice notifier chain of `net/core/dev.c`. Listeners are called in the order
in which they subscribed; a listener vetoes a notice by raising `Refused`, where `NetdevEvent` says that it may.
"""

import errno
from collections.abc import Callable, Iterator

from ibbond.errors import Refused
from ibbond.netdev.device import Device, NetdevEvent

IFNAMSIZ = 16  # bytes of a name with the zero at its end
Listener = Callable[[NetdevEvent, Device], None]


class Namespace:
    """The devices of one host and the listeners to their changes."""

    def __init__(self) -> None:
        self._devices: dict[str, Device] = {}
        self._listeners: list[Listener] = []
        self._next_ifindex = 1

    def subscribe(self, listener: Listener) -> None:
        """Call this listener for every netdev event, after those subscribed before (`register_netdevice_notifier`)."""
        self._listeners.append(listener)

    def notify(self, notice: NetdevEvent, device: Device) -> None:
        """Call all listeners in the order in which they subscribed; one that raises `Refused` vetoes the change."""
        for listener in self._listeners:
            listener(notice, device)

    def register(self, device: Device) -> None:
        """Take a device in; its ifindex is given here unless it came with one."""
        assert device.name not in self._devices, f"two devices named {device.name}"
        if device.ifindex == 0:
            device.ifindex = self._next_ifindex
        self._next_ifindex = max(self._next_ifindex, device.ifindex) + 1
        device.namespace = self
        self._devices[device.name] = device
        self.notify(NetdevEvent.REGISTER, device)

    def unregister(self, device: Device) -> None:
        """Remove a device: listeners are notified first, as in `unregister_netdevice`."""
        self.notify(NetdevEvent.UNREGISTER, device)
        device.close()
        del self._devices[device.name]
        device.namespace = None

    def rename(self, device: Device, name: str) -> None:
        """`dev_change_name` of Linux 6.1: EBUSY while the device is up (6.2 allows it), EEXIST, or as `free_name`."""
        if device.up:
            raise Refused(f"cannot rename {device.name}", why="it is up", fix="Set it down first", code=errno.EBUSY)
        if name == device.name:
            return
        name = self.free_name(name)
        self._devices = {name if key == device.name else key: value for key, value in self._devices.items()}
        device.name = name
        self.notify(NetdevEvent.CHANGENAME, device)

    def free_name(self, name: str) -> str:
        """`dev_get_valid_name`: a name that no device has (EEXIST), `%d` in it replaced by the first free number.

        One `%d` and no other `%` (EINVAL, `__dev_alloc_name`); ENFILE where the number that is free has no room.
        """
        what = f"cannot name a device {name!r}"
        if "%" not in name:
            if name in self._devices:
                raise Refused(what, why="there is a device of that name", fix="Choose another name", code=errno.EEXIST)
            return name
        head, _, tail = name.partition("%")
        if not tail.startswith("d") or "%" in tail:
            raise Refused(what, why="a name may contain one %d and no other %", fix="Write the name in full")
        number = 0
        while (whole := f"{head}{number}{tail[1:]}") in self._devices:
            number += 1
        if (cut := whole[: IFNAMSIZ - 1]) in self._devices:
            raise Refused(
                what, why="the numbered name would be too long", fix="Choose a shorter name", code=errno.ENFILE
            )
        return cut

    def get(self, name: str) -> Device | None:
        """The device of this name, or None."""
        return self._devices.get(name)

    def __iter__(self) -> Iterator[Device]:
        return iter(tuple(self._devices.values()))

    def __contains__(self, name: object) -> bool:
        return name in self._devices
