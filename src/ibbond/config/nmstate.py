"""nmstate's YAML as a desired state and back. Not verified by the tool: no package of it is at hand.

Read first: nmstate 2.2's documentation of bond and infiniband interfaces; rust/src/lib/ifaces/{bond,infiniband}.rs for
the names of options. An option that it does not know makes it refuse the whole document. Left out: routing rules,
capture expressions of policies.
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
    pkey_names,
    set_option,
)
from ibbond.config.fields import label
from ibbond.config.gaps import Gap, Version
from ibbond.config.yaml_file import Table, dump, items, load, place, table, text_of, unreadable
from ibbond.errors import Malformed

TOOL = "nmstate"
PATTERNS = ("etc/nmstate/*.yml", "etc/nmstate/*.yaml")
REFUSED = "makes nmstate refuse the document: it does not know that option"
NO_KEY = "is not held: there is no key for it"
GAPS = (
    *(
        Gap(f"option.{name}", REFUSED)
        for name in (
            *("peer_notif_delay", "ns_ip6_target", "lacp_active", "coupled_control", "broadcast_neighbor"),
            "lacp_strict",
        )
    ),
    Gap("guid", NO_KEY),
    Gap("prio", NO_KEY),
    Gap("start", NO_KEY, text="no"),
)


def read(files: Mapping[str, str]) -> Desired:
    """The bonds of these files."""
    desired = Desired()
    for path, text in sorted(files.items()):
        try:
            body = load(text, path)
        except Malformed as malformed:
            desired.problems.append(unreadable(path, malformed))
            continue
        body = table(table(body.get("spec")).get("desiredState")) or body  # as Kubernetes has it
        interfaces = [table(each) for each in items(body.get("interfaces"))]
        devices = {text_of(each.get("name")): _device(desired, path, each) for each in interfaces}
        taken = set()
        for each in interfaces:
            if text_of(each.get("type")) == "bond":
                taken |= set(_bond(desired, path, each, devices))
        desired.children += [
            device for name, device in devices.items() if device.pkey is not None and name not in taken
        ]
        _outside(desired, path, body)
    return desired


def _device(desired: Desired, path: str, body: Table) -> DesiredMember:
    name = text_of(body.get("name"))
    member = DesiredMember(Match((name,)), place(body, "name", path))
    member.ethernet = text_of(body.get("type")) == "ethernet"
    infiniband = table(body.get("infiniband"))
    if "mode" in infiniband:
        member.transport = Setting(text_of(infiniband["mode"]), place(infiniband, "mode", path))
    key = text_of(infiniband.get("pkey"))
    if key:
        try:
            member.pkey = int(key, 0)
        except ValueError:
            member.pkey = None
    member.parent = text_of(infiniband.get("base-iface"))
    if member.pkey is not None and member.parent:
        member.match = Match(tuple(dict.fromkeys((name, *pkey_names(member.parent, member.pkey)))))
    if "mtu" in body:
        member.mtu = Setting(text_of(body["mtu"]), place(body, "mtu", path))
    if text_of(body.get("type")) == "infiniband" and not {"mode", "pkey"} <= set(infiniband):
        desired.problems.append(
            Problem(
                "infiniband-incomplete",
                place(body, "name", path),
                f"nmstate refuses {name}: an InfiniBand interface must have both `mode` and `pkey`",
                "Write mode: datagram and pkey: '0xffff' (the default partition) below infiniband",
            )
        )
    return member


def _bond(desired: Desired, path: str, body: Table, devices: Mapping[str, DesiredMember]) -> list[str]:
    name = text_of(body.get("name"))
    bond = desired.bond(name, TOOL, place(body, "name", path))
    bond.is_defined = True
    bond.starts = text_of(body.get("state")) != "absent"
    aggregation = table(body.get("link-aggregation"))
    options = table(aggregation.get("options"))
    if "mode" in aggregation:
        set_option(desired, bond, "mode", text_of(aggregation["mode"]), place(aggregation, "mode", path))
    for key, value in options.items():
        set_option(desired, bond, str(key), text_of(value), place(options, key, path))
    names = []
    ports = aggregation.get("port", aggregation.get("slaves"))
    queues = {
        text_of(table(each).get("name")): text_of(table(each).get("queue-id"))
        for each in items(aggregation.get("ports-config"))
    }
    for index, each in enumerate(items(ports)):
        names.append(text_of(each))
        member = devices.get(names[-1]) or DesiredMember(Match((names[-1],)), place(ports, index, path))
        if queues.get(names[-1]):
            member.options["queue_id"] = Setting(queues[names[-1]], place(aggregation, "ports-config", path))
        bond.members.append(member)
    if "mac-address" in body:
        bond.hardware_address = Setting(text_of(body["mac-address"]), place(body, "mac-address", path))
    if "mtu" in body:
        bond.mtu = Setting(text_of(body["mtu"]), place(body, "mtu", path))
    for key, family in (("ipv4", 4), ("ipv6", 6)):
        ip = table(body.get(key))
        addresses = ip.get("address")
        for each in (table(one) for one in items(addresses)):
            text = f"{text_of(each.get('ip'))}/{text_of(each.get('prefix-length'))}"
            bond.addresses.append(Setting(text, place(each, "ip", path)))
        if ip.get("dhcp") is True:
            bond.dhcp |= {family}
    return names


def _outside(desired: Desired, path: str, body: Table) -> None:
    """Routes name their interface; name servers are the host's."""
    for route in (table(each) for each in items(table(body.get("routes")).get("config"))):
        for bond in desired.of(text_of(route.get("next-hop-interface"))):
            metric = route.get("metric")
            to, via = text_of(route.get("destination")), text_of(route.get("next-hop-address"))
            source = place(route, "destination", path)
            bond.routes.append(DesiredRoute(to, via, source, metric if isinstance(metric, int) else 0))
    resolver = table(table(body.get("dns-resolver")).get("config"))
    for bond in desired.bonds[:1]:
        for key, target in (("server", bond.dns), ("search", bond.search)):
            target += [Setting(text_of(each), place(resolver, key, path)) for each in items(resolver.get(key))]


def render(desired: Desired, version: Version) -> dict[str, str]:
    interfaces: list[Table] = []
    routes: list[Table] = []
    for device in (*(member for bond in desired.bonds for member in bond.members), *desired.children):
        interfaces.append(_device_table(device))
    for bond in desired.bonds:
        interfaces.append(_bond_table(bond))
        for route in bond.routes:
            default = "::/0" if ":" in route.via else "0.0.0.0/0"
            to = default if route.to == "default" else route.to
            each: Table = {"destination": to, "next-hop-address": route.via, "next-hop-interface": bond.name}
            routes.append(each | ({"metric": route.metric} if route.metric else {}))
    body: Table = {"interfaces": interfaces}
    if routes:
        body["routes"] = {"config": routes}
    servers = list(dict.fromkeys(each.text for bond in desired.bonds for each in bond.dns))
    search = list(dict.fromkeys(each.text for bond in desired.bonds for each in bond.search))
    resolver = ({"search": search} if search else {}) | ({"server": servers} if servers else {})
    if resolver:
        body["dns-resolver"] = {"config": resolver}
    return {"etc/nmstate/ibbond.yml": dump(body)}


def _device_table(device: DesiredMember) -> Table:
    body: Table = {"name": label(device), "type": "ethernet" if device.ethernet else "infiniband", "state": "up"}
    if device.mtu:
        body["mtu"] = int(device.mtu.text)
    if not device.ethernet:
        infiniband: Table = {"mode": device.transport.text if device.transport else "datagram"}
        infiniband["pkey"] = f"{device.pkey if device.pkey is not None else 0xFFFF:#06x}"
        body["infiniband"] = infiniband | ({"base-iface": device.parent} if device.parent else {})
    return body


def _bond_table(bond: DesiredBond) -> Table:
    body: Table = {"name": bond.name, "type": "bond", "state": "up"}
    if bond.mtu:
        body["mtu"] = int(bond.mtu.text)
    for key, family in (("ipv4", 4), ("ipv6", 6)):
        addresses = [each.text for each in bond.addresses if (":" in each.text) == (family == 6)]
        ip: Table = {"enabled": bool(addresses) or family in bond.dhcp}
        if family in bond.dhcp:
            ip["dhcp"] = True
        if addresses:
            ip["address"] = [
                {"ip": text.partition("/")[0], "prefix-length": int(text.partition("/")[2])} for text in addresses
            ]
        body[key] = ip
    options: Table = {}
    for name, setting in bond.options.items():
        text = setting.text.replace(" ", ",")
        if name != "mode":
            options[name] = int(text) if text.isdecimal() else text
    aggregation: Table = {"mode": bond.options["mode"].text} if "mode" in bond.options else {}
    aggregation["port"] = [label(member) for member in bond.members]
    if options:
        aggregation["options"] = options
    queues = [
        {"name": label(member), "queue-id": int(member.options["queue_id"].text)}
        for member in bond.members
        if "queue_id" in member.options
    ]
    if queues:
        aggregation["ports-config"] = queues
    return body | {"link-aggregation": aggregation}
