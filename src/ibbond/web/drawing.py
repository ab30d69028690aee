"""What the page draws: nodes in layers and the cables between them, and the rates of each sample. Pure.

Read first: `lab.graph` for layers, `ops.lab_sample` for samples. A drawing is sent once and whenever it changes;
rates are sent with every sample, in the order of its cables. Left out: places, which depend on the window's size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ibbond.lab.graph import layers, links_of
from ibbond.ops.top import Picture
from ibbond.tools.infiniband_tools import MANAGER_NODE

Facts = dict[str, object]
OTHER_KINDS = {MANAGER_NODE: "manager"}  # OpenSM, at a port of its own


def drawing(status: Mapping[str, Any]) -> Facts:
    """Nodes, cables and bonds of a lab; cables and bonds in the order of its samples."""
    hosts = status["hosts"]
    links = links_of(status)
    nodes = [
        {"name": name, "level": level, "kind": "host" if name in hosts else OTHER_KINDS.get(name, "switch")}
        for level, row in enumerate(layers(hosts, links))
        for name in row
    ]
    cables = [
        {"name": cable["name"], "a": link.a, "b": link.b, "ends": cable["ends"]}
        for cable, link in zip(status["cables"], links, strict=True)
    ]
    bonds = [
        {"name": f"{host}/{name}", "members": bond["members"], "addresses": bond["addresses"]}
        for host, facts in hosts.items()
        for name, bond in facts["bonds"].items()
    ]
    lab = {"name": status["name"], "pid": status["pid"], "topology": status["topology"]}
    return {"lab": lab, "nodes": nodes, "cables": cables, "bonds": bonds}


def shape(answer: Mapping[str, Any]) -> object:
    """What of a lab's sample must be as it was for a drawing to hold: its cables, bonds and their members."""
    bonds = [(name, list(bond["members"])) for name, bond in answer["bonds"].items()]
    return [cable["ends"] for cable in answer["cables"]], bonds


def rates(seen: Picture, answer: Mapping[str, Any]) -> Facts:
    """What changes all the time. A cable is [state, packets/s, loss in percent]; a member [name, state, bit/s]."""
    losses = [cable["loss_percent"] for cable in answer["cables"]]
    return {
        "seconds": round(seen.seconds, 3),
        "cables": [
            [cable.state, round(cable.packets, 1), loss] for cable, loss in zip(seen.cables, losses, strict=True)
        ],
        "bonds": [
            {
                "active": bond.active,
                "members": [
                    [member.name, member.state, round(8 * (member.rx_bytes + member.tx_bytes))]
                    for member in bond.members
                ],
                "failover": bond.failover,
                "failover_age_ms": None if bond.failover_age_ms is None else round(bond.failover_age_ms),
            }
            for bond in seen.bonds
        ],
        "manager_alive": answer["manager_alive"],
        "late_ms": round(seen.late_ms or 0, 1),
    }
