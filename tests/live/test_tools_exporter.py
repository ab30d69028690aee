"""prometheus-node-exporter's bonding collector, unchanged, in a lab host."""

import contextlib
import re
import shutil
import subprocess
import time
from collections.abc import Iterator

import pytest

from ibbond import Lab
from tests.live.commands import NO_VIEW, sound_lab

EXPORTER = shutil.which("prometheus-node-exporter") or shutil.which("node_exporter")
LACKING = NO_VIEW or (None if EXPORTER and shutil.which("curl") else "prometheus-node-exporter or curl is missing")
pytestmark = pytest.mark.skipif(LACKING is not None, reason=str(LACKING))


@pytest.fixture
def lab() -> Iterator[Lab]:
    with sound_lab() as lab:
        yield lab


def scrape(lab: Lab) -> dict[str, str]:
    """The metrics of the bonding collector: name -> value."""
    until = time.monotonic() + 10
    while True:
        text = lab["h1"].run("curl -s http://127.0.0.1:9100/metrics", check=False).stdout
        found = dict(re.findall(r'^(node_bonding_\w+\{master="bond0"\}) (\S+)$', text, re.MULTILINE))
        if found or time.monotonic() > until:
            return found
        time.sleep(0.1)


def test_the_exporter_counts_members_and_the_active_ones(lab: Lab) -> None:
    assert EXPORTER is not None
    options = ("--collector.disable-defaults", "--collector.bonding", "--path.sysfs=/sys")
    with contextlib.ExitStack() as closing:
        exporter = closing.enter_context(
            lab["h1"].popen([EXPORTER, *options, "--web.listen-address=127.0.0.1:9100"], stderr=subprocess.DEVNULL)
        )
        closing.callback(exporter.kill)
        assert scrape(lab) == {
            'node_bonding_slaves{master="bond0"}': "2",
            'node_bonding_active{master="bond0"}': "2",
        }
        lab.cut("h1/ib0")
        lab.wait_active("h1/bond0", "ib1", within=10)
        assert scrape(lab)['node_bonding_active{master="bond0"}'] == "1"
