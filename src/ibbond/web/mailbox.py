"""What waits for one browser. It never grows: of drawings and rates only the latest counts, of events the last ones.

Read first: the WHATWG HTML standard, section "Server-sent events", for the text that is sent.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Iterable

MAX_EVENTS = 300
STILL_HERE = ": still here\n\n"  # a comment, so that a closed connection is noticed
IDLE_S = 15.0
LATEST = ("lab", "drawing", "rates")  # in the order in which a browser needs them


class Mailbox:
    """Filled and read on one asyncio loop."""

    def __init__(self, latest: dict[str, str], events: Iterable[object]) -> None:
        self._latest = dict(latest)
        self._events: deque[object] = deque(events, maxlen=MAX_EVENTS)
        self._missed = 0
        self._forget = True
        self._filled = asyncio.Event()
        self._filled.set()

    def put(self, kind: str, text: str) -> None:
        """The latest of this kind, as JSON."""
        self._latest[kind] = text
        self._filled.set()

    def add_event(self, item: object) -> None:
        self._missed += len(self._events) == MAX_EVENTS
        self._events.append(item)
        self._filled.set()

    def forget_events(self) -> None:
        """Another lab has begun: the page empties its list first."""
        self._events.clear()
        self._missed = 0
        self._forget = True
        self._filled.set()

    async def take(self) -> str:
        """All that waits, as server-sent events; waits until there is something to say."""
        try:
            await asyncio.wait_for(self._filled.wait(), IDLE_S)
        except TimeoutError:
            return STILL_HERE
        self._filled.clear()
        texts = [message(kind, self._latest.pop(kind)) for kind in LATEST if kind in self._latest]
        if self._events or self._forget:
            body = {"forget": self._forget, "missed": self._missed, "items": list(self._events)}
            texts.append(message("events", json.dumps(body)))
        self._events.clear()
        self._missed, self._forget = 0, False
        return "".join(texts)


def message(kind: str, text: str) -> str:
    """One server-sent event; JSON has no line breaks."""
    return f"event: {kind}\ndata: {text}\n\n"
