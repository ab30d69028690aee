"""What `./bench --kernel` and `--sim` make of their figures, and that keeping one run's results keeps the others'."""

import json
from pathlib import Path

import pytest

from benchmarks import kernel, record, simulated
from benchmarks.summary import medians

VALUES = {
    "veth": {"tcp1_gbps": [2.0], "pps64": [100.0], "rtt_us": [10.0]},
    "bonding-ipoib-miimon100": {
        "tcp1_gbps": [1.0],
        "cut cut_lost": [10.0],
        "cut cut_outage_ms": [50.0, 60.0],
        "cut cut_gap_ms": [70.0],
    },
    "ours": {"tcp1_gbps": [0.5], "cut cut_lost": [1.0], "cut cut_outage_ms": [5.0, 6.0], "cut cut_gap_ms": [80.0]},
}


def result() -> dict[str, object]:
    found = {"variants": medians(VALUES), "ratios": kernel.ratios(VALUES), "missing": {"x": "no such module"}}
    about = {"date": "d", "revision": "r", "kernel": "k", "machine": "m", "rounds": 2, "probe_gap_ms": 5.0}
    return {**found, **about, "load": {"median": 1.0, "max": 2.0}}


def test_outages_are_compared_with_the_kernels() -> None:
    found = kernel.ratios(VALUES)
    assert found["outage_vs_kernel_miimon100"] == pytest.approx(0.1)
    assert found["gap_vs_kernel_miimon100"] == pytest.approx(80 / 70)
    assert found["outage_vs_kernel_miimon10"] is None, "not measured"
    assert found["tcp_vs_veth ours"] == 0.25


def test_the_kernels_table_names_what_is_missing() -> None:
    text = kernel.about(result()) + kernel.table(result())
    assert "Missing: x: no such module" in text
    assert "| outage | - | - | 0.1 |" in text


def test_a_growing_cost_is_put_on_a_line() -> None:
    rows = [
        {"hosts": hosts, "switches": 4, "failover_all_learn_s": 0.01, "failover_calls": 5000 + 2000 * hosts}
        for hosts in (1, 2, 4)
    ]
    assert "5.0 + 2.000 thousand calls for each of the hosts." in simulated.grown_table("hosts", "hosts", rows)


def test_keeping_one_result_keeps_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page, results = tmp_path / "page.md", tmp_path / "results.json"
    page.write_text(
        "a\n<!-- sim results -->\nold\n<!-- end of sim results -->\nb\n<!-- results -->\n<!-- end of results -->\n"
    )
    results.write_text(json.dumps({"rounds": 5, "kernel": {"k": 1}}))
    monkeypatch.setattr(record, "PAGE", page)
    monkeypatch.setattr(record, "RESULTS", results)
    record.keep("sim", {"s": 2}, "new\n")
    assert page.read_text().startswith("a\n<!-- sim results -->\nnew\n<!-- end of sim results -->\nb\n")
    record.keep_main({"rounds": 6}, "main\n")
    assert json.loads(results.read_text()) == {"rounds": 6, "kernel": {"k": 1}, "sim": {"s": 2}}
    with pytest.raises(AssertionError, match="no part 'nothing results'"):
        record.keep("nothing", {}, "")
