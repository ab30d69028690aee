"""Our procfs text against the driver's own, byte for byte, in every mode that was recorded."""

from dataclasses import replace
from pathlib import Path

import pytest

from ibbond.abi.procfs_text import parse, render, version
from ibbond.abi.recording import parse_recording
from ibbond.errors import Malformed

GOLDEN = Path(__file__).parents[1] / "golden" / "kernel-6.1"
TEXTS = sorted(
    {
        step.expect: f"{case.name}:{number}"
        for path in sorted(GOLDEN.glob("*.json"))
        for case in parse_recording(path.read_bytes())
        for number, step in enumerate(case.steps)
        if step.op == "proc" and isinstance(step.expect, str)
    }.items()
)


def test_there_is_a_text_of_every_mode() -> None:
    assert {parse(text).options["mode"] for text, _ in TEXTS} == set(range(7))


@pytest.mark.parametrize("text", [text for text, _ in TEXTS], ids=[where for _, where in TEXTS])
def test_the_drivers_text_comes_back_byte_for_byte(text: str) -> None:
    bond = replace(parse(text), name="bond0")
    assert render(bond, version(text)) == text
    assert parse(render(bond)) == replace(bond, name="")


@pytest.mark.parametrize("text", ["", "bond0\n", "Ethernet Channel Bonding Driver: v6.1\n\nMII Status: up\n"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(Malformed):
        parse(text)


def test_a_changed_line_is_noticed() -> None:
    text, _ = next(item for item in TEXTS if "Slave Interface" in item[0])
    assert render(parse(text.replace("Link Failure Count: 0", "Link Failure Count: 7")), version(text)) != text
