"""`ibbond options`: the reference is the table."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from ibbond.bonding.options import OPTIONS
from ibbond.cli.options import find, options
from ibbond.errors import Refused


def run(*words: str) -> str:
    result = CliRunner().invoke(options, words)
    assert result.exit_code == 0, result.output
    return result.output


def test_all_options_are_listed() -> None:
    assert [line.split()[0] for line in run().splitlines()[1:]] == list(OPTIONS)
    assert [row["name"] for row in json.loads(run("--json"))["options"]] == list(OPTIONS)


def test_one_option() -> None:
    text = run("fail_over_mac")
    assert "none (0), active (1), follow (2)" in text
    assert "ENOTEMPTY" in text
    facts = json.loads(run("--json", "handover_ms"))
    assert (facts["our_value"], facts["kernel_default"], facts["ours"]) == ("50", None, True)
    assert json.loads(run("--json", "packets_per_slave"))["modes"] == ["balance-rr"]


def test_a_name_that_is_nearly_one() -> None:
    with pytest.raises(Refused, match="fail_over_mac"):
        find("failover_mac")


def test_the_page_in_docs_is_made_from_the_table() -> None:
    page = Path(__file__).parents[2] / "docs" / "options.md"
    assert page.read_text() == run("--markdown"), "run: ibbond options --markdown > docs/options.md"
