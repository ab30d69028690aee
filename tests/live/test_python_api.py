"""`ibbond.Lab` and the pytest plugin, as a stranger would use them."""

import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ibbond import Lab, TopologyBuilder
from ibbond.errors import Refused
from ibbond.lab.launch import killed
from ibbond.lab.state import Files, names

pytest_plugins = ["pytester"]

STRANGERS_TEST = """
def test_a_cut_cable_is_survived(ib_lab):
    ib_lab["h1"].run(["ping", "-c1", "10.0.0.2"])
    ib_lab.cut("h1/ib0")
    ib_lab.wait_active("h1/bond0", "ib1", within=5)
    ib_lab["h1"].run(["ping", "-c1", "10.0.0.2"])
"""

FAILING_TEST = """
def test_it(ib_lab):
    ib_lab["h1"].run(["ping", "-c1", "10.0.0.2"])
    ib_lab.cut("h1/ib1")
    assert False
"""
UNSUPPORTED = """
import pytest

@pytest.fixture(scope="session")
def ib_lab_support():
    return "there is no /dev/net/tun"
"""


def test_eight_lines_of_a_stranger(ib_lab: Lab) -> None:
    ib_lab["h1"].run(["ping", "-c1", "-w5", "10.0.0.2"])
    ib_lab.cut("h1/ib0")
    ib_lab.wait_active("h1/bond0", "ib1", within=5)
    ib_lab["h1"].run(["ping", "-c1", "-w5", "10.0.0.2"])
    cut = next(event for event in ib_lab.events if event.what == "cut")
    active = next(event for event in ib_lab.events if event.what == "failover" and event.at_ns > cut.at_ns)
    assert (cut.where, active.where) == ("h1/ib0", "h1/bond0")


def test_programs_give_their_output_exit_status_and_time(ib_lab: Lab) -> None:
    host = ib_lab["h2"]
    assert host.run(["cat"], input="text\n").stdout == "text\n"
    assert host.run(["sh", "-c", "echo $COLOR"], env={"COLOR": "red"}).stdout == "red\n"
    assert host.run(["false"], check=False).returncode == 1
    with pytest.raises(subprocess.CalledProcessError) as failed:
        host.run("echo the reason >&2; exit 3")
    assert (failed.value.returncode, failed.value.stderr) == (3, "the reason\n")
    assert "the reason" in failed.value.__notes__[0], "so that pytest shows it"
    begin = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        host.run(["sleep", "60"], timeout=0.2)
    assert time.monotonic() - begin < 30
    with pytest.raises(Refused, match="cannot run nosuchprogram in h2"):
        host.run(["nosuchprogram"])
    with pytest.raises(Refused, match="no host h9"):
        ib_lab["h9"]


def test_a_line_for_the_shell_and_a_working_directory_are_the_hosts(ib_lab: Lab) -> None:
    assert ib_lab["h1"].run("echo $((6 * 7)) | cat").stdout == "42\n"
    assert ib_lab["h1"].run("cat slaves", cwd="/sys/class/net/bond0/bonding").stdout == "ib0 ib1\n"
    assert ib_lab["h1"].run("cat bond0/bonding/slaves", cwd="/sys/class/net").stdout == "ib0 ib1\n"
    with ib_lab["h2"].popen("cat ib1/address | wc -c", cwd="/sys/class/net", stdout=subprocess.PIPE) as program:
        assert program.communicate()[0] == "60\n"
    with pytest.raises(Refused, match="cannot run /bin/sh in directory /nowhere of h1: No such file or directory"):
        ib_lab["h1"].run("true", cwd="/nowhere")


def test_threads_share_a_lab(ib_lab: Lab) -> None:
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: (ib_lab.active("h1/bond0"), len(ib_lab.hosts)), range(200)))
    assert answers == [("ib0", 2)] * 200


def test_a_lab_that_runs_already_is_attached_to_and_goes_on(ib_lab: Lab, tmp_path: Path) -> None:
    with Lab.attach(ib_lab.name) as lab:
        lab["h1"].run(["ping", "-c1", "-w5", "10.0.0.2"])
        capture = lab.capture("h1/ib1", tmp_path / "port.pcap")
        lab.cut("h1/ib0")
        lab.wait_active("h1/bond0", "ib1", within=5)
        assert lab.events[0] == ib_lab.events[0]
    assert capture.result is not None
    assert ib_lab.active("h1/bond0") == "ib1"
    with pytest.raises(Refused, match="is not running"):
        lab.status()
    with pytest.raises(Refused, match="no lab nowhere is running"), Lab.attach("nowhere"):
        pass


def test_what_is_waited_for_in_vain_is_a_timeout_with_the_last_events(ib_lab: Lab) -> None:
    ib_lab.cut("h2/ib1")
    with pytest.raises(TimeoutError, match=r"is ib0, not ib1, after 0.2 s(.|\n)*cut  h2/ib1"):
        ib_lab.wait_active("h2/bond0", "ib1", within=0.2)


@pytest.mark.ib_topology(
    TopologyBuilder()
    .switch("sw")
    .host("a", ports={"ib0": "sw", "ib1": "sw"}, addresses=["10.1.0.1/24"], options={"miimon": 50})
    .host("b", ports={"ib0": "sw"}, members=(), addresses=["10.1.0.2/24"])
)
def test_a_topology_that_was_built(ib_lab: Lab) -> None:
    assert [host.name for host in ib_lab.hosts] == ["a", "b"]
    assert ib_lab["a"].run(["cat", "/sys/class/net/bond0/bonding/miimon"]).stdout == "50\n"
    ib_lab["a"].run(["ping", "-c1", "-w5", "10.1.0.2"])


def test_a_capture_is_a_file_that_tshark_reads(ib_lab: Lab, tmp_path: Path) -> None:
    with ib_lab.capture("h1/bond0", tmp_path / "bond.pcap") as bond:
        port = ib_lab.capture("s1/1", tmp_path / "port.pcap")
        ib_lab["h1"].run(["ping", "-c3", "-i0.1", "10.0.0.2"])
    assert port.end().packets >= bond.end().packets >= 6
    words = ["tshark", "-r", str(bond.path), "-Y", "icmp.type == 8", "-T", "fields", "-e", "icmp.seq"]
    requests = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    assert requests == ["1", "2", "3"]
    with pytest.raises(Refused, match="no cable at h1/ib9"):
        ib_lab.capture("h1/ib9", tmp_path / "none.pcap")
    assert not (tmp_path / "none.pcap").exists()


def test_a_capture_is_complete_when_the_lab_ends(tmp_path: Path) -> None:
    with Lab() as lab:
        capture = lab.capture("h2/ib0", tmp_path / "port.pcap")
        lab["h1"].run(["ping", "-c1", "10.0.0.2"])
    assert capture.result is not None
    assert capture.result.packets >= 2


def test_a_graph_shows_a_cut_cable_in_red(ib_lab: Lab) -> None:
    words = [str(Path(sys.executable).with_name("ibbond")), "lab", "graph", "--name", ib_lab.name]
    assert "#d32f2f" not in subprocess.run(words, capture_output=True, text=True, check=True).stdout
    ib_lab.cut("h1/ib0")
    drawn = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert drawn.count("#d32f2f") == 1
    assert "h1/ib0 - s1/1: cut" in drawn


def test_group_traffic_loses_nothing_when_the_primary_returns(ib_lab: Lab) -> None:
    """Multicast was lost when a copy came before the switch by the new member, or only to the old one after it."""
    ib_lab.backend("h1").write("bond0/bonding/primary", "ib0\n")
    with ib_lab.probe("h1", "h2") as probe:
        for _ in range(8):
            ib_lab.cut("h1/ib0")
            ib_lab.wait_active("h1/bond0", "ib1", within=5)
            ib_lab.mend("h1/ib0")
            ib_lab.wait_active("h1/bond0", "ib0", within=10)
    assert probe.result["multicast"].lost == 0
    assert probe.result["udp"].lost == 0


def test_a_probe_measures_what_a_cut_cable_costs(ib_lab: Lab) -> None:
    with ib_lab.probe("h1", "h2") as probe:
        with pytest.raises(Refused, match="still measuring"):
            _ = probe.result
        ib_lab.cut("h1/ib0")
    assert probe.result.works
    assert probe.result["udp"].sent > 1000
    assert probe.result.outage_ms < 1000
    assert ("cut", "h1/ib0") in [(event["what"], event["where"]) for event in probe.result.events]
    with pytest.raises(Refused, match="two different hosts are needed"), ib_lab.probe("h1", "h1"):
        pass


def test_a_lab_that_ended_refuses_and_keeps_its_events() -> None:
    with Lab() as lab:
        pass
    assert lab.events
    with pytest.raises(Refused, match="is not running"):
        lab.cut("h1/ib0")
    lab.stop()


def test_a_topology_that_cannot_work_is_refused() -> None:
    with pytest.raises(Refused, match="no hosts"), Lab("[switches]\ns1 = {}\n"):
        pass
    with pytest.raises(Refused, match="No such file"):
        Lab("/nowhere/lab.toml")


def test_the_plugin_in_a_project_of_its_own(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(STRANGERS_TEST, test_failing=FAILING_TEST)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*events of lab py*", "*cut  h1/ib1*"])


@pytest.mark.parametrize("captures", [False, True])
def test_failed_tests_have_artifacts(pytester: pytest.Pytester, captures: bool) -> None:
    pytester.makepyfile(STRANGERS_TEST, test_failing=FAILING_TEST)
    words = ["--ib-artifacts", "kept", *(["--ib-captures"] if captures else [])]
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", *words)
    result.assert_outcomes(passed=1, failed=1)
    (directory,) = (pytester.path / "kept").iterdir()
    assert directory.name == "test_failing.py_test_it"
    files = {path.name.partition("-")[2]: path for path in directory.iterdir()}
    ports = {f"{host}-{device}.pcap" for host in ("h1", "h2") for device in ("ib0", "ib1")}
    assert files.keys() == {"events.txt"} | (ports if captures else set())
    assert "cut  h1/ib1" in files["events.txt"].read_text()
    for port in ports & files.keys():
        shown = subprocess.run(["tshark", "-r", str(files[port])], capture_output=True, text=True, check=True).stdout
        assert ("(ping) request" in shown) == port.endswith("ib0.pcap")
        result.stdout.fnmatch_lines([f"*/kept/test_failing.py_test_it/*-{port}"])


def test_tests_run_in_parallel_each_with_a_lab(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(**{f"test_{number}": STRANGERS_TEST for number in range(4)})
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-n", "2")
    result.assert_outcomes(passed=4)


KILLED_TEST = """
import os, signal
def test_it(ib_lab):
    os.kill(ib_lab.status()["pid"], signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_test_left_is_removed_by_the_next(pytester: pytest.Pytester) -> None:
    before = set(names())
    pytester.makepyfile(test_killed=KILLED_TEST)
    assert pytester.runpytest_subprocess("-p", "no:cacheprovider").ret == -signal.SIGKILL
    (left,) = {name for name in set(names()) - before if Files(name).read_note() and not Files(name).held}
    pytester.makepyfile(test_killed=STRANGERS_TEST)
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)
    assert left not in names()
    assert not killed(left)


def test_where_labs_cannot_run_tests_are_skipped_with_the_reason(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(UNSUPPORTED)
    pytester.makepyfile(STRANGERS_TEST)
    result = pytester.runpytest_subprocess("-rs", "-p", "no:cacheprovider")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*labs cannot run here: there is no /dev/net/tun*"])
