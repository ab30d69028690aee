"""`./bench --kernel`: the kernel's own bonding driver beside ours and plain veth, in one QEMU guest.

Read first: docs/benchmarks.md, tests/kernel/README.md; what is measured in the guest is `kernel_paths`. Everything is
emulated in software and therefore slow: only ratios inside this guest mean something. Left out: medians and tables of
the main run (`summary`), whose figures these are not.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import record
from benchmarks.kernel_paths import MIIMON_MS, PACES, PATHS
from benchmarks.summary import BREAK_FIGURES, FIGURES, divided, medians, short, spread
from ibbond.host.priority import raise_priority

HERE = Path(__file__).resolve().parent
MEMORY_MIB = 2048
MODULES = ("tun", "fuse")
PATIENCE_S = 400
CYCLES = 5  # cuts and returns of each kind, in each round
SHOWN = ("tcp1_gbps", "tcp8_gbps", "pps64", "rtt_us", "rtt_p99_us", "cpu_us_per_packet", "memory_mb")
GOAL = {"must": 0.2, "aim": 0.05}  # outage_vs_kernel_miimon100


def main(*, rounds: int, quick: bool, file: Path | None, keep: bool) -> int:
    raise_priority()  # of the emulator, too
    from tests.kernel.virtual_machine import Missing, VirtualMachine, kernel_root

    try:
        root = kernel_root()
    except Missing as missing:
        print(f"./bench --kernel cannot run: {missing}", file=sys.stderr)
        return 2
    tool = root.parent / "traffic"
    subprocess.run(["gcc", "-O2", "-o", str(tool), str(HERE / "traffic.c")], check=True)
    say("booting the guest")
    guest = VirtualMachine(root, memory_mib=MEMORY_MIB, modules=MODULES)
    try:
        result = compare(guest, tool, 1 if quick else rounds, 2 if quick else CYCLES)
    finally:
        guest.close()
    print(table(result))
    if file:
        file.write_text(json.dumps(result, indent=1) + "\n")
    if keep:
        record.keep("kernel", result, about(result) + table(result))
    return 0


def compare(guest, tool: Path, rounds: int, cycles: int) -> dict[str, object]:  # type: ignore[no-untyped-def]
    """Every path once in every round, each in a process of its own; what cannot run is named and not tried again."""
    values: dict[str, dict[str, list[float]]] = {name: {} for name in PATHS}
    missing: dict[str, str] = {}
    loads = []
    host = guest.host()
    accelerator = "kvm" if os.environ.get("IBBOND_KERNEL_ACCELERATOR", "").startswith("kvm") else "tcg"
    for number in range(rounds):
        for name in list(PATHS)[:: 1 if number % 2 == 0 else -1]:
            if name in missing:
                continue
            loads.append(os.getloadavg()[0])
            say(f"round {number + 1} of {rounds}: {name}")
            words = [sys.executable, "-m", "benchmarks.kernel_paths", name, str(tool), str(cycles), accelerator]
            done = host.try_run("setsid", "-w", *words, timeout=PATIENCE_S, PYTHONPATH=str(HERE.parent / "src"))
            if done.code:
                missing[name] = (done.err.strip().splitlines() or [f"it ended with {done.code}"])[-1]
                say(f"{name}: {missing[name]}")
                continue
            for figure, each in json.loads(done.out).items():
                values[name].setdefault(figure, []).extend(each)
    values = {name: figures for name, figures in values.items() if figures}
    return {
        "machine": f"QEMU ({accelerator}), 2 virtual cores, on {record.machine()}",
        "kernel": guest.release,
        "revision": record.revision(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "rounds": rounds,
        "steady_rate": PACES[accelerator].steady_rate,
        "probe_gap_ms": PACES[accelerator].gap_us / 1000,
        "load": {"median": statistics.median(loads), "max": max(loads)},
        "variants": medians(values),
        "ratios": ratios(values),
        "missing": missing,
    }


def ratios(values: dict[str, dict[str, list[float]]]) -> dict[str, float | None]:
    """Of the medians of this run; to plain veth, and our outages and gaps to those of the kernel's driver."""
    found: dict[str, float | None] = {}
    for name in values:
        if name != "veth":
            for figure, word in (("tcp1_gbps", "tcp"), ("pps64", "pps64"), ("rtt_us", "rtt")):
                found[f"{word}_vs_veth {name}"] = divided(values, name, figure, "veth")
    for miimon in MIIMON_MS:
        theirs = f"bonding-ipoib-miimon{miimon}"
        for what in ("outage", "gap"):
            found[f"{what}_vs_kernel_miimon{miimon}"] = divided(values, "ours", f"cut cut_{what}_ms", theirs)
            found[f"{what}_link_down_vs_kernel_miimon{miimon}"] = divided(
                values, "ours", f"link down cut_{what}_ms", theirs
            )
    return found


def table(result: dict[str, object]) -> str:
    """Markdown: figures of every path, then what is lost at cuts of both kinds, then the ratios of outages."""
    variants: dict[str, dict[str, dict[str, float]]] = result["variants"]  # type: ignore[assignment]
    found: dict[str, float | None] = result["ratios"]  # type: ignore[assignment]
    labels = FIGURES | {"cpu_us_per_packet": "own CPU per packet, us"}
    lines = ["| path | " + " | ".join(labels[each] for each in SHOWN) + " | TCP, packets, RTT / veth |"]
    lines.append("| --- |" + " ---: |" * (len(SHOWN) + 1))
    for name, figures in variants.items():
        cells = [spread(figures.get(each)) for each in SHOWN]
        beside = [found.get(f"{word}_vs_veth {name}") for word in ("tcp", "pps64", "rtt")]
        cells.append(", ".join("-" if each is None else short(each) for each in beside) if name != "veth" else "1")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    for kind in ("cut", "link down"):
        names = [name for name in variants if f"{kind} cut_lost" in variants[name]]
        lines += ["", f"| {kind} | " + " | ".join(names) + " |", "| --- |" + " ---: |" * len(names)]
        for figure, label in BREAK_FIGURES.items():
            cells = [spread(variants[name].get(f"{kind} {figure}")) for name in names]
            if any(cells):
                lines.append(f"| {label} | " + " | ".join(cells) + " |")
    lines += ["", "| ours to the kernel's bonding of IPoIB | miimon 1 | 10 | 100 |", "| --- | ---: | ---: | ---: |"]
    for what in ("outage", "outage_link_down", "gap", "gap_link_down"):
        each = [found.get(f"{what}_vs_kernel_miimon{miimon}") for miimon in MIIMON_MS]
        lines.append(f"| {what} | " + " | ".join("-" if value is None else short(value) for value in each) + " |")
    missing: dict[str, str] = result["missing"]  # type: ignore[assignment]
    lines += ["", *(f"Missing: {path}: {reason}" for path, reason in missing.items())]
    return "\n".join(lines).rstrip() + "\n"


def about(result: dict[str, object]) -> str:
    load: dict[str, float] = result["load"]  # type: ignore[assignment]
    return (
        f"{result['date']}, commit {result['revision']}, Linux {result['kernel']} in {result['machine']}; "
        f"{result['rounds']} rounds; probes each {result['probe_gap_ms']:g} ms; own CPU at "
        f"{result.get('steady_rate', 0):,} packets a second, the kernel's drivers have none; load outside when a path "
        "began: median "
        f"{load['median']:.1f}, maximum {load['max']:.1f}.\n\n"
    )


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
