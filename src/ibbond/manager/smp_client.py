"""How a subnet manager asks many agents and waits for all of them: one batch of SMPs at a time, a few on the wire.

A task is a generator that yields batches of `SmpRequest` and is resumed with their answers in the same order, None
where an agent stayed silent through all tries. So the manager reads like a plain program, and still never blocks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass

from ibbond.verbs.verbs import ManagementDatagram
from ibbond.wire.mad import Method
from ibbond.wire.smp import PERMISSIVE_LID, Smp, directed_path

TRANSACTION_BASE = 0xFFFF << 48  # transactions of the built-in manager; those of other software are below


@dataclass(frozen=True, slots=True)
class SmpRequest:
    """One Get or Set by a directed route: the ports to leave by, one for each hop."""

    path: tuple[int, ...]
    attribute: int
    modifier: int = 0
    data: bytes | None = None  # what to set; None is a Get
    m_key: int = 0


SmpResponses = Sequence[Smp | None]
Task = Generator[Sequence[SmpRequest], SmpResponses, None]


class SmpClient:
    """Runs one task. `start` and `receive` and `tick` return what to send now.

    At most `at_once` SMPs wait for an answer (0: a whole batch), which is OpenSM's max_wire_smps: a subnet that moves
    packets between two of them is never kept long.
    """

    def __init__(self, timeout_ns: int, tries: int, at_once: int = 0) -> None:
        self._timeout_ns = timeout_ns
        self._tries = tries
        self._at_once = at_once
        self._task: Task | None = None
        self._waiting: dict[int, tuple[int, bytes]] = {}  # transaction -> (place in the batch, the MAD)
        self._unsent: deque[tuple[int, SmpRequest]] = deque()  # (place in the batch, what to ask)
        self._answers: list[Smp | None] = []
        self._transaction = TRANSACTION_BASE
        self._round = 0
        self._deadline: int | None = None
        self.smps_sent = 0

    @property
    def busy(self) -> bool:
        return self._task is not None

    def deadline(self) -> int | None:
        return self._deadline

    def start(self, now: int, task: Task) -> list[bytes]:
        """Begin a task; what it asks first is returned as MADs. An idle one may finish at once."""
        assert self._task is None, "one task at a time"
        self._task = task
        return self._resume(now, None)

    def stop(self) -> None:
        """Forget the task and what it waited for."""
        if self._task is not None:
            self._task.close()
        self._task, self._deadline = None, None
        self._waiting.clear()
        self._unsent.clear()

    def receive(self, now: int, smp: Smp) -> list[bytes]:
        """An answer came in; one without a pending request is ignored."""
        place = self._waiting.pop(smp.transaction_id, None)
        if place is None:
            return []
        self._answers[place[0]] = smp
        return self._go_on(now)

    def tick(self, now: int) -> list[bytes]:
        if self._deadline is None or now < self._deadline:
            return []
        self._round += 1
        if self._round >= self._tries:
            self._waiting.clear()
            return self._go_on(now)
        self._deadline = now + self._timeout_ns
        self.smps_sent += len(self._waiting)
        return [mad for _, mad in self._waiting.values()]

    def _resume(self, now: int, answers: SmpResponses | None) -> list[bytes]:
        assert self._task is not None
        while True:
            try:
                batch = next(self._task) if answers is None else self._task.send(answers)
            except StopIteration:
                self._task, self._deadline = None, None
                return []
            if batch:
                return self._send(now, batch)
            answers = []

    def _send(self, now: int, batch: Sequence[SmpRequest]) -> list[bytes]:
        self._answers = [None] * len(batch)
        self._unsent.extend(enumerate(batch))
        return self._send_more(now)

    def _go_on(self, now: int) -> list[bytes]:
        """With what has not been asked yet, else with what all the answers lead to."""
        if self._unsent:
            return self._send_more(now)
        return [] if self._waiting else self._resume(now, self._answers)

    def _send_more(self, now: int) -> list[bytes]:
        sent: list[bytes] = []
        while self._unsent and (len(self._waiting) < self._at_once or not self._at_once):
            place, ask = self._unsent.popleft()
            self._transaction += 1
            mad = _smp(ask, self._transaction).pack()
            self._waiting[self._transaction] = (place, mad)
            sent.append(mad)
        if sent:
            self._round = 0
            self._deadline = now + self._timeout_ns
            self.smps_sent += len(sent)
        return sent


def _smp(ask: SmpRequest, transaction: int) -> Smp:
    return Smp(
        Method.GET if ask.data is None else Method.SET,
        ask.attribute,
        ask.modifier,
        ask.data if ask.data is not None else bytes(64),
        transaction,
        m_key=ask.m_key,
        directed=True,
        hop_count=len(ask.path),
        initial_path=directed_path(ask.path),
    )


def directed(mad: bytes) -> ManagementDatagram:
    """A directed-route MAD on its way from QP0 to QP0."""
    return ManagementDatagram(PERMISSIVE_LID, PERMISSIVE_LID, 0, 0, mad)
