"""The journal of an apply that is in flight or not confirmed yet: what was there before, so that it can be taken back.

One file in /run, which a reboot empties: the host then comes up with what its boot configuration says. Read first:
apply.py, whose child takes back after kill -9 of the command alone; this is for the rest (the child was killed too,
no one confirmed). Written to a new file and renamed, so it is there whole or not at all.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from ibbond.backend.apply import Executor
from ibbond.backend.contract import Backend
from ibbond.backend.plan import Plan, reconcile
from ibbond.backend.state import BondState, Child, DeviceState, HostState
from ibbond.errors import Refused
from ibbond.host.ip_settings import KINDS

FOLDER = Path(os.environ.get("IBBOND_RUN_DIR") or "/run/ibbond")
VERSION = 1


@dataclass(frozen=True, slots=True)
class Entry:
    """An apply: its title, what was there before and what it was to become; `confirmed`: nothing waits for a word."""

    title: str
    before: HostState
    after: HostState
    token: str = field(default_factory=lambda: secrets.token_hex(6))
    unit: str = ""  # the systemd timer that takes it back
    process: int = 0  # or the process


def path(where: str) -> Path:
    """`where` is the backend's: empty for this host, else a lab host's name."""
    return FOLDER / (f"apply-{where}.json" if where else "apply.json")


def load(where: str) -> Entry | None:
    """The entry that is there; Refused for a file that is not one."""
    try:
        data = path(where).read_bytes()
    except FileNotFoundError:
        return None
    try:
        found = msgspec.json.decode(data)
        if found["version"] != VERSION:
            raise ValueError(f"version {found['version']}")
        states = {key: _state(found[key]) for key in ("before", "after")}
        return Entry(found["title"], **states, token=found["token"], unit=found["unit"], process=found["process"])
    except (ValueError, KeyError, TypeError, msgspec.MsgspecError) as error:
        raise Refused(
            f"cannot read {path(where)}", why=f"it is not ibbond's journal: {error}", fix="Look at it, then delete it"
        ) from None


def save(where: str, entry: Entry) -> None:
    FOLDER.mkdir(mode=0o700, parents=True, exist_ok=True)
    states = {key: _plain(getattr(entry, key)) for key in ("before", "after")}
    known = {"version": VERSION, "title": entry.title, "token": entry.token}
    data = msgspec.json.encode({**known, "unit": entry.unit, "process": entry.process, **states})
    new = path(where).with_suffix(f".{os.getpid()}")
    with new.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path(where))


def clear(where: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        path(where).unlink()


def continued(old: Entry | None, plan: Plan) -> HostState:
    """What was there before an apply that follows one that was not confirmed: before both of them."""
    new = plan.before
    if old is None:
        return new
    covered = {*old.before.bonds, *old.after.bonds, *old.before.devices, *old.after.devices}
    bonds = {name: bond for name, bond in new.bonds.items() if name not in covered}
    devices = {name: device for name, device in new.devices.items() if name not in covered}
    children = tuple(child for child in new.children if child not in old.after.children)
    ip = tuple(each for each in new.ip if not covered & set(each.devices))
    return HostState(
        bonds | old.before.bonds, devices | old.before.devices, (*old.before.ip, *ip), old.before.children + children
    )


def combined(old: Entry | None, plan: Plan) -> HostState:
    """What the undo must look at, of both."""
    if old is None:
        return plan.after
    after = plan.after
    children = tuple(dict.fromkeys((*old.after.children, *after.children)))
    return HostState(old.after.bonds | after.bonds, old.after.devices | after.devices, after.ip, children)


def is_undone(host: Backend, entry: Entry) -> bool:
    """Whether the host is as it was before."""
    return not reconcile(Executor(host, Plan(entry.title, (), entry.before, entry.after)).look(), entry.before)


def undo(host: Backend, entry: Entry) -> str:
    """Put back what was there before; says how far that went. Refused when it was not all put back."""
    with host.alone():
        executor = Executor(host, Plan(entry.title, (), entry.before, entry.after))
        outcome = executor.put_back()
    if not is_undone(host, entry):
        raise Refused(
            f"cannot undo: {entry.title}", why=outcome, fix="Do the rest by hand, then ibbond apply --confirm"
        )
    clear(host.where)
    return outcome


def _plain(state: HostState) -> dict[str, Any]:
    ip = [(type(each).__name__, msgspec.to_builtins(each)) for each in state.ip]
    bonds = {name: msgspec.to_builtins(bond) for name, bond in state.bonds.items()}
    devices = {name: msgspec.to_builtins(device) for name, device in state.devices.items()}
    return {"bonds": bonds, "devices": devices, "ip": ip, "children": msgspec.to_builtins(state.children)}


def _state(found: dict[str, Any]) -> HostState:
    return HostState(
        msgspec.convert(found["bonds"], dict[str, BondState]),
        msgspec.convert(found["devices"], dict[str, DeviceState]),
        tuple(msgspec.convert(value, KINDS[kind]) for kind, value in found["ip"]),
        msgspec.convert(found["children"], tuple[Child, ...]),
    )
