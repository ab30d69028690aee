"""`ibbond lab doctor`: what this machine gives a lab, and how to get the rest."""

from __future__ import annotations

import click

from ibbond.cli.output import json_option, print_json, state, table


@click.command()
@json_option
def doctor(as_json: bool) -> int:
    """Check what labs need on this machine and how to get what is missing: devices, namespaces, users, priority, tools.

    Exit status: 0 if labs can run, else 1. Changes nothing.
    """
    from dataclasses import asdict

    from ibbond.lab.doctor import can_run, examine

    findings = examine()
    able = can_run(findings)
    if as_json:
        print_json({"able": able, "findings": [asdict(finding) for finding in findings]})
    else:
        rows = [(finding.name, state(finding.state), finding.found) for finding in findings]
        lines = table(rows).splitlines()
        for line, finding in zip(lines, findings, strict=True):
            click.echo(line)
            if finding.means:
                click.echo(f"    {finding.means}. {finding.fix}.")
    return 0 if able else 1
