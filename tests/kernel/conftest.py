"""The virtual machine of one test session, and a fresh host on it for every test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.virtual_machine import Host, Missing, VirtualMachine, kernel_root


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of them boot a kernel; one worker, one machine."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.kernel)
            item.add_marker(pytest.mark.xdist_group("kernel"))


@pytest.fixture(scope="session")
def machine() -> Iterator[VirtualMachine]:
    try:
        root = kernel_root()
    except Missing as missing:
        pytest.skip(str(missing))
    machine = VirtualMachine(root)
    yield machine
    machine.close()


@pytest.fixture
def host(machine: VirtualMachine) -> Iterator[Host]:
    """A host with the two ports of one adapter, ib0 and ib1, on one hub."""
    host = machine.host()
    host.add_port("ib0", port=1)
    host.add_port("ib1", port=2)
    yield host
    host.close()
