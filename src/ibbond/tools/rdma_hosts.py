"""The RDMA devices of lab hosts as their programs find them: which adapter has which name, and the files that say so.

Read first: `abi.infiniband_text` for the texts, `host.rdma_view` for how they get into a host. Files are written when
the first program of a host comes, and again whenever the subnet has changed something. Left out: what happens when a
device is opened (`rdma_programs`).
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from ibbond.abi.infiniband_text import STATIC, RdmaDevice, devices, files, links
from ibbond.fabric.hca import Hca
from ibbond.host.loop import LiveLoop
from ibbond.host.namespace import NetNamespace
from ibbond.host.rdma_view import RdmaView

NETLINK_USERSOCK = 2
Contents = tuple[dict[str, str], dict[str, str]]  # texts and links by path


class RdmaHost:
    """One host: its devices, the view of them, and the socket that answers NETLINK_RDMA."""

    def __init__(self, name: str, space: NetNamespace, adapters: Sequence[Hca], folder: Path) -> None:
        self.name = name
        self.space = space
        self.folder = folder
        self.inode = os.fstat(space.namespaces.net).st_ino
        self._all = devices(adapters)
        self.view = RdmaView(folder)
        self.mounted = False
        self.opening = threading.Lock()
        self._netlink: socket.socket | None = None

    @property
    def devices(self) -> tuple[RdmaDevice, ...]:
        """Those whose adapter is plugged in."""
        return tuple(device for device in self._all if device.hca.alive)

    def names(self) -> dict[str, str]:
        """The names of devices by the node names of their adapters."""
        return {device.hca.name: device.name for device in self._all}

    def device(self, uverbs_number: int) -> RdmaDevice | None:
        return next((device for device in self.devices if device.number == uverbs_number), None)

    def contents(self, netdevs: Mapping[str, Sequence[str]]) -> Contents:
        """What the files say now; `netdevs` has the names of IPoIB devices by port name. On the loop's thread."""
        texts, targets = dict(STATIC), dict[str, str]()
        for device in self.devices:
            texts.update(files(device))
            targets.update(links(device, netdevs))
        return texts, targets

    def show(self, contents: Contents) -> None:
        """Bring the files up to date: on the loop's thread once they are mounted, before by who mounts them."""
        self.view.show(*contents, self._names())

    def mount(self) -> None:
        """Put the view into the host; not on the loop's thread. OSError."""
        self.space.run_in_mounts(self.view.mount)
        self.mounted = True

    def answering(self) -> socket.socket:
        """A socket of the host's own network namespace, from which programs get answers."""
        if self._netlink is None:
            self._netlink = self.space.run_in(netlink_socket)
            self._netlink.bind((0, 0))
        return self._netlink

    def close(self) -> None:
        if self._netlink is not None:
            self._netlink.close()
        self.view.remove()

    def _names(self) -> list[str]:
        """What /dev/infiniband has: of all adapters, for a name that is there does no harm."""
        names = ["rdma_cm", *(device.uverbs for device in self._all)]
        for device in self._all:
            numbers = range(device.first_umad, device.first_umad + len(device.ports))
            names += [f"{kind}{number}" for kind in ("umad", "issm") for number in numbers]
        return names


class RdmaHosts:
    """All hosts by the inode of their network namespace."""

    def __init__(
        self, loop: LiveLoop, spaces: Mapping[str, NetNamespace], adapters: Mapping[str, Sequence[Hca]], folder: Path
    ) -> None:
        self._loop = loop
        self._generation = -1
        self._all = {
            name: RdmaHost(name, space, adapters.get(name, ()), folder / name) for name, space in spaces.items()
        }
        self._by_inode = {host.inode: host for host in self._all.values()}
        self._folder = folder
        loop.on_idle.append(self._refresh)

    def __getitem__(self, name: str) -> RdmaHost:
        return self._all[name]

    def names(self) -> dict[str, dict[str, str]]:
        """The names of devices by the node names of their adapters, host by host."""
        return {name: host.names() for name, host in self._all.items()}

    def of_thread(self, thread: int) -> RdmaHost | None:
        """The host in whose network namespace a thread is."""
        try:
            return self._by_inode.get(os.stat(f"/proc/{thread}/ns/net").st_ino)
        except OSError:
            return None

    def open(self, name: str) -> None:
        """Have the view in this host; any thread but the loop's. OSError where it cannot be mounted."""
        host = self._all[name]
        with host.opening:
            if not host.mounted:
                host.show(self._loop.ask(lambda: self._contents(host)))  # hundreds of files: not in a turn of the loop
                host.mount()
                self._loop.ask(lambda: host.show(self._contents(host)))  # what has changed meanwhile

    def close(self) -> None:
        self._loop.on_idle.remove(self._refresh)
        for host in self._all.values():
            host.close()
        if self._folder.is_dir() and not any(self._folder.iterdir()):
            self._folder.rmdir()

    def _refresh(self) -> None:
        """The subnet counts whatever a subnet manager writes to a port."""
        generation = self._loop.network.generation.value
        if generation != self._generation:
            self._generation = generation
            for host in self._all.values():
                if host.mounted:
                    host.show(self._contents(host))

    def _contents(self, host: RdmaHost) -> Contents:
        netdevs: dict[str, list[str]] = {}
        for interface in self._loop.network.hosts[host.name].links:
            netdevs.setdefault(interface.port.name, []).append(interface.device.name)
        return host.contents(netdevs)


def netlink_socket() -> socket.socket:
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    return socket.socket(socket.AF_NETLINK, kind, NETLINK_USERSOCK)
