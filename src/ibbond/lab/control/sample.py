"""What changes while a lab runs: the states and counters that `lab top` and the page ask for again and again.

Read first: `ops.lab_sample`, which reads the answer; docs/json.md for the words that it shares with `lab status`. That
asks every device for its addresses, which is too much for a lab of many hosts once a second.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ibbond.netdev.device import Device
from ibbond.netdev.namespace import Namespace
from ibbond.stack.host_stack import HostStack
from ibbond.stack.network import Network

Fields = dict[str, object]
COUNTERS = ("rx_packets", "tx_packets", "rx_bytes", "tx_bytes")


def sample(
    network: Network,
    cables: Iterable[tuple[tuple[str, str], Fields]],
    failovers: Mapping[str, Mapping[str, object]],
) -> Fields:
    """`cables` are the ports at both ends of each, and its facts as `lab status` has them. Counters are up to date."""
    return {
        "cables": [facts | {"packets": received(network, ports)} for ports, facts in cables],
        "bonds": {
            f"{host}/{name}": bond_fields(stack, name, failovers.get(f"{host}/{name}"))
            for host, stack in network.hosts.items()
            for name in stack.registry.bonds
        },
    }


def received(network: Network, ports: Iterable[str]) -> int:
    """Packets that have arrived at these ports."""
    return sum(network.subnet.port(port).counters.receive_packets for port in ports)


def bond_fields(stack: HostStack, name: str, last: Mapping[str, object] | None) -> Fields:
    bond = stack.registry.bonds[name]
    members = {member: member_fields(stack.namespace, member) for member in bond.members}
    failover = {"at_ns": last["at_ns"], "detail": last["detail"]} if last is not None else None
    return {"active": bond.active, "members": members, "last_failover": failover}


def member_fields(namespace: Namespace, name: str) -> Fields:
    device = namespace.get(name)
    if device is None:
        return {"state": "down", "statistics": dict.fromkeys(COUNTERS, 0)}
    state = "down" if not device.up else "up" if device.carrier else "no carrier"
    return {"state": state, "statistics": counted(device)}


def counted(device: Device) -> dict[str, int]:
    return {counter: getattr(device.statistics, counter) for counter in COUNTERS}
