"""What `ibbond check` found as one line for Nagios, Icinga and their kin: a state, a sentence, performance data.

Read first: the Monitoring Plugins development guidelines (output, performance data, return codes). The state is that of
the worst finding; notes do not count. Left out: thresholds, which the rules have.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Sequence

from ibbond.ops.facts import HostFacts
from ibbond.ops.rule import Finding, Severity

MAX_TEXT = 240  # of the sentence; what comes after it is performance data


class ServiceState(enum.IntEnum):
    """The exit status is the value."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


STATES = {Severity.ERROR: ServiceState.CRITICAL, Severity.WARNING: ServiceState.WARNING}


def line(facts: HostFacts, findings: Sequence[Finding]) -> tuple[str, ServiceState]:
    """The line, and the exit status."""
    counted = [finding for finding in findings if finding.severity in STATES]
    counted.sort(key=lambda finding: STATES[finding.severity], reverse=True)
    if counted:
        state = STATES[counted[0].severity]
        more = f"; {len(counted) - 1} more" if len(counted) > 1 else ""
        text = f"{counted[0].found.what} [{counted[0].rule.id}]{more}"
    elif facts.unreadable:
        state, text = ServiceState.UNKNOWN, next(iter(facts.unreadable.values()))
    elif not facts.bonds:
        state, text = ServiceState.UNKNOWN, "no bond was checked"
    else:
        state = ServiceState.OK
        text = ", ".join(f"{bond.name}: {usable(bond.name, facts)} members up" for bond in facts.bonds)
    return sentence(state, text, performance(facts, findings)), state


def usable(name: str, facts: HostFacts) -> str:
    """`2 of 2`."""
    bond = next(bond for bond in facts.bonds if bond.name == name)
    return f"{sum(member.link == 'up' for member in bond.members)} of {len(bond.members)}"


def performance(facts: HostFacts, findings: Sequence[Finding]) -> str:
    """Counts that can be drawn: members of each bond that are up, of how many; findings by severity."""
    counts = Counter(finding.severity for finding in findings)
    rows = [
        f"'{bond.name} members up'={sum(member.link == 'up' for member in bond.members)};;;0;{len(bond.members)}"
        for bond in facts.bonds
    ]
    return " ".join([*rows, f"errors={counts[Severity.ERROR]};;0;0", f"warnings={counts[Severity.WARNING]};0;;0"])


def sentence(state: ServiceState, text: str, data: str = "") -> str:
    """One line; a bar would end the sentence."""
    text = " ".join(text.replace("|", "/").split())
    text = text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 3] + "..."
    return f"IBBOND {state.name}: {text}" + (f" | {data}" if data else "")
