"""`ibbond check`: all rules on all facts, and what that means for the exit code.

Read first: ops/rule.py. Findings come in the order of bonds, then severity, then the table of rules. A rule whose facts
are unknown is silent, and `unknown` names both. Left out: reading a host (ops/read_facts.py), printing
(cli/check.py).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from ibbond.ops import needs
from ibbond.ops.facts import BondFacts, HostFacts
from ibbond.ops.needs import Unknown
from ibbond.ops.rule import Finding, Rule, Severity
from ibbond.ops.rules_files import FILE_RULES, missing_bonds
from ibbond.ops.rules_kernel import KERNEL_RULES
from ibbond.ops.rules_members import MEMBER_RULES
from ibbond.ops.rules_network import NETWORK_RULES
from ibbond.ops.rules_options import OPTION_RULES
from ibbond.ops.rules_ports import PORT_RULES

RULES: dict[str, Rule] = {
    rule.id: rule for rule in (*OPTION_RULES, *MEMBER_RULES, *PORT_RULES, *NETWORK_RULES, *FILE_RULES, *KERNEL_RULES)
}
ORDER = list(Severity)


def check(host: HostFacts, *, ignore: Collection[str] = ()) -> list[Finding]:
    """Every finding about every bond of the host; `ignore` has ids of rules that are not to be asked."""
    findings: list[Finding] = []
    for bond in host.bonds:
        found = [
            Finding(rule, bond.name, each)
            for rule in RULES.values()
            if rule.id not in ignore and not needs.is_silent(host, bond, rule)
            for each in rule.look(host, bond)
        ]
        findings.extend(sorted(found, key=lambda finding: ORDER.index(finding.severity)))
    if "missing-bond" not in ignore:
        findings.extend(Finding(RULES["missing-bond"], name, found) for name, found in missing_bonds(host))
    return findings


def unknown(host: HostFacts, bond: BondFacts, *, ignore: Collection[str] = ()) -> Unknown:
    """What is unknown about a bond, and the rules that are silent for it."""
    return needs.unknown(host, bond, (rule for rule in RULES.values() if rule.id not in ignore))


def is_clean(findings: Iterable[Finding]) -> bool:
    """No error and no warning; notes do not count: the operator cannot act on them."""
    return all(finding.severity is Severity.NOTE for finding in findings)
