"""Netplan's YAML as a desired state and back; cloud-init's network configuration version 2 is the same language.

Read first: netplan's documentation of `bonds`, `ethernets`, `match`, `parameters`; bond_params_handlers in its parse.c.
Files of /lib, /etc and /run are merged in the order of their base names, later ones win. Left out: what a renderer
makes of it, devices that are neither bonds nor their members.
"""

from __future__ import annotations

from collections.abc import Mapping

from ibbond.config.desired import (
    Desired,
    DesiredBond,
    DesiredMember,
    DesiredRoute,
    Match,
    Problem,
    Setting,
    Source,
    hardware_address,
    set_option,
)
from ibbond.config.fields import NO_MONITOR, label
from ibbond.config.gaps import Gap, Version, of_bond, of_device
from ibbond.config.networkmanager import PREFIX
from ibbond.config.yaml_file import Table, dump, items, load, place, table, text_of, unreadable
from ibbond.errors import Malformed

TOOL = "netplan"
PATTERNS = ("lib/netplan/*.yaml", "etc/netplan/*.yaml", "run/netplan/*.yaml")
PARAMETERS = {
    "mode": "mode",
    "lacp-rate": "lacp_rate",
    "mii-monitor-interval": "miimon",
    "min-links": "min_links",
    "transmit-hash-policy": "xmit_hash_policy",
    "ad-select": "ad_select",
    "all-slaves-active": "all_slaves_active",
    "all-members-active": "all_slaves_active",
    "arp-interval": "arp_interval",
    "arp-ip-targets": "arp_ip_target",
    "arp-validate": "arp_validate",
    "arp-all-targets": "arp_all_targets",
    "up-delay": "updelay",
    "down-delay": "downdelay",
    "fail-over-mac-policy": "fail_over_mac",
    "gratuitous-arp": "num_grat_arp",
    "gratuitious-arp": "num_grat_arp",  # netplan's own first spelling
    "packets-per-slave": "packets_per_slave",
    "packets-per-member": "packets_per_slave",
    "primary-reselect-policy": "primary_reselect",
    "primary": "primary",
    "resend-igmp": "resend_igmp",
    "learn-packet-interval": "lp_interval",
}
KEYS = {option: key for key, option in reversed(PARAMETERS.items()) if key not in ("gratuitious-arp",)}
KEYS |= {"all_slaves_active": "all-slaves-active", "packets_per_slave": "packets-per-slave"}
NO_KEY = "is not held: netplan has no key for it"
NEVER_WRITTEN = "is never written: netplan passes over a 0, so that the default of the renderer counts"
GAPS = (
    *(
        Gap(f"option.{name}", NO_KEY)
        for name in (
            *("peer_notif_delay", "ns_ip6_target", "arp_missed_max", "lacp_active", "num_unsol_na", "use_carrier"),
            *("tlb_dynamic_lb", "ad_actor_sys_prio", "ad_actor_system", "ad_user_port_key", "coupled_control"),
            *("broadcast_neighbor", "lacp_strict"),
        )
    ),
    *(Gap(f"option.{name}", NEVER_WRITTEN, text="0") for name in ("num_grat_arp", "resend_igmp", "packets_per_slave")),
    Gap("option.min_links", NEVER_WRITTEN, text="0", harmless=True),
    Gap("child", NO_KEY),
    Gap("pkey", "is not held: netplan has no P_Key children; something else must make the device"),
    Gap("parent", NO_KEY, harmless=True),
    Gap("queue_id", NO_KEY),
    Gap("prio", NO_KEY),
    Gap("start", NO_KEY, text="no"),
    Gap("transport", NO_KEY, since=(0, 105)),
    Gap("ethernet", "is said by the absence of infiniband-mode", harmless=True),
)
NETWORKD_GAPS = (
    *GAPS,
    Gap("transport", "goes to [IPoIB] of a .network file, which networkd ignores", when=of_device),
    Gap("guid", "is compared with all 20 bytes by networkd, and the queue pair changes; the name counts"),
)
NETWORKMANAGER_GAPS = (
    *GAPS,
    Gap(NO_MONITOR, "becomes miimon 100, NetworkManager's own default", when=of_bond, harmless=True),
)
MILLISECONDS = ("miimon", "arp_interval", "updelay", "downdelay")


def read(files: Mapping[str, str], tool: str = TOOL) -> Desired:
    """The bonds of these files; a file that cannot be read is a problem, and the others are read."""
    desired = Desired()
    ordered = sorted(files, key=lambda path: (path.rpartition("/")[2], path))
    tables: list[tuple[str, Table]] = []
    for path in ordered:
        try:
            tables.append((path, table(load(files[path], path).get("network"))))
        except Malformed as malformed:
            desired.problems.append(unreadable(path, malformed))
    _put_together(desired, tables, tool)
    return desired


def read_network(path: str, network: Table, tool: str) -> Desired:
    """The bonds of a mapping that other files have below `network:`."""
    desired = Desired()
    _put_together(desired, [(path, network)], tool)
    return desired


def _put_together(desired: Desired, tables: list[tuple[str, Table]], tool: str) -> None:
    for path, network in tables:
        if text_of(network.get("renderer")).lower() == "networkmanager":
            _become_ethernet(desired, path, network)
    for path, network in reversed(tables):  # an option that was set first stays
        _bonds(desired, path, network, [each for _, each in tables], tool)


def _bonds(desired: Desired, path: str, network: Table, all_of_them: list[Table], tool: str) -> None:
    bonds = table(network.get("bonds"))
    for name, value in bonds.items():
        body = table(value)
        bond = desired.bond(str(name), tool, place(bonds, name, path))
        bond.is_defined = True
        names = body.get("interfaces")
        for index, each in enumerate(items(names)):
            source = place(names, index, path) if isinstance(names, list) else place(body, "interfaces", path)
            if text_of(each) and text_of(each) not in {str(member.match) for member in bond.members}:
                bond.members.append(_member(text_of(each), source, path, all_of_them))
        parameters = table(body.get("parameters"))
        for key, parameter in parameters.items():
            option = PARAMETERS.get(str(key), "")
            text = " ".join(text_of(item) for item in items(parameter))
            source = place(parameters, key, path)
            if option in MILLISECONDS:
                text = _milliseconds(text)
            if option == "primary":
                text = _device(text, all_of_them).name or text
            set_option(desired, bond, option, text, source, known=PARAMETERS, word=str(key))
            if text == "0" and option in ("num_grat_arp", "resend_igmp", "packets_per_slave"):
                what = f"netplan passes over {key}: 0, so that {bond.name} gets the default of its renderer"
                fix = f"Set it otherwise after boot: ibbond bond set {bond.name} {option} 0"
                desired.problems.append(Problem("zero-not-written", source, what, fix, bond.name))
        _layer_3(bond, body, path)


def _milliseconds(text: str) -> str:
    """netplan passes a bare number on as milliseconds, and lets units stand."""
    from ibbond.config.networkd import span_ms

    milliseconds = None if text.isdigit() else span_ms(text)
    return text if milliseconds is None else str(int(milliseconds))


def _member(name: str, source: Source, path: str, tables: list[Table]) -> DesiredMember:
    member = DesiredMember(_device(name, tables), source)
    renderer = next((text_of(each["renderer"]).lower() for each in reversed(tables) if "renderer" in each), "")
    for network in tables:
        body = table(table(network.get("ethernets")).get(name))
        for key, field in (("infiniband-mode", "transport"), ("mtu", "mtu")):
            if key in body:
                setattr(member, field, Setting(text_of(body[key]), place(body, key, path)))
        if text_of(body.get("infiniband-mode")) == "connected" and renderer != "networkmanager":
            member.transport_ignored = "netplan writes it to [IPoIB] of a .network file, which networkd does not read"
    return member


def _device(name: str, tables: list[Table]) -> Match:
    """What an id stands for: the name it is given, else what `match` says, else the id itself."""
    match: Table = {}
    given = ""
    for network in tables:
        body = table(table(network.get("ethernets")).get(name))
        match = match or table(body.get("match"))
        given = given or text_of(body.get("set-name"))
    if given or not match:
        return Match((given or name,))
    pattern = text_of(match.get("name"))
    if pattern and not any(character in pattern for character in "*?["):
        return Match((pattern,))
    return Match(glob=pattern, address=hardware_address(text_of(match.get("macaddress"))))


def _layer_3(bond: DesiredBond, body: Table, path: str) -> None:
    addresses = body.get("addresses")
    for index, each in enumerate(items(addresses)):
        text = text_of(next(iter(each)) if isinstance(each, dict) and each else each)
        bond.addresses.append(Setting(text, place(addresses, index, path)))
    for key, version in (("dhcp4", 4), ("dhcp6", 6)):
        if body.get(key) is True:
            bond.dhcp |= {version}
    for key in ("gateway4", "gateway6"):
        if key in body:
            bond.routes.append(DesiredRoute("default", text_of(body[key]), place(body, key, path)))
    for each in items(body.get("routes")):
        route = table(each)
        if "to" in route and "via" in route:
            metric = route.get("metric")
            number = metric if isinstance(metric, int) else 0
            bond.routes.append(
                DesiredRoute(text_of(route["to"]), text_of(route["via"]), place(route, "to", path), number)
            )
    servers = table(body.get("nameservers"))
    for key, target in (("addresses", bond.dns), ("search", bond.search)):
        target += [Setting(text_of(each), place(servers, key, path)) for each in items(servers.get(key))]
    if "macaddress" in body:
        bond.hardware_address = Setting(text_of(body["macaddress"]), place(body, "macaddress", path))
    if "mtu" in body:
        bond.mtu = bond.mtu or Setting(text_of(body["mtu"]), place(body, "mtu", path))


def _become_ethernet(desired: Desired, path: str, network: Table) -> None:
    """Devices that NetworkManager's renderer takes for Ethernet although their names say InfiniBand."""
    devices = table(network.get("ethernets"))
    for name, value in devices.items():
        body = table(value)
        address = text_of(table(body.get("match")).get("macaddress"))
        if str(name).startswith("ib") and "infiniband-mode" not in body and len(address) != 59:
            desired.problems.append(
                Problem(
                    "member-becomes-ethernet",
                    place(devices, name, path),
                    f"netplan's NetworkManager renderer takes {name} for an Ethernet device",
                    "Write infiniband-mode: datagram (or connected) there",
                    next(
                        (
                            str(b)
                            for b, v in table(network.get("bonds")).items()
                            if name in items(table(v).get("interfaces"))
                        ),
                        "",
                    ),
                )
            )


def network(desired: Desired, renderer: str = "") -> Table:
    """The mapping below `network:`."""
    ethernets: Table = {}
    bonds: Table = {}
    for bond in desired.bonds:
        for member in bond.members:
            ethernets[label(member)] = _device_table(member)
        bonds[bond.name] = _bond_table(bond)
        if 6 not in bond.dhcp and renderer != "NetworkManager":
            bonds[bond.name]["accept-ra"] = False  # networkd's DHCPv6 client fails on such a bond, see networkd.py
    for child in desired.children:
        ethernets[label(child)] = _device_table(child)
    found: Table = {"version": 2} | ({"renderer": renderer} if renderer else {})
    return found | ({"ethernets": ethernets} if ethernets else {}) | {"bonds": bonds}


def _device_table(device: DesiredMember) -> Table:
    body: Table = {"dhcp4": False}
    address = device.match.address
    if address:
        body["match"] = {"macaddress": (PREFIX + address if len(address) == 8 else address).hex(":")}
    if not device.ethernet:
        body["infiniband-mode"] = device.transport.text if device.transport else "datagram"
    if device.mtu:
        body["mtu"] = _number(device.mtu.text)
    return body


def _bond_table(bond: DesiredBond) -> Table:
    body: Table = {"interfaces": [label(member) for member in bond.members]}
    if bond.mtu:
        body["mtu"] = _number(bond.mtu.text)
    if bond.addresses:
        body["addresses"] = [each.text for each in bond.addresses]
    body |= {f"dhcp{family}": True for family in sorted(bond.dhcp)}
    if bond.routes:
        body["routes"] = [
            {"to": route.to, "via": route.via} | ({"metric": route.metric} if route.metric else {})
            for route in bond.routes
        ]
    servers = {"addresses": [each.text for each in bond.dns], "search": [each.text for each in bond.search]}
    if any(servers.values()):
        body["nameservers"] = {key: texts for key, texts in servers.items() if texts}
    parameters: Table = {}
    for name, setting in bond.options.items():
        if name == "arp_ip_target":
            parameters[KEYS[name]] = setting.text.split()
        elif name == "all_slaves_active":
            parameters[KEYS[name]] = setting.text == "1"
        else:
            parameters[KEYS[name]] = _number(setting.text)
    return body | ({"parameters": parameters} if parameters else {})


def _number(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def render(desired: Desired, version: Version) -> dict[str, str]:
    """One file; for networkd, netplan's default."""
    return {"etc/netplan/60-ibbond.yaml": dump({"network": network(desired, "networkd")})}


def render_for_networkmanager(desired: Desired, version: Version) -> dict[str, str]:
    return {"etc/netplan/60-ibbond.yaml": dump({"network": network(desired, "NetworkManager")})}
