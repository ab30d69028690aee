"""Where results stay: one object in benchmarks/results.json, one part of docs/benchmarks.md between its marks."""

from __future__ import annotations

import json
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
    others = {name: held[name] for name in ("kernel", "sim", "per_packet") if name in held}
    RESULTS.write_text(json.dumps({**result, **others}, indent=1) + "\n")
    show("results", text)


def show(mark: str, text: str) -> None:
    head, found, rest = PAGE.read_text().partition(f"<!-- {mark} -->\n")
    _, ended, tail = rest.partition(f"<!-- end of {mark} -->\n")
    assert found, f"docs/benchmarks.md has no part {mark!r}"
    assert ended, f"docs/benchmarks.md has no end of {mark!r}"
    PAGE.write_text(f"{head}{found}{text}{ended}{tail}")
