"""A drill's result for machines: JUnit XML for CI, and the text that Prometheus' node_exporter collects. Pure.

Read first: the textfile collector of node_exporter; the JUnit schema as Jenkins and GitLab read it.
"""

from __future__ import annotations

from xml.etree import ElementTree

from ibbond.drill.verdict import Certificate, Run, Verdict
from ibbond.machine import SECOND

UNPRINTABLE = {number: " " for number in range(32) if number not in (9, 10, 13)}


def junit(found: Certificate) -> str:
    """One test case for each run: over the budget is a failure, phases that do not add up an error.

    A failed undo is a case of its own; a class that was left out is a skipped one.
    """
    suite = ElementTree.Element("testsuite", name=f"ibbond drill {found.bond}")
    failures = errors = 0
    for run in found.runs:
        name = f"round {run.observation.round}"
        case = ElementTree.SubElement(
            suite, "testcase", classname=run.name, name=name, time=f"{run.gap.ns / SECOND:.6f}"
        )
        reasons = found.failures_of(run)
        if reasons:
            failures += 1
            ElementTree.SubElement(case, "failure", message=_text(reasons[0])).text = _text("\n".join(reasons))
        elif unclear := (*run.sum.disagreements, *run.observation.notes):
            errors += 1
            ElementTree.SubElement(case, "error", message=_text(unclear[0])).text = _text("\n".join(unclear))
    for failure in found.failures:
        failures += 1
        case = ElementTree.SubElement(suite, "testcase", classname="undo", name="undo")
        ElementTree.SubElement(case, "failure", message=_text(failure))
    for each in found.not_tested:
        case = ElementTree.SubElement(suite, "testcase", classname=each.name, name="not tested")
        ElementTree.SubElement(case, "skipped", message=_text(each.why))
    suite.set("tests", str(len(suite)))
    suite.set("failures", str(failures))
    suite.set("errors", str(errors))
    suite.set("skipped", str(len(found.not_tested)))
    ElementTree.indent(suite)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(suite, encoding="unicode") + "\n"


def prometheus(found: Certificate, at_seconds: int, last_success: int | None) -> str:
    """The text for a collector directory; `last_success` is the time of the last drill that passed before this one."""
    bond = _label(found.bond)
    success = at_seconds if found.verdict is Verdict.PASS else last_success
    lines = []
    if success is not None:
        lines += [
            "# HELP ibbond_drill_last_success_timestamp_seconds When a failover drill of the bond last passed.",
            "# TYPE ibbond_drill_last_success_timestamp_seconds gauge",
            f'ibbond_drill_last_success_timestamp_seconds{{bond="{bond}"}} {success}',
        ]
    worst: dict[tuple[str, str], int] = {}
    for run in found.runs:
        for protocol, ns in run.worst.items():
            worst[run.name, protocol] = max(ns, worst.get((run.name, protocol), 0))
    if worst:
        lines += [
            "# HELP ibbond_drill_outage_seconds The longest outage of the last failover drill.",
            "# TYPE ibbond_drill_outage_seconds gauge",
        ]
    for (name, protocol), ns in worst.items():
        labels = f'bond="{bond}",class="{_label(name)}",protocol="{_label(protocol)}"'
        lines.append(f"ibbond_drill_outage_seconds{{{labels}}} {ns / SECOND:.6f}")
    return "".join(f"{line}\n" for line in lines)


def last_success(text: str) -> int | None:
    """The time of the last success in an older file; None where it has none."""
    for line in text.splitlines():
        name, _, value = line.rpartition(" ")
        if name.startswith("ibbond_drill_last_success_timestamp_seconds{") and value.isdecimal():
            return int(value)
    return None


def runs_in_budget(found: Certificate) -> tuple[int, int]:
    """How many runs had nothing against them, and of how many."""
    good = [run for run in found.runs if not found.failures_of(run) and is_clear(run)]
    return len(good), len(found.runs)


def is_clear(run: Run) -> bool:
    return run.sum.agrees and not run.observation.notes


def _label(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _text(text: str) -> str:
    """XML has no control characters, not even escaped ones."""
    return text.translate(UNPRINTABLE)
