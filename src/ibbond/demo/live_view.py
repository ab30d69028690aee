"""What one sees while a demo runs: who carries the traffic, how each protocol flows, what each event cost.

On a terminal it is drawn in place (rich); elsewhere it is one line per event. It reads, and decides nothing.
"""

from __future__ import annotations

import contextlib
import sys
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from ibbond.demo.generators import Progress
from ibbond.demo.measure import STREAMS

if TYPE_CHECKING:
    from rich.console import RenderableType

BARS = " ▁▂▃▄▅▆▇█"
WIDTH = 40
COLORS = {"icmp": "magenta", "udp": "blue", "tcp": "green", "multicast": "yellow", "rdma": "red"}
SAMPLE_EVERY = 0.1


class View(Protocol):
    """What the demo shows while it runs."""

    def say(self, text: str) -> None: ...

    def bonds_are(self, active: dict[str, str], cut: list[str]) -> None:
        """Who is active in each bond (`h1/bond0`), and which cables are out."""
        ...

    def sample(self, progress: dict[str, Progress]) -> None: ...


class Silent:
    """For --json."""

    def say(self, text: str) -> None:
        pass

    def bonds_are(self, active: dict[str, str], cut: list[str]) -> None:
        pass

    def sample(self, progress: dict[str, Progress]) -> None:
        pass


class Lines(Silent):
    """For pipes and files: one line per event."""

    def say(self, text: str) -> None:
        print(text, flush=True)


class Drawn:
    """On a terminal: redrawn in place."""

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=12)
        self.active: dict[str, str] = {}
        self.cut: list[str] = []
        self.progress: dict[str, Progress] = {}
        self.history: dict[str, deque[int]] = {}

    def say(self, text: str) -> None:
        self.lines.append(text)

    def bonds_are(self, active: dict[str, str], cut: list[str]) -> None:
        self.active, self.cut = active, cut

    def sample(self, progress: dict[str, Progress]) -> None:
        for protocol, now in progress.items():
            before = self.progress.get(protocol)
            if before is not None:
                self.history.setdefault(protocol, deque(maxlen=WIDTH)).append(now.received - before.received)
        self.progress = progress

    def __rich__(self) -> RenderableType:
        from rich.console import Group
        from rich.panel import Panel
        from rich.table import Table
        from rich.text import Text

        flows = Table(box=None, padding=(0, 2), show_header=True, header_style="dim")
        for head in ("", "received every 0.1 s", "received", "lost"):
            flows.add_column(head, justify="right" if head in ("received", "lost") else "left")
        for protocol, now in self.progress.items():
            amount = f"{now.received / 1e6:.1f} MB" if protocol == "tcp" else f"{now.received:,}"
            lost = "-" if protocol in STREAMS else str(now.lost)
            color = COLORS.get(protocol, "white")
            flows.add_row(f"[{color}]{protocol}", f"[{color}]{self.bars(protocol)}", amount, lost)
        happened = Text("\n".join(self.lines))
        return Panel(
            Group(self._bonds(), "", flows, "", happened),
            title="one IPoIB address per host, two cables each",
            border_style="dim",
            width=92,
        )

    def bars(self, protocol: str) -> str:
        """A bar for each tenth of a second; TCP after a stall may catch up, so the top is the usual rate."""
        samples = self.history.get(protocol, deque())
        if not samples:
            return ""
        usual = max(1, sorted(samples)[len(samples) // 2])
        return "".join(BARS[min(8, max(0, round(8 * sample / usual)))] for sample in samples)

    def _bonds(self) -> RenderableType:
        from rich.text import Text

        text = Text()
        for bond, active in self.active.items():
            host = bond.partition("/")[0]
            out = {cable.partition("/")[2] for cable in self.cut if cable.partition("/")[0] == host}
            text.append(f"{bond}  ", "bold")
            for member in ("ib0", "ib1"):
                style = "red" if member in out else "green" if member == active else "dim"
                sign = "✂" if member in out else "●" if member == active else "○"
                text.append(f" {sign} {member} ", style)
            text.append("     ")
        return text


@contextlib.contextmanager
def view(as_json: bool) -> Iterator[View]:
    """The right one for where output goes."""
    if as_json:
        yield Silent()
    elif not sys.stdout.isatty():
        yield Lines()
    else:
        from rich.live import Live

        drawn = Drawn()
        with Live(drawn, refresh_per_second=10, transient=True):
            yield drawn
