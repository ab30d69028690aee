"""The first question to the data path: our bond against veth + bridge, round by round in one run, as ratios.

    .venv/bin/python benchmarks/milestone.py [--rounds 5] [--seconds 2] [--json FILE] [--profile FILE]

Needs root, TUN devices, gcc, iperf3 and (for the path that is compared with) iproute2. What it measures: TCP by
iperf3 (one stream), 64-byte UDP packets delivered in a flood, UDP ping-pong. Both paths have an MTU of 2044. While it
runs, /dev/cpu_dma_latency is held at 0 for all paths alike unless --idle is given: else the time in which an idle
virtual core wakes up is most of the round trip.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from ibbond.host import namespace
from ibbond.host.loop import LiveLoop
from ibbond.host.namespace import NetNamespace
from ibbond.host.priority import raise_priority
from ibbond.stack.build import build
from ibbond.topology.default import TWO_HOSTS
from ibbond.topology.load import parse

MTU = 2044
FIGURES = {
    "tcp_gbps": "TCP, Gbit/s",
    "pps": "64-byte packets/s",
    "rtt_us": "RTT median, us",
    "rtt_p99_us": "RTT p99, us",
}
TARGETS = {"tcp_gbps": 0.60, "pps": 0.85, "rtt_us": 2.3}


class Path2Hosts:
    """Two hosts that can talk: their namespaces, and the second one's address."""

    def __init__(self, client: NetNamespace, server: NetNamespace, address: str) -> None:
        self.client, self.server, self.address = client, server, address

    def measure(self, tool: str, seconds: float) -> dict[str, float]:
        return {**self.tcp(seconds), **self.flood(tool, seconds), **self.ping(tool)}

    def tcp(self, seconds: float) -> dict[str, float]:
        server = self.server.popen(["iperf3", "-s", "-1"], stdout=subprocess.DEVNULL)
        time.sleep(0.3)
        done = self.client.run(["iperf3", "-c", self.address, "-t", str(seconds), "-J"])
        server.wait(10)
        return {"tcp_gbps": json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"] / 1e9}

    def flood(self, tool: str, seconds: float) -> dict[str, float]:
        sink = self.server.popen([tool, "sink", self.address, "6001", str(seconds + 0.6)], stdout=subprocess.PIPE)
        time.sleep(0.2)
        self.client.run([tool, "flood", self.address, "6001", "64", str(seconds)])
        packets, took = sink.communicate()[0].split()
        return {"pps": int(packets) / float(took)}

    def ping(self, tool: str) -> dict[str, float]:
        echo = self.server.popen([tool, "echo", self.address, "6002", "60"])
        time.sleep(0.2)
        done = self.client.run([tool, "ping", self.address, "6002", "64", "3000", "0"])
        echo.terminate()
        echo.wait()
        _, median, p99, _, _ = map(float, done.stdout.split())
        return {"rtt_us": median, "rtt_p99_us": p99}


@contextlib.contextmanager
def veth_and_bridge(lab: str) -> Iterator[Path2Hosts]:
    """The path without a bond: host, veth, bridge, veth, host."""
    spaces = [namespace.make(lab, name) for name in ("a", "b", "switch")]
    switch = spaces[2]
    try:
        ip(switch, "link add bridge type bridge")
        ip(switch, "link set bridge up")
        for number, space in enumerate(spaces[:2], 1):
            ip(switch, f"link add p{number} mtu {MTU} type veth peer name l0 mtu {MTU} netns {space.name}")
            ip(switch, f"link set p{number} master bridge up")
            ip(space, f"addr add 10.1.0.{number}/24 dev l0")
            ip(space, "link set l0 up")
        yield Path2Hosts(spaces[0], spaces[1], "10.1.0.2")
    finally:
        for space in spaces:
            space.remove()


@contextlib.contextmanager
def bond(lab: str, profile: str | None) -> Iterator[Path2Hosts]:
    """Ours: two hosts with a bond of two IPoIB devices each, two switches, in a process of its own."""
    command = [sys.executable, __file__, "--serve", lab, *(["--profile", profile] if profile else [])]
    owner = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert owner.stdin is not None
    assert owner.stdout is not None
    try:
        said = owner.stdout.readline()
        if not said.startswith("ready"):
            raise SystemExit(f"our path did not start: {said}")
        yield Path2Hosts(namespace.take_over(lab, "h1"), namespace.take_over(lab, "h2"), "10.0.0.2")
    finally:
        owner.stdin.close()
        owner.wait(20)
        namespace.clean(lab)


def serve(lab: str, profile: str | None) -> None:
    """The process that carries our path, until its standard input ends."""
    topology = parse(TWO_HOSTS)
    spaces = {host.name: namespace.make(lab, host.name) for host in topology.hosts}
    loop = LiveLoop(build(topology, random=random.Random(1)), spaces)
    try:
        loop.open()
        for host in topology.hosts:
            loop.hosts[host.name].configure(host)
        print("ready", ", ".join(raise_priority()), flush=True)

        def stop_at_end() -> None:
            sys.stdin.read()
            loop.stop()

        threading.Thread(target=stop_at_end, daemon=True).start()
        if profile:
            import cProfile

            cProfile.runctx("loop.run()", {}, {"loop": loop}, profile)
        else:
            loop.run()
    finally:
        loop.close()
        for space in spaces.values():
            space.remove()


def ip(space: NetNamespace, words: str) -> None:
    done = space.run(["ip", *words.split()])
    if done.returncode:
        raise SystemExit(f"ip {words}: {done.stderr}")


@contextlib.contextmanager
def awake(wanted: bool) -> Iterator[None]:
    """No idle states deeper than looking around, on any core, for all that is compared."""
    if not wanted:
        yield
        return
    try:
        quality = os.open("/dev/cpu_dma_latency", os.O_WRONLY)
    except OSError as problem:
        print(f"cores fall asleep between packets: {problem}")
        yield
        return
    try:
        os.write(quality, bytes(4))
        yield
    finally:
        os.close(quality)


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--rounds", type=int, default=5)
    words.add_argument("--seconds", type=int, default=2)
    words.add_argument("--json", type=Path)
    words.add_argument("--idle", action="store_true", help="let idle cores sleep, as they do by default")
    words.add_argument("--profile", help="write a profile of our process to this file (it is slower then)")
    words.add_argument("--serve", help=argparse.SUPPRESS)
    config = words.parse_args()
    if config.serve:
        serve(config.serve, config.profile)
        return
    if os.getsid(0) != os.getpid():  # a session of our own, whose weight against other work counts
        raise SystemExit(subprocess.run([sys.executable, *sys.argv], start_new_session=True).returncode)
    raise_priority()
    found: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as directory, awake(not config.idle):
        tool = f"{directory}/traffic"
        subprocess.run(["gcc", "-O2", "-o", tool, Path(__file__).with_name("traffic.c")], check=True)
        os.chmod(directory, 0o755)
        mark = os.getpid()
        with veth_and_bridge(f"base{mark}") as base, bond(f"bench{mark}", config.profile) as ours:
            paths = {"veth + bridge": base, "ibbond": ours}
            for number in range(config.rounds):
                for name in list(paths)[:: 1 if number % 2 == 0 else -1]:
                    for figure, value in paths[name].measure(tool, config.seconds).items():
                        found.setdefault(figure, {}).setdefault(name, []).append(value)
                print(f"round {number + 1} of {config.rounds}", file=sys.stderr)
    ratios: dict[str, float] = {}
    for figure, label in FIGURES.items():
        medians = {name: statistics.median(values) for name, values in found[figure].items()}
        ratios[figure] = ratio = medians["ibbond"] / medians["veth + bridge"]
        spread = {name: f"{min(values):.5g}..{max(values):.5g}" for name, values in found[figure].items()}
        target = f"target {TARGETS[figure]}" if figure in TARGETS else ""
        print(
            f"{label:20} ours {medians['ibbond']:10.5g} [{spread['ibbond']}]"
            f"  base {medians['veth + bridge']:10.5g} [{spread['veth + bridge']}]  ratio {ratio:.2f} {target}"
        )
    if config.json:
        result = {"ratios": ratios, "rounds": found, "load": os.getloadavg(), "awake": not config.idle}
        config.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
