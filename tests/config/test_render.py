"""What a format holds is read back as it was; what it does not hold is named as a loss, and nothing else is missing."""

import pytest
from hypothesis import HealthCheck, given, settings

from ibbond.config.desired import Desired
from ibbond.config.fields import compared
from ibbond.config.files import READERS, RENDERERS, default_version, parsed_version, render
from ibbond.config.gaps import reduced
from tests.config.states import states

TARGETS = [(to, version) for to, row in RENDERERS.items() for version in (row.versions or ("",))]


@pytest.mark.parametrize(("to", "version"), TARGETS, ids=lambda each: each)
@given(desired=states())
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_is_held_is_read_back(to: str, version: str, desired: Desired) -> None:
    number = parsed_version(version) if version else default_version(to)
    rendering = render(desired, to, number)
    read = READERS[RENDERERS[to].reader].read(rendering.files)
    unreadable = [problem for problem in read.problems if problem.kind in ("config-unreadable", "option-unknown")]
    assert not unreadable, rendering.files
    held, _ = reduced(desired, RENDERERS[to].gaps, number)
    assert shown(read, to) == shown(held, to), rendering.files


@given(desired=states())
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
def test_bonds_toml_loses_nothing(desired: Desired) -> None:
    rendering = render(desired, "bonds.toml", ())
    assert rendering.is_complete
    assert not rendering.losses


def shown(desired: Desired, to: str) -> dict[tuple[str, str], tuple[str, ...]]:
    """All fields; what a renderer must add of its own (a transport mode, miimon's place) is what it says it adds."""
    found = compared(desired)
    adds = {"networkmanager": "datagram", "nmstate": "datagram", "netplan-networkmanager": "datagram"}
    if to in adds or to in ("netplan", "cloud-init-2"):
        found = {key: texts for key, texts in found.items() if key[1] != "transport" or texts != ("datagram",)}
    if to == "nmstate":
        found = {key: texts for key, texts in found.items() if key[1] not in ("dns", "search")}
        found = {key: texts for key, texts in found.items() if not (key[1] == "pkey" and texts == ("0xffff",))}
    return found
