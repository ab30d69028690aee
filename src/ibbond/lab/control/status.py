"""What a running lab shows of itself: `lab status`, `lab top`, the page, `lab neighbors`.

Read first: docs/json.md, which describes the fields. On the loop's thread; nothing is changed but counters that are
brought up to date. Left out: the subnet's tables (`subnet_tables`), and requests that change something (`requests`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from ipaddress import ip_address, ip_interface
from typing import TYPE_CHECKING

from ibbond.lab.control.sample import counted, sample
from ibbond.lab.control.subnet_tables import Row
from ibbond.machine import MS
from ibbond.netdev.device import Device
from ibbond.stack.host_stack import HostStack
from ibbond.tools.infiniband_tools import MANAGER_NODE
from ibbond.verbs.verbs import PortState

if TYPE_CHECKING:
    from ibbond.lab.daemon import LabDaemon

MANAGER = "sm"


class LabStatus:
    """The state of one lab as JSON values; `cut` has the ports whose cables are unplugged."""

    def __init__(self, lab: LabDaemon, cut: Mapping[str, None]) -> None:
        self._lab = lab
        self._cut = cut

    def addresses(self, host: str, device: str) -> list[str]:
        """`10.0.0.1/24` of a device."""
        layer = self._lab.network.hosts[host].ip.get(device)
        return (
            [str(ip_interface((address, prefix))) for address, prefix in layer.addresses] if layer is not None else []
        )

    def status(self) -> dict[str, object]:
        """What `lab status --json` prints."""
        lab = self._lab
        lab.loop.flush_counters()
        return {
            "name": lab.config.name,
            "pid": os.getpid(),
            "topology": lab.config.source,
            "profile": lab.config.profile,
            "ready_ms": lab.ready_ms,
            "manager": {"kind": lab.config.manager, "alive": self.lives(MANAGER)},
            "sysfs": {"mounted": lab.views.missing is None, "why_not": lab.views.missing},
            "rdma": {"served": lab.rdma.missing is None, "why_not": lab.rdma.missing},
            **lab.loop.faults.facts(),
            "late": self.late(),
            "hosts": {name: self._host_facts(name, host) for name, host in lab.network.hosts.items()},
            "cables": [self._cable_facts(*ends) for ends in self._cables()],
        }

    def sample(self) -> dict[str, object]:
        """What `lab top` and the page draw, with less work than `status`."""
        lab = self._lab
        lab.loop.flush_counters()
        cables = ((ends, self._cable_facts(*ends)) for ends in self._cables())
        return sample(lab.network, cables, lab.journal.failovers) | {
            "manager_alive": self.lives(MANAGER),
            "late": self.late(),
        }

    def late(self) -> dict[str, object]:
        """How late the loop has run since the lab was ready, and in which times ([since, until], monotonic ns)."""
        lateness = self._lab.loop.lateness
        raised = any(each.startswith(("nice", "real-time")) for each in self._lab.priority)
        why = None if raised else "it may not raise its priority"
        return {
            "worst_ms": round(lateness.worst_ns / MS, 1),
            "why": why,
            "spans": [list(span) for span in lateness.spans],
        }

    def neighbors(self, host: str) -> list[Row]:
        """The neighbor caches of a host, or of all: who is where, by ARP and neighbor discovery."""
        if host:
            self._lab.topology.host(host)
        now = self._lab.loop.now()
        ports = self._ports_by_gid()
        return [
            {
                "host": name,
                "device": device,
                "address": str(ip_address(entry.ip)),
                "hardware_address": entry.hardware.hex(":"),
                "port": ports.get(entry.hardware[4:], ""),
                "state": entry.state.name,
                "age_ms": round((now - entry.confirmed_at) / MS, 1),
            }
            for name, stack in self._lab.network.hosts.items()
            if host in ("", name)
            for device, layer in stack.ip.items()
            for entry in layer.neighbors
        ]

    def _ports_by_gid(self) -> dict[bytes, str]:
        """The names that people use, by port GID."""
        people = self._lab.topology.end_for_people
        ports = (device.port for host in self._lab.topology.hosts for device in host.devices)
        return {self._lab.network.subnet.port(port).gid: people(port) for port in ports}

    def _host_facts(self, name: str, host: HostStack) -> dict[str, object]:
        bonds: dict[str, object] = {}
        devices: dict[str, object] = {}
        addresses: list[str] = []
        for device in host.namespace:
            facts = self._device_facts(name, host, device)
            addresses += self.addresses(name, device.name)
            bond = host.registry.bonds.get(device.name)
            if bond is None:
                devices[device.name] = facts
            else:
                last = self._lab.journal.failovers.get(f"{name}/{device.name}")
                shown = {key: last[key] for key in ("t_ms", "at_ns", "detail")} if last is not None else None
                bonds[device.name] = facts | {
                    "active": bond.active,
                    "members": list(bond.members),
                    "last_failover": shown,
                }
        ids = [one.facts() for one in host.rdma.ids()]
        return {"addresses": addresses, "bonds": bonds, "devices": devices, "rdma_ids": ids}

    def _device_facts(self, name: str, host: HostStack, device: Device) -> dict[str, object]:
        facts: dict[str, object] = {
            "kind": device.driver.kind,
            "up": device.up,
            "carrier": device.carrier,
            "mtu": device.mtu,
            "hardware_address": device.address.hex(":"),
            "addresses": self.addresses(name, device.name),
            "master": device.master.name if device.master is not None else None,
        }
        facts["statistics"] = counted(device)
        interface = host.links.get(device.name)
        if interface is not None:
            facts |= {"port": interface.port.name, "lid": interface.port.lid, "pkey": f"{interface.pkey:#06x}"}
            facts["pkeys"] = [f"{key:#06x}" for key in interface.port.pkeys]
            node, _, number = interface.port.name.rpartition("/")
            adapter = self._lab.rdma.adapters().get(name, {}).get(node)
            facts["rdma"] = {"device": adapter, "port": int(number), "state": interface.port.state.name}
        return facts

    def _cables(self) -> list[tuple[str, str]]:
        """Both ends of every cable, OpenSM's own among them."""
        found = [(cable.a, cable.b) for cable in self._lab.topology.cables]
        if self._lab.opensm is not None:
            port = self._lab.network.subnet.port(f"{MANAGER_NODE}/1")
            found += [(port.name, port.peer.name)] if port.peer is not None else []
        return found

    def _cable_facts(self, a: str, b: str) -> dict[str, object]:
        people = self._lab.topology.end_for_people
        port = self._lab.network.subnet.port(a)
        state = port.state
        return {
            "name": people(a),
            "ends": [people(a), people(b)],
            "state": "cut" if a in self._cut else "up" if state is PortState.ACTIVE else state.name.lower(),
            "loss_percent": round(port.cable.loss * 100, 6) if port.cable is not None else 0.0,
        }

    def lives(self, name: str) -> bool:
        subnet = self._lab.network.subnet
        if name != MANAGER:
            return subnet.node(name).alive
        if self._lab.opensm is not None:
            return self._lab.opensm.alive
        return any(manager.alive for manager in subnet.managers.values())
