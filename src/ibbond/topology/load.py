"""Text to topology: the TOML schema of docs/topology.md, read strictly.

`parse` refuses what it does not understand (`Refused`: what, why, fix); what is understood but cannot work together is
refused by `topology.check`. The file itself is read by the caller: this package does no I/O.
"""

import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

from ibbond.errors import Refused
from ibbond.topology.check import check
from ibbond.topology.default import TWO_HOSTS
from ibbond.topology.fat_tree import expand
from ibbond.topology.host_programs import read_commands, read_files
from ibbond.topology.model import (
    CONNECTED,
    DATAGRAM,
    DATAGRAM_MTU,
    LAB_BOND_OPTIONS,
    MODES,
    Bond,
    Cable,
    EthernetDevice,
    Hca,
    Host,
    Identity,
    IpoibDevice,
    Partition,
    Route,
    Switch,
    Topology,
    listed,
)
from ibbond.topology.reader import Reader, read_document, unknown, wrong_kind
from ibbond.wire.ipoib import CONNECTED_MTU
from ibbond.wire.pkey import DEFAULT_PKEY, FULL_MEMBER

PORTS_PER_HCA = 2
MAX_HCAS = 64  # of one host
MAX_PORTS = 254  # of a node; NumPorts has 8 bits (InfiniBand volume 1, 14.2.5.3)
PORT_NUMBERS = {str(number): number for number in range(1, MAX_PORTS + 1)}
MAX_CHILD_PARENT = 10  # characters of its parent's name in a child's (ipoib_vlan_add)
DESCRIPTION_BYTES = 64
NAME = re.compile(r"[a-z][a-z0-9_-]{0,30}\Z")
DEVICE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,14}\Z")
CHILD = re.compile(r"(?P<parent>.+)\.(?P<pkey>[0-9a-f]{4})\Z")


def default() -> Topology:
    """Two switches joined by two links, two hosts with two ports and a bond each."""
    return parse(TWO_HOSTS, name="default")


def parse(text: str, *, name: str = "lab", others: Collection[str] = ()) -> Topology:
    """Read a topology; `others` are top-level keys that belong to another reader (the story of a scenario)."""
    return from_document(read_document(text, name), name=name, others=others)


def from_document(document: dict[str, object], *, name: str = "lab", others: Collection[str] = ()) -> Topology:
    """The same for a document that is parsed already."""
    top = Reader({key: value for key, value in document.items() if key not in others})
    if "fat_tree" in top.table:
        top = Reader(expand(top))
    mtu = top.take("mtu", int, DATAGRAM_MTU)
    switches = tuple(read_switch(name, table) for name, table in top.tables("switches").items())
    plugs = Plugs(switches)
    host_tables = top.tables("hosts")
    link_tables = [Reader(item, f"links, number {i}") for i, item in enumerate(top.take("links", list, []), 1)]
    partition_tables = top.tables("partitions")
    top.take("fat_tree", dict, {})
    top.done()

    links = [request for table in link_tables for request in read_links(table, plugs)]
    hosts_ports = {host: read_ports(table) for host, table in host_tables.items()}
    for request in (*(request for ports in hosts_ports.values() for request in ports), *links):
        plugs.reserve(request)
    cables = [Cable(request.a, plugs.plug(request.b, request)) for ports in hosts_ports.values() for request in ports]
    cables += [Cable(plugs.plug(request.a, request), plugs.plug(request.b, request)) for request in links]
    pkeys = {name: read_pkey(table) for name, table in partition_tables.items()}
    hosts = tuple(read_host(host, table, hosts_ports[host], mtu) for host, table in host_tables.items())
    partitions = tuple(read_partition(name, pkeys[name], table, hosts, mtu) for name, table in partition_tables.items())
    topology = Topology(switches, tuple(cables), hosts, partitions, mtu, name)
    check(topology)
    return topology


def read_switch(name: str, table: Reader) -> Switch:
    check_name(table.where, name)
    switch = Switch(name, table.take("ports", int, 36), read_identity(table))
    table.done()
    check_port_count(table.where, switch.ports)
    return switch


def check_port_count(where: str, ports: int) -> None:
    if not 1 <= ports <= MAX_PORTS:
        raise Refused(f"{where} has {ports} ports", why=f"a node has 1 to {MAX_PORTS}", fix="Change ports")


def check_number(where: str, number: int, largest: int) -> None:
    if not 1 <= number <= largest:
        raise Refused(f"{where} is {number}", why=f"it must be 1 to {largest}", fix="Choose another number")


def read_identity(table: Reader) -> Identity:
    """`guid`, `description` and, of adapters, `port_guids`."""
    guid = read_guid(table, "guid", table.take("guid", str, ""))
    guids = {}
    for port, text in table.take("port_guids", dict, {}).items():
        if not (port.isascii() and port.isdigit()) or not isinstance(text, str):
            raise wrong_kind(f"{table.path('port_guids')}.{port}", text, str)
        check_number(f"a port in {table.path('port_guids')}", int(port[:4]), MAX_PORTS)
        guids[int(port)] = read_guid(table, f"port_guids.{port}", text) or 0
    description = table.take("description", str, "")
    if len(description.encode()) > DESCRIPTION_BYTES:
        raise Refused(
            f"{table.path('description')} is {description!r}",
            why=f"a node description has at most {DESCRIPTION_BYTES} bytes (InfiniBand volume 1, 14.2.5.2)",
            fix="Shorten it",
        )
    return Identity(guid, description, tuple(sorted(guids.items())))


def read_guid(table: Reader, key: str, text: str) -> int | None:
    """A GUID of 64 bits in hexadecimal, such as 0x0002c90300100000."""
    if not text:
        return None
    try:
        guid = int(text, 16)
    except ValueError:
        guid = 0
    if not 0 < guid < 1 << 64:
        raise Refused(
            f"{table.path(key)} is {text!r}",
            why="a GUID is a number of 64 bits in hexadecimal",
            fix="For example: 0x0002c90300100000",
        )
    return guid


class PortRequest(NamedTuple):
    """A cable as the file asks for it: ends are ports (`s1/7`) or switches (`s1`: any free port). `a` of a host's
    cable is its HCA port, known already; `device` is its name on the host."""

    a: str
    b: str
    where: str
    device: str = ""


def read_ports(table: Reader) -> list[PortRequest]:
    """A host's `ports`: device name to switch, or to {to, hca}. Two ports make one HCA unless `hca` says otherwise."""
    host = table.where.removeprefix("hosts.")
    check_name(table.where, host)
    used: dict[int, int] = {}
    requests = []
    for index, (device, value) in enumerate(table.take("ports", dict, {}).items()):
        where = f"{table.where}.ports.{device}"
        check_device_name(where, device)
        to, hca = value, index // PORTS_PER_HCA + 1
        port = used.get(hca, 0) + 1
        if isinstance(value, dict):
            spec = Reader(value, where)
            to = spec.require("to", str, "a port must be cabled to a switch")
            hca = spec.take("hca", int, hca)
            port = spec.take("port", int, used.get(hca, 0) + 1)
            spec.done()
            check_number(f"{where}.port", port, MAX_PORTS)
        if not isinstance(to, str):
            raise wrong_kind(where, to, str)
        check_number(f"{where}.hca", hca, MAX_HCAS)
        used[hca] = used.get(hca, 0) + 1
        requests.append(PortRequest(f"{hca_name(host, hca)}/{port}", to, where, device))
    return requests


def hca_name(host: str, number: int) -> str:
    return host if number == 1 else f"{host}-{number}"


def read_links(table: Reader, plugs: "Plugs") -> list[PortRequest]:
    """One `[[links]]` entry: `between = [a, b]`, `count` cables."""
    between = table.texts("between")
    count = table.take("count", int, 1)
    table.done()
    if len(between) != 2:
        raise Refused(
            f"{table.where} is between {listed(between)}",
            why="a link needs two ends",
            fix='Write between = ["s1", "s2"]',
        )
    if count < 1 or (count > 1 and any("/" in end for end in between)):
        raise Refused(
            f"{table.where} has count = {count}",
            why="it must be 1 or more, and 1 where a port number is named",
            fix="Name switches without port numbers, or write one entry for each link",
        )
    for end in between:
        plugs.check(end, table.where)
        ports = plugs.ports[end.partition("/")[0]]
        if count > ports:
            raise Refused(
                f"{table.where} has count = {count}",
                why=f"{end} has {ports} ports",
                fix="Write a smaller count, or give the switch more ports",
            )
    return [PortRequest(*between, where=table.where)] * count


class Plugs:
    """Which switch port takes which cable: the numbers that the file names first, then the lowest free ones."""

    def __init__(self, switches: tuple[Switch, ...]) -> None:
        self.ports = {switch.name: switch.ports for switch in switches}
        self.used: dict[str, str] = {}

    def reserve(self, request: PortRequest) -> None:
        """Take the switch ports that a cable names by number."""
        for end in (request.b,) if request.device else (request.a, request.b):
            self.check(end, request.where)
            if "/" in end:
                if end in self.used:
                    raise Refused(
                        f"{request.where} wants port {end}",
                        why=f"{self.used[end]} uses that port",
                        fix="Give a free port, or the switch alone",
                    )
                self.used[end] = request.where

    def plug(self, end: str, request: PortRequest) -> str:
        """The port for one end of a cable."""
        if "/" in end:
            return end
        for number in range(1, self.ports[end] + 1):
            port = f"{end}/{number}"
            if port not in self.used:
                self.used[port] = request.where
                return port
        raise Refused(
            f"{request.where} wants a port of {end}",
            why=f"all {self.ports[end]} ports of that switch are used",
            fix="Give the switch more ports, or use another one",
        )

    def check(self, end: str, where: str) -> None:
        """Refuse an end that is not a switch of the file or one of its ports."""
        switch, slash, number = end.partition("/")
        if switch not in self.ports:
            raise unknown(f"{where} names {end}, which is not a switch", switch, self.ports)
        if slash and PORT_NUMBERS.get(number, MAX_PORTS + 1) > self.ports[switch]:
            raise Refused(
                f"{where} names port {end}",
                why=f"{switch} has the ports 1 to {self.ports[switch]}",
                fix="Give one of these, or the switch alone",
            )


def read_host(name: str, table: Reader, ports: list[PortRequest], mtu: int) -> Host:
    check_name(table.where, name)
    hcas = read_hcas(name, table, ports)
    mode = read_mode(table, DATAGRAM)
    datagram_mtu, mtu = mtu, CONNECTED_MTU if mode == CONNECTED else mtu
    devices = {request.device: IpoibDevice(request.device, request.a, mtu=mtu, mode=mode) for request in ports}
    bonds = tuple(read_bond(bond, table, mtu) for bond, table in table.tables("bonds").items())
    details = table.tables("devices")
    for child in (*details, *(member for bond in bonds for member in bond.members)):
        if child not in devices and (parts := CHILD.match(child)) and parts["parent"] in devices:
            parent = devices[parts["parent"]]
            check_child_name(table.where, child, devices)
            pkey = int(parts["pkey"], 16) | FULL_MEMBER
            devices[child] = IpoibDevice(child, parent.port, pkey, parent.name, mtu, mode=mode)
    ethernet = []
    for device in table.texts("ethernet"):
        check_device_name(f"{table.where}.ethernet", device)
        detail = details.pop(device, None)
        ethernet.append(EthernetDevice(device, detail.interfaces("addresses") if detail else ()))
        if detail:
            detail.done()
    for device, detail in details.items():
        if device not in devices:
            raise unknown(f"{detail.where} is not a device of {name}", device, devices)
        devices[device] = read_device(devices[device], detail, datagram_mtu)
    host = Host(
        name,
        hcas=hcas,
        devices=tuple(devices.values()),
        ethernet=tuple(ethernet),
        bonds=bonds,
        routes=tuple(
            read_route(Reader(item, f"{table.where}.routes, number {i}"))
            for i, item in enumerate(table.take("routes", list, []), 1)
        ),
        forward=table.take("forward", bool, False),
        files=read_files(table),
        exec=read_commands(table),
    )
    table.done()
    return host


def read_hcas(host: str, table: Reader, ports: list[PortRequest]) -> tuple[Hca, ...]:
    """The adapters that the host's ports are on, with what `hcas` says of each, the first one first."""
    highest: dict[str, int] = {}
    for request in ports:
        hca, _, number = request.a.partition("/")
        highest[hca] = max(highest.get(hca, 0), int(number))
    where = f"{table.where}.hcas"
    details = {
        hca_name(host, i): Reader(item, f"{where}, number {i}")
        for i, item in enumerate(table.take("hcas", list, []), 1)
    }
    for hca, detail in details.items():
        if hca not in highest:
            raise Refused(f"{detail.where} describes {hca}", why="no port of the host is on it", fix="Add its ports")
    hcas = []
    for hca, highest_port in highest.items():
        detail = details.get(hca) or Reader({}, where)
        ports_there: int = detail.take("ports", int, highest_port)
        identity = read_identity(detail)
        detail.done()
        check_port_count(detail.where, ports_there)
        if highest_port > ports_there:
            what = f"{table.where} has a device at port {highest_port} of {hca}"
            raise Refused(what, why=f"it has {ports_there} ports", fix="Name another port")
        hcas.append(Hca(hca, ports_there, identity))
    return tuple(hcas)


def read_device(device: IpoibDevice, table: Reader, datagram_mtu: int) -> IpoibDevice:
    mode = read_mode(table, device.mode)
    mtu = table.take("mtu", int, CONNECTED_MTU if mode == CONNECTED else datagram_mtu)
    addresses = table.interfaces("addresses")
    up = table.take("up", bool, True)
    table.done()
    return IpoibDevice(device.name, device.port, device.pkey, device.parent, mtu, addresses, up, mode)


def read_mode(table: Reader, default: str) -> str:
    mode = table.take("mode", str, default)
    if mode not in MODES:
        raise unknown(f"{table.path('mode')} is {mode!r}, which is not an IPoIB mode", mode, MODES)
    return mode


def read_bond(name: str, table: Reader, mtu: int) -> Bond:
    check_device_name(table.where, name)
    bond = Bond(
        name,
        members=table.texts("members"),
        options=read_options(table),
        mtu=table.take("mtu", int, mtu),
        addresses=table.interfaces("addresses"),
    )
    table.done()
    return bond


def read_options(table: Reader) -> tuple[tuple[str, str], ...]:
    """Options as the texts that are written; those of `LAB_BOND_OPTIONS` that the file leaves out are added."""
    given = table.take("options", dict, {})
    options = dict(LAB_BOND_OPTIONS)
    writes = []
    for option, value in given.items():
        for item in value if isinstance(value, list) else [value]:
            if not isinstance(item, str | int):
                raise wrong_kind(f"{table.where}.options.{option}", item, str)
            text = str(int(item)) if isinstance(item, bool) else str(item)
            if isinstance(value, list):
                writes.append((option, f"+{text}"))
            elif option in options:
                options[option] = text
            else:
                writes.append((option, text))
    return (*options.items(), *writes)


def read_route(table: Reader) -> Route:
    to = table.require("to", str, "a route needs a destination")
    via = table.require("via", str, "a route needs a gateway")
    table.done()
    gateway = table.address("via", via)
    anything = "0.0.0.0/0" if gateway.version == 4 else "::/0"
    return Route(table.network("to", anything if to == "default" else to), gateway)


def read_pkey(table: Reader) -> int:
    pkey = table.require("pkey", int, "a partition needs a P_Key")
    if not 0 < pkey & ~FULL_MEMBER < DEFAULT_PKEY & ~FULL_MEMBER or pkey > DEFAULT_PKEY:
        raise Refused(
            f"{table.where} has P_Key {pkey:#x}",
            why="it must be 0x0001 to 0x7ffe, or 0x8001 to 0xfffe with the full-member bit; 0xffff is the default",
            fix="Choose another number, for example 0x8001",
        )
    return pkey | FULL_MEMBER


def read_partition(name: str, pkey: int, table: Reader, hosts: tuple[Host, ...], mtu: int) -> Partition:
    check_name(table.where, name)
    partition = Partition(
        name,
        pkey,
        full=read_partition_members(table, "members", hosts),
        limited=read_partition_members(table, "limited", hosts),
        mtu=table.take("mtu", int, mtu),
    )
    table.done()
    return partition


def read_partition_members(table: Reader, key: str, hosts: tuple[Host, ...]) -> tuple[str, ...]:
    """`h1` (all its ports) and `h1/ib0` to ports."""
    ports: dict[str, None] = {}
    for member in table.texts(key):
        name, _, device = member.partition("/")
        host = next((host for host in hosts if host.name == name), None)
        if host is None:
            raise unknown(f"{table.path(key)} names {member}", name, [host.name for host in hosts])
        own = {d.name: d.port for d in host.devices if d.parent is None}
        if device and device not in own:
            raise unknown(f"{table.path(key)} names {member}", device, own)
        ports.update(dict.fromkeys([own[device]] if device else own.values()))
    return tuple(ports)


def check_name(where: str, name: str) -> None:
    if not NAME.match(name):
        raise Refused(
            f"{where} has the name {name!r}",
            why="a name is 1 to 31 lower-case letters, digits, '-' and '_', starting with a letter",
            fix="Choose another name",
        )


def check_child_name(where: str, child: str, devices: Mapping[str, IpoibDevice]) -> None:
    """The kernel names a child `%.10s.%04x` (ipoib_vlan_add), so that children of long parents share one name."""
    if DEVICE_NAME.match(child):
        return
    parent, _, pkey = child.rpartition(".")
    cut = f"{parent[:MAX_CHILD_PARENT]}.{pkey}"
    alike = [name for name, device in devices.items() if not device.parent and name[:MAX_CHILD_PARENT] == cut[:-5]]
    raise Refused(
        f"{where} has a child with a long name",
        why=f"{child} has {len(child)} characters, Linux takes 15; the kernel cuts the parent's name to "
        + (f"ten, so the children of {listed(alike)} would be {cut}" if len(alike) > 1 else f"ten: {cut}"),
        fix=f"Rename the ports: a port with partition children has at most {MAX_CHILD_PARENT} characters",
    )


def check_device_name(where: str, name: str) -> None:
    if not DEVICE_NAME.match(name):
        raise Refused(
            f"{where} has the device name {name!r}",
            why="a device name here is 1 to 15 letters, digits, '.', '-' and '_', starting with a letter",
            fix="Choose another name",
        )
