"""Third-party programs, over bonds whose cables are pulled: ping, iperf3, curl, tshark, and a gateway."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

IBBOND = str(Path(sys.executable).parent / "ibbond")
Run = subprocess.CompletedProcess[str]
NAME = f"traffic{os.getpid()}"


def ibbond(*words: str, check: bool = True, timeout: float = 60) -> Run:
    done = subprocess.run([IBBOND, *words], text=True, capture_output=True, timeout=timeout, stdin=subprocess.DEVNULL)
    assert not check or done.returncode == 0, done.stderr
    return done


def inside(host: str, *command: str, lab: str = NAME) -> list[str]:
    return [IBBOND, "lab", "exec", "--name", lab, host, "--", *command]


def run_in(host: str, *command: str, lab: str = NAME) -> Run:
    return subprocess.run(inside(host, *command, lab=lab), text=True, capture_output=True, timeout=60)


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


@pytest.fixture(scope="module")
def lab() -> Iterator[str]:
    ibbond("lab", "up", "--name", NAME)
    yield NAME
    ibbond("lab", "down", "--name", NAME)


@pytest.fixture(autouse=True)
def all_cables_plugged(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "lab" in request.fixturenames:
        status = json.loads(ibbond("lab", "status", "--name", NAME, "--json").stdout)
        cut = [cable["name"] for cable in status["cables"] if cable["state"] == "cut"]
        if cut:
            ibbond("lab", "mend", "--name", NAME, *cut)


def active(host: str) -> str:
    shown: str = json.loads(ibbond("bond", "show", "--name", NAME, f"{host}/bond0", "--json").stdout)["active"]
    return shown


def cut_active(host: str) -> str:
    cable = f"{host}/{active(host)}"
    ibbond("lab", "cut", "--name", NAME, cable)
    return cable


@needs("ping")
@pytest.mark.parametrize("target", ["10.0.0.2", "fd00::2"])
def test_ping_goes_on_when_the_active_cable_is_pulled(lab: str, target: str) -> None:
    ping = subprocess.Popen(
        inside("h1", "ping", "-n", "-i", "0.02", "-c", "100", target), stdout=subprocess.PIPE, text=True
    )
    time.sleep(0.7)
    cable = cut_active("h1")
    time.sleep(0.5)
    ibbond("lab", "mend", "--name", lab, cable)
    out, _ = ping.communicate(timeout=60)
    received = int(out.split(" received")[0].split()[-1])
    assert received >= 97, out


@needs("iperf3")
@pytest.mark.parametrize("mode", [["-t", "3"], ["-u", "-b", "5M", "-l", "1400", "-t", "3"]], ids=["tcp", "udp"])
def test_iperf3_goes_on_when_cables_are_pulled(lab: str, mode: list[str]) -> None:
    server = subprocess.Popen(inside("h2", "iperf3", "-s", "-1"), stdout=subprocess.DEVNULL)
    time.sleep(1)
    client = subprocess.Popen(inside("h1", "iperf3", "-c", "10.0.0.2", "-J", *mode), stdout=subprocess.PIPE, text=True)
    time.sleep(1)
    cable = cut_active("h1")
    time.sleep(0.7)
    ibbond("lab", "mend", "--name", lab, cable)
    out, _ = client.communicate(timeout=60)
    server.wait(10)
    end = json.loads(out)["end"]
    if mode[0] == "-u":
        assert end["sum"]["lost_percent"] < 10  # a bond that stays dead would lose 20 and more
        assert end["sum"]["packets"] > 800
    else:
        assert end["sum_received"]["bytes"] > 10_000_000


@needs("curl")
def test_a_file_arrives_whole_over_a_failover(lab: str, tmp_path: Path) -> None:
    content = os.urandom(20_000_000)
    (tmp_path / "file").write_bytes(content)
    server = subprocess.Popen(
        inside("h2", sys.executable, "-m", "http.server", "8000", "--bind", "10.0.0.2", "--directory", str(tmp_path)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        time.sleep(1)
        got = tmp_path / "got"
        curl = subprocess.Popen(
            inside("h1", "curl", "-s", "--limit-rate", "8M", "-o", str(got), "http://10.0.0.2:8000/file")
        )
        time.sleep(0.7)
        cable = cut_active("h1")
        time.sleep(0.5)
        ibbond("lab", "mend", "--name", lab, cable)
        cut_active("h2")
        assert curl.wait(60) == 0
    finally:
        server.terminate()
        server.wait(5)
    assert hashlib.sha256(got.read_bytes()).digest() == hashlib.sha256(content).digest()


def test_ip_link_set_down_fails_over_like_a_pulled_cable(lab: str) -> None:
    member = active("h1")
    run_in("h1", "ip", "link", "set", member, "down")
    assert active("h1") != member
    assert run_in("h1", "ping", "-c", "2", "-i", "0.1", "-W", "1", "10.0.0.2").returncode == 0
    run_in("h1", "ip", "link", "set", member, "up")


def test_devices_look_as_they_do_on_hardware(lab: str) -> None:
    links = run_in("h1", "ip", "link").stdout
    assert links.count("link/infiniband") == 3
    assert links.count("link/ether") == 1
    cable = cut_active("h1")
    shown = run_in("h1", "ip", "link", "show", cable.partition("/")[2]).stdout
    assert "NO-CARRIER" in shown


def test_an_inter_switch_link_may_go(lab: str) -> None:
    ibbond("lab", "cut", "--name", lab, "s1/3")
    ibbond("bond", "switch", "--name", lab, "h1/bond0", "ib0")
    ibbond("bond", "switch", "--name", lab, "h2/bond0", "ib1")
    assert run_in("h1", "ping", "-c", "3", "-i", "0.2", "-W", "1", "10.0.0.2").returncode == 0


def test_a_switch_may_die_and_come_back(lab: str) -> None:
    ibbond("lab", "kill", "--name", lab, "s1")
    assert run_in("h1", "ping", "-c", "3", "-i", "0.2", "-W", "1", "10.0.0.2").returncode == 0
    assert (active("h1"), active("h2")) == ("ib1", "ib1")
    ibbond("lab", "revive", "--name", lab, "s1")
    time.sleep(0.5)
    ibbond("lab", "kill", "--name", lab, "s2")
    assert run_in("h1", "ping", "-c", "3", "-i", "0.2", "-W", "1", "10.0.0.2").returncode == 0
    assert (active("h1"), active("h2")) == ("ib0", "ib0")
    ibbond("lab", "revive", "--name", lab, "s2")


def test_what_the_subnet_manager_does_to_a_healthy_port_interrupts_nothing(lab: str) -> None:
    member = active("h1")
    ping = subprocess.Popen(
        inside("h1", "ping", "-n", "-i", "0.05", "-c", "40", "10.0.0.2"), stdout=subprocess.PIPE, text=True
    )
    time.sleep(0.5)
    ibbond("lab", "reregister", "--name", lab, f"h1/{member}")
    ibbond("lab", "kill", "--name", lab, "sm")
    time.sleep(0.3)
    ibbond("lab", "revive", "--name", lab, "sm")
    out, _ = ping.communicate(timeout=60)
    assert int(out.split(" received")[0].split()[-1]) >= 38, out
    assert active("h1") == member


def test_both_cables_out_and_back(lab: str) -> None:
    ibbond("lab", "cut", "--name", lab, "h1/ib0", "h1/ib1")
    assert run_in("h1", "ping", "-c", "1", "-W", "1", "10.0.0.2").returncode != 0
    ibbond("lab", "mend", "--name", lab, "h1/ib1")
    time.sleep(0.3)
    assert run_in("h1", "ping", "-c", "2", "-i", "0.2", "-W", "1", "10.0.0.2").returncode == 0


@needs("tshark")
def test_a_capture_of_a_port_shows_management_and_arp_with_20_bytes(lab: str, tmp_path: Path) -> None:
    file = tmp_path / "port.pcap"
    member = active("h1")
    capture = subprocess.Popen(
        [IBBOND, "lab", "capture", "--name", lab, f"h1/{member}", str(file)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(0.8)
    run_in("h1", sys.executable, "-c", JOIN)
    run_in("h1", "ping", "-c", "1", "-W", "1", "10.0.0.77")  # no one: an ARP request and no answer
    run_in("h1", "ping", "-c", "1", "-W", "1", "10.0.0.2")
    capture.send_signal(signal.SIGINT)
    assert capture.wait(30) == 0
    fields = decode(file, "arp.hw.type", "arp.hw.size", "infiniband.mad.mgmtclass", "infiniband.deth", "icmp.type")
    assert any(row[0] == "32" and row[1] == "20" for row in fields)
    assert any(row[2].lower() in ("0x03", "3") for row in fields), "no MAD of subnet administration"
    assert any(row[3] for row in fields)
    assert any(row[4] == "8" for row in fields)


@needs("tshark")
def test_a_capture_of_a_bond_shows_ipoib_frames(lab: str, tmp_path: Path) -> None:
    file = tmp_path / "bond.pcap"
    capture = subprocess.Popen(
        [IBBOND, "lab", "capture", "--name", lab, "h1/bond0", str(file), "--seconds", "2"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert capture.stderr is not None
    capture.stderr.readline()  # it has begun
    run_in("h1", "ping", "-c", "2", "-i", "0.2", "10.0.0.2")
    assert capture.wait(30) == 0
    assert len([row for row in decode(file, "icmp.type") if row[0] in ("0", "8")]) == 4


@pytest.mark.parametrize("device", ["h1/bond7", "h9/ib0", "h1/eth0"])
def test_a_capture_that_is_refused_touches_no_file(lab: str, tmp_path: Path, device: str) -> None:
    kept, new = tmp_path / "kept", tmp_path / "new"
    kept.write_text("mine")
    for file in (kept, new):
        assert ibbond("lab", "capture", "--name", lab, device, str(file), "--seconds", "1", check=False).returncode == 2
    assert kept.read_text() == "mine"
    assert not new.exists()


def test_a_capture_to_what_is_written_already_or_is_not_ours_is_refused(lab: str, tmp_path: Path) -> None:
    file, other_name = tmp_path / "file", tmp_path / "link"
    other_name.symlink_to(file)
    words = [IBBOND, "lab", "capture", "--name", lab, "h1/ib0", str(file)]
    with subprocess.Popen(words, stderr=subprocess.PIPE) as capture:
        assert capture.stderr is not None
        capture.stderr.readline()
        done = ibbond("lab", "capture", "--name", lab, "h1/ib1", str(other_name), check=False)
        assert (done.returncode, "another capture writes to it" in done.stderr) == (2, True)
        capture.send_signal(signal.SIGINT)
    assert capture.returncode == 0
    done = ibbond("lab", "capture", "--name", lab, "h1/ib0", "/dev/stdout", check=False)
    assert (done.returncode, "prints its result there" in done.stderr) == (2, True)


def test_a_pipe_that_no_one_reads_does_not_hold_up_the_lab(lab: str, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    words = ["lab", "capture", "--name", lab, "h1/bond0", str(pipe)]
    assert "a pipe without a reader" in ibbond(*words, "--seconds", "1", check=False).stderr
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        capture = subprocess.Popen([IBBOND, *words], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        time.sleep(0.8)
        done = run_in("h1", "ping", "-q", "-c", "200", "-i", "0.005", "-s", "1400", "10.0.0.2")
        assert " 0% packet loss" in done.stdout
        capture.send_signal(signal.SIGINT)
        _, errors = capture.communicate(timeout=30)
        assert capture.returncode == 2
        assert "its reader did not keep up" in errors
    finally:
        os.close(reader)


def decode(file: Path, *fields: str) -> list[list[str]]:
    words = ["tshark", "-r", str(file), "-T", "fields", "-E", "separator=|"]
    for field in fields:
        words += ["-e", field]
    done = subprocess.run(words, text=True, capture_output=True, timeout=60)
    return [line.split("|") for line in done.stdout.splitlines()]


JOIN = """
import socket, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP,
                socket.inet_aton("239.9.9.9") + socket.inet_aton("10.0.0.1"))
time.sleep(0.5)
"""

GATEWAY = """
[switches]
s1 = {}
s2 = {}
[[links]]
between = ["s1", "s2"]
[partitions.far]
pkey = 0x8001
members = ["h2", "gw"]
[hosts.h1]
ports = { ib0 = "s1", ib1 = "s2" }
routes = [{ to = "10.9.0.0/24", via = "10.0.0.3" }]
[hosts.h1.bonds.bond0]
members = ["ib0", "ib1"]
addresses = ["10.0.0.1/24"]
[hosts.gw]
ports = { ib0 = "s1", ib1 = "s2" }
forward = true
[hosts.gw.bonds.bond0]
members = ["ib0", "ib1"]
addresses = ["10.0.0.3/24"]
[hosts.gw.bonds.bond1]
members = ["ib0.8001", "ib1.8001"]
addresses = ["10.9.0.3/24"]
[hosts.h2]
ports = { ib0 = "s1", ib1 = "s2" }
routes = [{ to = "default", via = "10.9.0.3" }]
[hosts.h2.bonds.bond0]
members = ["ib0.8001", "ib1.8001"]
addresses = ["10.9.0.2/24"]
"""


def test_a_gateway_between_two_partitions(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(GATEWAY)
    name = f"gateway{os.getpid()}"
    ibbond("lab", "up", "--name", name, str(file))
    try:
        assert run_in("h1", "ping", "-c", "2", "-i", "0.2", "-W", "2", "10.9.0.2", lab=name).returncode == 0
        ibbond("lab", "cut", "--name", name, "gw/ib0")
        assert run_in("h1", "ping", "-c", "2", "-i", "0.2", "-W", "2", "10.9.0.2", lab=name).returncode == 0
        ibbond("lab", "cut", "--name", name, "h2/ib0")
        assert run_in("h1", "ping", "-c", "2", "-i", "0.2", "-W", "2", "10.9.0.2", lab=name).returncode == 0
    finally:
        ibbond("lab", "down", "--name", name)


PLAIN = """
[switches]
s1 = {}
[hosts.h1]
ports = { ib0 = "s1" }
[hosts.h1.devices.ib0]
addresses = ["10.0.0.1/24"]
[hosts.h2]
ports = { ib0 = "s1" }
[hosts.h2.devices.ib0]
addresses = ["10.0.0.2/24"]
"""


def test_a_device_without_a_bond_carries_its_own_address(tmp_path: Path) -> None:
    file = tmp_path / "plain.toml"
    file.write_text(PLAIN)
    name = f"plain{os.getpid()}"
    ibbond("lab", "up", "--name", name, str(file))
    try:
        assert run_in("h1", "ping", "-c", "2", "-i", "0.2", "-W", "2", "10.0.0.2", lab=name).returncode == 0
    finally:
        ibbond("lab", "down", "--name", name)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("add", "h1/bond0", "bond0"), "cannot be its own member"),
        (("add", "h1/bond0", "eth0"), "devices of different types"),
        (("add", "h1/bond0", "ib7"), "there is no device ib7"),
        (("create", "h1/bond1", "ib0"), "belongs to bond0 already"),
        (("create", "h1/a-name-that-is-too-long"), "15 characters"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_refused_change_of_bonds_changes_nothing(lab: str, words: tuple[str, ...], why: str) -> None:
    """IPv6 addresses included, which the kernel takes from a device that is set down for a moment."""

    def facts() -> str:
        return run_in("h1", "ip", "-o", "addr").stdout + ibbond("bond", "list", "--name", NAME, "h1", "--json").stdout

    before = facts()
    assert "fd00::1/64" in before
    refused = ibbond("bond", words[0], "--name", NAME, *words[1:], check=False)
    assert refused.returncode == 2
    assert why in refused.stderr
    assert facts() == before


def test_a_capture_follows_no_link_that_another_user_laid_out(lab: str, tmp_path: Path) -> None:
    shared, victim = tmp_path / "shared", tmp_path / "victim"
    shared.mkdir()
    shared.chmod(0o1777)
    victim.write_text("precious")
    trap = shared / "x.pcap"
    trap.symlink_to(victim)
    if os.geteuid():
        pytest.skip("giving a link away needs root")
    os.chown(trap, 65534, 65534, follow_symlinks=False)
    done = ibbond("lab", "capture", "--name", lab, "h1/ib0", str(trap), "--seconds", "1", check=False)
    assert (done.returncode, "link of another user" in done.stderr) == (2, True)
    assert victim.read_text() == "precious"
