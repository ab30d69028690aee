"""The pytest plugin (entry point `pytest11`): the fixtures `ib_lab` and `ib_lab_factory`, the marker `ib_topology`.

    def test_ping(ib_lab):
        ib_lab["h1"].run(["ping", "-c1", "10.0.0.2"])

A test whose labs cannot run on this machine is skipped, with the reason. A test that fails has the events of its labs
in its report; with `--ib-artifacts DIR` in a file, too, and with `--ib-captures` what passed each port of its hosts.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

if TYPE_CHECKING:
    from ibbond.testing.lab import Lab, LabCapture

REPORTED_EVENTS = 200
MAX_NAME = 100  # of a test's directory; file systems take 255 bytes


class RecordedLab(NamedTuple):
    """A lab of a test, and its captures while no one knows whether the test fails."""

    lab: Lab
    captures: list[LabCapture]


LABS = pytest.StashKey[list[RecordedLab]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("ibbond", "labs with InfiniBand bonds")
    group.addoption("--ib-artifacts", metavar="DIR", help="Keep the events of failed tests' labs below this directory.")
    group.addoption(
        "--ib-captures",
        action="store_true",
        help="Capture every port of hosts, and keep that of failed tests with --ib-artifacts (default: ib-artifacts).",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "ib_topology(topology, **options): the topology (path, text, builder) of ib_lab")


@pytest.fixture(scope="session")
def ib_lab_support() -> str | None:
    """Why labs cannot run on this machine, or None."""
    from ibbond.lab.prerequisites import why_not_live

    return why_not_live()


@pytest.fixture
def ib_lab_factory(request: pytest.FixtureRequest, ib_lab_support: str | None) -> Iterator[Callable[..., Lab]]:
    """A function that starts a lab (the arguments of `ibbond.Lab`); all of them end with the test."""
    if ib_lab_support is not None:
        pytest.skip(f"labs cannot run here: {ib_lab_support}")
    from ibbond.testing.lab import Lab

    labs = request.node.stash.setdefault(LABS, [])
    with ExitStack() as running:

        def start(topology: str | os.PathLike[str] | None = None, **options: Any) -> Lab:
            lab = running.enter_context(Lab(topology, **options))
            captures: list[LabCapture] = []
            labs.append(RecordedLab(lab, captures))
            if request.config.getoption("ib_captures"):
                begin_captures(lab, directory_of(request.node), captures)
                running.callback(forget, captures)
            return lab

        yield start


@pytest.fixture
def ib_lab(request: pytest.FixtureRequest, ib_lab_factory: Callable[..., Lab]) -> Lab:
    """A running lab: the default one, or that of the marker `@pytest.mark.ib_topology(...)`."""
    marker = request.node.get_closest_marker("ib_topology")
    return ib_lab_factory(*marker.args, **marker.kwargs) if marker else ib_lab_factory()


def directory_of(item: pytest.Item) -> Path:
    """Where the artifacts of a test go; a name without characters that file systems or CI services refuse."""
    base = item.config.getoption("ib_artifacts") or "ib-artifacts"
    return Path(item.config.invocation_params.dir, base, re.sub(r"[^\w.-]+", "_", item.nodeid)[-MAX_NAME:])


def begin_captures(lab: Lab, directory: Path, captures: list[LabCapture]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for host, facts in lab.status()["hosts"].items():
        for device, found in facts["devices"].items():
            if "port" in found and "." not in device:
                captures.append(lab.capture(f"{host}/{device}", directory / f"{lab.name}-{host}-{device}.pcap"))


def forget(captures: list[LabCapture]) -> None:
    """End the captures of a test that did not fail, and remove them with their directory."""
    from ibbond.errors import Refused

    for capture in captures:
        with suppress(Refused):
            capture.end()
        capture.path.unlink(missing_ok=True)
        with suppress(OSError):
            capture.path.parent.rmdir()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """The events of a failed test's labs become a section of its report, and with its captures artifacts."""
    report = yield
    if report.when != "teardown" and report.failed:  # type: ignore[attr-defined]
        for lab, captures in item.stash.get(LABS, []):
            text = "\n".join(map(str, lab.events[-REPORTED_EVENTS:]))
            report.sections.append((f"events of lab {lab.name}", text))  # type: ignore[attr-defined]
            if kept := keep(item, lab, captures):
                report.sections.append((f"artifacts of lab {lab.name}", kept))  # type: ignore[attr-defined]
    return report


def keep(item: pytest.Item, lab: Lab, captures: list[LabCapture]) -> str:
    """Write the artifacts that were asked for; their files, one a line."""
    if not (item.config.getoption("ib_artifacts") or item.config.getoption("ib_captures")):
        return ""
    directory = directory_of(item)
    directory.mkdir(parents=True, exist_ok=True)
    events = directory / f"{lab.name}-events.txt"
    events.write_text("".join(f"{event}\n" for event in lab.events))
    files = [events]
    while captures:
        capture = captures.pop()
        capture.end()
        files.append(capture.path)
    return "\n".join(sorted(map(str, files)))
