"""The heartbeat over InfiniBand bonds: a cut cable is survived, two cut cables are noticed."""

import subprocess
import sys
from pathlib import Path

import pytest

HEARTBEAT = [sys.executable, str(Path(__file__).parents[1] / "heartbeat.py")]


@pytest.fixture
def server(ib_lab):
    process = ib_lab["h2"].popen([*HEARTBEAT, "serve", "10.0.0.2"], stdout=subprocess.PIPE)
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_cut_cable_is_survived(ib_lab, server):
    client = ib_lab["h1"].popen([*HEARTBEAT, "beat", "10.0.0.2", "3"], stdout=subprocess.PIPE)
    ib_lab.cut("h1/ib0")
    ib_lab.wait_active("h1/bond0", "ib1", within=5)
    print(client.communicate()[0])
    assert client.returncode == 0


def test_a_host_without_cables_is_noticed(ib_lab, server):
    ib_lab.cut("h1/ib0", "h1/ib1")
    done = ib_lab["h1"].run([*HEARTBEAT, "beat", "10.0.0.2", "3"], check=False)
    assert done.returncode == 1
    assert done.stdout.startswith("0 of")


@pytest.mark.ib_topology(Path(__file__).with_name("one_switch.toml"))
def test_a_switch_that_restarts_is_survived(ib_lab, server):
    ib_lab.kill("s1")
    ib_lab.revive("s1")
    ib_lab.wait(lambda: ib_lab.active("h1/bond0") and ib_lab.active("h2/bond0"), within=20)
    assert ib_lab["h1"].run([*HEARTBEAT, "beat", "10.0.0.2", "3"], check=False).returncode == 0
