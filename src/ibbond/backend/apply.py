"""Carries out a request: plan, steps with read-back, and the way back when a step fails or the process is killed.

Read first: requests.py, plan.py. All of it happens while no other ibbond changes these bonds (`Backend.alone`), so that
a plan is still true when it is carried out. An error names the file, what was wanted, what was found, and the driver's
log line. Left out: what to do (the plan decides), how (the backend does).
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import assert_never

from ibbond.backend.contract import Backend, number, text
from ibbond.backend.plan import (
    MASTERS,
    AddIp,
    DeleteIp,
    DropChild,
    LoadDriver,
    MakeChild,
    Plan,
    SetAdmin,
    Step,
    Write,
    reconcile,
)
from ibbond.backend.requests import Request
from ibbond.backend.state import Child, HostState, capture, option_word
from ibbond.errors import Refused
from ibbond.host.ip_settings import IpAddress
from ibbond.host.signals import first_signal_raises, fork

ROUNDS = 4  # releasing a member sets it down, which only the next look shows
SETTLE_SECONDS = 0.5  # an active member may be chosen by the monitor's next run
MAX_SETTLE_SECONDS = 30.0
POLL_SECONDS = 0.01


@dataclass(slots=True)
class Done:
    """What was carried out. `skipped` are steps whose file read as wanted before; `notes` what else changed."""

    steps: list[Step] = field(default_factory=list)
    skipped: list[Step] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def change(
    host: Backend,
    request: Request,
    *,
    dry_run: bool = False,
    watch: Callable[[Step], None] = lambda step: None,
    report: Callable[[Plan, Done], None] = lambda plan, done: None,
) -> tuple[Plan, Done]:
    """Make the plan of a request and carry it out, or leave the host unchanged. `watch` is called before each step.

    Refused when the request cannot be, or a step fails: its text says which one, why, and whether everything was put
    back. Any other exception, Ctrl-C and SIGTERM too, puts back as well and has a note that says so. Once everything is
    done no signal keeps `report` from being called.
    """
    with first_signal_raises() as too_late:
        try:
            with host.alone():
                plan = request(host)
                executor = Executor(host, plan)
                if plan.steps and not dry_run:
                    executor.run(watch, too_late)
                too_late()
                report(plan, executor.done)
                return plan, executor.done
        except (KeyboardInterrupt, SystemExit) as end:
            if not getattr(end, "__notes__", ()):
                end.add_note("Nothing was changed")
            raise


class Executor:
    """One plan on one host."""

    def __init__(self, host: Backend, plan: Plan) -> None:
        self.host = host
        self.plan = plan
        self.done = Done()
        self._refused: Write | None = None  # a write that succeeded but was not kept

    def run(self, watch: Callable[[Step], None], too_late: Callable[[], None]) -> None:
        """Carry the plan out; see `change`."""
        with undone_if_killed(self):
            try:
                self._carry_out(watch)
            except Refused as refusal:
                too_late()
                outcome = self.put_back()
                fix = f"{outcome}. {refusal.fix}"
                raise Refused(refusal.what, why=refusal.why, fix=fix, code=refusal.code) from refusal
            except BaseException as end:
                too_late()
                end.add_note(self.put_back())
                raise

    def _carry_out(self, watch: Callable[[Step], None]) -> None:
        self.host.new_log_lines()
        for step in self.plan.steps:
            watch(step)
            if isinstance(step, Write) and self._reads_as_wanted(step):
                self.done.skipped.append(step)
                continue
            self._execute(step)
            self.done.steps.append(step)
        self._verify()

    def _execute(self, step: Step) -> None:
        """One step, read back. Raises Refused."""
        match step:
            case Write():
                self._write(step)
            case SetAdmin(device, up):
                self.host.set_admin(device, up)
                if bool((number(self.host, f"{device}/flags") or 0) & 1) != up:
                    states = ("down", "up")
                    raise did_not_hold(
                        f"{device}/flags", str(step), states[up], states[not up], self.host.new_log_lines()
                    )
            case AddIp(setting):
                if isinstance(setting, IpAddress) and setting.is_new:
                    self._must_be_unused(setting)
                self.host.add_ip(setting)
            case DeleteIp(setting):
                self.host.delete_ip(setting)
            case LoadDriver():
                self.host.load_driver()
            case MakeChild(child):
                self._write_child(step, child, "create_child", there=True)
            case DropChild(child):
                self._write_child(step, child, "delete_child", there=False)
            case _:
                assert_never(step)

    def _must_be_unused(self, address: IpAddress) -> None:
        """Refuse an IPv4 address that another host answers for; of IPv6 the kernel finds out itself."""
        before = [each.local for each in self.plan.before.ip if isinstance(each, IpAddress)]
        if len(address.local) != 4 or address.local in before or not self._has_carrier(address.device):
            return
        owner = self.host.owner_of(address.device, address.local)
        if owner is not None:
            text = address.text.partition("/")[0]
            raise Refused(
                f"cannot {AddIp(address)}",
                why=f"another host has {text}: it answers from {owner.hex(':')}",
                fix=f"Use another address, or find that host; ip address add {address.text} dev {address.device}"
                " adds it anyway",
                code=errno.EADDRINUSE,
            )

    def _has_carrier(self, device: str) -> bool:
        """A bond that has just come up has it when its monitor has run."""
        until = time.monotonic() + SETTLE_SECONDS
        while not (carrier := number(self.host, f"{device}/carrier")) and time.monotonic() < until:
            time.sleep(POLL_SECONDS)
        return bool(carrier)

    def _write_child(self, step: Step, child: Child, file: str, *, there: bool) -> None:
        path = f"{child.parent}/{file}"
        self.host.write(path, f"{child.pkey:#06x}")
        until = time.monotonic() + SETTLE_SECONDS
        while (number(self.host, f"{child.name}/flags") is not None) != there:
            if time.monotonic() > until:
                raise Refused(
                    f"cannot {step}", why="the kernel did not keep it", fix=f"See ip link show {child.parent}"
                )
            time.sleep(POLL_SECONDS)

    def put_back(self) -> str:
        """Restore what the plan changed; says how far that went."""
        try:
            return self._put_back(self.plan.before)
        except Refused as refusal:
            return f"The previous state could not be restored: {refusal}"

    def _put_back(self, before: HostState) -> str:
        if self._refused is not None:
            self._write_old_value(self._refused)
        elif not self.done.steps and not reconcile(self.look(), before):
            return "Nothing was changed"
        failures = self._restore()
        if any(step.startswith("write") and "/mtu" in step for step in failures):
            # A refused first member turns the bond into an Ethernet device with a largest MTU of 1500: make it again.
            for bond in before.bonds:
                self._attempt(Write(MASTERS, f"-{bond}", lacks=bond), failures)
            failures = self._restore()
        now = self.look()
        left = [str(step) for step in reconcile(now, before)]
        gone = [name for name in before.devices if name not in now.devices]
        if not left and not gone:
            return "Everything was restored"
        parts = [f"{step} ({failures[step]})" if step in failures else step for step in left]
        parts += [f"{name} is no longer there" for name in gone]
        return "Not everything could be restored: " + "; ".join(parts)

    def _write_old_value(self, step: Write) -> None:
        """What a driver keeps of a value that it does not show goes only when the old one is written."""
        bond = self.plan.before.bonds.get(step.path.partition("/")[0])
        old = bond.options.get(step.option) if bond is not None else None
        if old is not None:
            with contextlib.suppress(Refused):
                self.host.write(step.path, old or "\n")

    def _restore(self) -> dict[str, str]:
        """Steps towards what was there until none is left or none helps; those that failed last, and why."""
        failures: dict[str, str] = {}
        for _ in range(ROUNDS):
            steps = reconcile(self.look(), self.plan.before)
            failures = {}
            for step in steps:
                self._attempt(step, failures)
            if not steps:
                break
        return failures

    def _attempt(self, step: Step, failures: dict[str, str]) -> None:
        try:
            self._execute(step)
        except Refused as refusal:
            failures.setdefault(str(step), refusal.why)

    def look(self) -> HostState:
        bonds = {**self.plan.before.bonds, **self.plan.after.bonds}
        devices = {**self.plan.before.devices, **self.plan.after.devices}
        children = dict.fromkeys((*self.plan.before.children, *self.plan.after.children))
        return capture(self.host, bonds, devices, children)

    def _verify(self) -> None:
        """What was done early may have been changed by what came later (fail_over_mac by an InfiniBand member)."""
        for step in self.plan.steps:
            if isinstance(step, Write) and step.equals is not None and not self._reads_as_wanted(step):
                raise self._did_not_hold(step)
        now = self.look()
        for step in self.plan.steps:
            if isinstance(step, AddIp) and step.setting not in now.ip and not _is_link_local(step):
                raise Refused(
                    f"cannot {step}",
                    why="the kernel did not keep it",
                    fix="See ip address and ip route",
                    code=errno.EIO,
                )
        for name, bond in self.plan.after.bonds.items():
            for option, value in now.bonds[name].options.items():
                if value != bond.options.get(option, value) and option not in ("queue_id", "prio"):
                    self.done.notes.append(f"{option} is {value or 'empty'} now: the driver changed it")
            primary = now.bonds[name].options.get("primary")
            if primary and not bond.options.get("primary"):
                self.done.notes.append(f"{primary} is the primary: the driver had remembered that")

    def _write(self, step: Write) -> None:
        until = time.monotonic()
        if step.option == "active_slave":
            until += SETTLE_SECONDS
            self._await_link(step.path.split("/")[0], step.text.strip())
            if self._reads_as_wanted(step):
                return
        self.host.write(step.path, step.text)
        while not self._reads_as_wanted(step):
            if time.monotonic() >= until:
                self._refused = step
                raise self._did_not_hold(step)
            time.sleep(POLL_SECONDS)

    def _did_not_hold(self, step: Write) -> Refused:
        wanted = step.equals if step.equals is not None else step.has or f"no {step.lacks}"
        found = self._value(step.path)
        shown = "(no such file)" if found is None else found
        return did_not_hold(step.path, step.text, wanted, shown, self.host.new_log_lines(), step.option)

    def _await_link(self, bond: str, member: str) -> None:
        """A member that has just joined is used when the monitor's next runs have passed its updelay."""
        base = f"{bond}/bonding"
        delays = [number(self.host, f"{base}/{option}") or 0 for option in ("updelay", "miimon", "miimon")]
        until = time.monotonic() + min(SETTLE_SECONDS + sum(delays) / 1000, MAX_SETTLE_SECONDS)
        while time.monotonic() < until:
            link = text(self.host, f"{member}/bonding_slave/mii_status")
            if link in ("up", None) and text(self.host, f"{base}/active_slave"):
                return
            time.sleep(POLL_SECONDS)

    def _reads_as_wanted(self, step: Write) -> bool:
        found = self._value(step.path)
        if step.equals is not None:
            return found == step.equals
        words = (found or "").split()
        return (not step.has or step.has in words) and step.lacks not in words

    def _value(self, path: str) -> str | None:
        found = text(self.host, path)
        return None if found is None else option_word(path.rpartition("/")[2], found)


@contextlib.contextmanager
def undone_if_killed(executor: Executor) -> Iterator[None]:
    """If this process ends inside the block without a word (kill -9), a child that is forked here puts back."""
    reader, writer = os.pipe()
    child = fork(signal.SIG_IGN)
    if child == 0:
        try:
            os.setsid()
            os.close(writer)
            if not os.read(reader, 1):
                _put_back_for_the_dead(executor)
        finally:
            os._exit(0)
    os.close(reader)
    try:
        yield
    finally:
        with contextlib.suppress(BrokenPipeError):
            os.write(writer, b".")
        os.close(writer)
        os.waitpid(child, 0)


def _put_back_for_the_dead(executor: Executor) -> None:
    """Over connections of its own: answers to the dead process may still be on its."""
    again = Executor(executor.host.reconnect(), executor.plan)
    again.done.steps = list(executor.plan.steps)  # how far it came is not known
    outcome = again.put_back()
    with contextlib.suppress(OSError):
        os.write(2, f"ibbond: killed in the middle of: {executor.plan.title}. {outcome}.\n".encode())


def did_not_hold(path: str, asked: str, wanted: str, found: str, log: list[str], option: str = "") -> Refused:
    """What succeeded, yet is not there afterwards. Of the log, the line that names the option is the most useful."""
    why = f"it should read {wanted!r} and reads {found!r}"
    if log:
        why += f"; the driver logged: {next((line for line in reversed(log) if option and option in line), log[-1])}"
    return Refused(
        f"wrote {asked!r} to /sys/class/net/{path}, but the driver did not keep it",
        why=why,
        fix="Ask for a value that the driver keeps: ibbond options",
        code=errno.EIO,
    )


def _is_link_local(step: AddIp) -> bool:
    return isinstance(step.setting, IpAddress) and step.setting.local[:2] == b"\xfe\x80"
