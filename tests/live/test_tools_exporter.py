"""prometheus-node-exporter's bonding collector, unchanged, in a lab host."""

import contextlib
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ibbond.topology.default import TWO_HOSTS
from tests.live.view_lab import NO_VIEW, ViewLab, unique, view_lab

EXPORTER = shutil.which("prometheus-node-exporter") or shutil.which("node_exporter")
LACKING = NO_VIEW or (None if EXPORTER and shutil.which("curl") else "prometheus-node-exporter or curl is missing")
pytestmark = pytest.mark.skipif(LACKING is not None, reason=str(LACKING))


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[ViewLab]:
    with view_lab(unique("prom"), TWO_HOSTS, tmp_path) as lab:
        yield lab


def scrape(lab: ViewLab) -> dict[str, str]:
    """The metrics of the bonding collector: name -> value."""
    until = time.monotonic() + 10
    while True:
        text = lab.run("curl", "-s", "http://127.0.0.1:9100/metrics").stdout
        found = dict(re.findall(r'^(node_bonding_\w+\{master="bond0"\}) (\S+)$', text, re.MULTILINE))
        if found or time.monotonic() > until:
            return found
        time.sleep(0.1)


def test_the_exporter_counts_members_and_the_active_ones(lab: ViewLab) -> None:
    assert EXPORTER is not None
    options = ("--collector.disable-defaults", "--collector.bonding", "--path.sysfs=/sys")
    with contextlib.ExitStack() as closing:
        exporter = closing.enter_context(lab.popen(EXPORTER, *options, "--web.listen-address=127.0.0.1:9100"))
        closing.callback(exporter.kill)
        assert scrape(lab) == {
            'node_bonding_slaves{master="bond0"}': "2",
            'node_bonding_active{master="bond0"}': "2",
        }
        lab.ibbond("lab", "cut", "h1/ib0")
        time.sleep(0.5)
        assert scrape(lab)['node_bonding_active{master="bond0"}'] == "1"
