"""Live tests need namespaces and TUN devices; without them they are skipped, with the reason."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ibbond import Lab
from ibbond.errors import Refused
from ibbond.host import namespace
from ibbond.host.namespace import NetNamespace
from ibbond.host.tun import available
from ibbond.topology.default import TWO_HOSTS
from tests.live.commands import assert_no_faults
from tests.live.running_lab import RunningLab, running


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = why_not()
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.live)
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


def why_not() -> str | None:
    """What is missing for live tests here, or None."""
    missing = available()
    if missing:
        return missing
    try:
        space = namespace.make(f"probe{os.getpid()}", "h1")
    except (Refused, OSError) as problem:
        return str(problem)
    space.remove()
    return None


@pytest.fixture
def lab() -> str:
    """A lab name that no other test run uses, and that is not the beginning of a name of another one."""
    return f"test{os.getpid()}x"


@pytest.fixture
def make_host(lab: str) -> Iterator[Callable[[str], NetNamespace]]:
    """Makes hosts of the test's lab; they are removed, with the programs inside, when the test ends."""
    made: list[NetNamespace] = []

    def make(host: str) -> NetNamespace:
        made.append(namespace.make(lab, host))
        return made[-1]

    yield make
    for space in made:
        space.remove()


@pytest.fixture
def ib_lab(ib_lab: Lab) -> Iterator[Lab]:
    """That of the plugin, which must not have counted a fault when the test ends."""
    yield ib_lab
    assert_no_faults(ib_lab.name)


@pytest.fixture
def lab2(make_host: Callable[[str], NetNamespace]) -> Iterator[RunningLab]:
    """The default lab: h1 and h2, each with ib0 and ib1 in bond0."""
    with running(TWO_HOSTS, make_host) as lab:
        yield lab
