"""What traffic must see while something is broken: a probe arrives if a path exists and the last change has ended.

Read first: `sim/checkers`, for what must hold whatever the traffic does. The checker knows physics only: cables, ports,
switches and administrative states. It asks for an arrival where whichever member the bonds choose has a path, or where
the ARP monitor can find one that has. A planned switch, a registration and the death of the
subnet manager are not changes of the paths, so they may cost nothing. Left out: what the bonds decide.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ibbond.bonding.bond import Bond
from ibbond.errors import Refused
from ibbond.fabric.events import KillSubnetManager, MakeLossy, Reregister, ReviveSubnetManager, SetPkeys
from ibbond.machine import MS
from ibbond.sim.checkers import Broken
from ibbond.stack.events import NetworkEvent, OnHost, OnSubnet, ToBond
from ibbond.verbs.verbs import PortState
from ibbond.wire.pkey import DEFAULT_PKEY

if TYPE_CHECKING:
    from ibbond.sim.programs import Probe
    from ibbond.sim.world import World

BOUND_MS = 250  # after a change, a probe must arrive: the manager's sweep, the new paths, neighbors that learn
FOUND_INTERVALS = 12  # of the ARP monitor, for each member
RECONNECTED_MS = 1000  # in connected mode: a lost message of the CM is repeated after half a second
ARRIVES_MS = 200  # later it is lost


@dataclass(slots=True)
class TrafficChecker:
    """Which probes must arrive, and whether they did. `changed_at` is when the last change of paths happened."""

    changed_at: int = 0
    manager_dead: bool = False
    lossy: set[str] = field(default_factory=set)
    isolated: set[str] = field(default_factory=set)  # ports whose P_Key was taken away
    required: list[tuple[Probe, int]] = field(default_factory=list)
    changed_while_dead: bool = False
    dark_at: dict[str, int] = field(default_factory=dict)  # when a host's bond was last seen without a member

    def on_fault(self, now: int, event: NetworkEvent) -> None:
        """Something planned happens to the world now."""
        match event:
            case OnHost(_, ToBond()) if self.manager_dead:
                pass  # paths of the new member cannot be asked for
            case OnHost(_, ToBond()) | OnSubnet(Reregister()):
                return
            case OnSubnet(KillSubnetManager()):
                self.manager_dead = True
                unswept = now - self.changed_at < BOUND_MS * MS  # what changed just before may not have been seen
                self.changed_while_dead = self.changed_while_dead or unswept
                return
            case OnSubnet(ReviveSubnetManager()):
                self.manager_dead = False
                if not self.changed_while_dead:
                    return
                self.changed_while_dead = False
            case OnSubnet(MakeLossy(cable, share)):
                (self.lossy.add if share else self.lossy.discard)(cable)
            case OnSubnet(SetPkeys(port, keys)):
                (self.isolated.discard if DEFAULT_PKEY in keys else self.isolated.add)(port)
            case _:
                pass
        self.changed_at = now
        self.changed_while_dead = self.changed_while_dead or self.manager_dead

    def follow(self, world: World) -> None:
        """Remember which hosts have a bond without an active member, however short."""
        for name, host in world.network.hosts.items():
            if any(bond.device.up and bond.active is None for bond in host.registry.bonds.values()):
                self.dark_at[name] = world.now

    def sent(self, world: World, probe: Probe, destination: bytes) -> None:
        """A probe leaves now: remember it if it must arrive."""
        self.follow(world)
        settled_ms = (world.now - self.changed_at) / MS
        if settled_ms < BOUND_MS or world.now < world.story.quiet_ms * MS:
            return
        if probe.kind == "multicast" or self.lossy or self.isolated or self.changed_while_dead:
            return
        dark_at = max(self.dark_at.get(probe.source, -1), self.dark_at.get(probe.target, -1))
        if dark_at >= 0 and world.now - dark_at < world.story.settle_ms * MS:
            return  # it missed announcements, or its own were lost: neighbors are found again by their own timers
        if settled_ms >= path_within_ms(world, probe.source, probe.target, destination):
            self.required.append((probe, self.changed_at))

    def check(self, world: World) -> None:
        """Raise `Broken` for a probe that had a path all the time and did not arrive."""
        while self.required and self.required[0][0].sent_at + ARRIVES_MS * MS <= world.now:
            probe, changed_at = self.required.pop(0)
            if changed_at != self.changed_at and self.changed_at <= probe.sent_at + ARRIVES_MS * MS:
                continue  # the next change may have caught it
            arrived = probe.answered_at is not None if probe.kind == "icmp" else probe.target in probe.copies
            if not arrived:
                since = (probe.sent_at - changed_at) / MS
                raise Broken(
                    f"{probe.kind} probe {probe.number} from {probe.source} to {probe.target}, sent at"
                    f" {probe.sent_at / MS:.3f} ms, {since:.0f} ms after the last change, is lost, and a path exists"
                )


def path_within_ms(world: World, source: str, target: str, destination: bytes) -> float:
    """How long after the last change packets must arrive; infinite where no path is sure to be found.

    Where all usable ports of both ends lie in one component, any choice of the bonds is right. Else only a bond that
    asks targets (the ARP monitor) finds the members that have a path. It needs so many intervals for each of them, also
    where any would do: what was lost in an outage is judged after it.
    """
    component = components(world)
    places = [
        (bond, {component.get(port) for port in ports})
        for bond, ports in (usable_ports(world, host, destination) for host in (source, target))
    ]
    if not places[0][1] & places[1][1] - {None}:
        return math.inf
    connected = any(interface.connected for host in (source, target) for interface in world.network.hosts[host].links)
    within: float = RECONNECTED_MS if connected else 0
    for bond, homes in places:
        if bond is not None and bond.values.arp_validate and bond.rules.kernel("arp_of_ethernet_only"):
            return math.inf  # on IPoIB no answer is ever valid
        asks = bond is not None and bond.values.arp_interval and bond.values.arp_ip_target
        if bond is not None and asks:
            within = max(within, FOUND_INTERVALS * len(bond.members) * bond.values.arp_interval)
        elif len(homes) > 1:
            return math.inf
        elif bond is not None and bond.values.downdelay:  # for so long a member without link stays active
            within = max(within, bond.values.downdelay * bond.values.miimon + BOUND_MS)
    return within


def usable_ports(world: World, host: str, destination: bytes) -> tuple[Bond | None, list[str]]:
    """The bond, if there is one, and the active ports by which a host could carry packets of that address."""
    stack = world.network.hosts[host]
    mine = world.hosts[host].addresses
    device = mine.get(destination) or world.hosts[host].device_towards(destination)
    bond = stack.registry.bonds.get(device)
    names = list(bond.members) if bond is not None else [device]
    found = []
    for name in names:
        member = bond.members[name].device if bond is not None else None
        if member is not None and not member.up:
            continue
        try:
            port = world.network.subnet.port(world.story.topology.port_of(f"{host}/{name}"))
        except Refused:
            return bond, []
        if port.state == PortState.ACTIVE:
            found.append(port.name)
    return bond, found


def components(world: World) -> dict[str, str]:
    """For each switch, and each port of a host that is connected: a name of the component that it belongs to."""
    parent: dict[str, str] = {}

    def root(node: str) -> str:
        while parent.setdefault(node, node) != node:
            node = parent[node]
        return node

    switches = {switch.name for switch in world.story.topology.switches}
    leaves: list[tuple[str, str]] = []
    for cable in world.network.subnet.cables:
        if not cable.plugged or cable.a.state != PortState.ACTIVE or cable.b.state != PortState.ACTIVE:
            continue
        a, b = cable.a.node.name, cable.b.node.name
        if a in switches and b in switches:
            parent[root(a)] = root(b)
        else:
            leaves.append((cable.b.name, a) if a in switches else (cable.a.name, b))
    return {node: root(node) for node in switches} | {port: root(node) for port, node in leaves}
