"""The devices of one host, by name, and who hears when one of them changes.

Read first: `register_netdevice` and the netdevice notifier chain of `net/core/dev.c`. Listeners are called in the order
in which they subscribed; a listener vetoes a notice by raising `Refused`, where `Notice` says that it may.
"""

from collections.abc import Callable, Iterator

from ibbond.netdev.device import Device, Notice

Listener = Callable[[Notice, Device], None]


class Namespace:
    """The devices of one host and the listeners to their changes."""

    def __init__(self) -> None:
        self._devices: dict[str, Device] = {}
        self._listeners: list[Listener] = []
        self._next_ifindex = 1

    def subscribe(self, listener: Listener) -> None:
        self._listeners.append(listener)

    def tell(self, notice: Notice, device: Device) -> None:
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
        self.tell(Notice.REGISTER, device)

    def unregister(self, device: Device) -> None:
        self.tell(Notice.UNREGISTER, device)
        device.close()
        del self._devices[device.name]
        device.namespace = None

    def rename(self, device: Device, name: str) -> None:
        assert name not in self._devices, f"two devices named {name}"
        self._devices = {name if key == device.name else key: value for key, value in self._devices.items()}
        device.name = name
        self.tell(Notice.CHANGENAME, device)

    def get(self, name: str) -> Device | None:
        return self._devices.get(name)

    def __iter__(self) -> Iterator[Device]:
        return iter(tuple(self._devices.values()))

    def __contains__(self, name: object) -> bool:
        return name in self._devices
