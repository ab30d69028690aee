"""A host of a running lab whose bond has been taken apart: what scripts and one-line tools are tried on.

Needs namespaces, TUN devices and the sysfs view; tests that use it are live tests.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ibbond.host.tun import available
from ibbond.topology.default import TWO_HOSTS
from tests.live.view_lab import NO_VIEW, ViewLab, unique, view_lab

EXAMPLES = Path(__file__).parents[2] / "examples"
MISSING = available() or NO_VIEW
needs_lab = [pytest.mark.live, pytest.mark.skipif(bool(MISSING), reason=str(MISSING))]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ViewLab]:
    with view_lab(unique("promise"), TWO_HOSTS, tmp_path_factory.mktemp("lab")) as running:
        yield running


@pytest.fixture
def bare(lab: ViewLab) -> ViewLab:
    """h1 without a bond."""
    lab.bash('for bond in $(cat bonding_masters); do echo "-$bond" > bonding_masters; done')
    return lab


def shown(lab: ViewLab, bond: str = "h1/bond0") -> dict[str, object]:
    facts = json.loads(lab.ibbond("bond", "show", bond, "--json").stdout)
    assert isinstance(facts, dict)
    return facts


def pings_across_failover(lab: ViewLab) -> None:
    """The peer answers over one member, and over the other when the first one's cable is out."""
    active = str(shown(lab)["active"])
    lab.run("ping", "-c", "1", "-W", "5", "10.0.0.2")
    lab.ibbond("lab", "cut", f"h1/{active}")
    done = lab.run("ping", "-c", "3", "-i", "0.2", "-W", "5", "10.0.0.2")
    lab.ibbond("lab", "mend", f"h1/{active}")
    assert done.returncode == 0, done.stdout
    assert shown(lab)["active"] != active
