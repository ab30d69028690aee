"""`ibbond bond` on a lab's bonds: what is refused changes nothing, what is said is what is in force."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from view_lab import ViewLab, unique, view_lab

from ibbond.topology.default import TWO_HOSTS


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ViewLab]:
    with view_lab(unique("bondcli"), TWO_HOSTS, Path(tmp_path_factory.mktemp("lab"))) as lab:
        yield lab


def shown(lab: ViewLab, bond: str = "h1/bond0") -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(lab.ibbond("bond", "show", bond, "--json").stdout)
    return facts


def refused(lab: ViewLab, *words: str) -> str:
    """The refusal of a command that must change nothing."""
    before = shown(lab), lab.ibbond("bond", "list", "h1", "--json").stdout
    done = lab.ibbond(*words, check=False)
    assert (done.returncode, done.stdout) == (2, ""), done
    assert (shown(lab), lab.ibbond("bond", "list", "h1", "--json").stdout) == before
    return done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("create", "h1/bond1", "eth0"),
        ("delete", "h1/bond0"),
        ("add", "h1/bond0", "eth0"),
        ("remove", "h1/bond0", "ib1"),
        ("set", "h1/bond0", "miimon", "50"),
        ("switch", "h1/bond0"),
    ],
    ids=lambda words: words[0],
)
def test_a_dry_run_of_a_labs_bond_is_refused(running: ViewLab, words: tuple[str, ...]) -> None:
    assert "--dry-run is for this host's own bonds" in refused(running, "bond", *words, "--dry-run")
