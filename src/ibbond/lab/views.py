"""The sysfs views of a lab's hosts, together: opened while the lab starts, notified of changes, closed with it.

Read first: `sysfs.mount`. A lab works without them: if they cannot be mounted, `missing` says why. They are
opened on a thread of their own, so that the packets of a resumed lab do not wait for them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from ibbond.abi.device_tree import DeviceTree
from ibbond.backend.contract import Files
from ibbond.backend.emulated import facts_of
from ibbond.host.loop import LiveLoop
from ibbond.host.namespace import NetNamespace
from ibbond.stack.events import AttributeChanged, NetworkEffect
from ibbond.sysfs.mount import Mounted, why_not


class Views:
    """The views of all hosts; `missing` is the reason why there are none."""

    def __init__(self, loop: LiveLoop) -> None:
        self.missing: str | None = None
        self._loop = loop
        self._mounted: dict[str, Mounted] = {}
        self._opening: threading.Thread | None = None

    def open(
        self,
        spaces: Mapping[str, NetNamespace],
        backend: Callable[[str], Files],
        adapters: Mapping[str, Mapping[str, str]],
    ) -> None:
        """Begin to mount the view of every host; `adapters` as in `backend.emulated.facts_of`, by host."""
        backends = {name: backend(name) for name in spaces}
        self._opening = threading.Thread(target=lambda: self._open(spaces, backends, adapters), name="sysfs views")
        self._opening.start()

    @property
    def opening(self) -> bool:
        return self._opening is not None and self._opening.is_alive()

    def _open(
        self,
        spaces: Mapping[str, NetNamespace],
        backends: Mapping[str, Files],
        adapters: Mapping[str, Mapping[str, str]],
    ) -> None:
        """All of them or none."""
        self.missing = why_not()
        if self.missing is not None:
            return
        try:
            for name, space in spaces.items():
                tree = DeviceTree(facts_of(self._loop.network.hosts[name], adapters.get(name, {})))
                devices = tuple(self._loop.hosts[name].tuns)
                self._mounted[name] = Mounted(space, tree, backends[name], devices, self._loop.faults)
        except OSError as error:
            self.missing = f"it cannot be mounted: {error.strerror or error}"
            self._abort()

    def on_effect(self, _at: int, effect: NetworkEffect) -> None:
        """A listener of the loop."""
        if isinstance(effect, AttributeChanged):
            mounted = self._mounted.get(effect.host)
            if mounted is not None:
                mounted.view.changed(effect.path)

    def close(self) -> None:
        """On the loop's thread when it does not run: pending requests are answered."""
        while self.opening:
            self._loop.answer()
        self._abort()
        for mounted in self._mounted.values():
            while not mounted.ended():
                self._loop.answer()
        self._mounted.clear()

    def _abort(self) -> None:
        for mounted in self._mounted.values():
            mounted.abort()
