"""`ibbond check`: all rules on all facts, and what that means for whoever asked.

Read first: ops/rule.py. Findings come in the order of bonds, then severity, then the table of rules. Left out: reading
a host (ops/read_facts.py), printing (cli/check.py).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from ibbond.ops.facts import HostFacts
from ibbond.ops.rule import Finding, Rule, Severity
from ibbond.ops.rules_kernel import KERNEL_RULES
from ibbond.ops.rules_members import MEMBER_RULES
from ibbond.ops.rules_options import OPTION_RULES

RULES: dict[str, Rule] = {rule.id: rule for rule in (*OPTION_RULES, *MEMBER_RULES, *KERNEL_RULES)}
ORDER = list(Severity)


def check(host: HostFacts, *, ignore: Collection[str] = ()) -> list[Finding]:
    """Every finding about every bond of the host; `ignore` has ids of rules that are not to be asked."""
    findings: list[Finding] = []
    for bond in host.bonds:
        found = [
            Finding(rule, bond.name, each)
            for rule in RULES.values()
            if rule.id not in ignore
            for each in rule.look(host, bond)
        ]
        findings.extend(sorted(found, key=lambda finding: ORDER.index(finding.severity)))
    return findings


def is_clean(findings: Iterable[Finding]) -> bool:
    """No error and no warning; notes do not count, nobody can act on them."""
    return all(finding.severity is Severity.NOTE for finding in findings)
