"""The arithmetic of ./bench: medians, ratios, outages, and the picture, from values whose answers are known."""

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from benchmarks.measures import Stream, evaluate
from benchmarks.summary import (
    GOALS,
    RATIOS,
    bond_cost,
    medians,
    picture,
    ratios,
    round_by_round,
    spread,
    table,
    verdict,
)

MS = 1_000_000
VALUES = {
    "veth-bridge": {"tcp1_gbps": [10.0, 12.0, 11.0], "pps64": [100.0]},
    "ours": {"tcp1_gbps": [8.0, 9.0, 5.5], "pps64": [90.0], "rtt_us": [40.0], "cut cut_outage_ms": [0.2, 0.4, 3.0]},
    "ours-no-bond": {"tcp1_gbps": [8.0], "pps64": [90.0], "rtt_us": [20.0]},
}


def result() -> dict[str, object]:
    return {
        "rounds": 3,
        "date": "2026-01-01",
        "variants": medians(VALUES),
        "ratios": ratios(VALUES),
        "ratios_by_round": round_by_round(VALUES),
        "missing": {"dpdk": "dpdk-testpmd is not installed"},
    }


def stream(lost: set[int], *, sent: int = 5000, late: dict[int, int] | None = None) -> Stream:
    """Probes each 0.2 ms from time 0 that arrive 10 us later; `late` adds nanoseconds to some."""
    arrived = [(n, n * 200_000 + 10_000 + (late or {}).get(n, 0)) for n in range(sent) if n not in lost]
    return Stream(0, sent, arrived)


def test_ratios_are_of_medians() -> None:
    found = ratios(VALUES)
    assert found["tcp_2044_vs_raw"] == pytest.approx(8.0 / 11.0)
    assert found["pps64_vs_raw"] == pytest.approx(0.9)
    assert found["outage_ms_median"] == 0.4
    assert found["outage_ms_max"] == 3.0


def test_rounds_by_themselves() -> None:
    found = round_by_round(VALUES)
    assert found["tcp_2044_vs_raw"] == pytest.approx({"median": 0.75, "min": 0.5, "max": 0.8, "n": 3})
    assert "pps64_vs_raw" not in found, "another number of values"


def test_a_slower_round_trip_counts_against_the_bond() -> None:
    bonded, plain = ({name: each[0] for name, each in VALUES[path].items()} for path in ("ours", "ours-no-bond"))
    assert bond_cost(bonded, plain) == pytest.approx(0.5 ** (1 / 3))


def test_pairs_are_judged_by_their_median() -> None:
    assert ratios(VALUES, [0.9, 1.1, 1.0])["bond_vs_no_bond"] == 1.0
    assert round_by_round(VALUES, [0.9, 1.1, 1.0])["bond_vs_no_bond"] == {"median": 1.0, "min": 0.9, "max": 1.1, "n": 3}
    assert ratios(VALUES)["bond_vs_no_bond"] is None


def test_what_was_not_measured_has_no_ratio() -> None:
    found = ratios(VALUES)
    assert found["tcp_65520_vs_raw"] is None
    assert found["tcp_vs_dpdk"] is None
    assert ratios({"ours": {"tcp1_gbps": [8.0]}, "dpdk": {"tcp1_gbps": [0.0]}})["tcp_vs_dpdk"] is None


def test_every_ratio_is_there_even_when_nothing_was_measured() -> None:
    found = ratios({})
    assert set(found) == {*RATIOS, "outage_ms_median", "outage_ms_max", "bond_vs_no_bond"}
    assert set(GOALS) <= set(found)
    assert not any(found.values())


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("tcp_2044_vs_raw", 0.8, "aim"),
        ("tcp_2044_vs_raw", 0.6, "must"),
        ("tcp_2044_vs_raw", 0.59, "MISSED"),
        ("rtt_vs_ovs", 0.1, "aim"),
        ("rtt_vs_ovs", 0.4, "must"),
        ("rtt_vs_ovs", 0.41, "MISSED"),
        ("rtt_vs_ovs", None, ""),
        ("pps64_vs_raw", 0.9, ""),
    ],
)
def test_verdicts(name: str, value: float | None, word: str) -> None:
    assert verdict(name, value) == word


def test_outage_is_lost_probes_times_their_spacing_of_the_worse_direction() -> None:
    there, back = stream({2001, 2002, 2003}), stream({2001})
    moments = [("control", 100 * MS), ("cut", 400 * MS), ("return", 600 * MS), ("end", 800 * MS)]
    events = [{"what": "failover", "at_ns": 401 * MS}, {"what": "failover", "at_ns": 612 * MS}]
    found = evaluate([there, back], moments, events, "cut")
    assert found["cut control_lost"] == [0]
    assert found["cut cut_lost"] == [3]
    assert found["cut cut_outage_ms"] == [pytest.approx(0.6)]
    assert found["cut cut_gap_ms"] == [pytest.approx(0.8)]
    assert found["cut return_lost"] == [0]
    assert found["cut cut_to_decision_ms"] == [1.0]
    assert found["cut decision_to_packet_ms"] == [pytest.approx(0.01)]


def test_a_late_probe_is_a_gap_but_no_loss() -> None:
    late = {n: (2050 - n) * 200_000 for n in range(2000, 2050)}  # 10 ms of probes wait and come at once
    moments = [("cut", 400 * MS), ("end", 800 * MS)]
    found = evaluate([stream(set(), late=late)] * 2, moments, [], "cut")
    assert found["cut cut_lost"] == [0]
    assert found["cut cut_gap_ms"][0] == pytest.approx(10, abs=0.3)
    assert "cut cut_to_decision_ms" not in found


def test_a_stream_that_never_comes_back_is_lost_to_the_end() -> None:
    found = evaluate([stream(set(range(2000, 5000)))] * 2, [("cut", 400 * MS), ("end", 600 * MS)], [], "cut")
    assert found["cut cut_lost"] == [1000]
    assert found["cut cut_gap_ms"][0] == pytest.approx(200, abs=0.3)


def test_the_table_shows_spread_and_names_what_is_missing() -> None:
    text = table(result())
    assert "11 [10..12]" in text
    assert "Missing: dpdk: dpdk-testpmd is not installed" in text
    assert spread(None) == ""


def test_the_picture_is_xml_with_a_bar_for_each_path() -> None:
    root = ElementTree.fromstring(picture(result()))
    texts = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert texts.count("ours") == 4
    assert texts.count("veth-bridge") == 2


def test_the_committed_results_are_complete() -> None:
    file = Path(__file__).parents[2] / "benchmarks" / "results.json"
    kept = json.loads(file.read_text())
    assert {"machine", "date", "rounds", "variants", "ratios", "missing"} <= set(kept)
    assert set(kept["ratios"]) == set(ratios({}))
    for name, value in kept["ratios"].items():
        if value is None:
            assert kept["missing"], f"{name} is null and nothing is said to be missing"
