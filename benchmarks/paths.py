"""The paths that are compared: two hosts in network namespaces that can talk, and whatever carries their packets.

Read first: docs/benchmarks.md. Every path is a context manager that builds itself again and leaves nothing. Peers run
as people would run them: Open vSwitch with its userspace datapath, DPDK's testpmd with net_bonding; all have two links
from the first host to a bridge, one from there to the second, and the MTU of IPoIB datagrams (DPDK: 1500). A program
that carries packets gets a session of its own with the same weight as ours. What cannot run raises `CannotRun` with
its reason. Left out: measuring (`measures`), the order of rounds (`__main__`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from ibbond.backend.control_socket import Control
from ibbond.errors import Refused
from ibbond.host import namespace
from ibbond.host.namespace import NetNamespace
from ibbond.host.priority import NICE
from ibbond.host.rtnetlink import RouteSocket
from ibbond.lab import launch
from ibbond.lab.exec import host_handle
from ibbond.lab.state import Files, LabConfig
from ibbond.topology.default import TWO_HOSTS

MTU = 2044
CONNECTED_MTU = 65520
OVS_SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
DPDK_MTU = 1500  # "Frame size (2062) > device max frame size (1518)": its AF_PACKET port takes no more


class CannotRun(Exception):
    """A path that this machine cannot build; the text says why."""


@dataclass(slots=True)
class Ways:
    """How a path's first link is cut and plugged; each returns when it began, in monotonic nanoseconds."""

    cut: Callable[[], int]
    mend: Callable[[], int]


@dataclass(slots=True)
class Built:
    """Two hosts that can talk. `owners` are the processes that carry the packets, none where the kernel does."""

    client: NetNamespace
    server: NetNamespace
    client_address: str
    address: str
    owners: list[int] = field(default_factory=list)
    breaks: dict[str, Ways] = field(default_factory=dict)  # "cut", and for ours "link down" too
    events: Callable[[], list[dict[str, object]]] = list


@contextlib.contextmanager
def veth(mark: str) -> Iterator[Built]:
    """One veth pair: the minimum that two namespaces can have between them."""
    with spaces(mark, "a", "b") as (a, b):
        ip(b, f"link add r0 mtu {MTU} type veth peer name l0 mtu {MTU} netns {a.name}")  # b was made later: it sees a
        for number, (space, device) in enumerate(((a, "l0"), (b, "r0")), 1):
            ip(space, f"addr add 10.1.0.{number}/24 dev {device}")
            ip(space, f"link set {device} up")
        yield Built(a, b, "10.1.0.1", "10.1.0.2")


@contextlib.contextmanager
def bridge(mark: str) -> Iterator[Built]:
    """The path of the bonds without a bond: veth, bridge, veth."""
    with wired(mark) as (a, b, _):
        ip(a, "addr add 10.1.0.1/24 dev l0")
        yield Built(a, b, "10.1.0.1", "10.1.0.2")


@contextlib.contextmanager
def open_vswitch(mark: str, *, tso: bool = False) -> Iterator[Built]:
    """Open vSwitch's userspace datapath with an active-backup bond that watches carriers."""
    need("ovs-vswitchd", "ovsdb-server", "ovsdb-tool", "ovs-vsctl", package="openvswitch-switch")
    with wired(mark) as (a, b, switch), directory() as place, contextlib.ExitStack() as stack:
        run(["ovsdb-tool", "create", f"{place}/conf.db", str(OVS_SCHEMA)])
        inherited = {**os.environ, "OVS_RUNDIR": place, "OVS_LOGDIR": place, "OVS_DBDIR": place}
        host_handle = f"{place}/db.sock"
        command = ["ovsdb-server", f"--remote=punix:{host_handle}", f"--unixctl={place}/db.ctl", f"{place}/conf.db"]
        owners = [stack.enter_context(carrier(a, command, env=inherited))]
        wait_for(lambda: os.path.exists(host_handle), "ovsdb-server did not open its socket")
        control = ["ovs-vsctl", f"--db=unix:{host_handle}", "-t", "15"]
        run([*control, "--no-wait", "init"])
        if tso:
            run([*control, "--no-wait", "set", "Open_vSwitch", ".", "other_config:userspace-tso-enable=true"])
        command = ["ovs-vswitchd", f"--unixctl={place}/ctl", f"--log-file={place}/log", f"unix:{host_handle}"]
        owners.append(stack.enter_context(carrier(a, command, env=inherited)))
        words = (
            "add-br bond0 -- set bridge bond0 datapath_type=netdev -- add-bond bond0 both l0 l1"
            " bond_mode=active-backup -- set port both bond_updelay=0 bond_downdelay=0"
            " other_config:bond-detect-mode=carrier other_config:bond-primary=l0"
            f" -- set interface bond0 mtu_request={MTU}"
        )
        run([*control, *words.split()])
        ip(a, f"link set bond0 mtu {MTU} up")
        ip(a, "addr add 10.1.0.1/24 dev bond0")
        if not tso:  # AF_PACKET carries no checksum offload: without this the second host gets wrong checksums
            no_offload(b, "l0")
        yield Built(a, b, "10.1.0.1", "10.1.0.2", [each.pid for each in owners], {"cut": by_netlink(switch, "p0")})


@contextlib.contextmanager
def dpdk(mark: str) -> Iterator[Built]:
    """DPDK's net_bonding in testpmd: two AF_PACKET ports below, a TAP above. It polls: one core is always busy."""
    need("dpdk-testpmd", package="dpdk-dev")
    with wired(mark) as (a, b, switch), directory() as place, open(f"{place}/log", "w+") as log:
        no_offload(b, "l0")
        command = [
            *["dpdk-testpmd", "--no-huge", "--no-pci", "-m", "512", "--no-shconf", "--no-telemetry", "-l", "0,1"],
            "--vdev=net_af_packet0,iface=l0",
            "--vdev=net_af_packet1,iface=l1",
            "--vdev=net_tap0,iface=bond0",
            "--vdev=net_bonding0,mode=1,slave=net_af_packet0,slave=net_af_packet1,primary=net_af_packet0",
            *["--", "-i", "--portlist=2,3", "--forward-mode=io", "--total-num-mbufs=8192", "--nb-cores=1"],
        ]
        with carrier(a, command, stdin=subprocess.PIPE, stdout=log, stderr=log, text=True) as process:
            assert process.stdin is not None
            wait_for(lambda: process.poll() is not None or exists(a, "bond0"), "testpmd made no device")
            time.sleep(1)
            with contextlib.suppress(OSError):
                process.stdin.write("set bonding mon_period 3 10\nstart\n")
                process.stdin.flush()
            time.sleep(0.5)
            log.seek(0)
            said = log.read()
            if process.poll() is not None or "Start ports failed" in said:
                raise CannotRun(f"testpmd does not start: {' '.join(said.split())[-300:]}")
            address = a.run(["cat", "/sys/class/net/l0/address"]).stdout.strip()
            ip(a, f"link set bond0 address {address} mtu {DPDK_MTU} up")
            ip(a, "addr add 10.1.0.1/24 dev bond0")
            yield Built(a, b, "10.1.0.1", "10.1.0.2", [process.pid], {"cut": by_netlink(switch, "p0")})


@contextlib.contextmanager
def ours(mark: str, *, bonded: bool = True, connected: bool = False) -> Iterator[Built]:
    """A lab of ibbond: two hosts with a bond of two IPoIB devices each, or with one device and no bond."""
    text = TWO_HOSTS.replace("num_grat_arp = 3 }", 'num_grat_arp = 3, primary = "ib0" }')
    if not bonded:
        text = one_device_each()
    try:
        started = launch.start(LabConfig(mark, text, "the benchmark"))
    except Refused as refusal:
        raise CannotRun(str(refusal)) from None
    with contextlib.ExitStack() as stack:
        stack.callback(launch.clean, Files(mark))
        stack.callback(launch.stop, started.process)
        control = stack.enter_context(Control.of(mark))
        hosts = []
        for name in ("h1", "h2"):
            way = host_handle(control, name)
            hosts.append(NetNamespace(name, way.namespaces, named=False))
            stack.callback(hosts[-1].close)
            if connected:
                connect(hosts[-1])

        def write_line(do: str) -> int:
            began = time.monotonic_ns()
            control.ask(do, cables=["h1/ib0"])
            return began

        def events() -> list[dict[str, object]]:
            return cast("list[dict[str, object]]", control.ask("past_events"))

        breaks = {}
        if bonded:
            cables = Ways(lambda: write_line("cut"), lambda: write_line("mend"))
            breaks = {"cut": cables, "link down": by_netlink(hosts[0], "ib0")}
        yield Built(hosts[0], hosts[1], "10.0.0.1", "10.0.0.2", [started.process.pid], breaks, events)


PATHS: dict[str, Callable[[str], contextlib.AbstractContextManager[Built]]] = {
    "veth": veth,
    "veth-bridge": bridge,
    "ovs": open_vswitch,
    "ovs-tso": lambda mark: open_vswitch(mark, tso=True),
    "dpdk": dpdk,
    "ours": ours,
    "ours-no-bond": lambda mark: ours(mark, bonded=False),
    "ours-65520": lambda mark: ours(mark, connected=True),
}


# --- the parts


def one_device_each() -> str:
    """The default topology with ib0 alone: no bond, the same addresses, switches and cables."""
    head = TWO_HOSTS.partition("[hosts.h1]")[0]
    return head + "".join(
        f'[hosts.h{n}]\nports = {{ ib0 = "s1", ib1 = "s2" }}\n[hosts.h{n}.devices.ib0]\n'
        f'addresses = ["10.0.0.{n}/24", "fd00::{n}/64"]\nmtu = {MTU}\n'
        for n in (1, 2)
    )


def connect(host: NetNamespace) -> None:
    """Put both devices into connected mode, as an administrator does, and the bond to its MTU."""
    words = (
        "for d in ib0 ib1; do echo connected >/sys/class/net/$d/mode; done;"
        f" ip link set bond0 mtu {CONNECTED_MTU}; cat /sys/class/net/ib0/mode /sys/class/net/bond0/mtu"
    )
    done = host.run(["sh", "-ec", words])
    if done.returncode or done.stdout.split() != ["connected", str(CONNECTED_MTU)]:
        said = " ".join((done.stderr or done.stdout).split())
        raise CannotRun(f"a lab does not take connected mode by /sys/class/net/ib0/mode: {said}")


@contextlib.contextmanager
def spaces(mark: str, *names: str) -> Iterator[list[NetNamespace]]:
    made: list[NetNamespace] = []
    try:
        for name in names:
            made.append(namespace.make(mark, name))
            made[-1].run(["sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6"])
        yield made
    finally:
        for space in made:
            space.remove()


@contextlib.contextmanager
def wired(mark: str) -> Iterator[list[NetNamespace]]:
    """a with l0 and l1, b with l0 and its address, between them a bridge with ports p0 (a/l0), p1 (a/l1), p2 (b/l0)."""
    with spaces(mark, "a", "b", "switch") as (a, b, switch):
        ip(switch, "link add bridge type bridge")
        ip(switch, "link set bridge up")
        for number, (space, device) in enumerate(((a, "l0"), (a, "l1"), (b, "l0"))):
            ip(switch, f"link add p{number} mtu {MTU} type veth peer name {device} mtu {MTU} netns {space.name}")
            ip(switch, f"link set p{number} master bridge up")
            ip(space, f"link set {device} up")
        ip(b, "addr add 10.1.0.2/24 dev l0")
        yield [a, b, switch]


def by_netlink(space: NetNamespace, device: str) -> Ways:
    """Cut by taking a device down in its namespace: one request, without the start of a program."""
    socket = space.run_in(RouteSocket)
    index = socket.link(device).index

    def set_up(up: bool) -> int:
        began = time.monotonic_ns()
        socket.set_up(index, up)
        return began

    return Ways(lambda: set_up(False), lambda: set_up(True))


@contextlib.contextmanager
def carrier(space: NetNamespace, command: list[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A program that carries packets, in a session of its own that weighs as much as ours does."""
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **options}
    process = space.popen(command, start_new_session=True, **quiet)
    try:
        with contextlib.suppress(OSError):
            Path(f"/proc/{process.pid}/autogroup").write_text(str(NICE))
        yield process
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdin:
            process.stdin.close()


@contextlib.contextmanager
def directory() -> Iterator[str]:
    place = tempfile.mkdtemp(prefix="ibbond-bench-")
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def ip(space: NetNamespace, words: str) -> None:
    done = space.run(["ip", *words.split()])
    if done.returncode:
        raise CannotRun(f"ip {words}: {done.stderr.strip()}")


def no_offload(space: NetNamespace, device: str) -> None:
    need("ethtool", package="ethtool")
    space.run(
        ["ethtool", "-K", device, *["tx", "off", "rx", "off", "tso", "off", "gso", "off", "gro", "off", "sg", "off"]]
    )


def exists(space: NetNamespace, device: str) -> bool:
    return space.run(["ip", "link", "show", device]).returncode == 0


def need(*programs: str, package: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            raise CannotRun(f"{program} is not installed (package {package})")


def run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    if done.returncode:
        raise CannotRun(f"{' '.join(command[:3])}: {done.stderr.strip()[-300:]}")


def wait_for(done: Callable[[], bool], otherwise: str, seconds: float = 10) -> None:
    until = time.monotonic() + seconds
    while not done():
        if time.monotonic() > until:
            raise CannotRun(otherwise)
        time.sleep(0.05)
