"""What `ibbond bond create|delete|add|remove|set|switch` do to this host's own bonds: plan, show or carry out, report.

Read first: backend/kernel/requests.py for what is planned, cli/bond.py for the words. `--dry-run` prints the plan, one
line a step, and which steps interrupt traffic. Left out: lab hosts, whose driver is asked directly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from ibbond.backend.kernel import requests as ask
from ibbond.backend.kernel.bonds import KernelBackend
from ibbond.cli.output import print_json

if TYPE_CHECKING:
    from ibbond.backend.kernel.plan import Plan


def create(
    host: KernelBackend,
    bond: str,
    members: tuple[str, ...],
    options: Mapping[str, str],
    addresses: tuple[str, ...],
    mtu: int | None,
    how: How,
) -> None:
    mtu = mtu or ask.members_mtu(host, members)
    how.carry_out(host, ask.create(host, bond, members, options, addresses=addresses, mtu=mtu, interrupt=how.interrupt))


def delete(host: KernelBackend, bond: str, how: How) -> None:
    how.carry_out(host, ask.delete(host, bond))


def add(host: KernelBackend, bond: str, members: tuple[str, ...], how: How) -> None:
    how.carry_out(host, ask.add(host, bond, members))


def remove(host: KernelBackend, bond: str, members: tuple[str, ...], how: How) -> None:
    how.carry_out(host, ask.remove(host, bond, members))


def set_(host: KernelBackend, bond: str, options: Mapping[str, str], how: How) -> None:
    how.carry_out(host, ask.set_options(host, bond, options, interrupt=how.interrupt))


def switch(host: KernelBackend, bond: str, member: str, how: How) -> None:
    how.carry_out(host, ask.switch(host, bond, member))


class How:
    """How a plan is carried out, from the options of the command line."""

    def __init__(self, dry_run: bool, interrupt: bool, as_json: bool) -> None:
        self.dry_run = dry_run
        self.interrupt = interrupt
        self.as_json = as_json

    def carry_out(self, host: KernelBackend, plan: Plan) -> None:
        """Print the plan, or do it and say what was done. Refused, with everything put back, when a step fails."""
        steps = [{"step": str(step), "interrupts": step.interrupts or None} for step in plan.steps]
        changed = bool(plan.steps)
        if changed and not self.dry_run:
            changed = bool(host.apply(plan).steps)
        if self.as_json:
            print_json({"plan": plan.title, "dry_run": self.dry_run, "changed": changed, "steps": steps})
        elif not changed:
            click.echo(f"{plan.title}: nothing to do, it is so already")
        elif self.dry_run:
            click.echo("\n".join(plan.lines()))
        else:
            count = len(plan.steps)
            click.echo(f"{plan.title}: done, {count} step{'' if count == 1 else 's'}, each read back")
