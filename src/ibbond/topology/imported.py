"""A fabric that a tool wrote down becomes a topology file (docs/topology.md), with its GUIDs and node descriptions.

Hosts are the adapters whose descriptions begin with the same word (`node7 mlx5_0`, `node7 HCA-2`). A host with several
cabled ports gets one bond over them, `bond0`, with an address; a host with one port has the address on `ib0`. Of a host
that is known (`topology.known_host`), devices, bonds and addresses are its own. Left out, with a note: routers, and
nodes without a cable.
"""

import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_interface

from ibbond.errors import Refused
from ibbond.topology import ibnetdiscover, opensm_subnet
from ibbond.topology.fabric_dump import ADAPTER, ROUTER, SWITCH, DumpEnd, DumpNode, FabricDump
from ibbond.topology.known_host import KnownBond, KnownHost
from ibbond.topology.model import CONNECTED, DATAGRAM_MTUS, Address, Interface, listed
from ibbond.wire.ipoib import CONNECTED_MTU

FORMATS: dict[str, tuple[Callable[[str], bool], Callable[[str, str], FabricDump]]] = {
    "ibnetdiscover": (ibnetdiscover.looks_like, ibnetdiscover.parse),
    "opensm-subnet.lst": (opensm_subnet.looks_like, opensm_subnet.parse),
}
MAX_NODES = 10_000
FIRST_ADDRESSES = int(ip_address("10.0.0.1")), int(ip_address("fd00::1"))


@dataclass(slots=True)
class Imported:
    """The text of a topology file, and what of the fabric is not in it."""

    text: str
    notes: list[str] = field(default_factory=list)


def import_fabric(text: str, source: str, known: Sequence[KnownHost] = ()) -> Imported:
    """The topology file for a fabric in any known format; `Refused` names file and line."""
    for looks_like, parse in FORMATS.values():
        if looks_like(text):
            return Import(parse(text, source), known).topology()
    raise Refused(
        f"cannot read {source}",
        why=f"its format is not that of {' or '.join(FORMATS)}",
        fix="Save the fabric with: ibnetdiscover > FILE",
    )


class Import:
    """One import: names for nodes, then the tables of the topology file."""

    def __init__(self, dump: FabricDump, known: Sequence[KnownHost]) -> None:
        self.dump = dump
        self.notes: list[str] = []
        if len(dump.nodes) > MAX_NODES:
            raise Refused(
                f"{dump.source} has {len(dump.nodes)} nodes",
                why=f"a lab or simulation takes up to {MAX_NODES}",
                fix="Reduce the file to the part of the fabric that matters",
            )
        dump.check_guids()
        self.cables = [cable for cable in dump.cables() if self._is_wanted(*cable)]
        cabled = {end.node for cable in self.cables for end in cable}
        left_out = [node.key for node in dump.nodes.values() if node.kind != ROUTER and node.key not in cabled]
        if left_out:
            self.notes.append(f"left out, because no cable leads to them: {', '.join(left_out[:12])}")
        self.names: dict[str, str] = {}
        self._used: set[str] = set()
        self.hosts: dict[str, list[DumpNode]] = {}
        self.known: dict[str, KnownHost] = {}  # by the key of `hosts`
        owners = self._owners(known)
        for node in dump.nodes.values():
            if node.key in cabled and node.kind == SWITCH:
                self.names[node.key] = self._unique(name_of(node.description, "s"))
        for node in dump.nodes.values():
            if node.key in cabled and node.kind == ADAPTER:
                owner = owners.get(node.key)
                word = host_word(node) if owner is None else f"{owner.name} {owner.source}"
                self.hosts.setdefault(word, []).append(node)
                if owner is not None:
                    self.known[word] = owner
        self.host_names = {word: self._unique(name_of(word, "h")) for word in self.hosts}
        taken = {each.ip for host in self.known.values() for each in addresses_of(host)}
        self.free_addresses = free_addresses(taken)
        if not self.hosts:
            raise Refused(f"{dump.source} has no hosts", why="no adapter is cabled to a switch", fix="Save it again")

    def topology(self) -> Imported:
        return Imported(
            "\n".join([*self._head(), *self._switches(), *self._links(), *self._hosts()]) + "\n", self.notes
        )

    def _owners(self, known: Sequence[KnownHost]) -> dict[str, KnownHost]:
        """The known host of each adapter, by port GUIDs; refused where one is in no port, or one port in two hosts."""
        adapters = {guid: node.key for node in self.dump.nodes.values() for guid in node.port_guids.values()}
        owners: dict[str, KnownHost] = {}
        for host in known:
            found = {adapters[guid] for guid in host.ports.values() if guid in adapters}
            if not found:
                why = f"none of its ports ({listed(f'{guid:#018x}' for guid in host.ports.values())}) has a cable there"
                fix = "Give the bundles of hosts of this fabric, and a file of ibnetdiscover or OpenSM with port GUIDs"
                raise Refused(f"host {host.name} ({host.source}) is not in {self.dump.source}", why=why, fix=fix)
            for adapter in found:
                if adapter in owners:
                    what = f"{host.source} and {owners[adapter].source} have ports of the same adapter, {adapter}"
                    raise Refused(what, why="an adapter is in one host", fix="Omit one of them")
                owners[adapter] = host
        return owners

    def _is_wanted(self, a: DumpEnd, b: DumpEnd) -> bool:
        kinds = {self.dump.nodes[end.node].kind for end in (a, b)}
        if ROUTER in kinds:
            self.notes.append(f"left out, a router: the cable between {a.node} and {b.node}")
            return False
        if kinds == {ADAPTER}:
            line = self.dump.peers.get(a, self.dump.peers.get(b, (b, 0)))[1]
            raise self.dump.refused(line, "cables two adapters back to back", "a lab has switches between its hosts")
        return True

    def _unique(self, name: str) -> str:
        chosen, number = name, 2
        while chosen in self._used:
            chosen, number = f"{name[:26]}-{number}", number + 1
        self._used.add(chosen)
        return chosen

    def _head(self) -> list[str]:
        bonds = [bond for host in self.known.values() if not host.connected for bond in host.bonds]
        large = any((bond.mtu or 0) > DATAGRAM_MTUS[0] for bond in bonds)
        mtu = [f"mtu = {DATAGRAM_MTUS[1]}"] if large else []
        return [f"# Imported from {json.dumps(self.dump.source)}; docs/topology.md explains every word.", *mtu, ""]

    def _switches(self) -> list[str]:
        rows = [
            f"{name} = {{ ports = {node.ports}{identity(node)} }}"
            for key, name in self.names.items()
            for node in (self.dump.nodes[key],)
        ]
        return ["[switches]", *rows, ""]

    def _links(self) -> list[str]:
        rows = []
        for a, b in self.cables:
            if a.node in self.names and b.node in self.names:
                rows += ["[[links]]", f'between = ["{self._switch_port(a)}", "{self._switch_port(b)}"]', ""]
        return rows

    def _switch_port(self, end: DumpEnd) -> str:
        return f"{self.names[end.node]}/{end.port}"

    def _hosts(self) -> list[str]:
        far = {end: other for a, b in self.cables for end, other in ((a, b), (b, a))}
        rows: list[str] = []
        for word, adapters in self.hosts.items():
            host = self.host_names[word]
            ports = [
                (number, port, node.port_guids.get(port), self._switch_port(far[DumpEnd(node.key, port)]))
                for number, node in enumerate(adapters, 1)
                for port in range(1, node.ports + 1)
                if DumpEnd(node.key, port) in far
            ]
            rows += [f"[hosts.{host}]"]
            rows += [f"hcas = [{', '.join(adapter_row(node) for node in adapters)}]"]
            known = self.known.get(word)
            names = device_names(known, [guid for _, _, guid, _ in ports])
            if known is not None and known.connected:
                rows += [f'mode = "{CONNECTED}"']
            devices = [
                f'{key(name)} = {{ to = "{to}", hca = {number}, port = {port} }}'
                for name, (number, port, _, to) in zip(names, ports, strict=True)
            ]
            rows += [f"[hosts.{host}.ports]", *devices]
            rows += self._known_rows(host, known, names) if known is not None else self._bond_rows(host, names)
        return rows

    def _bond_rows(self, host: str, names: list[str]) -> list[str]:
        """The bond of a host with several ports, or the device of a host with one, and its addresses."""
        addresses = f"addresses = {json.dumps(next(self.free_addresses))}"
        if len(names) == 1:
            return [f"[hosts.{host}.devices.{names[0]}]", addresses, ""]
        return [f"[hosts.{host}.bonds.bond0]", f"members = {json.dumps(names)}", addresses, ""]

    def _known_rows(self, host: str, known: KnownHost, names: list[str]) -> list[str]:
        """The bonds of a known host, as far as their members have cables, and the addresses of other devices."""
        rows: list[str] = []
        for bond in known.bonds:
            missing = [member for member in bond.members if member not in names]
            if missing:
                self.notes.append(f"{host}/{bond.name} is without {listed(missing)}, which no cable leads to")
            if len(missing) < len(bond.members):
                rows += known_bond_rows(host, bond, names, connected=known.connected)
        for device, addresses in known.addresses.items():
            if device in names:
                rows += [f"[hosts.{host}.devices.{key(device)}]", f"addresses = {json.dumps(addresses)}"]
        return [*rows, ""]


def known_bond_rows(host: str, bond: KnownBond, names: list[str], *, connected: bool) -> list[str]:
    members = [member for member in bond.members if member in names]
    rows = [f"[hosts.{host}.bonds.{key(bond.name)}]", f"members = {json.dumps(members)}"]
    rows += [f"addresses = {json.dumps(bond.addresses)}"]
    if bond.mtu is not None:
        rows += [f"mtu = {min(bond.mtu, CONNECTED_MTU if connected else DATAGRAM_MTUS[1])}"]
    kept = {name: value for name, value in bond.options.items() if name != "primary" or value in members}
    options = ", ".join(f"{name} = {json.dumps(value)}" for name, value in kept.items())
    return [*rows, f"options = {{ {options} }}"] if options else rows


def key(name: str) -> str:
    """A key of TOML, in quotes where it must be."""
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)


def device_names(known: KnownHost | None, guids: list[int | None]) -> list[str]:
    """The device of each port: the known one, else `ib0`, `ib1` and so on as far as they are free."""
    own = {guid: name for name, guid in known.ports.items()} if known is not None else {}
    free = (f"ib{i}" for i in range(len(guids) + len(own)) if f"ib{i}" not in own.values())
    return [own[guid] if guid in own else next(free) for guid in guids]


def addresses_of(host: KnownHost) -> Iterator[Interface]:
    for text in (
        *(a for bond in host.bonds for a in bond.addresses),
        *(a for own in host.addresses.values() for a in own),
    ):
        yield ip_interface(text)


def free_addresses(taken: set[Address]) -> Iterator[list[str]]:
    """An IPv4 and an IPv6 address for one host after the other, none of those that are taken."""
    v4, v6 = (map(ip_address, itertools.count(first)) for first in FIRST_ADDRESSES)
    for one, two in zip((ip for ip in v4 if ip not in taken), (ip for ip in v6 if ip not in taken), strict=False):
        yield [f"{one}/16", f"{two}/64"]


def adapter_row(node: DumpNode) -> str:
    guids = "".join(f', "{port}" = "{guid:#018x}"' for port, guid in sorted(node.port_guids.items()))
    port_guids = f", port_guids = {{ {guids[2:]} }}" if guids else ""
    return f"{{ ports = {node.ports}{identity(node)}{port_guids} }}"


def identity(node: DumpNode) -> str:
    guid = f', guid = "{node.guid:#018x}"' if node.guid is not None else ""
    return guid + (f", description = {json.dumps(node.description)}" if node.description else "")


def host_word(node: DumpNode) -> str:
    """What the adapters of one host have in common: the first word of their descriptions."""
    words = node.description.replace("'", " ").split()
    return words[0] if words else node.key


def name_of(description: str, fallback: str) -> str:
    """A node name (docs/topology.md) for a description: its first word in lower case, other characters as `-`."""
    words: Iterable[str] = re.split(r"[\s;:/]+", description.strip().lower())
    word = next((w for w in words if re.match(r"[a-z]", w) and w not in ("mf0", "sw")), "")
    return re.sub(r"[^a-z0-9_-]", "-", word)[:31].strip("-") or f"{fallback}1"
