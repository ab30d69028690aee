"""What can go wrong in a story, as a table: how each kind of fault begins, how it ends, and what it can strike.

Read first: fabric/events.py, the events that these become. A new kind is a new row of `KINDS`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from random import Random

from ibbond.bonding.events import SetOption
from ibbond.errors import Refused
from ibbond.fabric.events import (
    ChangeLid,
    Cut,
    KillAdapter,
    KillSubnetManager,
    KillSwitch,
    MakeLossy,
    Mend,
    Reregister,
    ReviveAdapter,
    ReviveSubnetManager,
    ReviveSwitch,
    SetPkeys,
)
from ibbond.stack.events import GroupsAre, NetworkEvent, OnHost, OnSubnet, SetAdmin, ToBond
from ibbond.topology.model import Topology, listed
from ibbond.wire.pkey import DEFAULT_PKEY

DEFAULT_GROUP = "239.1.2.3"  # of stories
FLAP_MS = 30  # between two changes of a flapping cable
OTHER_PKEY = 0x8001  # all that a port has for a while
NEW_LIDS = range(200, 700)  # beyond those that a manager gives by itself in worlds of this size


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: `where` is a port, a switch, a device or a bond (HOST/DEVICE), or empty, as its kind wants."""

    kind: str
    at_ms: int
    where: str
    lasting_ms: int = 0
    share: float = 0.2  # of packets, for lossy cables


@dataclass(frozen=True, slots=True)
class RandomFaults:
    """How many faults of which kinds a seed draws; `between_ms` is when they begin, `lasting_ms` how long they last."""

    count: int
    kinds: tuple[str, ...]
    lasting_ms: tuple[int, int]
    between_ms: tuple[int, int]
    where: tuple[str, ...] = ()  # only these targets; all when empty


Moment = tuple[int, NetworkEvent]  # (ms after the fault's beginning, event)


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fault: what it can strike in a topology, and the events of its course."""

    about: str
    targets: Callable[[Topology], list[str]]
    course: Callable[[Fault], list[Moment]]

    def resolve(self, topology: Topology, where: str) -> str:
        """The target that a person means by `where`; `Refused` names those that there are."""
        targets = self.targets(topology)
        if where in targets:
            return where
        if targets and "/" in targets[0] and "/" in where:
            port = topology.port_of(where)
            cable = topology.cable_at(port)
            for end in (port, cable.a, cable.b):
                if end in targets:
                    return end
        raise Refused(
            f"no target {where!r} for this fault", why=f"there are {listed(targets)}", fix="Choose one of these"
        )


def cables(topology: Topology) -> list[str]:
    return [cable.a for cable in topology.cables]


def host_cables(topology: Topology) -> list[str]:
    switches = {switch.name for switch in topology.switches}
    return [cable.a for cable in topology.cables if cable.a.partition("/")[0] not in switches]


def plain_ports(topology: Topology) -> list[str]:
    """Those of hosts that are in the default partition only."""
    return [port for port in host_cables(topology) if topology.pkeys_of(port) == (DEFAULT_PKEY,)]


def switches(topology: Topology) -> list[str]:
    return [switch.name for switch in topology.switches]


def adapters(topology: Topology) -> list[str]:
    return [hca.name for host in topology.hosts for hca in host.hcas]


def member_devices(topology: Topology) -> list[str]:
    return [f"{host.name}/{name}" for host in topology.hosts for bond in host.bonds for name in bond.members]


def addressed_devices(topology: Topology) -> list[str]:
    return list(dict.fromkeys(f"{host.name}/{device}" for host in topology.hosts for device, _ in host.addresses()))


def manual_switches(topology: Topology) -> list[str]:
    """HOST/BOND=MEMBER of every member."""
    return [
        f"{host.name}/{bond.name}={name}" for host in topology.hosts for bond in host.bonds for name in bond.members
    ]


def cut(fault: Fault) -> list[Moment]:
    moments: list[Moment] = [(0, OnSubnet(Cut(fault.where)))]
    return [*moments, (fault.lasting_ms, OnSubnet(Mend(fault.where)))] if fault.lasting_ms else moments


def flap(fault: Fault) -> list[Moment]:
    moments: list[Moment] = []
    for at in range(0, max(fault.lasting_ms, FLAP_MS), 2 * FLAP_MS):
        moments += [(at, OnSubnet(Cut(fault.where))), (at + FLAP_MS, OnSubnet(Mend(fault.where)))]
    return moments


def lossy(fault: Fault) -> list[Moment]:
    begin = OnSubnet(MakeLossy(fault.where, fault.share))
    return [(0, begin), (fault.lasting_ms, OnSubnet(MakeLossy(fault.where, 0.0)))]


def switch_death(fault: Fault) -> list[Moment]:
    return [(0, OnSubnet(KillSwitch(fault.where))), (fault.lasting_ms, OnSubnet(ReviveSwitch(fault.where)))]


def adapter_removal(fault: Fault) -> list[Moment]:
    return [(0, OnSubnet(KillAdapter(fault.where))), (fault.lasting_ms, OnSubnet(ReviveAdapter(fault.where)))]


def manager_outage(_fault: Fault) -> list[Moment]:
    return [(0, OnSubnet(KillSubnetManager())), (_fault.lasting_ms, OnSubnet(ReviveSubnetManager()))]


def admin_down(fault: Fault) -> list[Moment]:
    host, _, device = fault.where.partition("/")
    return [
        (0, OnHost(host, SetAdmin(device, up=False))),
        (fault.lasting_ms, OnHost(host, SetAdmin(device, up=True))),
    ]


def reregister(fault: Fault) -> list[Moment]:
    return [(0, OnSubnet(Reregister(fault.where)))]


def pkey_removal(fault: Fault) -> list[Moment]:
    return [
        (0, OnSubnet(SetPkeys(fault.where, (OTHER_PKEY,)))),
        (fault.lasting_ms, OnSubnet(SetPkeys(fault.where, (DEFAULT_PKEY,)))),
    ]


def lid_change(fault: Fault) -> list[Moment]:
    return [(0, OnSubnet(ChangeLid(fault.where, NEW_LIDS[fault.at_ms % len(NEW_LIDS)])))]


def group_left(fault: Fault) -> list[Moment]:
    """The programs of the host leave the default group of stories and join it again."""
    host, _, device = fault.where.partition("/")
    group = ip_address(DEFAULT_GROUP).packed
    return [(0, OnHost(host, GroupsAre(device, ()))), (fault.lasting_ms, OnHost(host, GroupsAre(device, (group,))))]


def manual_switch(fault: Fault) -> list[Moment]:
    target, _, member = fault.where.partition("=")
    host, _, bond = target.partition("/")
    return [(0, OnHost(host, ToBond(bond, SetOption("active_slave", member + "\n"))))]


KINDS = {
    "cut": Kind("a host's cable is unplugged and plugged in again", host_cables, cut),
    "cut_any": Kind("any cable is unplugged, including links between switches", cables, cut),
    "flap": Kind("a host's cable is unplugged and plugged in every 30 ms", host_cables, flap),
    "lossy": Kind("a cable loses a share of its packets", cables, lossy),
    "switch_death": Kind("a switch dies, and comes back with empty tables", switches, switch_death),
    "adapter_removal": Kind("a host's adapter is removed and plugged in again", adapters, adapter_removal),
    "manager_outage": Kind("the subnet manager stops answering for a while", lambda _: [""], manager_outage),
    "admin_down": Kind("`ip link set DEVICE down` on a member, and up again", member_devices, admin_down),
    "reregister": Kind("the subnet manager asks a port to register again", host_cables, reregister),
    "pkey_removal": Kind(
        "the subnet manager takes the default P_Key off a port, and puts it back", plain_ports, pkey_removal
    ),
    "lid_change": Kind("the subnet manager gives a port another LID", host_cables, lid_change),
    "group_left": Kind("a host's programs leave their group for a while", addressed_devices, group_left),
    "manual_switch": Kind("an operator writes active_slave", manual_switches, manual_switch),
}


def draw(faults: RandomFaults, topology: Topology, random: Random) -> list[Fault]:
    """The faults of one seed, in the order of their beginnings."""
    drawn = []
    for _ in range(faults.count):
        kind = random.choice(faults.kinds)
        targets = [KINDS[kind].resolve(topology, name) for name in faults.where] or KINDS[kind].targets(topology)
        if not targets:
            continue
        at_ms = random.randint(*faults.between_ms)
        lasting_ms = random.randint(*faults.lasting_ms)
        where = random.choice(targets)
        drawn.append(Fault(kind, at_ms, where, lasting_ms, share=random.choice((0.01, 0.1, 0.5))))
    return sorted(drawn, key=lambda fault: fault.at_ms)
