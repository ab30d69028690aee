"""What the page draws: nodes in layers, cables and bonds in the order of samples, and what makes a new drawing."""

from typing import Any

from ibbond.ops.lab_sample import sample_of
from ibbond.ops.top import picture
from ibbond.web.drawing import drawing, rates, shape
from tests.lab.test_graph import STATUS

LATE: dict[str, Any] = {"worst_ms": 0.0, "why": None, "spans": []}
COUNTED = {"rx_packets": 0, "tx_packets": 0, "rx_bytes": 0, "tx_bytes": 0}


def status() -> dict[str, Any]:
    found = {**STATUS, "pid": 1, "topology": "fabric.toml"}
    found["cables"] = [{"name": each["ends"][0], **each} for each in STATUS["cables"]]
    bond = {"members": ["ib0", "ib1"], "addresses": []}
    found["hosts"] = {
        host: {"bonds": {"bond0": bond | facts["bonds"]["bond0"]}} for host, facts in STATUS["hosts"].items()
    }
    found["cables"] += [{"name": "opensm/1", "ends": ["opensm/1", "leaf1/9"], "state": "up"}]
    return found


def sample(packets: int, rx_bytes: int = 0) -> dict[str, Any]:
    members = {name: {"state": "up", "statistics": COUNTED | {"rx_bytes": rx_bytes}} for name in ("ib0", "ib1")}
    bond = {"active": "ib1", "members": members, "last_failover": None}
    cables = [{**each, "loss_percent": 0.0, "packets": packets} for each in status()["cables"]]
    return {"cables": cables, "bonds": {"h1/bond0": bond}, "manager_alive": True, "late": LATE}


def test_nodes_are_hosts_switches_by_distance_and_opensm() -> None:
    nodes = drawing(status())["nodes"]
    assert isinstance(nodes, list)
    assert {(each["name"], each["level"], each["kind"]) for each in nodes} == {
        ("h1", 0, "host"),
        ("h2", 0, "host"),
        ("leaf1", 1, "switch"),
        ("leaf2", 1, "switch"),
        ("spine", 2, "switch"),
        ("opensm", 2, "manager"),
    }


def test_cables_of_drawing_and_rates_are_in_one_order() -> None:
    before, after = sample(0), sample(0)
    after["cables"][3] |= {"packets": 50, "loss_percent": 2.0}
    seen = picture(sample_of(before), sample_of(after))
    cables = drawing(status())["cables"]
    found = rates(seen, after)["cables"]
    assert isinstance(cables, list)
    assert isinstance(found, list)
    assert [each["name"] for each in cables][3] == "h2/ib1"
    assert [loss for _, _, loss in found] == [0, 0, 0, 2.0, 0, 0, 0, 0]
    assert [index for index, (_, rate, _) in enumerate(found) if rate] == [3]


def test_a_drawing_holds_until_bonds_members_or_cables_change() -> None:
    one, other = sample(0), sample(9, rx_bytes=1000)
    assert shape(one) == shape(other)
    other["bonds"]["h1/bond0"]["members"].pop("ib0")
    assert shape(one) != shape(other)
    assert shape(one) != shape(sample(0) | {"cables": one["cables"][1:]})
