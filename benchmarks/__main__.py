"""`./bench`: all paths, round by round in alternating order, to a table, benchmarks/results.json and a picture.

Read first: docs/benchmarks.md; `./bench --help`. The work is done in a session of its own, whose weight against other
work on this machine counts (see ibbond.host.priority); the first process only waits and passes Ctrl-C on.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import measures
from benchmarks.milestone import awake
from benchmarks.paths import CONNECTED_MTU, DPDK_MTU, MTU, PATHS, Built, CannotRun
from benchmarks.record import keep_main, machine, revision
from benchmarks.summary import bond_cost, medians, picture, ratios, round_by_round, table
from ibbond.host.priority import NICE, raise_priority

HERE = Path(__file__).parent
TIMES = 20  # cuts and returns in all
BREAKING = ("ovs", "dpdk", "ours")  # paths that have something to fail over to; userspace-tso is the same bond as ovs
PAIR = ("ours", "ours-no-bond")
PAIRS = 3  # in each round: they differ by less than rounds do
MAX_DPDK = 3  # cuts of a bond that was never seen to fail over


def main() -> int:
    words = argparse.ArgumentParser(
        prog="./bench", description="What a bond in Python costs, and what it is up against."
    )
    words.add_argument("--rounds", type=int, help="interleaved rounds (default 5; 3 with --kernel)")
    words.add_argument("--only", type=lambda text: text.split(","), default=list(PATHS), help=", ".join(PATHS))
    words.add_argument(
        "--quick", action="store_true", help="one round, one second each, four cuts: to see that it runs"
    )
    words.add_argument("--json", type=Path, help="write the results here too")
    words.add_argument("--keep", action="store_true", help="renew benchmarks/results.json, results.svg and the docs")
    words.add_argument(
        "--sim", action="store_true", help="the simulator: events per second, memory, cost of a failover"
    )
    words.add_argument(
        "--kernel", action="store_true", help="the kernel's own bonding beside ours, in a QEMU guest; 3 rounds"
    )
    words.add_argument("--rdma", action="store_true", help="unmodified RDMA programs in a lab; 3 rounds")
    words.add_argument("--within", action="store_true", help=argparse.SUPPRESS)  # the second process
    config = words.parse_args()
    if unknown := [name for name in config.only if name not in PATHS]:
        words.error(f"unknown: {', '.join(unknown)}. Known: {', '.join(PATHS)}")
    if config.sim:
        from benchmarks import simulated

        return simulated.main(quick=config.quick, file=config.json, keep=config.keep)
    if os.geteuid():
        print("./bench needs root: it builds network namespaces and raises its priority.", file=sys.stderr)
        return 2
    if not config.within:
        return in_own_session()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # whatever was ignored where we were started
        signal.signal(number, signal.default_int_handler)
    try:
        if config.kernel:
            from benchmarks import kernel

            return kernel.main(rounds=config.rounds or 3, quick=config.quick, file=config.json, keep=config.keep)
        if config.rdma:
            from benchmarks import rdma

            return rdma.main(rounds=config.rounds or 3, quick=config.quick, file=config.json, keep=config.keep)
        result = compare(config.only, 1 if config.quick else config.rounds or 5, quick=config.quick)
    except KeyboardInterrupt:
        print("interrupted; everything is taken down", file=sys.stderr)
        return 130
    print(table(result))
    if config.json:
        config.json.write_text(json.dumps(result, indent=1) + "\n")
    if config.keep:
        keep_main(result, about(result) + table(result))
        (HERE / "results.svg").write_text(picture(result))
    return 0


def in_own_session() -> int:
    command = [sys.executable, "-m", "benchmarks", *sys.argv[1:], "--within"]
    ending = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, ending)  # until there is a child to pass them on to
    child = subprocess.Popen(
        command, start_new_session=True, preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, ending)
    )
    for number in ending:
        signal.signal(number, lambda number, _: child.send_signal(number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ending)
    return child.wait()


def compare(names: list[str], rounds: int, *, quick: bool) -> dict[str, object]:
    """Every path once in every round; what cannot run is named with its reason and not tried again."""
    values: dict[str, dict[str, list[float]]] = {name: {} for name in names}
    missing: dict[str, str] = {}
    loads: list[float] = []
    pairs: list[float] = []
    raise_priority()
    with tempfile.TemporaryDirectory() as place, awake(True), weighty_softirqs():
        os.chmod(place, 0o755)
        tool = f"{place}/traffic"
        subprocess.run(["gcc", "-O2", "-o", tool, str(HERE / "traffic.c")], check=True)
        for number in range(rounds):
            for name in names[:: 1 if number % 2 == 0 else -1]:
                if name in missing:
                    continue
                loads.append(os.getloadavg()[0])
                say(f"round {number + 1} of {rounds}: {name}")
                try:
                    with PATHS[name](f"bench{os.getpid()}") as path:
                        for figure, each in one_round(path, name, tool, rounds, number, quick=quick).items():
                            values[name].setdefault(figure, []).extend(each)
                except (CannotRun, OSError, subprocess.SubprocessError, ValueError) as problem:
                    missing[name] = f"{problem}"
                    say(f"{name}: {problem}")
            if set(PAIR) <= set(names) - set(missing):
                say(f"round {number + 1} of {rounds}: with a bond and without, {PAIRS} times")
                pairs += [one_pair(tool, number + turn, quick=quick) for turn in range(PAIRS)]
        if "ours" in names and not quick:
            values["ours"]["memory32_mb"] = [memory_of_a_lab(32)]
    values = {name: figures for name, figures in values.items() if figures}
    return {
        "machine": machine(),
        "revision": revision(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "rounds": rounds,
        "load": {"median": statistics.median(loads), "max": max(loads)},
        "mtu": {
            name: DPDK_MTU if name == "dpdk" else CONNECTED_MTU if name == "ours-65520" else MTU for name in values
        },
        "variants": medians(values),
        "ratios": ratios(values, pairs),
        "ratios_by_round": round_by_round(values, pairs),
        "missing": missing,
    }


def one_round(path: Built, name: str, tool: str, rounds: int, number: int, *, quick: bool) -> dict[str, list[float]]:
    seconds = 1 if quick else 2
    measures.warm(path)
    figures = {
        **measures.tcp(path, seconds, 1),
        **measures.tcp(path, seconds, 8),
        **measures.packets(path, tool, seconds / 2),
        **measures.round_trips(path, tool),
        **measures.cost(path, tool, seconds / 2),
    }
    found = {figure: [value] for figure, value in figures.items()}
    times = 4 if quick else TIMES * (number + 1) // rounds - TIMES * number // rounds
    if name == "dpdk":
        times = MAX_DPDK if number == 0 else 0
    if name in BREAKING and times:
        for kind, ways in path.breaks.items():
            found |= measures.breaks(path, tool, ways, times, kind)
    return found


def one_pair(tool: str, turn: int, *, quick: bool) -> float:
    """The two paths one right after the other, in changing order: what the bond leaves of the other's speed."""
    found = {}
    for name in PAIR[:: 1 if turn % 2 == 0 else -1]:
        with PATHS[name](f"bench{os.getpid()}") as path:
            measures.warm(path)
            found[name] = {
                **measures.tcp(path, 1 if quick else 2, 1),
                **measures.packets(path, tool, 0.5 if quick else 1),
                **measures.round_trips(path, tool),
            }
    return bond_cost(*(found[name] for name in PAIR))


def memory_of_a_lab(hosts: int) -> float:
    """Resident memory of a lab of so many hosts on a fat tree, in MB."""
    from ibbond.lab import launch
    from ibbond.lab.state import Files, LabConfig

    mark = f"bench{os.getpid()}"
    started = launch.start(LabConfig(mark, f"[fat_tree]\nhosts = {hosts}\n", "the benchmark"))
    try:
        time.sleep(1)
        return measures.resident_mb([started.process.pid])
    finally:
        launch.stop(started.process)
        launch.clean(Files(mark))


@contextlib.contextmanager
def weighty_softirqs() -> Iterator[None]:
    """The kernel's packet threads weigh as much as what is compared, or the paths of the kernel starve beside it."""
    threads = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (entry / "comm").read_text().startswith("ksoftirqd/"):
            threads.append((int(entry.name), os.getpriority(os.PRIO_PROCESS, int(entry.name))))
    try:
        for thread, _ in threads:
            os.setpriority(os.PRIO_PROCESS, thread, NICE)
        yield
    finally:
        for thread, nice in threads:
            os.setpriority(os.PRIO_PROCESS, thread, nice)


def about(result: dict[str, object]) -> str:
    """When and where, for the page that shows the results."""
    load: dict[str, float] = result["load"]  # type: ignore[assignment]
    return (
        f"{result['date']}, commit {result['revision']}, {result['machine']}; "
        f"{result['rounds']} rounds; load when a path began: median "
        f"{load['median']:.1f}, maximum {load['max']:.1f}.\n\n"
    )


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
