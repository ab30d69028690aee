"""A rule of `ibbond check`: its stable id, what it is about, and the function that looks; a finding: what it found.

Ids are for people's scripts and never change. The reference page docs/checks.md has a section per id (a test compares).
A finding that software can cure has commands that can be typed as they stand; the rest says what a person must do.
"""

from __future__ import annotations

import enum
import shlex
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
    """What a rule saw: the sentence, the commands that cure it in this order, and more reason where there is some.

    `do` is what a person must do, or what else the commands bring about.
    """

    what: str
    run: tuple[str, ...] = ()
    do: str = ""
    member: str = ""
    why: str = ""

    @property
    def fix(self) -> str:
        """Commands and advice in one line."""
        commands = " && ".join(self.run)
        return f"{commands} ({self.do[:1].lower()}{self.do[1:]})" if commands and self.do else commands or self.do


Look = Callable[[HostFacts, BondFacts], Iterator[Found]]


@dataclass(frozen=True, slots=True)
class Rule:
    """One row.

    `why` is true of every finding; `quirk` names the row of `bonding.quirks` that is behind it. `needs` names the facts
    (ops/needs.py) without which the rule is silent; `infiniband` marks what is asked of bonds of such members only.
    """

    id: str
    severity: Severity
    title: str
    why: str
    look: Look
    quirk: str = ""
    needs: tuple[str, ...] = ()
    infiniband: bool = False


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
            "commands": list(self.found.run),
            "advice": self.found.do or None,
        }


def bond_command(host: HostFacts, verb: str, bond: str, *words: str) -> str:
    """`ibbond bond VERB BOND WORD...`, as it can be typed where `check` was: a lab's bond is h1/bond0."""
    name = f"{host.where}/{bond}" if host.where else bond
    lab = ("--name", host.lab) if host.lab else ()
    return shlex.join(("ibbond", "bond", verb, *lab, name, *words))


def system_command(host: HostFacts, *words: str) -> str:
    """A program of the system, `ip link set bond0 up`; in a lab host by `lab exec`."""
    lab = ("--name", host.lab) if host.lab else ()
    return shlex.join((*(("ibbond", "lab", "exec", *lab, host.where, "--") if host.where else ()), *words))


def write_command(host: HostFacts, path: str, text: str) -> str:
    """A text written to a file of the system."""
    if host.where:
        return system_command(host, "sh", "-c", f"echo {shlex.quote(text)} > {shlex.quote(path)}")
    return f"echo {shlex.quote(text)} > {shlex.quote(path)}"


def set_command(host: HostFacts, bond: BondFacts, option: str, value: object, *words: str) -> str:
    return bond_command(host, "set", bond.name, option, str(value), *words)
