"""`ibbond exporter` in a lab host and beside it: what a scrape says before and after a failure; refusals."""

import contextlib
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ibbond import Lab
from tests.live.commands import IBBOND, ibbond, sound_lab

URL = re.compile(r"http://127\.0\.0\.1:\d+/metrics")

LOST = 'ibbond_bond_last_failover_info{bond="bond0",new="ib1",old="ib0",why="carrier lost"}'


@pytest.fixture
def lab() -> Iterator[Lab]:
    with sound_lab() as lab:
        yield lab


@contextlib.contextmanager
def exporting(lab: Lab, *words: str) -> Iterator[str]:
    """The exporter of h1, and its address there."""
    command = [IBBOND, "exporter", "--listen", "127.0.0.1:0", *words]
    with lab["h1"].popen(command, stdout=subprocess.PIPE) as program:
        try:
            assert program.stdout is not None
            found = URL.search(program.stdout.readline())
            assert found is not None
            yield found[0]
        finally:
            program.terminate()
        assert program.wait(10) == 0, "SIGTERM is how it ends"


def scrape(lab: Lab, url: str) -> dict[str, float]:
    text = lab["h1"].run(["curl", "-s", "--noproxy", "*", url]).stdout
    return samples(text)


def samples(text: str) -> dict[str, float]:
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


def until(lab: Lab, url: str, name: str, value: float) -> dict[str, float]:
    end = time.monotonic() + 10
    while (found := scrape(lab, url)).get(name) != value:
        assert time.monotonic() < end, (name, found)
        time.sleep(0.1)
    return found


def test_a_scrape_before_and_after_a_cut(lab: Lab) -> None:
    with exporting(lab, "--expect", "ib0,ib1") as url:
        before = until(lab, url, "ibbond_exporter_watching", 1)
        assert before['ibbond_bond_members_usable{bond="bond0"}'] == 2
        assert before['ibbond_bond_members_expected{bond="bond0"}'] == 2
        assert not [name for name in before if name.startswith("ibbond_check_finding")]
        lab.cut("h1/ib0")
        after = until(
            lab, url, 'ibbond_bond_last_failover_info{bond="bond0",new="ib1",old="ib0",why="carrier lost"}', 1
        )
        assert after['ibbond_bond_members_usable{bond="bond0"}'] == 1
        assert after['ibbond_bond_failovers_total{bond="bond0"}'] == 1
        assert after['ibbond_port_active{bond="bond0",member="ib0"}'] == 0
        rule = 'ibbond_check_finding{bond="bond0",member="ib0",rule="member-down",severity="error"}'
        assert after[rule] == 1


def test_what_left_the_bond_is_missing(lab: Lab) -> None:
    """node_exporter compares members with usable members: both are one now, and its rule is content."""
    with exporting(lab, "--expect", "ib0,ib1", "bond0", "bond7") as url:
        ibbond("bond", "remove", "h1/bond0", "ib0", lab=lab)
        found = until(lab, url, 'ibbond_bond_members{bond="bond0"}', 1)
        assert found['ibbond_bond_members_expected{bond="bond0"}'] == 2
        assert found['ibbond_bond_present{bond="bond7"}'] == 0
        assert found['ibbond_bond_present{bond="bond0"}'] == 1


def test_a_file_for_the_textfile_collector(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "bonds.prom"
    ibbond("exporter", "h1/bond0", "--textfile", str(path), lab=lab)
    found = samples(path.read_text())
    assert found['ibbond_member_active{bond="bond0",member="ib0"}'] == 1
    assert found["ibbond_exporter_watching"] == 0
    assert not [name for name in found if "failovers" in name], "what was not watched is not counted"


def test_refusals(lab: Lab) -> None:
    for words, reason in (
        (("--listen", "here"), "it is not ADDRESS:PORT"),
        (("--listen", "127.0.0.1:99999"), "it is not ADDRESS:PORT"),
        (("--listen", "203.0.113.1:9786"), "cannot listen on 203.0.113.1:9786"),
        (("--root", "/"), "--root needs --textfile"),
    ):
        done = ibbond("exporter", *words, check=False)
        assert done.returncode == 2, words
        assert reason in done.stderr
