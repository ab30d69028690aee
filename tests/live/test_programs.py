"""Well-known programs in lab hosts, unmodified, while the cable in use is pulled: the rows of docs/programs.md.

Each starts its servers itself, in lab hosts, with files of its own. A few run in `./test`, all of them with
`IBBOND_PROGRAMS=all` (`./test --full`, which also installs them); what is not installed is skipped, with its package.
keepalived with its moving address is in test_moving_address.py, iperf3 in test_lab_traffic.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pwd
import re
import shutil
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ibbond import Lab
from tests.live.commands import sound_lab

ALL = os.environ.get("IBBOND_PROGRAMS") == "all"
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin:/usr/lib/frr"
SECONDS = 60.0  # for anything to become true on a busy machine


@dataclass
class Stage:
    """The lab, a folder of this test's own, and what it has started."""

    lab: Lab
    folder: Path
    closing: contextlib.ExitStack

    def file(self, name: str, text: str, mode: int = 0o644) -> str:
        path = self.folder / name
        path.write_text(textwrap.dedent(text).lstrip())
        path.chmod(mode)
        return str(path)

    def run(self, host: str, *command: str, timeout: float = SECONDS) -> str:
        done = self.lab[host].run(["env", f"PATH={PATH}", *command], timeout=timeout)
        return done.stdout

    def start(self, host: str, *command: str, own_run: bool = True) -> subprocess.Popen[str]:
        """A server until the test ends; with a /run and a /var/log of its own, as two of it share one file system."""
        script = 'mount -t tmpfs none /run; mount -t tmpfs none /var/log; cd /; exec "$@"'
        words = ("unshare", "-m", "sh", "-c", script, "sh", *command) if own_run else command
        output = self.folder / f"{host}.{Path(command[0]).name}.out"
        with output.open("wb") as file:
            process = self.lab[host].popen(["env", f"PATH={PATH}", *words], stdout=file, stderr=file)
        self.closing.callback(self._end, process, output)
        return process

    def _end(self, process: subprocess.Popen[str], output: Path) -> None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        print(f"--- {output}", output.read_text(errors="replace")[-1500:], sep="\n")

    def folder_of(self, user: str, name: str) -> Path:
        """One that this user may enter and write to."""
        path = Path(f"/tmp/{self.lab.name}-{name}")
        path.mkdir(mode=0o700)
        self.closing.callback(shutil.rmtree, path, ignore_errors=True)
        entry = pwd.getpwnam(user)
        os.chown(path, entry.pw_uid, entry.pw_gid)
        return path

    def until(self, host: str, *command: str, shows: str = "", seconds: float = SECONDS) -> str:
        """The output of a command, once it succeeds and shows this pattern."""
        end = time.monotonic() + seconds
        while True:
            done = self.lab[host].run(["env", f"PATH={PATH}", *command], check=False)
            if done.returncode == 0 and re.search(shows, done.stdout):
                return done.stdout
            assert time.monotonic() < end, f"{command}: no {shows!r} in {done.stdout[-2000:]}{done.stderr[-1000:]}"
            time.sleep(0.2)

    def connects(self, host: str, port: int, address: str = "10.0.0.2") -> None:
        """Wait until something listens there."""
        script = f"import socket; socket.create_connection(({address!r}, {port}), 2)"
        self.until(host, sys.executable, "-c", script)

    def fail_over(self, host: str = "h1") -> None:
        """Pull the cable in use, wait until the other one is used, plug it again."""
        files = self.lab.backend(host)
        before = self.lab.active(f"{host}/bond0")
        self.lab.cut(f"{host}/{before}")
        self.lab.wait(lambda: self.lab.active(f"{host}/bond0") not in (before, None), within=SECONDS)
        self.lab.mend(f"{host}/{before}")
        self.lab.wait(lambda: files.read(f"{before}/bonding_slave/mii_status") == "up\n", within=SECONDS)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with sound_lab() as lab:
        yield lab


def nginx(stage: Stage) -> None:
    """A download that is as it was sent, whatever happens to cables meanwhile."""
    content = os.urandom(16 << 20)
    (stage.folder / "www").mkdir()
    (stage.folder / "www/file").write_bytes(content)
    for path in (stage.folder, *stage.folder.parents):
        if path.stat().st_uid == os.getuid() and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o055)
    configuration = stage.file(
        "nginx.conf",
        f"""
        user root; daemon off; pid {stage.folder}/nginx.pid; error_log stderr;
        events {{}}
        http {{ access_log off; server {{ listen 10.0.0.2:8080; listen [fd00::2]:8080; root {stage.folder}/www; }} }}
        """,
    )
    stage.start("h2", "nginx", "-c", configuration)
    stage.connects("h1", 8080)
    for address in ("10.0.0.2", "[fd00::2]"):
        target = stage.folder / "got"
        download = stage.lab["h1"].popen(
            ["curl", "-sS", "--limit-rate", "6M", "-o", str(target), f"http://{address}:8080/file"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        while not target.exists() or target.stat().st_size < 1 << 20:
            assert download.poll() is None
            time.sleep(0.02)
        stage.fail_over("h1")
        stage.fail_over("h2")
        out, error = download.communicate(timeout=SECONDS)
        assert download.returncode == 0, out + error
        assert hashlib.sha256(target.read_bytes()).digest() == hashlib.sha256(content).digest()
        target.unlink()


def as_user(user: str, *command: str) -> tuple[str, ...]:
    return ("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *command)


def postgresql(stage: Stage) -> None:
    """Every transaction of pgbench succeeds."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1]
    data = stage.folder_of("postgres", "postgres")
    stage.run("h2", *as_user("postgres", f"{programs}/initdb", "-D", str(data), "-A", "trust", "--no-sync"))
    with (data / "pg_hba.conf").open("a") as access:
        access.write("host all all 10.0.0.0/24 trust\n")
    options = ("-h", "10.0.0.2", "-c", "fsync=off", "-c", f"unix_socket_directories={data}")
    stage.start("h2", *as_user("postgres", f"{programs}/postgres", "-D", str(data), *options), own_run=False)
    client = ("-h", "10.0.0.2", "-U", "postgres")
    stage.until("h1", "psql", *client, "-c", "select 1")
    stage.run("h1", f"{programs}/pgbench", *client, "-i", "-q", "postgres")
    bench = stage.lab["h1"].popen(
        [f"{programs}/pgbench", *client, "-c", "4", "-T", "6", "postgres"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    time.sleep(1)
    stage.fail_over("h1")
    stage.fail_over("h2")
    said = bench.communicate(timeout=SECONDS)[0]
    assert bench.returncode == 0, said
    assert "number of failed transactions: 0" in said


def redis(stage: Stage) -> None:
    """Each of 300 increments counts once."""
    stage.start("h2", "redis-server", "--bind", "10.0.0.2", "--protected-mode", "no", "--save", "", "--dir", "/run")
    client = ("redis-cli", "-h", "10.0.0.2")
    stage.until("h1", *client, "ping", shows="PONG")
    counting = stage.lab["h1"].popen(
        [*client, "-r", "300", "-i", "0.01", "incr", "counter"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    time.sleep(0.5)
    stage.fail_over("h1")
    stage.fail_over("h2")
    said = counting.communicate(timeout=SECONDS)[0].split()
    assert said[-1] == "300", said[-5:]
    assert stage.run("h1", *client, "get", "counter").strip() == "300"


def etcd(stage: Stage) -> None:
    """A cluster of two keeps its leader, for heartbeats of 100 ms and elections of 1 s (the defaults) ride it out."""
    cluster = "h1=http://10.0.0.1:2380,h2=http://10.0.0.2:2380"
    for host, address in (("h1", "10.0.0.1"), ("h2", "10.0.0.2")):
        stage.start(
            host, "etcd", "--name", host, "--data-dir", "/run/etcd",
            "--listen-peer-urls", f"http://{address}:2380", "--initial-advertise-peer-urls", f"http://{address}:2380",
            "--listen-client-urls", f"http://{address}:2379", "--advertise-client-urls", f"http://{address}:2379",
            "--initial-cluster", cluster, "--unsafe-no-fsync",
        )  # fmt: skip
    client = ("env", "ETCDCTL_API=3", "etcdctl", "--endpoints", "10.0.0.1:2379,10.0.0.2:2379")
    stage.until("h1", *client, "endpoint", "health")
    for number in range(6):
        stage.run("h1", *client, "put", "key", str(number))
        if number in (1, 3):
            stage.fail_over("h1" if number == 1 else "h2")
    assert stage.run("h2", *client, "get", "key").split() == ["key", "5"]


COROSYNC = """
totem {
    version: 2
    cluster_name: lab
    transport: knet
    crypto_cipher: none
    crypto_hash: none
}
nodelist {
    node {
        ring0_addr: 10.0.0.1
        name: h1
        nodeid: 1
    }
    node {
        ring0_addr: 10.0.0.2
        name: h2
        nodeid: 2
    }
}
quorum {
    provider: corosync_votequorum
    two_node: 1
}
logging {
    to_stderr: yes
    to_syslog: no
}
"""


def corosync(stage: Stage) -> None:
    """Two nodes stay one cluster: its token of 3 s is longer than a failover."""
    configuration = stage.file("corosync.conf", COROSYNC)
    own = 'mount -t tmpfs none /var/lib/corosync; exec corosync -f -c "$0"'
    for host in ("h1", "h2"):
        stage.start(host, "sh", "-c", own, configuration)
    for host in ("h1", "h2"):
        stage.until(host, "corosync-quorumtool", "-s", shows=r"Nodes:\s+2")
    ring = re.search(r"Ring ID:\s+(\S+)", stage.run("h1", "corosync-quorumtool", "-s"))
    stage.fail_over("h1")
    stage.fail_over("h2")
    time.sleep(4)  # longer than the token
    after = stage.run("h1", "corosync-quorumtool", "-s")
    assert re.search(r"Nodes:\s+2", after)
    assert ring is not None
    assert ring[1] in after, "the membership never changed"


def frr_bfd(stage: Stage) -> None:
    """A session with 3 times 300 ms, FRR's default, survives; one below the failover's time would not."""
    folders = {host: stage.folder_of("frr", host) for host in ("h1", "h2")}
    for host, own, other in (("h1", "10.0.0.1", "10.0.0.2"), ("h2", "10.0.0.2", "10.0.0.1")):
        configuration = folders[host] / "frr.conf"
        configuration.write_text(f"bfd\n peer {other} local-address {own} interface bond0\n")
        sockets = f"--vty_socket {folders[host]}"
        start = f"mkdir -p /run/frr; chown frr:frr /run/frr; zebra -d -u frr -g frr {sockets};"
        start += f' exec bfdd -u frr -g frr -f "$0" {sockets}'
        stage.start(host, "sh", "-c", start, str(configuration))
    show = ("vtysh", "--vty_socket", str(folders["h1"]), "-d", "bfdd", "-c", "show bfd peers json")
    stage.until("h1", *show, shows=r'"status":\s*"up"')
    before = json.loads(stage.run("h1", *show))[0]
    stage.fail_over("h1")
    stage.fail_over("h2")
    time.sleep(1)
    after = json.loads(stage.run("h1", *show))[0]
    assert (after["status"], after["uptime"] >= before["uptime"]) == ("up", True), (before, after)


def query(name: str) -> str:
    """A DNS question for an A record, asked by a program in a host; prints the address."""
    question = b"".join(bytes((len(part),)) + part.encode() for part in name.split(".")) + b"\0"
    packet = struct.pack("!6H", 7, 0x100, 1, 0, 0, 0) + question + struct.pack("!2H", 1, 1)
    return (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(2);"
        f"s.sendto({packet!r}, ('10.0.0.2', 53)); print(socket.inet_ntoa(s.recv(512)[-4:]))"
    )


def dnsmasq(stage: Stage) -> None:
    """Names are answered. DHCP needs hardware addresses, which a lab's device does not have."""
    stage.start(
        "h2", "dnsmasq", "-k", "-C", "/dev/null", "--no-hosts", "--no-resolv", "--listen-address=10.0.0.2",
        "--bind-interfaces", "--address=/service.lab/192.0.2.7", "--user=root", "--pid-file=/run/dnsmasq.pid",
    )  # fmt: skip
    ask = (sys.executable, "-c", query("service.lab"))
    stage.until("h1", *ask, shows="192.0.2.7")
    stage.fail_over("h2")
    stage.until("h1", *ask, shows="192.0.2.7", seconds=5)


def chrony(stage: Stage) -> None:
    """A client measures the server's time through a failover; no clock is set (-Q, -x)."""
    server = stage.file(
        "chrony.conf", "local stratum 5\nallow 10.0.0.0/24\ncmdport 0\nbindaddress 10.0.0.2\npidfile /run/chronyd.pid\n"
    )
    stage.start("h2", "chronyd", "-d", "-x", "-u", "root", "-f", server)
    client = stage.file("client.conf", f"server 10.0.0.2 iburst\ncmdport 0\npidfile {stage.folder}/client.pid\n")

    def measure() -> float:
        end = time.monotonic() + SECONDS
        while True:
            done = stage.lab["h1"].run(["chronyd", "-d", "-Q", "-t", "20", "-u", "root", "-f", client], check=False)
            found = re.search(r"System clock wrong by ([-\d.]+) seconds", done.stdout + done.stderr)
            if found:
                return float(found[1])
            assert time.monotonic() < end, done.stderr

    assert abs(measure()) < 0.2
    stage.fail_over("h2")
    assert abs(measure()) < 0.2


def avahi(stage: Stage) -> None:
    """mDNS by multicast. A lab's device is point-to-point for the kernel, so `allow-point-to-point=yes` is needed."""
    for host in ("h1", "h2"):
        bus = "mkdir -p /run/dbus; dbus-daemon --system --nopidfile --fork; "
        configuration = stage.file(
            "avahi.conf",
            """
            [server]
            allow-interfaces=bond0
            allow-point-to-point=yes
            """,
        )
        own = f"{bus} touch /run/ready; avahi-daemon --no-drop-root --no-chroot -f {configuration} & sleep 1000 & wait"
        stage.start(host, "sh", "-c", own)

    def resolves(seconds: float) -> None:
        inside = (
            "pid=$(ip netns pids x 2>/dev/null || true); for p in /proc/[0-9]*; do "
            "tr '\\0' ' ' < $p/cmdline | grep -q '^avahi-daemon: ' || continue; "
            "[ $(readlink $p/ns/net) = $(readlink /proc/self/ns/net) ] || continue; "
            "exec nsenter --mount=$p/ns/mnt timeout 5 avahi-resolve -4 -n h2.local; done; exit 1"
        )
        stage.until("h1", "sh", "-c", inside, shows="10.0.0.2", seconds=seconds)

    resolves(SECONDS)
    stage.fail_over("h1")
    stage.fail_over("h2")
    resolves(10)


def rsync_over_ssh(stage: Stage) -> None:
    """A tree arrives whole."""
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", stage.folder / name], check=True)
    keys = stage.folder / "authorized"
    keys.write_text((stage.folder / "user.pub").read_text())
    configuration = stage.file(
        "sshd.conf",
        f"""
        Port 2222
        ListenAddress 10.0.0.2
        HostKey {stage.folder}/host
        AuthorizedKeysFile {keys}
        StrictModes no
        UsePAM no
        PermitRootLogin yes
        PidFile none
        """,
    )
    stage.start("h2", "sh", "-c", 'mkdir /run/sshd; exec /usr/sbin/sshd -D -e -f "$0"', configuration)
    stage.connects("h1", 2222)
    source, target = stage.folder / "source", stage.folder / "target"
    source.mkdir()
    for number in range(40):
        (source / f"file{number}").write_bytes(os.urandom(200_000))
    shell = f"ssh -p 2222 -i {stage.folder}/user -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
    copy = stage.lab["h1"].popen(
        ["rsync", "-a", "--bwlimit=2M", "-e", shell, f"{source}/", f"root@10.0.0.2:{target}/"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    end = time.monotonic() + SECONDS
    while not target.exists() or not list(target.iterdir()):
        assert time.monotonic() < end
        time.sleep(0.05)
    stage.fail_over("h1")
    stage.fail_over("h2")
    out, error = copy.communicate(timeout=SECONDS)
    assert copy.returncode == 0, out + error
    assert {path.name: path.read_bytes() for path in target.iterdir()} == {
        path.name: path.read_bytes() for path in source.iterdir()
    }


def vxlan(stage: Stage) -> None:
    """Ethernet over the bond, as virtual machines and containers on such hosts use it: broadcasts and jumbo TCP too."""
    for host, own, other, inner in (
        ("h1", "10.0.0.1", "10.0.0.2", "192.168.42.1/24"),
        ("h2", "10.0.0.2", "10.0.0.1", "192.168.42.2/24"),
    ):
        stage.run(
            host, "sh", "-ec",
            f"ip link add vx0 type vxlan id 42 local {own} remote {other} dstport 4789 dev bond0; ip link set vx0 up;"
            f"ip addr add {inner} dev vx0; cat /sys/class/net/vx0/mtu",
        )  # fmt: skip
        stage.closing.callback(stage.lab[host].run, ["ip", "link", "del", "vx0"])
    ping = stage.lab["h1"].popen(
        ["ping", "-i", "0.02", "-c", "150", "-q", "192.168.42.2"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    time.sleep(0.5)
    stage.fail_over("h1")
    stage.fail_over("h2")
    said = ping.communicate(timeout=SECONDS)[0]
    received = re.search(r"(\d+) received", said)
    assert received is not None, said
    assert int(received[1]) > 100, said
    assert "link/ether" in stage.run("h1", "ip", "link", "show", "vx0")


def collectd(stage: Stage) -> None:
    """Its interface plugin counts bond0 and the members as those of any host."""
    configuration = stage.file(
        "collectd.conf",
        f"""
        BaseDir "{stage.folder}"
        PIDFile "/run/collectd.pid"
        PluginDir "/usr/lib/collectd"
        Interval 1
        Hostname "h1"
        LoadPlugin interface
        LoadPlugin csv
        <Plugin csv>
            DataDir "{stage.folder}/csv"
        </Plugin>
        """,
    )
    stage.start("h1", "collectd", "-f", "-C", configuration)
    counts = stage.folder / "csv/h1"
    stage.until("h1", "sh", "-c", f"cat {counts}/interface-bond0/if_packets-* | wc -l", shows=r"^[3-9]")
    stage.run("h1", "ping", "-c", "20", "-i", "0.05", "-q", "10.0.0.2")
    stage.until(
        "h1", "sh", "-c", f"tail -qn 4 {counts}/interface-bond0/if_packets-* | cut -d, -f2", shows=r"(?m)^[1-9]"
    )
    assert {path.name for path in counts.iterdir()} >= {"interface-bond0", "interface-ib0", "interface-ib1"}


def snmpd(stage: Stage) -> None:
    """The interface table has the bond and its members, with counters."""
    configuration = stage.file("snmpd.conf", "rocommunity public 10.0.0.0/24\nagentaddress udp:10.0.0.2:1610\n")
    stage.start("h2", "snmpd", "-f", "-Lo", "-C", "-c", configuration)
    walk = ("snmpwalk", "-v2c", "-c", "public", "-Oqv", "10.0.0.2:1610")
    names = stage.until("h1", *walk, "1.3.6.1.2.1.2.2.1.2", shows="bond0")
    assert {"lo", "ib0", "ib1", "bond0"} <= {name.strip('"') for name in names.split()}
    stage.fail_over("h2")
    octets = stage.run("h1", *walk, "1.3.6.1.2.1.31.1.1.1.6")
    assert any(int(count) > 0 for count in octets.split()), octets


def ansible_facts(stage: Stage) -> None:
    """What `setup` gathers in a host: the bond with its members and mode, and each member as a slave of it."""
    said = stage.run(
        "h1", "env", "ANSIBLE_LOCALHOST_WARNING=false", f"HOME={stage.folder}", "ansible", "-i", "localhost,",
        "-c", "local", "-m", "setup", "-a", "gather_subset=!all,network", "localhost", timeout=120,
    )  # fmt: skip
    facts = json.loads(said[said.index("{") :])["ansible_facts"]
    bond = facts["ansible_bond0"]
    assert (bond["type"], sorted(bond["slaves"]), bond["mode"]) == ("bonding", ["ib0", "ib1"], "active-backup"), bond
    assert bond["ipv4"]["address"] == "10.0.0.1"
    assert facts["ansible_hostname"] == "h1"


@dataclass(frozen=True)
class Row:
    story: Callable[[Stage], None]
    program: str  # its file, by which it is known to be installed
    package: str
    sample: bool = False


ROWS = (
    Row(nginx, "nginx", "nginx-light", sample=True),
    Row(postgresql, "psql", "postgresql"),
    Row(redis, "redis-server", "redis-server"),
    Row(etcd, "etcd", "etcd-server etcd-client"),
    Row(corosync, "corosync", "corosync"),
    Row(frr_bfd, "bfdd", "frr"),
    Row(dnsmasq, "dnsmasq", "dnsmasq-base"),
    Row(chrony, "chronyd", "chrony"),
    Row(avahi, "avahi-daemon", "avahi-daemon avahi-utils"),
    Row(rsync_over_ssh, "rsync", "rsync openssh-server", sample=True),
    Row(vxlan, "ip", "iproute2", sample=True),
    Row(collectd, "collectd", "collectd-core"),
    Row(snmpd, "snmpd", "snmpd snmp"),
    Row(ansible_facts, "ansible", "ansible-core"),
)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.story.__name__)
def test_it_runs_through_a_failover(lab: Lab, row: Row, tmp_path: Path) -> None:
    if not row.sample and not ALL:
        pytest.skip("not of the sample: IBBOND_PROGRAMS=all")
    if shutil.which(row.program, path=PATH) is None:
        pytest.skip(f"not installed: {row.package}")
    with contextlib.ExitStack() as closing:
        row.story(Stage(lab, tmp_path, closing))
