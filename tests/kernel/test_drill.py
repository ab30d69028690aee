"""`ibbond drill` on the kernel's own bonds: two namespaces of the guest are two hosts on one hub, probed each 5 ms."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.virtual_machine import Host, Missing, VirtualMachine, kernel_root

ROUNDS = int(os.environ.get("IBBOND_DRILL_ROUNDS", "1"))
CLASSES = ("planned-switch", "admin-down", "silent-death", "adapter-removed")
TOKEN = "/tmp/drill.token"
MODULES = ("sch_ingress", "cls_matchall", "act_gact")
MIIMON_MS = 100


@pytest.fixture(scope="module")
def machine() -> Iterator[VirtualMachine]:
    try:
        root = kernel_root()
    except Missing as missing:
        pytest.skip(str(missing))
    machine = VirtualMachine(root, modules=MODULES)
    yield machine
    machine.close()


@pytest.fixture(scope="module")
def pair(machine: VirtualMachine) -> Iterator[tuple[Host, Host]]:
    """h1 with the bond that is drilled, and its peer, which serves."""
    one, two = machine.host(), machine.host()
    for number, host in enumerate((one, two)):
        for port in (0, 1):
            host.add_port(f"ib{port}", adapter=port, port=1, hub=one.group, node=number + 1)
        host.sh(
            f"""
            echo +bond0 > /sys/class/net/bonding_masters
            cd /sys/class/net/bond0/bonding
            echo active-backup > mode; echo {MIIMON_MS} > miimon
            ip link set bond0 up
            echo +ib0 > slaves; echo +ib1 > slaves
            ip addr add 10.0.0.{number + 1}/24 dev bond0
            umask 077; echo 0123456789abcdef0123456789abcdef > {TOKEN}
            """
        )
    serving = two.start("drill", "--serve", "--token", TOKEN)
    until = time.monotonic() + 120
    while "7000" not in one_line(two, "ss -ltn"):
        assert time.monotonic() < until, two.output(serving)
        time.sleep(0.5)
    yield one, two
    two.stop(serving)
    for host in (one, two):
        host.close()


def one_line(host: Host, command: str) -> str:
    return host.sh(f"{command} || true")


def drill(host: Host, *words: str, code: int | None = None, timeout: float = 600) -> dict[str, Any]:
    done = host.ibbond(
        "drill", "bond0", "--peer", "10.0.0.2", "--token", TOKEN, "--spacing", "5ms", *words, timeout=timeout
    )
    assert code is None or done.code == code, f"{words} ended with {done.code}:\n{done.out}{done.err}"
    return {"code": done.code, "out": done.out, "err": done.err}


def both_up(host: Host, seconds: float = 90) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        text = host.sh("cat /proc/net/bonding/bond0; tc qdisc show")
        if text.count("MII Status: up") == 3 and "clsact" not in text:
            return True
        time.sleep(0.5)
    return False


def test_classes_and_their_reversions(pair: tuple[Host, Host]) -> None:
    host, _ = pair
    words = [word for name in CLASSES for word in ("--class", name)]
    done = drill(host, *words, "--rounds", str(ROUNDS), "--json", "--report", "/tmp/report", timeout=500 + 150 * ROUNDS)
    assert done["code"] == 1, done
    found = json.loads(done["out"])
    saved = json.loads(host.run("cat", "/tmp/report/drill.json"))
    runs = {(run["class"], run["round"]): run for run in saved["runs"]}
    expected = [(n, i) for c in CLASSES for i in range(1, ROUNDS + 1) for n in (c, f"{c} reversion")]
    assert sorted(runs) == sorted(expected), found
    for key, run in runs.items():
        unseen = [sentence for sentence in run["disagreements"] if "did not show" in sentence]
        assert not unseen, f"{key}: {unseen}\n{run['sightings']}"
        assert not run["failures"], f"{key}: {run['failures']}"
    for (name, _), run in runs.items():
        phases = {phase["name"]: phase["t_ms"] for phase in run["phases"]}
        if name == "admin-down":
            polled = phases["monitor's verdict"] - phases["carrier"]
            assert -20 <= polled <= MIIMON_MS + 60, f"miimon polls: {phases}"
        if name == "silent-death":
            assert run["gap_ms"] >= 1400, "miimon cannot see it"
    assert found["verdict"] == "fail", "silent death is over the budget"
    assert both_up(host)


CAPTURE = """
import os, select, signal, socket, struct, time

pid = os.fork()
if pid == 0:
    os.setsid()
    for number in (0, 1, 2):
        os.dup2(os.open(os.devnull, os.O_RDWR), number)
    signal.alarm({seconds})  # whatever happens
    sockets = []
    for name in ("ib0", "ib1"):
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
        sock.bind((name, 0x0800))
        sock.setsockopt(socket.SOL_SOCKET, 35, 1)  # SO_TIMESTAMPNS
        sock.setsockopt(socket.SOL_SOCKET, 33, 1 << 24)  # SO_RCVBUFFORCE
        sockets.append(sock)
    with open("/tmp/far.pcap", "wb", buffering=0) as file:
        file.write(struct.pack("=IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 65535, 101))  # nanoseconds, LINKTYPE_RAW
        open("/tmp/far.ready", "w").close()
        while True:
            for sock in select.select(sockets, [], [])[0]:
                packet, ancillary, _, (_, _, kind, _, _) = sock.recvmsg(65536, 64)
                if kind != socket.PACKET_OUTGOING and ancillary:
                    seconds, nanoseconds = struct.unpack("=qq", ancillary[0][2])
                    file.write(struct.pack("=IIII", seconds, nanoseconds, len(packet), len(packet)) + packet)
while not os.path.exists("/tmp/far.ready"):
    time.sleep(0.01)
answer = pid
"""


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
def test_a_capture_at_the_far_end_agrees_with_the_report(pair: tuple[Host, Host], tmp_path: Path) -> None:
    """What comes out of the switch for the peer, as tshark reads it."""
    host, peer = pair
    pid = peer.python(CAPTURE.format(seconds=300))
    drill(host, "--class", "admin-down", "--rounds", "1", "--report", "/tmp/captured")
    peer.sh(f"kill {pid}")
    (tmp_path / "far.pcap").write_bytes(base64.b64decode(peer.run("base64", "/tmp/far.pcap")))
    clocks = peer.python("import time; answer = time.time_ns() - time.monotonic_ns()")
    assert isinstance(clocks, int)
    saved = json.loads(host.run("cat", "/tmp/captured/drill.json"))
    words = ["tshark", "-r", str(tmp_path / "far.pcap"), "-Y", "udp.dstport == 7001 && ip.dst == 10.0.0.2"]
    read = subprocess.run(
        [*words, "-T", "fields", "-e", "frame.time_epoch"], text=True, capture_output=True, check=True
    )
    times = [float(line) for line in read.stdout.split()]
    for run in saved["runs"]:
        flow = next(each for each in run["flows"] if each["protocol"] == "udp" and "this host >" in each["direction"])
        since, until = ((run[key] + clocks) / 1e9 for key in ("at_ns", "until_ns"))
        seen = [at for at in times if since - 0.1 < at < until]
        gap = max(b - a for a, b in pairwise(seen)) * 1000 - saved["spacing_ms"]
        assert abs(gap - flow["gap_ms"]) <= 2 * flow["resolution_ms"], f"tshark: {gap:.1f} ms, report: {flow}"


STEPS = ("watch", "arm", "do", "active", "sleep", "undo", "disarm", "is_redundant", "sightings")
KILLED = """
import os, signal
from ibbond.drill import runner
from ibbond.drill.host_world import HostWorld
from ibbond.drill.peer import Peer

step, when, name = {step!r}, {when!r}, {name!r}

def deadly(call, matches):
    def wrapped(self, *words, **options):
        here = matches(options)
        if here and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = call(self, *words, **options)
        if here and when == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return wrapped

pid = os.fork()
if pid == 0:
    try:
        if step in ("do", "undo"):
            HostWorld.apply = deadly(HostWorld.apply, lambda options: options["undo"] == (step == "undo"))
        else:
            setattr(HostWorld, step, deadly(getattr(HostWorld, step), lambda options: True))
        world = HostWorld("bond0", Peer("10.0.0.2", b"0123456789abcdef" * 2), 5000)
        runner.drill(world, [name], 1, 10**9, lambda text: None, spacing_ns=5000000)
    finally:
        os._exit(1)
answer = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_kill_9_at_every_step_leaves_both_members_up(pair: tuple[Host, Host], step: str, when: str) -> None:
    host, _ = pair
    name = CLASSES[1 + STEPS.index(step) % 3]
    assert host.python(KILLED.format(step=step, when=when, name=name)) == -9
    assert both_up(host), f"killed {when} {step} of {name}"


def test_what_is_refused_changes_nothing(pair: tuple[Host, Host]) -> None:
    host, _ = pair
    good = ["bond0", "--peer", "10.0.0.2", "--token", TOKEN]
    host.sh(
        "umask 077; echo short > /tmp/short; echo fedcba9876543210 > /tmp/other; "
        "cp /tmp/other /tmp/open; chmod 644 /tmp/open"
    )
    before = host.sh("ip -d link; cat /proc/net/bonding/bond0")

    def refused(words: list[str], why: str, prepare: str = "true", restore: str = "true") -> None:
        host.sh(prepare)
        try:
            done = host.ibbond("drill", *words)
            assert done.code == 2, f"{why}: {done.out}{done.err}"
            assert why in done.err, f"{why}: {done.err}"
        finally:
            host.sh(restore)

    refused(["bond9", *good[1:]], "no such bond")
    refused(good[:1], "no peer was given")
    refused([*good, "--peer", "10.0.0.3"], "several peers")
    refused([*good[:3]], "no token was given")
    refused([*good[:4], "/tmp/none"], "No such file")
    refused([*good[:4], "/tmp/short"], "needs 16 to 4096")
    refused([*good[:4], "/tmp/open"], "other users may read")
    refused([*good[:4], "/tmp/other"], "the tokens differ")
    refused(["bond0", "--peer", "10.0.0.77", "--token", TOKEN], "does not answer")
    refused([*good, "--class", "cut"], "has no way to do it")
    down, up = "ip link set ib1 down; sleep 0.5", "ip link set ib1 up; sleep 1"
    refused(good, "no second member could take over: ib1 is down", down, up)
    bonding = "cd /sys/class/net/bond0/bonding"
    refused(good, "only one member", f"{bonding}; echo -ib1 > slaves", f"{bonding}; echo +ib1 > slaves; sleep 1")
    refused(good, "ibbond check finds an error", f"{bonding}; echo 0 > miimon", f"{bonding}; echo {MIIMON_MS} > miimon")
    assert both_up(host)
    after = host.sh("ip -d link; cat /proc/net/bonding/bond0")
    assert [line for line in after.splitlines() if "MII Status" in line] == [
        line for line in before.splitlines() if "MII Status" in line
    ]
