"""Follows a lab for all browsers at once: its events as they happen, samples of its counters while one is open.

Read first: `ops.lab_sample`, `web.mailbox`. Two threads wait for the lab, because its socket blocks; what
they find is put into mailboxes on the asyncio loop. After a lab has ended, the page waits for the next one of its name.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

from ibbond.backend.control_socket import Control
from ibbond.errors import Refused
from ibbond.ops.lab_sample import asked, sample_of
from ibbond.ops.top import Sample, picture
from ibbond.web.drawing import drawing, rates, shape
from ibbond.web.mailbox import MAX_EVENTS, Mailbox

RETRY_S = 1.0
SOON_S = 0.06  # after an event that changes the picture, so that its consequences are in the sample, too
MAX_SHARE = 0.05  # of the time that sampling may take
MAX_SHARE_OF_CHANGES = 0.25  # the same while things change all the time
CHANGES_PICTURE = frozenset(("cut", "mend", "kill", "revive", "lossy", "carrier", "failover", "device", "ready"))


class LabWatch:
    """What browsers show of one lab."""

    def __init__(self, lab: str, every_s: float) -> None:
        self._lab = lab
        self._every_s = every_s
        self._mailboxes: list[Mailbox] = []
        self._latest: dict[str, str] = {}
        self._events: deque[object] = deque(maxlen=MAX_EVENTS)
        self._wake = threading.Event()
        self._ended = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """On the running asyncio loop."""
        self._loop = asyncio.get_running_loop()
        for work in (self._follow, self._sample):
            threading.Thread(target=work, name=f"web {work.__name__}", daemon=True).start()

    def stop(self) -> None:
        self._ended = True
        self._wake.set()

    @property
    def watchers(self) -> int:
        """How many browsers have the page open."""
        return len(self._mailboxes)

    @contextlib.contextmanager
    def mailbox(self) -> Iterator[Mailbox]:
        """That of one browser, with what it needs to begin."""
        mailbox = Mailbox(self._latest, self._events)
        self._mailboxes.append(mailbox)
        self._wake.set()
        try:
            yield mailbox
        finally:
            self._mailboxes.remove(mailbox)

    def ask(self, do: str, **words: object) -> object:
        """A request to the lab, from any thread; waits for the answer."""
        with Control.of(self._lab) as control:
            return control.ask(do, **words)

    # On the loop

    def _publish(self, kind: str, text: str) -> None:
        if self._latest.get(kind) != text:
            self._latest[kind] = text
            for mailbox in self._mailboxes:
                mailbox.put(kind, text)

    def _publish_event(self, item: object) -> None:
        self._events.append(item)
        for mailbox in self._mailboxes:
            mailbox.add_event(item)

    def _forget_events(self) -> None:
        self._events.clear()
        for mailbox in self._mailboxes:
            mailbox.forget_events()

    # In the threads

    def _on_loop(self, call: Callable[..., None], *values: object) -> None:
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(call, *values)

    def _follow(self) -> None:
        while not self._ended:
            with contextlib.suppress(Refused), Control.of(self._lab) as control:
                self._on_loop(self._forget_events)
                for item in control.follow("events"):
                    self._on_loop(self._publish_event, item)
                    if isinstance(item, dict) and item.get("what") in CHANGES_PICTURE:
                        self._wake.set()
            self._wake.set()
            time.sleep(RETRY_S)

    def _sample(self) -> None:
        while not self._ended:
            try:
                with Control.of(self._lab) as control:
                    self._on_loop(self._publish, "lab", json.dumps({"runs": True}))
                    self._sample_lab(control)
            except Refused as refusal:
                words = {"runs": False, "what": refusal.what, "fix": refusal.fix}
                self._on_loop(self._publish, "lab", json.dumps(words))
            time.sleep(RETRY_S)

    def _sample_lab(self, control: Control) -> None:
        """Until the lab ends, which raises `Refused`."""
        before: Sample | None = None
        drawn: object = None
        while not self._ended:
            self._wake.clear()
            began = time.monotonic()
            answer = asked(control)
            if shape(answer) != drawn:
                status, answer = control.ask("status"), asked(control)
                assert isinstance(status, dict)
                self._on_loop(self._publish, "drawing", json.dumps(drawing(status)))
                drawn = shape(answer)
            after = sample_of(answer)
            self._on_loop(self._publish, "rates", json.dumps(rates(picture(before or after, after), answer)))
            before = after
            took = time.monotonic() - began
            if self._wake.wait(max(self._every_s, took / MAX_SHARE)):
                time.sleep(max(SOON_S, took / MAX_SHARE_OF_CHANGES))
            while not self.watchers and not self._ended:
                self._wake.wait()
                self._wake.clear()
