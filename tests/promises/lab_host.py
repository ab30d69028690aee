"""A host of a running lab whose bond has been taken apart: what scripts and one-line tools are tried on.

Needs namespaces, TUN devices and the sysfs view; tests that use it are live tests.
"""

import json
from collections.abc import Iterator

import pytest

from ibbond import Lab
from ibbond.host.tun import available
from tests.live.commands import NO_VIEW, bash, ibbond, sound_lab

MISSING = available() or NO_VIEW
needs_lab = [pytest.mark.live, pytest.mark.skipif(bool(MISSING), reason=str(MISSING))]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with sound_lab() as running:
        yield running


@pytest.fixture
def bare(lab: Lab) -> Lab:
    """h1 without a bond."""
    bash(lab["h1"], 'for bond in $(cat bonding_masters); do echo "-$bond" > bonding_masters; done')
    return lab


def shown(lab: Lab, bond: str = "h1/bond0") -> dict[str, object]:
    facts = json.loads(ibbond("bond", "show", bond, "--json", lab=lab).stdout)
    assert isinstance(facts, dict)
    return facts


def pings_across_failover(lab: Lab) -> None:
    """The peer answers over one member, and over the other when the first one's cable is out."""
    active = str(shown(lab)["active"])
    lab["h1"].run(["ping", "-c", "1", "-W", "5", "10.0.0.2"])
    lab.cut(f"h1/{active}")
    done = lab["h1"].run(["ping", "-c", "3", "-i", "0.2", "-W", "5", "10.0.0.2"], check=False)
    lab.mend(f"h1/{active}")
    assert done.returncode == 0, done.stdout
    assert shown(lab)["active"] != active
