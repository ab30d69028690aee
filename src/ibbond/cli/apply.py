"""`ibbond apply`: make this host's bonds what bonds.toml says, and take it back unless it is confirmed.

Read first: backend/converge.py, backend/journal.py, docs/configuration.md. What `check` calls an error in the file is
refused, and so is a host whose devices another manager has. Left out: files of other tools (cli/config.py).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ibbond.cli.config import BONDS_TOML, load, sentence
from ibbond.cli.output import json_option, print_json
from ibbond.errors import Refused

if TYPE_CHECKING:
    from ibbond.backend.apply import Done
    from ibbond.backend.contract import Backend
    from ibbond.backend.journal import Entry
    from ibbond.backend.plan import Plan
    from ibbond.config.desired import Desired

SYSTEMD = Path("/run/systemd/system")
POLL_SECONDS = 0.2
MAX_SECONDS = 7 * 24 * 3600


@click.command()
@click.argument("file", default=BONDS_TOML, type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Only print the plan: its steps, what interrupts traffic, what is lost.")
@click.option("--interrupt", is_flag=True, help="Allow steps that briefly take a bond down or remove its members.")
@click.option("--force", is_flag=True, help="Go on despite errors in FILE, or devices that another tool manages.")
@click.option(
    "--wait",
    "wait_seconds",
    type=click.FloatRange(0, MAX_SECONDS),
    default=0.0,
    metavar="SECONDS",
    help="How long to wait for devices that do not exist yet.",
)
@click.option(
    "--confirm-within",
    type=click.IntRange(1, MAX_SECONDS),
    metavar="SECONDS",
    help="Undo everything after this time, unless `ibbond apply --confirm` is run first.",
)
@click.option("--confirm", is_flag=True, help="Keep what the last apply did.")
@click.option("--undo", is_flag=True, help="Undo an apply that was not confirmed, or was interrupted.")
@click.option("--token", default="", hidden=True)
@click.option("--after", default=0.0, hidden=True)
@json_option
def apply(
    file: Path,
    dry_run: bool,
    interrupt: bool,
    force: bool,
    wait_seconds: float,
    confirm_within: int | None,
    confirm: bool,
    undo: bool,
    token: str,
    after: float,
    as_json: bool,
) -> None:
    """Make the bonds of this host what FILE says (default /etc/ibbond/bonds.toml).

    Changes only what differs, reads back each step, and restores the previous state if one fails. FILE may also be in
    another format, such as the openib.conf of 2007.
    """
    host = this_host()
    if confirm or undo:
        if confirm and undo:
            raise Refused("cannot both confirm and undo", why="--confirm and --undo exclude each other", fix="Use one")
        (confirm_last if confirm else partial(undo_last, token=token, after=after))(host, as_json)
        return
    desired = load([file], "bonds.toml" if file.suffix == ".toml" else "").desired
    refuse_errors(desired, force)
    Apply(host, desired, file, interrupt, force, confirm_within).run(dry_run, wait_seconds, as_json)


def this_host() -> Backend:
    """This host's bonds, or inside `lab exec` those of the lab host."""
    from ibbond.cli.addr import backend_of, parse_host

    return backend_of(parse_host("", ""), "")


def refuse_errors(desired: Desired, force: bool) -> None:
    """What `check` calls an error is not applied."""
    from ibbond.config.traps import traps
    from ibbond.ops.check import RULES
    from ibbond.ops.rule import Severity

    for problem in traps(desired):
        if RULES[problem.kind].severity is Severity.ERROR and not force:
            why = f"{RULES[problem.kind].why} [{problem.kind}]"
            raise Refused(sentence(problem), why=why, fix=f"{problem.fix}, or use --force")


class Apply:
    """One run of the command."""

    def __init__(
        self, host: Backend, desired: Desired, file: Path, interrupt: bool, force: bool, confirm_within: int | None
    ) -> None:
        from ibbond.backend import journal

        self.host, self.desired, self.file = host, desired, file
        self.interrupt, self.force, self.confirm_within = interrupt, force, confirm_within
        self.old = journal.load(host.where)
        self.entry: Entry | None = None

    def run(self, dry_run: bool, wait_seconds: float, as_json: bool) -> None:
        from ibbond.backend import journal
        from ibbond.backend.apply import change
        from ibbond.backend.converge import NotThere

        until = time.monotonic() + wait_seconds
        report = partial(self.report, dry_run=dry_run, as_json=as_json)
        while True:
            try:
                change(self.host, partial(self.request, dry_run=dry_run), dry_run=dry_run, report=report)
                return
            except NotThere:
                if time.monotonic() >= until:
                    raise
                time.sleep(POLL_SECONDS)
            except BaseException:
                if self.entry is not None and journal.is_undone(self.host, self.entry):
                    disarm(self.entry)
                    journal.clear(self.host.where)
                raise

    def request(self, host: Backend, *, dry_run: bool) -> Plan:
        from ibbond.backend import journal
        from ibbond.backend.converge import converge
        from ibbond.backend.journal import Entry

        plan = converge(host, self.desired, interrupt=self.interrupt)
        refuse_managed(plan, host, self.force)
        if plan.steps and not dry_run:
            if self.old is not None:
                disarm(self.old)
            entry = Entry(plan.title, journal.continued(self.old, plan), journal.combined(self.old, plan))
            journal.save(host.where, entry)
            self.entry = entry
            if self.confirm_within:
                self.entry = arm(host, entry, self.confirm_within)
        return plan

    def report(self, plan: Plan, done: Done, *, dry_run: bool, as_json: bool) -> None:
        from ibbond.backend import journal

        if not dry_run and not self.confirm_within:
            journal.clear(self.host.where)
        changed = bool(plan.steps if dry_run else done.steps)
        waits = self.confirm_within if changed and not dry_run else None
        if as_json:
            steps = [{"step": str(step), "interrupts": step.interrupts or None} for step in plan.steps]
            notes = [*plan.notes, *done.notes]
            result = {"plan": plan.title, "dry_run": dry_run, "changed": changed, "steps": steps}
            print_json({**result, "lost": plan.lost, "notes": notes, "confirm_within": waits})
        elif not changed:
            click.echo("\n".join([f"{plan.title}: nothing to do, it is so already", *plan.remarks()]))
        elif dry_run:
            click.echo("\n".join(plan.lines()))
        else:
            count = len(done.steps)
            text = f"{plan.title}: done, {count} step{'' if count == 1 else 's'}, each read back"
            click.echo("\n".join([text, *plan.remarks(), *(f"note: {note}" for note in done.notes)]))
            if waits:
                click.echo(f"Taken back in {waits} s unless you say: ibbond apply --confirm")


def refuse_managed(plan: Plan, host: Backend, force: bool) -> None:
    """Two managers of one device undo each other's work."""
    from ibbond.backend.contract import number
    from ibbond.ops.managers import managers

    if host.where or force or not plan.steps:
        return
    names: set[str] = set()
    for state in (plan.before, plan.after):  # a device that is released may be managed, too
        names |= {*state.bonds, *state.devices, *(child.parent for child in state.children)}
        names.update(member for bond in state.bonds.values() for member in bond.members)
    indices = {name: index for name in sorted(names) if (index := number(host, f"{name}/ifindex")) is not None}
    if found := managers(indices):
        tools = ", ".join(dict.fromkeys(each.tool for each in found))
        who = ", ".join(f"{each.device} ({each.tool})" for each in found)
        raise Refused(
            f"cannot {plan.title}",
            why=f"{tools} manages devices of it: {who}",
            fix=f"Hand them over: {'; '.join(dict.fromkeys(each.hand_over for each in found))}. Or use --force",
        )


def arm(host: Backend, entry: Entry, seconds: int) -> Entry:
    """A timer outside this process takes everything back: systemd's, else a process of its own session."""
    from dataclasses import replace

    from ibbond.backend import journal

    undo = [sys.executable, "-m", "ibbond", "apply", "--undo", "--token", entry.token]
    if SYSTEMD.is_dir() and shutil.which("systemd-run") and not host.where:
        unit = f"ibbond-undo-{entry.token}"
        command = ["systemd-run", "--quiet", "--collect", f"--unit={unit}", f"--on-active={seconds}", *undo]
        if subprocess.run(command, capture_output=True).returncode == 0:
            armed = replace(entry, unit=unit)
            journal.save(host.where, armed)
            return armed
    child = subprocess.Popen(
        [*undo, "--after", str(seconds)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd="/",
    )
    armed = replace(entry, process=child.pid)
    journal.save(host.where, armed)
    return armed


def disarm(entry: Entry) -> None:
    """End the timer of an entry; one that has fired finds another token and does nothing."""
    if entry.unit:
        subprocess.run(["systemctl", "stop", f"{entry.unit}.timer"], capture_output=True)
    if entry.process:
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{entry.process}/cmdline").read_bytes().split(b"\0")
            if entry.token.encode() in words:
                os.kill(entry.process, signal.SIGTERM)


def confirm_last(host: Backend, as_json: bool) -> None:
    from ibbond.backend import journal

    entry = last(host, "confirm")
    disarm(entry)
    journal.clear(host.where)
    say(as_json, f"{entry.title}: kept", {"plan": entry.title, "confirmed": True})


def undo_last(host: Backend, as_json: bool, *, token: str, after: float) -> None:
    """By hand, or by the timer that `arm` started, which names the apply that it is for."""
    from ibbond.backend import journal

    if token:
        time.sleep(after)
        entry = journal.load(host.where)
        if entry is None or entry.token != token:
            return  # it was confirmed, or another apply has followed
    else:
        entry = last(host, "undo")
        disarm(entry)
    outcome = journal.undo(host, entry)
    say(as_json, f"{entry.title}: {outcome[:1].lower()}{outcome[1:]}", {"plan": entry.title, "outcome": outcome})


def last(host: Backend, verb: str) -> Entry:
    from ibbond.backend import journal

    entry = journal.load(host.where)
    if entry is None:
        raise Refused(
            f"nothing to {verb}",
            why="no apply is running or waiting to be confirmed",
            fix="See the bonds with: ibbond bond list",
        )
    return entry


def say(as_json: bool, text: str, facts: dict[str, object]) -> None:
    if as_json:
        print_json(facts)
    else:
        click.echo(text)
