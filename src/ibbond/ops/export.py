"""The live bonds of a host as a desired state, as `ibbond config export` prints it.

Read first: backend/state.py, config/desired.py. What has the driver's default is left out, and so is what the driver
counts itself. Left out: name servers, which are not the kernel's; whether the bond is made at boot.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping

from ibbond.backend.contract import Backend, text
from ibbond.backend.state import capture
from ibbond.bonding.options import OPTIONS
from ibbond.config.desired import Desired, DesiredBond, DesiredMember, DesiredRoute, Match, Setting, Source
from ibbond.host.ip_settings import RTA_METRIC, IpAddress, IpRoute
from ibbond.host.rtnetlink import RTA_DST, RTA_GATEWAY
from ibbond.wire.hardware_type import INFINIBAND

HERE = Source("the live bonds")
NOT_KEPT = ("slaves", "active_slave", "num_unsol_na", "queue_id", "prio")
MAIN_TABLE = 254


def exported(host: Backend, bonds: Iterable[str]) -> Desired:
    """These bonds with their members, options, addresses and routes."""
    desired = Desired()
    found = capture(host, bonds, [])
    for name, state in found.bonds.items():
        bond = desired.bond(name, "ibbond", HERE)
        bond.is_defined = True
        bond.mtu = _setting(state.device.mtu)
        pairs = {option: dict(_pairs(state.options.get(option, ""))) for option in ("queue_id", "prio")}
        for member in state.members:
            device = _member(host, member)
            device.options = {o: _setting(v[member]) for o, v in pairs.items() if v.get(member, "0") != "0"}
            bond.members.append(device)
        bond.options |= {option: _setting(value) for option, value in changed_options(state.options).items()}
        for each in found.ip:
            _ip(bond, each)
    return desired


def changed_options(options: Mapping[str, str]) -> dict[str, str]:
    """Those that an operator has set: not what has the driver's default, nor what the driver counts itself."""
    found = {}
    for option, value in options.items():
        row = OPTIONS.get(option)
        if row is None or row.read_only or row.ours or option in NOT_KEPT or not value:
            continue
        default = row.word_of(row.default) if row.shows_word else str(row.default)
        if value != default and any(mode.word == options.get("mode") for mode in row.modes):
            found[option] = value
    return found


def _setting(value: object) -> Setting:
    return Setting(str(value), HERE)


def _pairs(value: str) -> Iterable[tuple[str, str]]:
    for word in value.split():
        member, _, number = word.rpartition(":")
        yield member, number


def _member(host: Backend, name: str) -> DesiredMember:
    device = DesiredMember(Match((name,)), HERE)
    if text(host, f"{name}/type") != str(INFINIBAND):
        device.ethernet = True
        return device
    if mode := text(host, f"{name}/mode"):
        device.transport = _setting(mode)
    parent, key = text(host, f"{name}/parent"), text(host, f"{name}/pkey")
    if parent and key:
        device.pkey, device.parent = int(key, 0), parent
    return device


def _ip(bond: DesiredBond, each: object) -> None:
    if isinstance(each, IpAddress) and each.device == bond.name and not each.text.lower().startswith("fe80:"):
        bond.addresses.append(_setting(each.text))
    elif isinstance(each, IpRoute) and each.devices == (bond.name,) and each.table == MAIN_TABLE and each.has_gateway:
        family, length, *_ = each.header
        found, hop = dict(each.attributes), dict(each.hops[0].attributes)
        if RTA_GATEWAY not in hop:
            return
        to = f"{socket.inet_ntop(family, found[RTA_DST])}/{length}" if length else "default"
        metric = int.from_bytes(found.get(RTA_METRIC, b""), "little")
        metric = 0 if family == socket.AF_INET6 and metric == 1024 else metric  # the kernel's own
        via = socket.inet_ntop(family, hop[RTA_GATEWAY])
        bond.routes.append(DesiredRoute(to, via, HERE, metric))
