"""From a topology to an idle network: nodes, cables, partitions, devices, and what every host does at power-on.

Read first: `topology/model`. Bonds are made as an administrator makes them, by the same requests, so that a wrong
option is refused by the driver itself when the network starts. IP addresses and routes are not set here: they are the
kernel's (live) or the simulated host's business, and come back as events.
"""

from __future__ import annotations

import random as randomness
from collections.abc import Callable, Collection, Mapping

from ibbond.bonding.events import AddMember, SetOption
from ibbond.bonding.registry import Registry
from ibbond.fabric.subnet import Subnet
from ibbond.manager.partitions import Partition
from ibbond.netdev.namespace import Namespace
from ibbond.stack.events import CreateBond, CreateChild, SetAdmin, SetDeviceMode, SetDeviceMtu, ToBond
from ibbond.stack.host_stack import HostStack
from ibbond.stack.network import Network
from ibbond.topology.model import CONNECTED, DATAGRAM_ONLY, Bond, Host, Topology
from ibbond.verbs.generation import Generation
from ibbond.verbs.timing import Timing
from ibbond.wire.ipoib import ENCAPSULATION_BYTES
from ibbond.wire.pkey import DEFAULT_PKEY


def build(
    topology: Topology,
    *,
    random: randomness.Random,
    timing: Timing | None = None,
    profile: str = "default",
    without: Collection[str] = (),
    overrides: Mapping[str, str] | None = None,
    built_in_manager: bool = True,
    draw_key: Callable[[], int] | None = None,
) -> Network:
    """A network with nothing started. `overrides` are bond options that win over the topology's.

    Raises `Refused` for a bond option that does not exist or does not take its value.
    `profile` and `without` choose rows of `bonding/quirks`; unknown ones are refused. With `built_in_manager` off the
    subnet waits for a manager from outside. `draw_key` as in `Subnet`.
    """
    generation = Generation()
    subnet = Subnet(
        generation=generation,
        random=random,
        timing=timing or Timing(),
        built_in_manager=built_in_manager,
        draw_key=draw_key,
    )
    _build_subnet(subnet, topology)
    network = Network(subnet, generation)
    number = 1
    for host in topology.hosts:
        stack = HostStack(host.name, subnet, generation, profile=profile, without=without)
        for ethernet in host.ethernet:
            stack.add_ethernet(ethernet.name, number)
            number += 1
        _build_host(stack, host, overrides or {})
        network.add(stack)
    return network


def _build_subnet(subnet: Subnet, topology: Topology) -> None:
    for switch in topology.switches:
        who = switch.identity
        subnet.add_switch(switch.name, switch.ports, who.guid, description=who.description)
    for host in topology.hosts:
        for hca in host.hcas:
            who = hca.identity
            guids = dict(who.port_guids)
            subnet.add_hca(hca.name, hca.ports, who.guid, description=who.description, port_guids=guids)
    for cable in topology.cables:
        subnet.connect(cable.a, cable.b)
    subnet.add_partition(Partition("default", DEFAULT_PKEY, mtu_bytes=topology.mtu + ENCAPSULATION_BYTES))
    for partition in topology.partitions:
        mtu_bytes = partition.mtu + ENCAPSULATION_BYTES
        subnet.add_partition(
            Partition(partition.name, partition.pkey, partition.full, partition.limited, mtu_bytes=mtu_bytes)
        )


def _build_host(stack: HostStack, host: Host, overrides: Mapping[str, str]) -> None:
    """Devices now; children, bonds and what is up when the network starts."""
    stack.forwarding = host.forward
    members = {member for bond in host.bonds for member in bond.members}
    for device in host.devices:
        if device.parent is None:
            stack.add_interface(device.name, device.port, connected_mode=device.mode != DATAGRAM_ONLY)
        else:
            stack.at_start(CreateChild(device.parent, device.pkey))
        if device.mode == CONNECTED:
            stack.at_start(SetDeviceMode(device.name, connected=True))
    for bond in host.bonds:
        _build_bond(stack, bond, overrides)
    for device in host.devices:
        if device.name not in members:
            stack.at_start(SetDeviceMtu(device.name, device.mtu))
            if device.up:
                stack.at_start(SetAdmin(device.name, up=True))
    for ethernet in host.ethernet:
        if ethernet.addresses:
            stack.at_start(SetAdmin(ethernet.name, up=True))


def _build_bond(stack: HostStack, bond: Bond, overrides: Mapping[str, str]) -> None:
    """Up before the first member joins, as tools of 2007 did it and most still do."""
    stack.at_start(CreateBond(bond.name))
    options = [pair for pair in bond.options if pair[0] not in overrides] + list(overrides.items())
    settings = [SetOption(option, f"{text}\n") for option, text in options]
    trial = Registry(Namespace()).create(0, bond.name)
    for setting in settings:
        trial.handle(0, setting)  # what the driver refuses is refused before anything runs
        stack.at_start(ToBond(bond.name, setting))
    if bond.up:
        stack.at_start(SetAdmin(bond.name, up=True))
    stack.at_start(SetDeviceMtu(bond.name, bond.mtu))
    for member in bond.members:
        stack.at_start(ToBond(bond.name, AddMember(member)))
