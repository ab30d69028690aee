"""Two ports of one adapter, or two adapters: both work, and the checker says when one adapter is all there is."""

from pathlib import Path

from tests.ops.saved_copy import rules, saved_host


def test_two_adapters_are_clean(tmp_path: Path) -> None:
    assert rules(saved_host(tmp_path)) == set()


def test_two_ports_of_one_adapter_are_reported(tmp_path: Path) -> None:
    assert rules(saved_host(tmp_path, slots=("0000:03:00.0", "0000:03:00.1"))) == {"one-adapter"}
