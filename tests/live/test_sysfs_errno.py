"""What the real driver answered to file operations, held against real bash and FUSE in a lab host.

Read first: tests/golden/kernel-6.1/README.md. Of the recordings those are taken whose devices are InfiniBand and whose
steps are file operations, without waiting; each becomes one script. Compared are errnos as the shell reports them, and
what was read.
"""

import errno
import os
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from ibbond import Lab
from ibbond.abi.recording import Recording, Step, parse_recording
from tests.live.commands import NO_VIEW, bash, sound_lab

pytestmark = pytest.mark.skipif(NO_VIEW is not None, reason=str(NO_VIEW))

GOLDEN = Path(__file__).parents[1] / "golden" / "kernel-6.1"
FILE_OPERATIONS = {"masters", "masters_read", "write", "read", "enslave", "release", "up", "down"}
THREE_PORTS = """
[switches]
s1 = {}
[hosts.h1]
ports = { ib0 = "s1", ib1 = "s1", ib2 = "s1" }
[hosts.bare]
ports = { other0 = "s1" }
"""
KNOWN = {
    "depends/active-slave-bond-down": "a port's carrier comes milliseconds after it is opened, as IPoIB's does",
    "options/state/active_slave/up+slaves": "the same",
    "options/state/active_slave/slaves": "the same: bond down, no monitor to see the carrier come",
}
CLEAN = """
for bond in $(<bonding_masters); do echo -$bond > bonding_masters; done
for device in ib[012]; do [ ! -d $device ] || echo 0x1002 > $device/flags; done
"""
FUNCTIONS = """
answer() { # number, code; the shell's message is in $said
    printf '%s\\t%s\\t%s\\n' "$1" "$2" "${said##*: }"
}
put() { # number, file, text
    { said=$( { printf %s "$3" > "$2"; } 2>&1 >&3 3>&-); } 3>&1
    answer $1 $?
}
get() { # number, file
    said=
    text=
    { IFS= read -r -d '' text < "$2"; } 2>/dev/null
    printf '%s\\t%q\\n' "$1" "$text"
}
"""


def cases(category: str) -> list[Recording]:
    found = []
    for case in parse_recording((GOLDEN / f"{category}.json").read_bytes()):
        ours = {device.type for device in case.devices.values()} <= {"infiniband"}
        if ours and {step.op for step in case.steps} <= FILE_OPERATIONS | {"proc"}:
            found.append(case)
    return found


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A host with three free ports whose bonds do what those of Linux 6.1 do."""
    with sound_lab(THREE_PORTS, profile="kernel-6.1") as lab:
        yield lab


@pytest.mark.parametrize("category", ["options", "depends", "masters", "enslave"])
@pytest.mark.parametrize("host", ["h1", "bare"])
def test_the_shell_sees_the_errnos_of_the_real_driver(lab: Lab, tmp_path: Path, category: str, host: str) -> None:
    """Cases without devices are for a host that does not have devices of the usual names."""
    chosen = [case for case in cases(category) if bool(case.devices) == (host == "h1") and case.name not in KNOWN]
    if not chosen:
        pytest.skip("no such cases")
    script = FUNCTIONS
    for number, case in enumerate(chosen):
        script += CLEAN + "".join(line_of(f"{number}.{n}", step) for n, step in enumerate(case.steps))
    (tmp_path / "steps").write_text(script + CLEAN)
    done = bash(lab[host], f". {tmp_path}/steps", timeout=300)
    assert done.stderr == ""
    said = dict(line.split("\t", 1) for line in done.stdout.splitlines())
    differences = [
        f"{case.name} step {n}: {step}: {said.get(f'{number}.{n}')!r}, the driver {expected(step)!r}"
        for number, case in enumerate(chosen)
        for n, step in enumerate(case.steps)
        if compared(step) and said.get(f"{number}.{n}") != expected(step)
    ]
    assert not differences, "\n".join([f"{len(differences)} differences", *differences[:20]])
    assert said


def line_of(number: str, step: Step) -> str:
    """The step as a line of bash."""
    device = step.dev or "bond0"
    match step.op:
        case "masters":
            return put(number, "bonding_masters", step.value or "")
        case "masters_read":
            return f"printf '%s\\t%q\\n' {number} \"$(echo $(tr ' ' '\\n' < bonding_masters | sort))\"\n"
        case "write":
            return put(number, f"{device}/{step.path}", step.value or "")
        case "read":
            return f"get {number} {device}/{step.path}\n"
        case "enslave" | "release":
            sign = "+" if step.op == "enslave" else "-"
            return put(number, f"{device}/bonding/slaves", f"{sign}{step.slave}")
        case "up" | "down":
            return f"put {number} {device}/flags {'0x1003' if step.op == 'up' else '0x1002'}\n"
        case _:
            return ""


def put(number: str, path: str, text: str) -> str:
    return f"put {number} {path} {shlex.quote(text)}\n"


def compared(step: Step) -> bool:
    if step.op in ("read", "masters_read"):
        return step.fuzzy is not True and isinstance(step.expect, str) and "\0" not in step.expect
    if "lo" in (step.slave, step.value and step.value.strip()) and step.op != "masters":
        return False  # a lab's bonds do not know lo: ENODEV where the driver says EINVAL
    return step.op in FILE_OPERATIONS and bool(step.value or step.op != "write")


def expected(step: Step) -> str:
    if step.op in ("read", "masters_read"):
        assert isinstance(step.expect, str)
        return quoted(step.expect)
    if not step.errno:
        return "0\t"
    return f"1\t{os.strerror(getattr(errno, step.errno))}"


def quoted(text: str) -> str:
    """As printf %q of bash writes it."""
    if not text:
        return "''"
    if "\n" in text:
        return "$'" + text.replace("\\", "\\\\").replace("\n", "\\n").replace("'", "\\'") + "'"
    return "".join(letter if letter.isalnum() or letter in "_-.:/+" else f"\\{letter}" for letter in text)
