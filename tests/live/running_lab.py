"""A lab without a daemon: the live loop in a thread of the test, and what a test wants to do with it."""

from __future__ import annotations

import functools
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ibbond.host.loop import LiveLoop
from ibbond.host.namespace import NetNamespace
from ibbond.host.rtnetlink import RouteSocket
from ibbond.stack.build import build
from ibbond.stack.events import NetworkEffect, NetworkEvent, TraceEvent
from ibbond.topology.load import parse
from ibbond.verbs.timing import Timing


@dataclass
class RunningLab:
    """`reported` gathers what happened; the loop runs in a thread."""

    loop: LiveLoop
    spaces: dict[str, NetNamespace]
    reported: list[tuple[int, NetworkEffect]] = field(default_factory=list)

    def do(self, event: NetworkEvent) -> None:
        self.loop.ask(functools.partial(self.loop.handle, event))

    def happened(self, what: str) -> list[tuple[str, str]]:
        return [
            (fact.where, fact.detail) for _, fact in self.reported if isinstance(fact, TraceEvent) and fact.what == what
        ]

    def active(self, host: str) -> str | None:
        return self.loop.ask(lambda: self.loop.network.hosts[host].bond("bond0").active)

    def user(self, host: str) -> RouteSocket:
        """What a user inside the host does with `ip`, through a separate socket."""
        return self.spaces[host].run_in(RouteSocket)

    def run(self, host: str, command: str) -> subprocess.CompletedProcess[str]:
        return self.spaces[host].run(command.split())

    def until(self, condition: Callable[[], bool], seconds: float = 5) -> bool:
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
        return True


@contextmanager
def running(
    text: str, make_host: Callable[[str], NetNamespace], *, persist: bool = False, timing: Timing | None = None
) -> Iterator[RunningLab]:
    """A lab of this topology (TOML), running until the block ends; without `timing` the subnet takes no time."""
    topology = parse(text)
    spaces = {host.name: make_host(host.name) for host in topology.hosts}
    loop = LiveLoop(build(topology, random=random.Random(1), timing=timing), spaces, persist=persist)
    lab = RunningLab(loop, spaces)
    loop.listeners.append(lambda now, effect: lab.reported.append((now, effect)))
    loop.open()
    for host in topology.hosts:
        loop.hosts[host.name].configure(host)
    thread = threading.Thread(target=loop.run)
    thread.start()
    try:
        yield lab
    finally:
        loop.stop()
        thread.join()
        loop.close()
    assert loop.faults.facts() == {"faults": {}, "malformed": {}}
