"""The text of /proc/net/bonding/BOND, rendered from a snapshot and read back into one.

Read first: `drivers/net/bonding/bond_procfs.c` of Linux. The text is the driver's own, byte for byte, in every mode.
What procfs does not say (type, hardware address and MTU of the bond, whether it is up) a parsed snapshot does not
know: the type is guessed from the members' addresses, the rest is empty. Left out: the version line's meaning.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from ibbond import __version__
from ibbond.bonding.option import Mode
from ibbond.bonding.options import OPTIONS
from ibbond.bonding.snapshot import Aggregator, BondSnapshot, Lacp, LacpPort, LacpSide, MemberSnapshot
from ibbond.errors import Malformed
from ibbond.wire.hardware_type import ETHERNET, INFINIBAND

VERSION = f"{__version__}-ibbond"
MODES = (
    "load balancing (round-robin)",
    "fault-tolerance (active-backup)",
    "load balancing (xor)",
    "fault-tolerance (broadcast)",
    "IEEE 802.3ad Dynamic link aggregation",
    "transmit load balancing",
    "adaptive load balancing",
)
TITLE = "Ethernet Channel Bonding Driver: v"


def render(bond: BondSnapshot, version: str = VERSION) -> str:
    """The whole file; options that a snapshot does not have count as 0."""
    lines = [TITLE + version, "", *_bond_lines(bond)]
    if _number(bond, "mode") == Mode.LACP:
        lines += ["", *_lacp_lines(bond)]
    for member in bond.members:
        lines += ["", *_member_lines(bond, member)]
    return "\n".join(lines) + "\n"


def parse(text: str) -> BondSnapshot:
    """What the file says. Raises `Malformed` for text that is not this file's, naming the line expected."""
    blocks = [block.split("\n") for block in text.removesuffix("\n").split("\n\n")]
    if not blocks[0][0].startswith(TITLE) or len(blocks) < 2:
        raise Malformed("not a text of /proc/net/bonding: no version line")
    options: dict[str, object] = {}
    head = _fields(blocks[1])
    mode_text = _take(head, "Bonding Mode")
    if (match := re.fullmatch(r"(.*) \(fail_over_mac (active|follow)\)", mode_text)) is not None:
        mode_text, options["fail_over_mac"] = match[1], _value("fail_over_mac", match[2])
    options["mode"] = mode = _mode(mode_text)
    if "Transmit Hash Policy" in head:
        options["xmit_hash_policy"] = _value("xmit_hash_policy", _take(head, "Transmit Hash Policy").split(" ")[0])
    if mode.is_load_balancing:
        options["tlb_dynamic_lb"] = int("Transmit Hash Policy" not in head)
    primary = _primary(head.get("Primary Slave", "None"), options)
    active = head.get("Currently Active Slave", "None")
    for label, option in _NUMBERS.items():
        if label in head:
            options[option] = int(head[label])
    for label, option in _TARGETS.items():
        if label in head:
            texts = [word.strip() for word in head[label].split(",") if word.strip()]
            options[option] = tuple(ipaddress.ip_address(word).packed for word in texts)
    lacp = Lacp()
    rest = blocks[2:]
    if rest and rest[0][0] == "802.3ad info":
        lacp = _parse_lacp(_fields(rest[0][1:]), options)
        rest = rest[1:]
    members = tuple(_parse_member(block, active, mode) for block in rest)
    sizes = {len(member.permanent_address) for member in members}
    return BondSnapshot(
        name="",
        type=INFINIBAND if 20 in sizes else ETHERNET,
        address=b"",
        broadcast=b"",
        mtu=0,
        up=False,
        carrier=_take(head, "MII Status") == "up",
        active=None if active == "None" else active,
        primary=primary,
        members=members,
        options=options,
        lacp=lacp,
    )


def version(text: str) -> str:
    """What stands after the `v` of the first line."""
    return text.split("\n", 1)[0].removeprefix(TITLE)


_NUMBERS = {
    "MII Polling Interval (ms)": "miimon",
    "Up Delay (ms)": "updelay",
    "Down Delay (ms)": "downdelay",
    "Peer Notification Delay (ms)": "peer_notif_delay",
    "ARP Polling Interval (ms)": "arp_interval",
    "ARP Missed Max": "arp_missed_max",
}
_TARGETS = {"ARP IP target/s (n.n.n.n form)": "arp_ip_target", "NS IPv6 target/s (xx::xx form)": "ns_ip6_target"}


def _number(bond: BondSnapshot, option: str) -> int:
    value = bond.options.get(option, 0)
    assert isinstance(value, int), f"{option} is {value!r}"
    return value


def _shown(bond: BondSnapshot, option: str) -> str:
    """The word of an option's value."""
    return OPTIONS[option].word_of(_number(bond, option))


def _bond_lines(bond: BondSnapshot) -> Iterator[str]:
    mode, policy = Mode(_number(bond, "mode")), _number(bond, "fail_over_mac")
    shown = f" (fail_over_mac {_shown(bond, 'fail_over_mac')})" if mode is Mode.ACTIVE_BACKUP and policy else ""
    yield f"Bonding Mode: {MODES[mode]}{shown}"
    by_hash = mode in (Mode.BALANCE_XOR, Mode.LACP)
    if by_hash or (mode.is_load_balancing and not _number(bond, "tlb_dynamic_lb")):
        yield f"Transmit Hash Policy: {_shown(bond, 'xmit_hash_policy')} ({_number(bond, 'xmit_hash_policy')})"
    if mode.uses_primary:
        reselect = _shown(bond, "primary_reselect")
        yield f"Primary Slave: {f'{bond.primary} (primary_reselect {reselect})' if bond.primary else None}"
        yield f"Currently Active Slave: {bond.active}"
    yield f"MII Status: {'up' if bond.carrier else 'down'}"
    for label in list(_NUMBERS)[:4]:
        yield f"{label}: {_number(bond, _NUMBERS[label])}"
    if _number(bond, "arp_interval"):
        for label in list(_NUMBERS)[4:]:
            yield f"{label}: {_number(bond, _NUMBERS[label])}"
        for label, option in _TARGETS.items():
            targets = bond.options.get(option, ())
            assert isinstance(targets, tuple)
            yield f"{label}:{','.join(f' {ipaddress.ip_address(target)}' for target in targets)}"


def _lacp_lines(bond: BondSnapshot) -> Iterator[str]:
    yield "802.3ad info"
    yield f"LACP active: {_shown(bond, 'lacp_active')}"
    yield f"LACP rate: {_shown(bond, 'lacp_rate')}"
    yield f"Min links: {_number(bond, 'min_links')}"
    yield f"Aggregator selection policy (ad_select): {_shown(bond, 'ad_select')}"
    yield f"System priority: {bond.lacp.system_priority}"
    yield f"System MAC address: {bond.lacp.system_address.hex(':')}"
    aggregator = bond.lacp.aggregator
    if aggregator is None:
        yield f"bond {bond.name} has no active aggregator"
        return
    yield "Active Aggregator Info:"
    yield f"\tAggregator ID: {aggregator.identifier}"
    yield f"\tNumber of ports: {aggregator.ports}"
    yield f"\tActor Key: {aggregator.actor_key}"
    yield f"\tPartner Key: {aggregator.partner_key}"
    yield f"\tPartner Mac Address: {aggregator.partner_address.hex(':')}"


def _member_lines(bond: BondSnapshot, member: MemberSnapshot) -> Iterator[str]:
    yield f"Slave Interface: {member.name}"
    yield f"MII Status: {member.link}"
    yield "Speed: Unknown" if member.speed is None else f"Speed: {member.speed} Mbps"
    yield f"Duplex: {member.duplex or 'Unknown'}"
    yield f"Link Failure Count: {member.link_failure_count}"
    yield f"Permanent HW addr: {member.permanent_address.hex(':')}"
    yield f"Slave queue ID: {member.queue_id}"
    if _number(bond, "mode") != Mode.LACP:
        return
    port = member.lacp
    if port is None:
        yield "Aggregator ID: N/A"
        return
    yield f"Aggregator ID: {port.aggregator}"
    yield f"Actor Churn State: {port.actor_churn}"
    yield f"Partner Churn State: {port.partner_churn}"
    yield f"Actor Churned Count: {port.actor_churned}"
    yield f"Partner Churned Count: {port.partner_churned}"
    for who, side, key in (("actor", port.actor, "port key"), ("partner", port.partner, "oper key")):
        yield f"details {who} lacp pdu:"
        yield f"    system priority: {side.system_priority}"
        yield f"    system mac address: {side.system_address.hex(':')}"
        yield f"    {key}: {side.key}"
        yield f"    port priority: {side.port_priority}"
        yield f"    port number: {side.port_number}"
        yield f"    port state: {side.state}"


def _fields(lines: list[str]) -> dict[str, str]:
    """Label to text; a line without a colon is a label without a text. Labels may have colons inside (`xx::xx`)."""
    matches = (re.fullmatch(r"(.*?)(?::(?: +(.*))?)?", line.strip()) for line in lines)
    return {match[1]: (match[2] or "").strip() for match in matches if match is not None}


def _take(fields: dict[str, str], label: str) -> str:
    if label not in fields:
        raise Malformed(f"not a text of /proc/net/bonding: no line {label!r}")
    return fields[label]


def _mode(text: str) -> Mode:
    if text not in MODES:
        raise Malformed(f"not a text of /proc/net/bonding: {text!r} is none of {', '.join(MODES)}")
    return Mode(MODES.index(text))


def _value(option: str, text: str) -> int:
    for word in OPTIONS[option].words:
        if word.text == text:
            return word.number
    raise Malformed(f"not a text of /proc/net/bonding: {text!r} is no value of {option}")


def _primary(text: str, options: dict[str, object]) -> str | None:
    if text == "None":
        return None
    match = re.fullmatch(r"(\S+) \(primary_reselect (\w+)\)", text)
    if match is None:
        raise Malformed(f"not a text of /proc/net/bonding: Primary Slave {text!r}")
    options["primary_reselect"] = _value("primary_reselect", match[2])
    return match[1]


def _parse_lacp(fields: dict[str, str], options: dict[str, object]) -> Lacp:
    options["lacp_active"] = _value("lacp_active", _take(fields, "LACP active"))
    options["lacp_rate"] = _value("lacp_rate", _take(fields, "LACP rate"))
    options["min_links"] = int(_take(fields, "Min links"))
    options["ad_select"] = _value("ad_select", _take(fields, "Aggregator selection policy (ad_select)"))
    aggregator = None
    if "Active Aggregator Info" in fields:
        aggregator = Aggregator(
            identifier=int(_take(fields, "Aggregator ID")),
            ports=int(_take(fields, "Number of ports")),
            actor_key=int(_take(fields, "Actor Key")),
            partner_key=int(_take(fields, "Partner Key")),
            partner_address=_address(_take(fields, "Partner Mac Address")),
        )
    if "System priority" not in fields:  # a reader without CAP_NET_ADMIN does not see it
        return Lacp(aggregator=aggregator)
    return Lacp(int(fields["System priority"]), _address(_take(fields, "System MAC address")), aggregator)


def _parse_member(lines: list[str], active: str, mode: Mode) -> MemberSnapshot:
    port = None
    head = _fields(lines[: lines.index("details actor lacp pdu:")] if "details actor lacp pdu:" in lines else lines)
    if "Actor Churn State" in head:
        actor_at, partner_at = lines.index("details actor lacp pdu:"), lines.index("details partner lacp pdu:")
        port = LacpPort(
            aggregator=int(_take(head, "Aggregator ID")),
            actor_churn=_take(head, "Actor Churn State"),
            partner_churn=_take(head, "Partner Churn State"),
            actor_churned=int(_take(head, "Actor Churned Count")),
            partner_churned=int(_take(head, "Partner Churned Count")),
            actor=_parse_side(_fields(lines[actor_at + 1 : partner_at]), "port key"),
            partner=_parse_side(_fields(lines[partner_at + 1 :]), "oper key"),
        )
    name, speed, duplex = _take(head, "Slave Interface"), _take(head, "Speed"), _take(head, "Duplex")
    return MemberSnapshot(
        name=name,
        state="backup" if mode is Mode.LACP or (mode is Mode.ACTIVE_BACKUP and name != active) else "active",
        link=_take(head, "MII Status"),
        link_failure_count=int(_take(head, "Link Failure Count")),
        permanent_address=_address(_take(head, "Permanent HW addr")),
        queue_id=int(_take(head, "Slave queue ID")),
        speed=None if speed == "Unknown" else int(speed.removesuffix(" Mbps")),
        duplex=None if duplex == "Unknown" else duplex,
        lacp=port,
    )


def _parse_side(fields: dict[str, str], key: str) -> LacpSide:
    return LacpSide(
        system_priority=int(_take(fields, "system priority")),
        system_address=_address(_take(fields, "system mac address")),
        key=int(_take(fields, key)),
        port_priority=int(_take(fields, "port priority")),
        port_number=int(_take(fields, "port number")),
        state=int(_take(fields, "port state")),
    )


def _address(text: str) -> bytes:
    try:
        return bytes.fromhex(text.replace(":", ""))
    except ValueError:
        raise Malformed(f"not a text of /proc/net/bonding: {text!r} is no hardware address") from None
