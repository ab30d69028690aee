"""cloud-init's network configuration, versions 1 and 2, as a desired state and back.

Read first: cloud-init's documentation of both versions, cloudinit/net/network_state.py (NET_CONFIG_TO_V2) and its
renderers. Version 2 is netplan's language (netplan.py). What becomes of version 1 depends on the renderer of the
distribution: that of netplan has no branch for `type: infiniband`. Left out: meta data of clouds, ENI of version 0.
"""

from __future__ import annotations

from collections.abc import Mapping

from ibbond.config import netplan
from ibbond.config.desired import (
    Desired,
    DesiredBond,
    DesiredMember,
    DesiredRoute,
    Match,
    Problem,
    Setting,
    hardware_address,
    set_option,
)
from ibbond.config.fields import label
from ibbond.config.gaps import Gap, Version, of_device
from ibbond.config.ifupdown import with_prefix
from ibbond.config.yaml_file import Table, dump, items, load, place, table, text_of, unreadable
from ibbond.errors import Malformed

TOOL = "cloud-init"
PATTERNS = ("etc/cloud/cloud.cfg.d/*.cfg",)
PATH = "etc/cloud/cloud.cfg.d/60-ibbond.cfg"
NO_KEY = "is not held: version 1 has no key for it"
NOT_MAPPED = "is dropped by the netplan renderer, which has no word for it"
GAPS = (
    *(
        Gap(f"option.{name}", NOT_MAPPED)
        for name in (
            *("all_slaves_active", "peer_notif_delay", "resend_igmp", "use_carrier", "arp_all_targets"),
            *("arp_missed_max", "num_unsol_na", "tlb_dynamic_lb", "lacp_active", "lp_interval", "packets_per_slave"),
        )
    ),
    Gap("option.arp_ip_target", "is written as arp-ip-target, which netplan does not know"),
    Gap("mtu", "is dropped with its whole entry: the netplan renderer has no type infiniband", when=of_device),
    Gap("transport", NO_KEY),
    Gap("child", NO_KEY),
    Gap("pkey", NO_KEY),
    Gap("parent", NO_KEY, harmless=True),
    Gap("queue_id", NO_KEY),
    Gap("prio", NO_KEY),
    Gap("start", NO_KEY, text="no"),
    *(Gap(f"option.{name}", NO_KEY) for name in ("ns_ip6_target", "coupled_control", "broadcast_neighbor")),
    Gap("option.lacp_strict", NO_KEY),
    Gap("guid", "is not held: addresses of 20 bytes are compared whole, and the queue pair changes; the name counts"),
)


def read(files: Mapping[str, str]) -> Desired:
    """The bonds of these files; those without a network configuration say nothing."""
    desired = Desired()
    for path, text in sorted(files.items()):
        try:
            whole = load(text, path)
        except Malformed as malformed:
            desired.problems.append(unreadable(path, malformed))
            continue
        body = table(whole.get("network")) or whole
        if body.get("version") == 2 and "network" in whole:
            desired.add(netplan.read({path: text}, TOOL))
        elif body.get("version") == 2:
            desired.add(netplan.read_network(path, body, TOOL))
        elif body.get("version") == 1:
            _version_1(desired, path, body)
    return desired


def _version_1(desired: Desired, path: str, body: Table) -> None:
    devices = [table(each) for each in items(body.get("config"))]
    kinds = {text_of(each.get("name")): text_of(each.get("type")) for each in devices}
    servers = [each for each in devices if text_of(each.get("type")) == "nameserver"]
    for each in devices:
        if text_of(each.get("type")) == "bond":
            _bond(desired, path, each, devices, kinds)
        elif text_of(each.get("type")) == "infiniband":
            desired.problems.append(
                Problem(
                    "member-dropped",
                    place(each, "type", path),
                    f"cloud-init's netplan renderer drops {text_of(each.get('name'))} (type: infiniband)",
                    "Write version 2 with infiniband-mode, or use another renderer",
                )
            )
    for bond in desired.bonds:
        for each in servers:
            bond.dns += [Setting(text_of(one), place(each, "address", path)) for one in items(each.get("address"))]
            bond.search += [Setting(text_of(one), place(each, "search", path)) for one in items(each.get("search"))]


def _bond(desired: Desired, path: str, body: Table, devices: list[Table], kinds: Mapping[str, str]) -> None:
    name = text_of(body.get("name"))
    bond = desired.bond(name, TOOL, place(body, "name", path))
    bond.is_defined = True
    for each in items(body.get("bond_interfaces")):
        member = DesiredMember(Match((text_of(each),)), place(body, "bond_interfaces", path))
        member.ethernet = kinds.get(text_of(each)) == "physical"
        for device in devices:
            if text_of(device.get("name")) == text_of(each):
                address = hardware_address(text_of(device.get("mac_address")))
                member.match = Match(member.match.names, address=address)
                if "mtu" in device:
                    member.mtu = Setting(text_of(device["mtu"]), place(device, "mtu", path))
        bond.members.append(member)
    parameters = table(body.get("params"))
    for key, value in parameters.items():
        option = str(key).removeprefix("bond-").removeprefix("bond_").replace("-", "_")
        text = " ".join(text_of(item) for item in items(value))
        set_option(desired, bond, option, text, place(parameters, key, path), word=str(key))
    if "mtu" in body:
        bond.mtu = Setting(text_of(body["mtu"]), place(body, "mtu", path))
    for subnet in (table(each) for each in items(body.get("subnets"))):
        _subnet(bond, path, subnet)


def _subnet(bond: DesiredBond, path: str, subnet: Table) -> None:
    kind = text_of(subnet.get("type"))
    source = place(subnet, "type", path)
    if kind.startswith(("dhcp", "ipv6_dhcp")):
        bond.dhcp |= {6 if "6" in kind else 4}
    if "address" in subnet:
        text = with_prefix(text_of(subnet["address"]), text_of(subnet.get("netmask")))
        bond.addresses.append(Setting(text, place(subnet, "address", path)))
    if "gateway" in subnet:
        bond.routes.append(DesiredRoute("default", text_of(subnet["gateway"]), source))
    for route in (table(each) for each in items(subnet.get("routes"))):
        to = with_prefix(text_of(route.get("network")), text_of(route.get("netmask")))
        to = f"{to}/{text_of(route['prefix'])}" if "prefix" in route and "/" not in to else to
        metric = route.get("metric")
        bond.routes.append(
            DesiredRoute(to, text_of(route.get("gateway")), source, metric if isinstance(metric, int) else 0)
        )
    for key, target in (("dns_nameservers", bond.dns), ("dns_search", bond.search)):
        target += [Setting(text_of(each), place(subnet, key, path)) for each in items(subnet.get(key))]


def render_version_1(desired: Desired, version: Version) -> dict[str, str]:
    config: list[Table] = []
    for bond in desired.bonds:
        for member in bond.members:
            body: Table = {"type": "physical" if member.ethernet else "infiniband", "name": label(member)}
            config.append(body | ({"mtu": int(member.mtu.text)} if member.mtu else {}))
        config.append(_bond_table(bond))
    return {PATH: dump({"network": {"version": 1, "config": config}})}


def _bond_table(bond: DesiredBond) -> Table:
    body: Table = {"type": "bond", "name": bond.name, "bond_interfaces": [label(each) for each in bond.members]}
    if bond.mtu:
        body["mtu"] = int(bond.mtu.text)
    params: Table = {}
    for name, setting in bond.options.items():
        words = setting.text.split()
        is_list = name in ("arp_ip_target",)
        params[f"bond-{name.replace('_', '-')}"] = words if is_list else setting.text
    if params:
        body["params"] = params
    subnets: list[Table] = [
        {"type": "static6" if ":" in each.text else "static", "address": each.text} for each in bond.addresses
    ]
    subnets += [{"type": "dhcp6" if family == 6 else "dhcp4"} for family in sorted(bond.dhcp)]
    if not subnets:
        subnets = [{"type": "manual"}]
    routes = []
    for route in bond.routes:
        default = "::/0" if ":" in route.via else "0.0.0.0/0"
        each: Table = {"network": default if route.to == "default" else route.to, "gateway": route.via}
        routes.append(each | ({"metric": route.metric} if route.metric else {}))
    first = subnets[0]
    if routes:
        first["routes"] = routes
    for key, settings in (("dns_nameservers", bond.dns), ("dns_search", bond.search)):
        if settings:
            first[key] = [each.text for each in settings]
    return body | {"subnets": subnets}


def render_version_2(desired: Desired, version: Version) -> dict[str, str]:
    return {PATH: dump({"network": netplan.network(desired)})}
