"""Whether a step's answer is the recorded one, and in which words to say that it is not.

Read first: tests/golden/kernel-6.1/README.md, "What counts as passed", section Steps. Left out: what happened between
the steps (`replay/compare_events`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ibbond.abi.recording import Step
from ibbond.replay.steps import Answer

TIMING = ("operstate",)  # keys of `link` that lag behind by the link watch's own clock
RANDOM_OCTETS = 17  # characters of six octets with colons
LACP_BLOCK = "802.3ad info"


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that disagrees: where (a step's number, or a projection of events), what was recorded, what we do."""

    step: int | str
    what: str
    expected: object
    got: object

    def __str__(self) -> str:
        where = f"step {self.step}" if isinstance(self.step, int) else self.step
        return f"{where}: {self.what}: expected {_short(self.expected)}, got {_short(self.got)}"


def differences(number: int, step: Step, answer: Answer) -> Iterator[Difference]:
    """Every way in which the answer to a step disagrees with the recorded one."""
    if step.fuzzy is True:
        return
    fuzzy = step.fuzzy or ()
    if step.errno != answer.errno:
        yield Difference(number, str(step), step.errno or "success", answer.errno or "success")
        return
    if step.errno:
        return
    match step.op:
        case "ip":
            if (step.rc == 0) != (answer.rc == 0):
                yield Difference(number, str(step), f"exit status {step.rc}", f"exit status {answer.rc}")
        case "link":
            assert isinstance(step.expect, dict)
            assert isinstance(answer.expect, dict)
            yield from _link(number, step, step.expect, answer.expect, fuzzy)
        case "proc":
            expected, got = _comparable_text(str(step.expect)), _comparable_text(str(answer.expect))
            if expected != got:
                line = next((row for row in zip(expected, got, strict=False) if row[0] != row[1]), None)
                yield Difference(number, str(step), *(line or (f"{len(expected)} lines", f"{len(got)} lines")))
        case "read" | "ls" | "masters_read" | "maddr":
            if step.expect != answer.expect:
                yield Difference(number, str(step), step.expect, answer.expect)
        case _:
            return


def _link(
    number: int, step: Step, expected: dict[str, object], got: dict[str, object], fuzzy: tuple[str, ...]
) -> Iterator[Difference]:
    for key in dict.fromkeys([*expected, *got]):
        if key in TIMING or key in fuzzy:
            continue
        ours, theirs = got.get(key), expected.get(key)
        if key == "flag_names":
            theirs, ours = _without_running(theirs), _without_running(ours)
        if key == "address" and str(theirs).startswith("random"):
            theirs, ours = str(theirs).removeprefix("random"), str(ours)[RANDOM_OCTETS:]
        if theirs != ours:
            yield Difference(number, f"{step} {key}", theirs, ours)


def _without_running(names: object) -> object:
    return [name for name in names if name != "RUNNING"] if isinstance(names, list) else names


def _comparable_text(text: str) -> list[str]:
    """The lines of a procfs text that are compared: no version, nothing of 802.3ad's own block."""
    head = text.split(f"{LACP_BLOCK}\n", 1)[0]
    return re.sub(r"^(.*: v).*", r"\1", head, count=1).split("\n")


def _short(value: object) -> str:
    text = repr(value) if not isinstance(value, str) or value != value.strip() or not value else value
    return text if len(text) <= 300 else f"{text[:300]}..."
