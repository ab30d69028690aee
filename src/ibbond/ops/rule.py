"""A rule of `ibbond check`: its stable id, what it is about, and the function that looks; a finding: what it found.

Ids are for people's scripts and never change. The reference page docs/checks.md has a section per id (a test compares).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ibbond.ops.facts import BondFacts, HostFacts


class Severity(enum.Enum):
    """An error will cost traffic, a warning may; a note is how this kernel is, whatever the operator does."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Found:
    """What a rule saw: the sentence, the command or change that cures it, and more reason where there is some."""

    what: str
    fix: str
    member: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Rule:
    """One row. `why` is true of every finding; `quirk` names the row of `bonding.quirks` that is behind it."""

    id: str
    severity: Severity
    title: str
    why: str
    look: Callable[[HostFacts, BondFacts], Iterator[Found]]
    quirk: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that hit a bond."""

    rule: Rule
    bond: str
    found: Found

    @property
    def severity(self) -> Severity:
        return self.rule.severity

    @property
    def why(self) -> str:
        return f"{self.found.why}. {self.rule.why}" if self.found.why else self.rule.why

    def as_json(self) -> dict[str, object]:
        return {
            "rule": self.rule.id,
            "severity": self.severity.value,
            "bond": self.bond,
            "member": self.found.member or None,
            "what": self.found.what,
            "why": self.why,
            "fix": self.found.fix,
        }
