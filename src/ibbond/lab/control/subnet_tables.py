"""The subnet of a running lab as tables: nodes and ports, routes, groups, counters. Whole, where tools show a part.

Read first: docs/subnet.md. Everything is read from what the ports, tables and adapters hold, under either manager: our
subnet manager or OpenSM. Plain values, for JSON and for `ibbond fabric`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from ipaddress import IPv6Address

from ibbond.fabric.hca import Hca
from ibbond.fabric.port import Port
from ibbond.fabric.subnet import Subnet
from ibbond.fabric.switch import Switch
from ibbond.wire.smp import NO_PORT

Row = dict[str, object]
Shown = Callable[[str], str]  # a port's name for people: h1/ib0


def nodes(subnet: Subnet, shown: Shown) -> list[Row]:
    """Every port that has a cable, and port 0 of every switch."""
    rows: list[Row] = []
    for node in subnet.nodes.values():
        for port in node.ports.values():
            if port.cable is None and port.number:
                continue
            peer = port.cable.other(port).name if port.cable is not None else ""
            rows.append(
                {
                    "port": shown(port.name),
                    "guid": f"{port.guid:#018x}",
                    "lid": port.lid if port.number == 0 or not isinstance(node, Switch) else None,
                    "state": port.state.name.lower(),
                    "sm_lid": port.sm_lid or None,
                    "mtu": port.mtu_bytes,
                    "pkeys": [f"{pkey:#06x}" for pkey in port.pkeys],
                    "peer": shown(peer) if peer else "",
                }
            )
    return rows


def routes(subnet: Subnet, shown: Shown) -> list[Row]:
    """Every entry of every linear forwarding table: at this switch, packets for this LID leave by this port."""
    owners = {port.lid: port for port in subnet.end_ports() if port.lid}
    rows: list[Row] = []
    for switch in switches(subnet):
        for lid, number in enumerate(switch.linear[: switch.info.linear_top + 1]):
            if number != NO_PORT:
                owner = owners.get(lid)
                rows.append(
                    {
                        "switch": switch.name,
                        "lid": lid,
                        "to": shown(owner.name) if owner is not None else "",
                        "out": number,
                    }
                )
    return rows


def groups(subnet: Subnet, shown: Shown) -> list[Row]:
    """Every multicast group: its MGID, MLID, the ports that take its packets, the ports by which switches send them."""
    found: dict[int, tuple[dict[str, None], dict[str, None]]] = {}
    for node in subnet.nodes.values():
        if isinstance(node, Hca):
            for pair in node.queue_pairs.values():
                for mgid, mlid in pair.groups.items():
                    mgids, members = found.setdefault(mlid, ({}, {}))
                    mgids[str(IPv6Address(mgid))] = None
                    members[shown(pair.port.name)] = None
    for switch in switches(subnet):
        for mlid in switch.masks:
            found.setdefault(mlid, ({}, {}))
    rows: list[Row] = []
    for mlid in sorted(found):
        mgids, members = found[mlid]
        tree = [f"{switch.name}/{number}" for switch in switches(subnet) for number in bits(switch.masks.get(mlid, 0))]
        rows.append({"mlid": f"{mlid:#06x}", "mgids": list(mgids), "members": list(members), "tree": tree})
    return rows


def counters(subnet: Subnet, shown: Shown) -> list[Row]:
    """PortCounters of every port that has a cable."""
    rows: list[Row] = []
    for port in cabled(subnet):
        own = subnet.counters(port.name)
        counted: Row = {name: value for name, value in asdict(own).items() if not name.endswith("_more")}
        counted |= {"transmit_unicast": own.transmit_unicast, "receive_unicast": own.receive_unicast}
        rows.append({"port": shown(port.name)} | counted)
    return rows


def switches(subnet: Subnet) -> list[Switch]:
    return [node for node in subnet.nodes.values() if isinstance(node, Switch)]


def cabled(subnet: Subnet) -> list[Port]:
    return [port for node in subnet.nodes.values() for port in node.ports.values() if port.cable is not None]


def bits(mask: int) -> list[int]:
    return [number for number in range(mask.bit_length()) if mask >> number & 1]


TABLES: dict[str, Callable[[Subnet, Shown], list[Row]]] = {
    "show": nodes,
    "routes": routes,
    "groups": groups,
    "counters": counters,
}
