"""The pytest plugin (entry point `pytest11`): the fixtures `ib_lab` and `ib_lab_factory`, the marker `ib_topology`.

    def test_ping(ib_lab):
        ib_lab["h1"].run(["ping", "-c1", "10.0.0.2"])

A test whose labs cannot run on this machine is skipped, with the reason. A test that fails has the events of its labs
in its report.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ibbond.testing.lab import Lab

LABS = pytest.StashKey[list["Lab"]]()
REPORTED_EVENTS = 200


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
            labs.append(lab)
            return lab

        yield start


@pytest.fixture
def ib_lab(request: pytest.FixtureRequest, ib_lab_factory: Callable[..., Lab]) -> Lab:
    """A running lab: the default one, or that of the marker `@pytest.mark.ib_topology(...)`."""
    marker = request.node.get_closest_marker("ib_topology")
    return ib_lab_factory(*marker.args, **marker.kwargs) if marker else ib_lab_factory()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """The events of a failed test's labs become a section of its report."""
    report = yield
    if report.when == "call" and report.failed:  # type: ignore[attr-defined]
        for lab in item.stash.get(LABS, []):
            text = "\n".join(map(str, lab.events[-REPORTED_EVENTS:]))
            report.sections.append((f"events of lab {lab.name}", text))  # type: ignore[attr-defined]
    return report
