"""The files of `./package`: those of $IBBOND_DIST, or made for these tests from the checkout."""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def build(place: Path, *options: str) -> Path:
    done = subprocess.run(
        [ROOT / "package", "--out", place, *options], capture_output=True, text=True, timeout=3000, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return place


def given() -> Path | None:
    """What a release tests; None: build."""
    return Path(os.environ["IBBOND_DIST"]).absolute() if "IBBOND_DIST" in os.environ else None


def one(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found
