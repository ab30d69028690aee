"""Results and where they stay: benchmarks/results.json, docs/benchmarks.md; the machine and commit they are from."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results.json"
PAGE = HERE.parent / "docs" / "benchmarks.md"


def keep(name: str, result: object, text: str) -> None:
    """Replace the object of this name and the part of the page that shows it; everything else stays."""
    held = json.loads(RESULTS.read_text())
    held[name] = result
    RESULTS.write_text(json.dumps(held, indent=1) + "\n")
    show(f"{name} results", text)


def keep_main(result: dict[str, object], text: str) -> None:
    """The main run's objects are at the top; those that other runs have kept stay."""
    held = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    others = {name: held[name] for name in ("kernel", "sim", "per_packet", "rdma") if name in held}
    RESULTS.write_text(json.dumps({**result, **others}, indent=1) + "\n")
    show("results", text)


def show(mark: str, text: str) -> None:
    head, found, rest = PAGE.read_text().partition(f"<!-- {mark} -->\n")
    _, ended, tail = rest.partition(f"<!-- end of {mark} -->\n")
    assert found, f"docs/benchmarks.md has no part {mark!r}"
    assert ended, f"docs/benchmarks.md has no end of {mark!r}"
    PAGE.write_text(f"{head}{found}{text}{ended}{tail}")


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    return f"{os.cpu_count()} x {model}, Linux {platform.release()}, Python {platform.python_version()}"


def revision() -> str:
    """The commit that was measured, with a plus where the tree held something else besides."""
    git = ["git", "-C", str(HERE.parent)]
    said = [
        subprocess.run([*git, *words], capture_output=True, text=True, check=False).stdout.strip()
        for words in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain", "--", "src"))
    ]
    return said[0] + "+" * bool(said[1]) if said[0] else "unknown"
