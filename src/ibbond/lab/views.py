"""The sysfs views of a lab's hosts, together: opened when the hosts are there, told of changes, closed with the lab.

Read first: `sysfs.mount`. A lab without them is a lab all the same: where they cannot be, `missing` says why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ibbond.backend.contract import Backend
from ibbond.host.loop import LiveLoop
from ibbond.host.netns import Space
from ibbond.stack.events import AttributeChanged, NetworkEffect
from ibbond.sysfs.mount import Mounted, why_not
from ibbond.sysfs.tree import HostFacts, Tree


class Views:
    """The views of all hosts; `missing` is the reason why there are none."""

    def __init__(self, loop: LiveLoop) -> None:
        self.missing: str | None = None
        self._loop = loop
        self._mounted: dict[str, Mounted] = {}

    def open(self, spaces: Mapping[str, Space], backend: Callable[[str], Backend]) -> None:
        """Mount the view of every host, or of none."""
        self.missing = why_not()
        if self.missing is not None:
            return
        try:
            for name, space in spaces.items():
                live = self._loop.hosts[name]
                tree = Tree(HostFacts(self._loop.network.hosts[name]))
                self._mounted[name] = Mounted(space, tree, backend(name), live.tuns)
        except OSError as error:
            self.missing = f"it cannot be mounted: {error.strerror or error}"
            self.close()

    def heard(self, _at: int, effect: NetworkEffect) -> None:
        """A listener of the loop."""
        if isinstance(effect, AttributeChanged) and effect.host in self._mounted:
            self._mounted[effect.host].view.changed(effect.path)

    def close(self) -> None:
        """On the loop's thread when it does not run: requests that are under way are answered."""
        for mounted in self._mounted.values():
            mounted.abort()
        for mounted in self._mounted.values():
            while not mounted.ended():
                self._loop.answer()
        self._mounted.clear()
