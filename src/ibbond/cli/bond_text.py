"""A bond in words and as a JSON object: what `ibbond bond list`, `show` and others print of it.

Read first: `bonding.snapshot`. Option values are shown as their files show them. Left out: asking for it (`bond`).
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from ibbond.cli.output import addresses, device, state, table
from ibbond.wire.hardware_type import ETHERNET, INFINIBAND

if TYPE_CHECKING:
    from ibbond.backend.contract import Backend
    from ibbond.bonding.snapshot import BondSnapshot

TYPES = {ETHERNET: "ethernet", INFINIBAND: "infiniband"}
NO_TRAFFIC = "carries no traffic: mode {mode} can only be configured here, use active-backup"


def facts_of(backend: Backend, bond: str) -> dict[str, object]:
    """A bond as one JSON object; option values are words where the driver has words."""
    snapshot = backend.snapshot(bond)
    where = f"{backend.where}/" if backend.where else ""
    options = options_of(snapshot)
    return {
        "name": where + snapshot.name,
        "mode": options.get("mode", ""),
        "up": None if "up" in snapshot.unknown else snapshot.up,
        "carrier": None if "carrier" in snapshot.unknown else snapshot.carrier,
        "active": snapshot.active,
        "carries_traffic": not backend.where or options.get("mode") == "active-backup",
        "primary": snapshot.primary,
        "type": TYPES.get(snapshot.type, str(snapshot.type)),
        "hardware_address": snapshot.address.hex(":"),
        "mtu": None if "mtu" in snapshot.unknown else snapshot.mtu,
        "addresses": backend.addresses(bond),
        "members": [
            {
                "name": member.name,
                "state": member.state,
                "link": member.link,
                "link_failure_count": member.link_failure_count,
                "hardware_address": member.permanent_address.hex(":"),
            }
            for member in snapshot.members
        ],
        "options": options,
        **({"unknown": sorted(unknown)} if (unknown := snapshot.unknown) else {}),
    }


def options_of(snapshot: BondSnapshot) -> dict[str, object]:
    return {name: option_value(name, value) for name, value in snapshot.options.items()}


def option_value(name: str, value: object) -> object:
    """An option as its file shows it: words where the driver has words, addresses as texts."""
    from ibbond.bonding.options import OPTIONS

    if isinstance(value, bytes):
        return value.hex(":")
    if isinstance(value, tuple):
        return [str(ipaddress.ip_address(each)) if isinstance(each, bytes) else each for each in value]
    option = OPTIONS.get(name)
    return option.word_of(value) if option and option.shows_word and isinstance(value, int) else value


def state_of(facts: dict[str, object]) -> str:
    if facts["up"] is None:
        return "carrier" if facts["carrier"] else "no carrier"
    return "down" if not facts["up"] else "up" if facts["carrier"] else "no carrier"


def members_of(facts: dict[str, object]) -> str:
    members = facts["members"]
    assert isinstance(members, list)
    return " ".join(member["name"] for member in members)


def describe(facts: dict[str, object]) -> str:
    """A bond for people."""
    members, own, options = facts["members"], facts["addresses"], facts["options"]
    assert isinstance(members, list)
    assert isinstance(own, list)
    assert isinstance(options, dict)
    rows = [
        (device(m["name"]), state(m["state"]), state(m["link"]), m["link_failure_count"], m["hardware_address"])
        for m in members
    ]
    name, word = device(str(facts["name"])), state(state_of(facts))
    primary = f", primary {facts['primary']}" if facts["primary"] else ""
    lines = [
        f"{name}: {facts['mode']}, {word}, active {facts['active'] or 'none'}{primary}",
        f"{facts['type']} {facts['hardware_address'] or 'address unknown'}, mtu {facts['mtu'] or 'unknown'}",
        f"addresses {addresses(own) or 'none'}",
        *((NO_TRAFFIC.format(mode=facts["mode"]),) if not facts["carries_traffic"] else ()),
        "",
        table(rows, ("MEMBER", "STATE", "LINK", "FAILURES", "HARDWARE ADDRESS")) if rows else "no members",
    ]
    changed = {name: value for name, value in options.items() if not is_default(name, value)}
    if isinstance(unknown := facts.get("unknown"), list):
        lines += ["", f"unknown: {', '.join(unknown)}"]
    if changed:
        lines += ["", "options that differ from the kernel's defaults:"]
        lines.append(table((f"  {name}", text_of(value)) for name, value in changed.items()))
    return "\n".join(lines)


def text_of(value: object) -> str:
    """An option's value for people, as its file has it: `10.0.0.2 10.0.0.3`, `ib0:1 ib1:2`; `-` for an empty one."""
    if isinstance(value, list):
        return " ".join(":".join(map(str, each)) if isinstance(each, tuple) else str(each) for each in value) or "-"
    return str(value) if value != "" else "-"


def is_default(name: str, value: object) -> bool:
    from ibbond.bonding.options import OPTIONS

    option = OPTIONS.get(name)
    if option is None or option.read_only or name in ("mode", "primary", "active_slave", "slaves"):
        return True
    if name in ("queue_id", "prio"):
        return isinstance(value, list) and not any(number for _, number in value)
    default = option.word_of(option.default) if option.shows_word else option.default
    return value in (default, "", None, [], (), "00:00:00:00:00:00")
