"""What a topology may not be, although all of it is understood: duplicate names, an island, too large an MTU.

Read first: docs/topology.md, section "What is refused". `check` raises `Refused` at the first fault it finds. Bonding
options are not known on this floor; the builder of a world refuses wrong ones before it starts.
"""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Interface

from ibbond.errors import Refused
from ibbond.topology.model import (
    CONNECTED,
    DATAGRAM_MTUS,
    DATAGRAM_ONLY,
    Bond,
    Host,
    Interface,
    IpoibDevice,
    Topology,
    listed,
)
from ibbond.topology.reader import unknown
from ibbond.wire.ipoib import CONNECTED_MTU

MIN_MTU = 1280  # RFC 8200 section 5


def check(topology: Topology) -> None:
    """Refuse a topology that cannot work."""
    check_mtu_of_subnet(topology)
    check_names(topology)
    check_cables(topology)
    check_one_subnet(topology)
    check_partitions(topology)
    for host in topology.hosts:
        check_devices(topology, host)
        check_bonds(topology, host)
        check_routes(host)
    check_addresses(topology)


def check_mtu_of_subnet(topology: Topology) -> None:
    if topology.mtu not in DATAGRAM_MTUS:
        raise Refused(
            f"mtu = {topology.mtu}",
            why="an InfiniBand MTU of 2048 carries IP packets of 2044 bytes, one of 4096 carries 4092",
            fix="Write mtu = 2044 or mtu = 4092",
        )
    if not topology.hosts:
        raise Refused("the topology has no hosts", why="a lab needs at least one", fix="Add [hosts.h1]")


def check_names(topology: Topology) -> None:
    """Hosts, their HCAs and switches share one set of node names; devices of a host share another."""
    nodes = [("switch", switch.name) for switch in topology.switches]
    nodes += [(f"HCA of {host.name}", hca.name) for host in topology.hosts for hca in host.hcas]
    nodes += [("host", host.name) for host in topology.hosts if host.name not in {hca.name for hca in host.hcas}]
    seen: dict[str, str] = {}
    for kind, name in nodes:
        if name in seen:
            raise Refused(
                f"two nodes are named {name}",
                why=f"it is a {seen[name]} and a {kind}, and cables and devices are found by these names",
                fix="Rename one of them",
            )
        seen[name] = kind
    for host in topology.hosts:
        for name in host.names:
            if host.names.count(name) > 1 or name == "lo":
                raise Refused(
                    f"host {host.name} has two devices named {name}",
                    why="device names must be unique in a host",
                    fix="Rename one of them",
                )


def check_cables(topology: Topology) -> None:
    seen: dict[str, str] = {}
    for cable in topology.cables:
        if cable.a.partition("/")[0] == cable.b.partition("/")[0]:
            raise Refused(
                f"a cable joins {cable.a} with {cable.b}",
                why="both ends are the same node, a loop",
                fix="Join two different switches",
            )
        for port in (cable.a, cable.b):
            if port in seen:
                raise Refused(
                    f"port {port} is used twice",
                    why=f"by the cables {seen[port]} and {cable}",
                    fix="Give one of them another port",
                )
            seen[port] = str(cable)


def check_one_subnet(topology: Topology) -> None:
    """Every node is reached from the first one: two islands would need two subnet managers."""
    neighbors: dict[str, list[str]] = {}
    for cable in topology.cables:
        a, b = cable.a.partition("/")[0], cable.b.partition("/")[0]
        neighbors.setdefault(a, []).append(b)
        neighbors.setdefault(b, []).append(a)
    nodes = [switch.name for switch in topology.switches] + [hca.name for host in topology.hosts for hca in host.hcas]
    reached: dict[str, None] = {}
    waiting = nodes[:1]
    while waiting:
        node = waiting.pop()
        if node not in reached:
            reached[node] = None
            waiting += neighbors.get(node, [])
    islands = [node for node in nodes if node not in reached]
    if islands:
        raise Refused(
            f"{listed(islands)} cannot be reached from {nodes[0]}",
            why="all nodes of a lab must be in one subnet",
            fix="Join the switches with [[links]]",
        )


def check_partitions(topology: Topology) -> None:
    seen: dict[int, str] = {}
    for partition in topology.partitions:
        if partition.pkey in seen:
            raise Refused(
                f"partitions {seen[partition.pkey]} and {partition.name} have the P_Key {partition.pkey:#06x}",
                why="partitions must differ in their P_Keys",
                fix="Change one of them",
            )
        seen[partition.pkey] = partition.name
        if partition.mtu not in DATAGRAM_MTUS or partition.mtu > topology.mtu:
            raise Refused(
                f"partition {partition.name} has MTU {partition.mtu}",
                why=f"it must be 2044 or 4092 and the subnet carries {topology.mtu}",
                fix=f"Use {topology.mtu} or set the subnet's mtu to 4092",
            )
        both = [port for port in partition.full if port in partition.limited]
        if both:
            raise Refused(
                f"partition {partition.name} has {listed(map(topology.end_for_people, both))} as full and as limited",
                why="a port cannot be both",
                fix="Name it once",
            )


def check_devices(topology: Topology, host: Host) -> None:
    for device in host.devices:
        check_mtu(f"{host.name}/{device.name}", device.mtu, carried(topology, device))
        above = host.device(device.parent) if device.parent is not None else None
        if above is not None and (device.mode == DATAGRAM_ONLY) != (above.mode == DATAGRAM_ONLY):
            raise Refused(
                f"{host.name}/{device.name} is {device.mode}, {above.name} is {above.mode}",
                why="both use the same driver, which either supports connected mode or does not",
                fix="Give both the mode datagram-only, or neither",
            )
        if device.pkey not in topology.pkeys_of(device.port):
            known = [f"{pkey:#06x}" for pkey in topology.pkeys_of(device.port)]
            raise Refused(
                f"{host.name}/{device.name} has the P_Key {device.pkey:#06x}",
                why=f"the P_Key table of its port ({host.name}/{device.parent}) is {listed(known)}",
                fix="Name the port under members of a partition with this P_Key",
            )


def carried(topology: Topology, device: IpoibDevice) -> int:
    """The maximum MTU of a device in its mode."""
    return CONNECTED_MTU if device.mode == CONNECTED else topology.mtu_of(device.pkey)


def check_mtu(what: str, mtu: int, max_mtu: int) -> None:
    if mtu > max_mtu:
        why = f"the subnet carries {max_mtu} there (the MTU of the partition's broadcast group minus 4)"
        other = ", or mtu = 4092 at the top of the file" if mtu <= DATAGRAM_MTUS[1] else ', or mode = "connected"'
        if max_mtu == CONNECTED_MTU:
            why, other = f"connected mode carries {max_mtu}", ""
        raise Refused(f"{what} has MTU {mtu}", why=why, fix=f"Use {max_mtu} or less{other}")
    if mtu < MIN_MTU:
        fix = f"Use {MIN_MTU} to {max_mtu}"
        raise Refused(f"{what} has MTU {mtu}", why=f"IPv6 needs {MIN_MTU}", fix=fix)


def check_bonds(topology: Topology, host: Host) -> None:
    taken: dict[str, str] = {}
    for bond in host.bonds:
        what = f"{host.name}/{bond.name}"
        check_loop(host, bond)
        for member in bond.members:
            check_member(host, bond, member)
            if member in taken:
                raise Refused(
                    f"{what} has the member {member}",
                    why=f"{member} is a member of {taken[member]}"
                    if taken[member] != bond.name
                    else "it is listed twice",
                    fix="Name it once",
                )
            taken[member] = bond.name
        pkeys = {member: host.device(member).pkey for member in bond.members}  # type: ignore[union-attr]
        if len(set(pkeys.values())) > 1:
            raise Refused(
                f"{what} has members of different partitions",
                why=listed(f"{member} has P_Key {pkey:#06x}" for member, pkey in pkeys.items()),
                fix="Use members of one P_Key, or a bond for each partition",
            )
        members = [device for device in host.devices if device.name in bond.members]
        if len({device.mode == CONNECTED for device in members}) > 1:
            raise Refused(
                f"{what} has members in connected and in datagram mode",
                why=listed(f"{device.name} is {device.mode}" for device in members)
                + "; large packets would vanish after a failover",
                fix="Give them one mode",
            )
        check_mtu(what, bond.mtu, min((carried(topology, device) for device in members), default=topology.mtu))


def check_loop(host: Host, bond: Bond) -> None:
    """Each bond is looked into once: bonds that name each other may make any number of paths."""
    paths: list[tuple[str, ...]] = [(bond.name,)]
    seen: set[str] = set()
    while paths:
        path = paths.pop()
        inner = host.bond(path[-1])
        if inner is None or inner.name in seen:
            continue
        seen.add(inner.name)
        for member in inner.members:
            if member in path:
                loop = " -> ".join((*path, member))
                raise Refused(
                    f"{host.name}/{inner.name} has the member {member}",
                    why=f"that is a loop: {loop}",
                    fix="A bond's members are IPoIB devices such as ib0",
                )
            paths.append((*path, member))


def check_member(host: Host, bond: Bond, member: str) -> None:
    what = f"{host.name}/{bond.name} has the member {member}"
    device = host.device(member)
    if host.bond(member) is not None:
        raise Refused(what, why="that is a bond, and bonds do not nest", fix="List its members instead")
    if any(device.name == member for device in host.ethernet):
        raise Refused(
            what,
            why=f"{member} is Ethernet, and a lab's bonds start with InfiniBand members; the types exclude each other",
            fix=f"Omit {member}",
        )
    if device is None:
        raise unknown(what, member, [device.name for device in host.devices])
    if device.addresses:
        raise Refused(
            what,
            why=f"{member} has an address of its own ({device.addresses[0]}), which is unreachable there",
            fix="Give the address to the bond",
        )


def check_routes(host: Host) -> None:
    on_link = [address.network for _, address in host.addresses()]
    for route in host.routes:
        if route.gateway.version != route.destination.version:
            raise Refused(
                f"host {host.name} routes {route.destination} to {route.gateway}",
                why="one is IPv4 and the other IPv6",
                fix="Use a gateway of the same family",
            )
        if not any(route.gateway in network for network in on_link):
            raise Refused(
                f"host {host.name} routes {route.destination} to {route.gateway}",
                why=f"the gateway is in none of its networks ({listed(on_link)})",
                fix="Use a gateway of one of these",
            )


def check_addresses(topology: Topology) -> None:
    seen: dict[object, str] = {}
    for host, device, address in everyone(topology):
        if (why := not_of_a_host(address)) is not None:
            fix = "Use a unicast address such as 10.0.0.1/24 or fd00::1/64"
            raise Refused(f"{host}/{device} has the address {address}", why=why, fix=fix)
        if address.ip in seen:
            raise Refused(
                f"{host}/{device} has the address {address.ip}",
                why=f"{seen[address.ip]} has it too",
                fix="Change one of them",
            )
        seen[address.ip] = f"{host}/{device}"


def not_of_a_host(address: Interface) -> str | None:
    """Why an interface cannot have this address, or a neighbor could not use it (RFC 1122 3.2.1.3, RFC 4291 2.6.1)."""
    ip, network = address.ip, address.network
    if ip.is_multicast or ip.is_unspecified or ip.is_loopback:
        kind = "a multicast" if ip.is_multicast else "the loopback" if ip.is_loopback else "the unspecified"
        return f"it is {kind} address"
    if isinstance(address, IPv6Interface):
        if address.scope_id is not None:
            return f"it has the scope {address.scope_id}, but the device is given by the table"
        anycast = network.prefixlen < 127 and ip == network.network_address
        return f"it is the address of all routers of {network}" if anycast else None
    if ip == IPv4Address("255.255.255.255") or (network.prefixlen < 31 and ip == network.broadcast_address):
        return f"it is the broadcast address of {network}" if network.prefixlen < 32 else "it is the broadcast address"
    if network.prefixlen < 31 and ip == network.network_address:
        return f"it is the address of the network {network} itself"
    return None


def everyone(topology: Topology) -> Iterable[tuple[str, str, Interface]]:
    for host in topology.hosts:
        for device, address in host.addresses():
            yield host.name, device, address
