"""`./test --mutants [NAME...]`: which mutants of the catalog the stories notice, which the tests, and which nothing.

Each mutant is an edit of a scratch copy of src. Stories come first, some seeds of each, in one process per mutant; a
broken promise or an exception kills it. Then, for those that survive, the tests of its room. The last line is the
score.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.mutants.catalog import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]
SECONDS = 600  # of one mutant's stories or tests; a run that does not end is noticed
SEEDS = {
    "two_hosts": 10, "three_members": 10, "flows": 10, "managed_changes": 12, "connected_mode": 6, "arp_monitor": 6,
}  # fmt: skip
STORIES = f"""
import sys
from ibbond.sim.explore import run_one
seeds = {SEEDS!r}
texts = {{name: open(f"scenarios/{{name}}.toml").read() for name in seeds}}
for seed in range(max(seeds.values())):
    for name, count in seeds.items():
        if seed < count and (broken := run_one(texts[name], name, seed).broken):
            sys.exit(f"{{name}} {{seed}}: {{broken}}")
"""


def main(names: list[str]) -> int:
    known = {mutant.name: mutant for mutant in MUTANTS}
    if unknown := sorted(set(names) - set(known)):
        print(f"no mutant {', '.join(unknown)}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    chosen = [known[name] for name in names] or MUTANTS
    ways: Counter[str] = Counter()
    survivors = []
    with tempfile.TemporaryDirectory(prefix="ibbond-mutants-") as scratch:
        for number, mutant in enumerate(chosen, 1):
            way, what = try_mutant(mutant, Path(scratch) / "src")
            ways[way] += 1
            survivors += [mutant.name] if way == "survives" else []
            print(f"{number}/{len(chosen)} {mutant.room}/{mutant.name}: {way} {what}", flush=True)
    if survivors:
        print(f"survivors: {', '.join(survivors)}")
    killed = ways["story"] + ways["test"]
    print(f"mutants: {ways['story']} of {len(chosen)} killed by stories, {killed} of {len(chosen)} by all tests")
    return int(bool(survivors))


def try_mutant(mutant: Mutant, source: Path) -> tuple[str, str]:
    """story, test or survives; and what was noticed first."""
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
    mutate(mutant, source)
    noticed = fails([sys.executable, "-c", STORIES], source)
    if noticed is not None:
        return "story", noticed
    tests = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "not live and not kernel"]
    noticed = fails([*tests, *mutant.tests.split()], source)
    return ("test", noticed) if noticed is not None else ("survives", "")


def mutate(mutant: Mutant, source: Path) -> None:
    path = source / "ibbond" / mutant.file
    text = path.read_text()
    assert text.count(mutant.old) == 1, f"{mutant.name}: its text is {text.count(mutant.old)} times in {mutant.file}"
    path.write_text(text.replace(mutant.old, mutant.new))


def fails(command: list[str], source: Path) -> str | None:
    """The last line of a command that fails with this source; None where it does not fail."""
    environment = os.environ | {"PYTHONPATH": f"{source}:{ROOT}", "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return f"it did not end within {SECONDS} s"
    lines = (done.stderr + done.stdout).strip().splitlines()
    return None if done.returncode == 0 else (lines[-1][:160] if lines else f"exit {done.returncode}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
