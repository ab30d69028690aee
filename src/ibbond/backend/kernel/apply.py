"""Carries out a plan on the live host: every value written is read back, and a failure puts back what was there.

Read first: plan.py. An error names the file, what was wanted, what was found, and the driver's log line. Left
out: what to do (the plan decides).
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NoReturn, assert_never

from ibbond.abi.bond_attributes import change_bond, change_member
from ibbond.backend.kernel.files import CLASS_NET, HostFiles
from ibbond.backend.kernel.log import KernelLog, about
from ibbond.backend.kernel.plan import (
    MASTERS,
    AddRoute,
    LoadDriver,
    Plan,
    SetAddress,
    SetAdmin,
    SetAttribute,
    Step,
    Write,
    reconcile,
)
from ibbond.backend.kernel.refusals import differs, explain
from ibbond.backend.kernel.state import HostState, capture, netlink_texts, option_word
from ibbond.bonding.option import Kind
from ibbond.bonding.options import OPTIONS
from ibbond.errors import Refused
from ibbond.host.rtnetlink import NEWLINK, RouteSocket

ROUNDS = 4  # releasing a member sets it down, which only the next look shows
SETTLE_SECONDS = 0.5  # an active member may be chosen by the monitor's next run
LONGEST_SETTLE_SECONDS = 30.0


@dataclass(slots=True)
class Done:
    """What was carried out. `skipped` are steps whose file read as wanted before."""

    steps: list[Step] = field(default_factory=list)
    skipped: list[Step] = field(default_factory=list)


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM and SIGHUP end what is under way as Ctrl-C does, by an exception, so that it can be put back."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: object) -> NoReturn:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Executor:
    """Steps on one live host."""

    def __init__(self, files: HostFiles, routes: RouteSocket) -> None:
        self.files = files
        self.routes = routes

    def apply(self, plan: Plan, watch: Callable[[Step], None] = lambda step: None) -> Done:
        """Carry out a plan, or leave the host as it was. `watch` is called before each step.

        Refused when a step fails: its text says which one, why, and whether everything was put back. Any other
        exception, Ctrl-C and SIGTERM too, puts back as well and goes on its way.
        """
        with self.files.alone():
            return self._apply(plan, watch)

    def _apply(self, plan: Plan, watch: Callable[[Step], None]) -> Done:
        done = Done()
        log = KernelLog()
        try:
            with terminable():
                self._carry_out(plan, done, log, watch)
        except Refused as refusal:
            outcome = self.put_back(plan, done)
            raise Refused(
                refusal.what, why=refusal.why, fix=f"{outcome}. {refusal.fix}", code=refusal.code
            ) from refusal
        except BaseException:
            self.put_back(plan, done)
            raise
        finally:
            log.close()
        return done

    def _carry_out(self, plan: Plan, done: Done, log: KernelLog, watch: Callable[[Step], None]) -> None:
        for step in plan.steps:
            watch(step)
            if isinstance(step, Write) and self._reads_as_wanted(step):
                done.skipped.append(step)
                continue
            self.execute(step, log)
            done.steps.append(step)
        self._verify(plan, log)

    def execute(self, step: Step, log: KernelLog) -> None:
        """One step, read back. Raises Refused."""
        match step:
            case Write():
                self._write(step, log)
            case SetAdmin(device, up):
                self.set_admin(device, up)
            case SetAddress(device, address, add):
                self.set_address(device, address, add)
            case AddRoute(device, route):
                destination = ipaddress.ip_network(route.destination)
                gateway = ipaddress.ip_address(route.gateway).packed if route.gateway else b""
                self._ask(
                    f"add the route to {route.destination} over {device}",
                    lambda: self.routes.add_route(
                        destination.network_address.packed,
                        destination.prefixlen,
                        gateway=gateway,
                        index=self._index(device),
                        metric=route.metric,
                    ),
                )
            case SetAttribute():
                self._set_attribute(step)
            case LoadDriver():
                self._load_driver()
            case _:
                assert_never(step)

    def put_back(self, plan: Plan, done: Done) -> str:
        """Make what the plan names as it was before; says how far that went."""
        if not done.steps and not reconcile(self._look(plan), plan.before):
            return "Nothing was changed"
        failures = self._restore(plan)
        if any(step.startswith("write") and "/mtu" in step for step in failures):
            # A refused first member turns the bond into an Ethernet device whose largest MTU stays 1500: make it anew.
            for bond in plan.before.bonds:
                self._attempt(Write(MASTERS, f"-{bond}", lacks=bond), failures)
            failures = self._restore(plan)
        now = self._look(plan)
        left = [str(step) for step in reconcile(now, plan.before)]
        gone = [name for name in plan.before.devices if name not in now.devices]
        if not left and not gone:
            return "Everything was put back as it was"
        parts = [f"{step} ({failures[step]})" if step in failures else step for step in left]
        parts += [f"{name} is no longer there" for name in gone]
        return "It could not all be put back: " + "; ".join(parts)

    def _restore(self, plan: Plan) -> dict[str, str]:
        """Steps towards what was there until none is left or none helps; those that failed last, and why."""
        failures: dict[str, str] = {}
        for _ in range(ROUNDS):
            steps = reconcile(self._look(plan), plan.before)
            failures = {}
            for step in steps:
                self._attempt(step, failures)
            if not steps:
                break
        return failures

    def _attempt(self, step: Step, failures: dict[str, str]) -> None:
        log = KernelLog()
        try:
            self.execute(step, log)
        except Refused as refusal:
            failures.setdefault(str(step), refusal.why)
        finally:
            log.close()

    def _look(self, plan: Plan) -> HostState:
        bonds = {**plan.before.bonds, **plan.after.bonds}
        return capture(self.files, self.routes, bonds, plan.before.devices)

    def _verify(self, plan: Plan, log: KernelLog) -> None:
        """Options written early may have been changed by what came later (fail_over_mac by an InfiniBand member)."""
        for step in plan.steps:
            if isinstance(step, Write) and step.equals is not None and not self._reads_as_wanted(step):
                found = self._value(step.path)
                raise differs(self._name(step.path), step.text, step.equals, found, about(log.fresh(), _names(step)))

    def _write(self, step: Write, log: KernelLog) -> None:
        log.fresh()
        name = self._name(step.path)
        until = time.monotonic()
        if step.path.endswith("/bonding/active_slave"):
            until += SETTLE_SECONDS
            self._await_link(step.path.split("/")[0], step.text.strip())
            if self._reads_as_wanted(step):
                return
        try:
            self.files.write(f"{CLASS_NET}/{step.path}", step.text)
        except OSError as error:
            lines = about(log.fresh(), _names(step))
            raise explain(name, step.text, error.errno or 0, lines) from None
        while not self._reads_as_wanted(step):
            if time.monotonic() >= until:
                wanted = step.equals if step.equals is not None else step.has or f"no {step.lacks}"
                raise differs(name, step.text, wanted, self._value(step.path), about(log.fresh(), _names(step)))
            time.sleep(0.01)

    def _await_link(self, bond: str, member: str) -> None:
        """A member that has just joined is used when the monitor's next runs have passed its updelay."""
        base = f"{CLASS_NET}/{bond}/bonding"
        delays = [self.files.number(f"{base}/{option}") or 0 for option in ("updelay", "miimon", "miimon")]
        until = time.monotonic() + min(SETTLE_SECONDS + sum(delays) / 1000, LONGEST_SETTLE_SECONDS)
        link = f"{CLASS_NET}/{member}/bonding_slave/mii_status"
        while time.monotonic() < until:
            if self.files.text(link) in ("up", None) and self.files.text(f"{base}/active_slave"):
                return
            time.sleep(0.01)

    def _reads_as_wanted(self, step: Write) -> bool:
        found = self.files.text(f"{CLASS_NET}/{step.path}")
        if step.equals is not None:
            return found is not None and option_word(step.path.rpartition("/")[2], found) == step.equals
        words = (found or "").split()
        return (not step.has or step.has in words) and step.lacks not in words

    def _value(self, path: str) -> str:
        found = self.files.text(f"{CLASS_NET}/{path}")
        return "(no such file)" if found is None else option_word(path.rpartition("/")[2], found)

    def set_admin(self, device: str, up: bool) -> None:
        what = f"set {device} {'up' if up else 'down'}"
        self._ask(what, lambda: self.routes.set_up(self._index(device), up))
        if self.files.is_up(device) != up:
            raise differs(f"{self._name(device)}/flags", what, "up" if up else "down", "down" if up else "up", [])

    def set_address(self, device: str, address: str, add: bool) -> None:
        interface = ipaddress.ip_interface(address)
        change = self.routes.add_address if add else self.routes.delete_address
        self._ask(
            f"{'add' if add else 'delete'} address {address} on {device}",
            lambda: change(self._index(device), interface.ip.packed, interface.network.prefixlen),
        )

    def _set_attribute(self, step: SetAttribute) -> None:
        """An option without a file, by rtnetlink."""
        option = OPTIONS[step.option]
        if option.of_member:
            member, _, number = step.value.rpartition(":")
            body = change_member(self._index(member), {step.option: int(number)})
        elif option.kind is Kind.TARGETS6:
            targets = tuple(ipaddress.IPv6Address(word).packed for word in step.value.split())
            body = change_bond(self._index(step.bond), {step.option: targets})
        else:
            body = change_bond(self._index(step.bond), {step.option: int(step.value)})
        self._ask(str(step), lambda: self.routes.request(NEWLINK, 0, body))
        found = netlink_texts(self.files, self.routes, step.bond).get(step.option, "")
        if step.value not in found.split() if option.of_member else step.value != found:
            raise differs(f"{step.option} of {step.bond} (rtnetlink)", step.value, step.value, found, [])

    def _ask(self, what: str, request: Callable[[], object]) -> None:
        """A request to rtnetlink."""
        log = KernelLog()
        try:
            request()
        except OSError as error:
            code = error.errno or 0
            lines = about(log.fresh(), ())
            logged = f"; the kernel logged: {lines[-1]}" if lines else ""
            raise Refused(
                f"cannot {what}",
                why=f"the kernel answered {os.strerror(code)}{logged}",
                fix="See ip link and ip addr" if os.geteuid() == 0 else "Run as root",
                code=code,
            ) from None
        finally:
            log.close()

    def _index(self, device: str) -> int:
        found = self.files.number(f"{CLASS_NET}/{device}/ifindex")
        if found is None:
            raise Refused(f"cannot use {device}", why="there is no such device", fix="See ip link", code=19)
        return found

    def _load_driver(self) -> None:
        import subprocess

        command = ["modprobe", "bonding", "max_bonds=0"]
        try:
            result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            problem = result.stderr.strip() if result.returncode else ""
        except (OSError, subprocess.TimeoutExpired) as error:
            problem = str(error)
        if problem or not self.files.exists(f"{CLASS_NET}/bonding_masters"):
            raise Refused(
                "cannot load the bonding driver",
                why=problem or "modprobe succeeded, but /sys/class/net/bonding_masters is not there",
                fix="Install the modules of the running kernel, or use a kernel that has CONFIG_BONDING",
            )

    def _name(self, path: str) -> str:
        return self.files.name(f"{CLASS_NET}/{path}")


def _names(step: Write) -> list[str]:
    """The devices that a write is about: the bond, and the member that it adds or removes."""
    return [step.path.split("/")[0], step.text.strip().lstrip("+-").split(":")[0]]
