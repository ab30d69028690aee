"""The distribution's OpenSM and infiniband-diags in a lab: how they are found, configured and started.

Read first: docs/subnet.md; `tools.umad`, which answers them. They are unmodified: libumad2sim, preloaded, takes them to
our subnet instead of /dev/infiniband. Left out: their answers; large tables are cut by that library, `ibbond fabric`
prints them whole.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ibbond.errors import Refused
from ibbond.fabric.subnet import Subnet
from ibbond.host import capabilities
from ibbond.host.guard import Entry
from ibbond.host.loop import LiveLoop
from ibbond.host.namespace import NetNamespace, end_processes, enter
from ibbond.host.syscalls import MS_NODEV, MS_NOEXEC, MS_NOSUID, mount
from ibbond.tools.umad import UmadServer
from ibbond.topology.model import Topology
from ibbond.wire.ipoib import ENCAPSULATION_BYTES
from ibbond.wire.pkey import DEFAULT_PKEY, FULL_MEMBER
from ibbond.wire.port_info import MTU_CODE

SOCKET_BASE = "sim"  # the library's default; abstract names are private to a network namespace
MANAGER_NODE = "opensm"  # an HCA of its own, so that no test cuts the manager off by accident
TOOLS = {
    "ibaddr", "ibccconfig", "ibccquery", "ibdiscover", "ibhosts", "iblinkinfo", "ibnetdiscover", "ibnodes", "ibping",
    "ibportstate", "ibqueryerrors", "ibroute", "ibrouters", "ibstat", "ibstatus", "ibswitches", "ibsysstat",
    "ibtracert", "mcm_rereg_test", "opensm", "perfquery", "saquery", "sminfo", "smpdump", "smpquery", "vendstat",
    "check_lft_balance", "dump_fts", "dump_lfts", "dump_mfts", "ibclearcounters", "ibclearerrors", "ibidsverify",
    "iblinkinfo.pl", "ibfindnodesusing", "ibcacheedit", "ibdatacounters", "ibdatacounts", "iberrors",
}  # fmt: skip
PR_SET_PDEATHSIG = 1
SYSTEM_FOLDERS = ("/usr/sbin", "/sbin")
OPENSM_CONF = """\
force_log_flush TRUE
fsync_high_avail_files FALSE
sweep_interval 1
sminfo_polling_timeout 1000
polling_retry_number 4
m_key 0x0000000000000000
"""


def library() -> Path:
    """libumad2sim; `Refused` with the packages where it is missing."""
    found = sorted(Path("/usr/lib").glob("*/umad2sim/libumad2sim.so")) + sorted(
        Path("/usr").glob("lib*/umad2sim/libumad2sim.so")
    )
    if not found:
        raise Refused(
            "cannot run InfiniBand tools in a lab",
            why="libumad2sim, the library that connects them to a simulated subnet, is not installed",
            fix="Install it: apt-get install libumad2sim0 infiniband-diags opensm (dnf: ibsim infiniband-diags opensm)",
        )
    return found[0]


def is_tool(command: str) -> bool:
    return Path(command).name in TOOLS


def equip(environment: Mapping[str, str], home: Path, node: str) -> dict[str, str]:
    """The environment of a tool at a node of the subnet; `home` is where the library keeps its files."""
    return {
        **environment,
        "PATH": ":".join((environment.get("PATH", ""), *SYSTEM_FOLDERS)),
        "LD_PRELOAD": str(library()),
        "SIM_HOST": node,
        "IBSIM_SOCKNAME": SOCKET_BASE,
        "OSM_TMP_DIR": str(home),
        "OSM_CACHE_DIR": str(home),
    }


def attach_manager(subnet: Subnet, topology: Topology) -> str:
    """Before the subnet starts: an HCA for OpenSM at the first switch with a free port. Its port's name."""
    for switch in topology.switches:
        used = {end for cable in topology.cables for end in (cable.a, cable.b)}
        ports = (f"{switch.name}/{number}" for number in range(1, switch.ports + 1))
        free = next((port for port in ports if port not in used), None)
        if free is not None:
            subnet.add_hca(MANAGER_NODE, 1)
            subnet.connect(f"{MANAGER_NODE}/1", free)
            return f"{MANAGER_NODE}/1"
    raise Refused("cannot attach OpenSM", why="no switch has a free port", fix="Give a switch more ports")


def partitions(topology: Topology, subnet: Subnet, changed: Mapping[str, Sequence[int]]) -> str:
    """OpenSM's partition file for a topology: every P_Key an IPoIB partition with its broadcast group.

    `changed` has the P_Keys of ports that differ from the topology. Lines of one P_Key add up.
    """
    tables = {device.port: topology.pkeys_of(device.port) for host in topology.hosts for device in host.devices}
    names = {DEFAULT_PKEY & ~FULL_MEMBER: "Default"}
    names |= {partition.pkey & ~FULL_MEMBER: partition.name for partition in topology.partitions}
    for pkey in (key & ~FULL_MEMBER for keys in changed.values() for key in keys):
        names.setdefault(pkey, f"lab-{pkey:04x}")
    lines = []
    for pkey, name in names.items():
        head = f"{name}={pkey:#06x}, ipoib, mtu={MTU_CODE[topology.mtu_of(pkey) + ENCAPSULATION_BYTES]}, rate=3"
        lines.append(f"{head} : ALL_SWITCHES=full, SELF=full;")
        for port, own in tables.items():
            for key in changed.get(port, own):
                if key & ~FULL_MEMBER == pkey:
                    member = "full" if key & FULL_MEMBER else "limited"
                    lines.append(f"{head} : {subnet.port(port).guid:#018x}={member};")
    return "\n".join(lines) + "\n"


class OpenSm:
    """The distribution's OpenSM as our child, in the namespace of a lab host, at its own HCA.

    `tools` lets it in; `ended` gets its return code when it ends without being asked to. It ends with the lab, even
    with one that is killed: prctl(2), PR_SET_PDEATHSIG, for which a child's parent is a thread. Those that call us,
    the loop's and the one that answers requests in its turn, stay as long as the lab.
    """

    def __init__(
        self,
        loop: LiveLoop,
        tools: UmadServer,
        space: NetNamespace,
        home: Path,
        partition_file: str,
        ended: Callable[[int], None],
        limit: tuple[int, int],
    ) -> None:
        if shutil.which("opensm", path=":".join(SYSTEM_FOLDERS)) is None:
            raise Refused(
                "cannot start OpenSM", why="opensm is not installed", fix="Install it: apt-get install opensm"
            )
        self._loop = loop
        self._tools = tools
        self._space = space
        self._home = home
        self._ended = ended
        self._limit = limit  # of open files, soft and hard
        self._watched = -1  # descriptor of the process
        self._process: subprocess.Popen[bytes] | None = None
        self._configuration = home / "opensm.conf"
        end_processes(self._left, timeout=0)  # with one that stayed alive all would be managed by two
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._picture = home / "sys"  # of /sys/class/infiniband, 300 files, which the library draws where it starts
        self._picture.mkdir(exist_ok=True)
        with contextlib.suppress(OSError):  # not in memory then
            space.run_in_mounts(lambda: mount("tmpfs", str(self._picture), "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC))
        self._configuration.write_text(OPENSM_CONF)
        self.partition(partition_file)
        self.environment = equip({}, home, f"{MANAGER_NODE}:1")

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> Path:
        return self._home / "opensm.log"

    def start(self) -> None:
        if self.alive:
            return
        command: Sequence[str] = (
            "/usr/sbin/opensm", "-F", str(self._configuration), "-P", str(self._home / "partitions.conf"),
            "-f", str(self.log), "-p", "1",
        )  # fmt: skip
        system, parent, space, limit = ctypes.CDLL(None), os.getpid(), self._space, self._limit

        def enter_host() -> None:
            enter(space.namespaces)
            resource.setrlimit(resource.RLIMIT_NOFILE, limit)
            capabilities.drop(())
            system.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:  # it was killed before the death signal was set
                os._exit(1)

        with (self._home / "opensm.out").open("ab") as output:
            self._process = subprocess.Popen(
                command,
                preexec_fn=enter_host,
                env=self.environment,
                cwd=self._picture,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self._tools.admit(self._process.pid, f"{MANAGER_NODE}/1")
        self._watched = os.pidfd_open(self._process.pid)
        self._loop.add_reader(self._watched, self._has_ended, Entry.MANAGER, self._unwatch)

    def _left(self) -> list[int]:
        """OpenSM of a lab that was killed, where it did not end with that."""
        mark = str(self._configuration).encode()
        found = []
        for process in self._space.processes():
            with contextlib.suppress(OSError):
                if os.stat(f"/proc/{process}").st_uid != os.geteuid():
                    continue  # and reading the command line of a hostile program might never end
                if mark in Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0"):
                    found.append(process)
        return found

    def _has_ended(self) -> None:
        process = self._process
        self._unwatch()
        if process is not None:
            self._tools.dismiss(process.pid)
            self._ended(process.wait())

    def _unwatch(self) -> None:
        if self._watched >= 0:
            self._loop.remove_reader(self._watched)
            os.close(self._watched)
            self._watched = -1

    def partition(self, partition_file: str) -> None:
        """Give it this partition file, as an operator would: where it runs, SIGHUP has it read it and sweep."""
        (self._home / "partitions.conf").write_text(partition_file)
        if self._process is not None and self.alive:
            self._process.send_signal(signal.SIGHUP)

    def kill(self) -> None:
        """At once, as a machine dies."""
        self._end(signal.SIGKILL)

    def close(self) -> None:
        self._end(signal.SIGTERM)
        shutil.rmtree(self._home, ignore_errors=True)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        self._unwatch()
        if process is None:
            return
        self._tools.dismiss(process.pid)
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(how)
        try:
            process.wait(3)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
