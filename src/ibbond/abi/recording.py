"""Recordings of the kernel's bonding driver: one case a line, each a world, its steps and what was seen.

Read first: tests/golden/kernel-6.1/README.md, which defines the format. Here a line becomes values, and a line that
does not keep the format becomes `Malformed` with the place where it does not. Left out: what the steps mean (the
simulator's world) and what counts as passed (the comparison); both are in `sim`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import msgspec

from ibbond.errors import Malformed

DEVICE_TYPES: Final = ("infiniband", "ether", "none", "infiniband-tap", "infiniband-tun")
REQUIRED: Final[dict[str, tuple[str, ...]]] = {
    "masters": ("value",),
    "masters_read": (),
    "write": ("path", "value"),
    "read": ("path",),
    "ls": ("path",),
    "enslave": ("slave",),
    "release": ("slave",),
    "up": ("dev",),
    "down": ("dev",),
    "carrier": ("dev", "on"),
    "wait_ms": ("ms",),
    "peer": ("ip", "on"),
    "join": ("group", "address"),
    "ip": ("args", "rc"),
    "link": ("dev", "expect"),
    "maddr": ("dev", "expect"),
    "proc": (),
}
"""Which fields a step of each operation must have; the operations are those of the format, there are no others."""

_NAMES: Final = ("path", "slave", "dev", "ip", "group", "address", "args")

Expected = None | str | list[str] | dict[str, object]


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """A device of the world: there before step 0, down, its cable plugged in unless `carrier` says otherwise."""

    type: str
    address: str | None = None
    mtu: int | None = None
    up: bool = False
    carrier: bool = True


@dataclass(frozen=True, slots=True)
class Step:
    """One operation and what it answered; `errno` is empty where it succeeded. `fuzzy`: True or names of keys."""

    op: str
    dev: str | None = None
    path: str = ""
    value: str | None = None
    slave: str = ""
    on: bool | None = None
    ms: float | None = None
    ip: str = ""
    args: str = ""
    group: str = ""
    address: str = ""
    errno: str = ""
    rc: int | None = None
    stderr: str = ""
    expect: Expected = None
    fuzzy: bool | tuple[str, ...] = False
    log: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The operation alone, as `write bonding/mode=1 (bond1)`."""
        words = [self.op]
        if self.path:
            words.append(self.path if self.value is None else f"{self.path}={self.value!r}")
        elif self.value is not None:
            words.append(repr(self.value))
        words += [text for text in (self.slave, self.ip, self.group, self.args and repr(self.args)) if text]
        if self.ms is not None:
            words.append(f"{self.ms:g}")
        if self.dev is not None:
            words.append(f"({self.dev})" if self.path or self.slave else self.dev)
        if self.on is not None:
            words.append("on" if self.on else "off")
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class Observed:
    """One line of what a monitor saw: `what` is log, state, rtnetlink or frame, `facts` the rest of the line."""

    t_ms: float
    what: str
    facts: dict[str, object]

    def text(self, key: str) -> str:
        """A fact as text; empty where there is none."""
        value = self.facts.get(key)
        return value if isinstance(value, str) else "" if value is None else str(value)


@dataclass(frozen=True, slots=True)
class Observations:
    """When each step began, and what the monitor saw, both in milliseconds on the recording machine's clock."""

    step_t_ms: tuple[float, ...] = ()
    events: tuple[dict[str, object], ...] = ()


@dataclass(frozen=True, slots=True)
class Recording:
    """One case: a world, what was done in it, and what the kernel's driver answered."""

    name: str
    steps: tuple[Step, ...]
    category: str = ""
    about: str = ""
    bond: str = "bond0"
    devices: dict[str, DeviceSpec] = field(default_factory=dict)
    peers: tuple[str, ...] = ()
    ipv6: bool = False
    monitor: bool = False
    observations: Observations = field(default_factory=Observations)
    kernel: str = ""

    @property
    def events(self) -> list[Observed]:
        """What the monitor saw, in the order of its clock."""
        rows = [
            Observed(
                float(str(row["t_ms"])),
                str(row["what"]),
                {key: value for key, value in row.items() if key not in ("t_ms", "what")},
            )
            for row in self.observations.events
        ]
        return sorted(rows, key=lambda row: row.t_ms)

    def device(self, step: Step) -> str:
        """The device that a step is about; the case's bond unless the step names one."""
        return step.dev or self.bond


def parse_case(line: bytes | str) -> Recording:
    """One line of a recording. Raises `Malformed` where it does not keep the format."""
    try:
        case = msgspec.json.decode(line, type=Recording)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"not a case of a recording: {error}") from None
    _check(case)
    return case


def parse_recording(text: bytes) -> list[Recording]:
    """All cases of one file, in its order. Raises `Malformed` naming the line; an empty file is malformed too."""
    cases = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            cases.append(parse_case(line))
        except Malformed as error:
            raise Malformed(f"line {number}: {error}") from None
    if not cases:
        raise Malformed("no case in it")
    return cases


def _check(case: Recording) -> None:
    for name, spec in case.devices.items():
        if spec.type not in DEVICE_TYPES:
            raise Malformed(
                f"{case.name}: device {name} has type {spec.type!r}, the known types are {', '.join(DEVICE_TYPES)}"
            )
    for number, step in enumerate(case.steps):
        required = REQUIRED.get(step.op)
        if required is None:
            raise Malformed(
                f"{case.name}: step {number} is {step.op!r}, the known operations are {', '.join(REQUIRED)}"
            )
        missing = [key for key in required if (value := getattr(step, key)) is None or (not value and key in _NAMES)]
        if missing:
            raise Malformed(f"{case.name}: step {number} ({step.op}) lacks {', '.join(missing)}")
        if step.op == "wait_ms" and not 0 <= (step.ms or 0) < float("inf"):
            raise Malformed(f"{case.name}: step {number} waits {step.ms} ms")
    times = case.observations.step_t_ms
    if case.monitor and len(times) != len(case.steps):
        raise Malformed(f"{case.name}: {len(case.steps)} steps, but {len(times)} of them have a time")
    for row in case.observations.events:
        if not isinstance(row.get("t_ms"), int | float) or not isinstance(row.get("what"), str):
            raise Malformed(f"{case.name}: an event without t_ms or what: {row}")
