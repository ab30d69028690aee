"""What happened in a lab, in order: the time line that `lab events` prints and that the demo draws.

It listens to the effects of the network on the loop's thread and keeps the last ones. Every item is one flat object:
`t_ms` since the lab began, `at_ns` monotonic, `what`, `where` (`h1/bond0`, `h1/ib0`, `s1/3`), `detail`. The driver's
log lines are kept apart, by host; its warnings and errors are items, too (`what` is log).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from ibbond.machine import MS
from ibbond.stack.events import AddressChange, DeviceAppeared, DeviceVanished, NetworkEffect, TraceEvent

Item = dict[str, object]
KEPT = 5_000
LOGGED = 1_000


class Journal:
    """Turns effects into items; `people` gives ports the names that people use."""

    def __init__(
        self,
        started_at: int,
        people: Callable[[str], str],
        publish: Callable[[Item], None],
    ) -> None:
        self.items: deque[Item] = deque(maxlen=KEPT)
        self.logs: dict[str, deque[tuple[int, str]]] = {}  # the driver's log of each host, with monotonic ns
        self.failovers: dict[str, Item] = {}  # the last one of each bond
        self.readers: list[Callable[[Item], None]] = []  # called on the loop's thread, must not wait
        self._started_at = started_at
        self._people = people
        self._publish = publish

    def on_effect(self, at: int, effect: NetworkEffect) -> None:
        """A listener of the live loop."""
        match effect:
            case TraceEvent("log", where, detail):
                host = where.partition("/")[0]
                self.logs.setdefault(host, deque(maxlen=LOGGED)).append((at, f"{where}: {detail}"))
                if detail.startswith(("warning: ", "error: ")):
                    self.note(at, "log", where, detail)
            case TraceEvent(what, where, detail):
                self.note(at, what, self._people(where), detail)
            case DeviceAppeared(host, device):
                self.note(at, "device", f"{host}/{device}", "appeared")
            case DeviceVanished(host, device):
                self.note(at, "device", f"{host}/{device}", "vanished")
            case AddressChange(host, device, _, new):
                self.note(at, "address", f"{host}/{device}", new.hex(":"))
            case _:
                pass

    def note(self, at: int, what: str, where: str, detail: str = "") -> None:
        item: Item = {
            "t_ms": round((at - self._started_at) / MS, 3),
            "at_ns": at,
            "what": what,
            "where": where,
            "detail": detail,
        }
        self.items.append(item)
        if what == "failover":
            self.failovers[where] = item
        self._publish(item)
        for reader in self.readers:
            reader(item)
