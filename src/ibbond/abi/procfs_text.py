"""The text of /proc/net/bonding/BOND, rendered from a snapshot and read back into one.

Read first: `drivers/net/bonding/bond_procfs.c` of Linux. The text is the driver's own, byte for byte, in every mode.
What procfs does not say (hardware address and MTU of the bond, whether it is up) a parsed snapshot does not know; the
type follows from the members' addresses. Drivers before 2.6.33 print fewer lines. Left out: the version line's meaning.
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
    """What the file says, of any version of the driver: what it does not say is in `unknown`, or not in `options`.

    Raises `Malformed` for text that is not this file's, and for a mode that is not in the table.
    """
    blocks = [block.split("\n") for block in text.removesuffix("\n").split("\n\n")]
    if not blocks[0][0].startswith(TITLE) or len(blocks) < 2:
        raise Malformed("not a text of /proc/net/bonding: no version line")
    options: dict[str, object] = {}
    head = _fields(blocks[1])
    mode = _head_options(head, options)
    active = head.get("Currently Active Slave")
    lacp = Lacp()
    rest = blocks[2:]
    if rest and rest[0][0] == "802.3ad info":
        lacp = _parse_lacp(_fields(rest[0][1:]), options)
        rest = rest[1:]
    found = (_parse_member(block, active, mode) for block in rest)
    members = tuple(member for member in found if member is not None)
    sizes = {len(member.permanent_address) for member in members}
    unknown = {"address", "broadcast", "mtu", "up"}
    unknown |= set() if sizes & {6, 20} else {"type"}
    unknown |= {"carrier"} if "MII Status" not in head else set()
    unknown |= {"active", "primary"} if mode.uses_primary and active is None else set()
    return BondSnapshot(
        name="",
        type=INFINIBAND if 20 in sizes or _are_cut_infiniband(members, options) else ETHERNET,
        address=b"",
        broadcast=b"",
        mtu=0,
        up=False,
        carrier=head.get("MII Status") == "up",
        active=None if active == "None" else active,
        primary=_primary(head.get("Primary Slave", "None"), options),
        members=members,
        options=options,
        lacp=lacp,
        unknown=frozenset(unknown),
    )


def _head_options(head: dict[str, str], options: dict[str, object]) -> Mode:
    """Put the options of the first block into `options`; returns the mode."""
    mode_text = _take(head, "Bonding Mode")
    if (match := re.fullmatch(r"(.*) \(fail_over_mac (active|follow)\)", mode_text)) is not None:
        mode_text, options["fail_over_mac"] = match[1], _value("fail_over_mac", match[2])
    options["mode"] = mode = _mode(mode_text)
    if "Transmit Hash Policy" in head:
        policy = _value("xmit_hash_policy", head["Transmit Hash Policy"].split(" ")[0])
        _report(options, "xmit_hash_policy", policy)
    if mode.is_load_balancing:
        options["tlb_dynamic_lb"] = int("Transmit Hash Policy" not in head)
    for label, option in _NUMBERS.items():
        if label in head:
            _report(options, option, _integer(head[label]))
    if "MII Polling Interval (ms)" in head:
        options.setdefault("arp_interval", 0)  # the driver prints it only while the ARP monitor runs
    for label, option in _TARGETS.items():
        if label in head:
            _report(options, option, _addresses(head[label]))
    return mode


def _report(options: dict[str, object], option: str, value: object) -> None:
    if value is not None:
        options[option] = value


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
_LACP_WORDS = {
    "LACP active": "lacp_active",
    "LACP rate": "lacp_rate",
    "Aggregator selection policy (ad_select)": "ad_select",
}
_MEMBER_LABELS = {
    "MII Status": "link",
    "Link Failure Count": "link_failure_count",
    "Permanent HW addr": "permanent_address",
}


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


def _value(option: str, text: str) -> int | None:
    return next((word.number for word in OPTIONS[option].words if word.text == text), None)


def _integer(text: str) -> int | None:
    """A number of at most 64 bits: int() refuses thousands of digits."""
    return int(text) if re.fullmatch(r"[0-9]{1,20}", text) else None


def _addresses(text: str) -> tuple[bytes, ...] | None:
    words = [word.strip() for word in text.split(",") if word.strip()]
    try:
        return tuple(ipaddress.ip_address(word).packed for word in words)
    except ValueError:
        return None


def _primary(text: str, options: dict[str, object]) -> str | None:
    """`ib0 (primary_reselect always)`; before Linux 2.6.33 the name only."""
    name, _, rest = text.partition(" (primary_reselect ")
    if rest:
        _report(options, "primary_reselect", _value("primary_reselect", rest.rstrip(")")))
    return None if name == "None" else name


def _parse_lacp(fields: dict[str, str], options: dict[str, object]) -> Lacp:
    for label, option in _LACP_WORDS.items():
        if label in fields:
            _report(options, option, _value(option, fields[label]))
    _report(options, "min_links", _integer(fields.get("Min links", "")))
    aggregator = None
    if "Active Aggregator Info" in fields:
        aggregator = Aggregator(
            identifier=_number_of(fields, "Aggregator ID"),
            ports=_number_of(fields, "Number of ports"),
            actor_key=_number_of(fields, "Actor Key"),
            partner_key=_number_of(fields, "Partner Key"),
            partner_address=_address(fields.get("Partner Mac Address", "")),
        )
    if "System priority" not in fields:  # a reader without CAP_NET_ADMIN does not see it
        return Lacp(aggregator=aggregator)
    return Lacp(_number_of(fields, "System priority"), _address(fields.get("System MAC address", "")), aggregator)


def _parse_member(lines: list[str], active: str | None, mode: Mode) -> MemberSnapshot | None:
    """One block of the file; None for one that is not about a member."""
    port = None
    at = lines.index("details actor lacp pdu:") if "details actor lacp pdu:" in lines else len(lines)
    head = _fields(lines[:at])
    name = head.get("Slave Interface")
    if name is None:
        return None
    if "Actor Churn State" in head and "details partner lacp pdu:" in lines:
        partner_at = lines.index("details partner lacp pdu:")
        port = LacpPort(
            aggregator=_number_of(head, "Aggregator ID"),
            actor_churn=head["Actor Churn State"],
            partner_churn=head.get("Partner Churn State", ""),
            actor_churned=_number_of(head, "Actor Churned Count"),
            partner_churned=_number_of(head, "Partner Churned Count"),
            actor=_parse_side(_fields(lines[at + 1 : partner_at]), "port key"),
            partner=_parse_side(_fields(lines[partner_at + 1 :]), "oper key"),
        )
    duplex = head.get("Duplex", "").lower()
    reported = {label: head.get(label, "") for label in _MEMBER_LABELS}
    unknown = {_MEMBER_LABELS[label] for label, text in reported.items() if not text}
    unknown |= {"state"} if mode is Mode.ACTIVE_BACKUP and active is None else set()
    return MemberSnapshot(
        name=name,
        state="backup" if mode is Mode.LACP or (mode is Mode.ACTIVE_BACKUP and name != active) else "active",
        link=reported["MII Status"],
        link_failure_count=_integer(reported["Link Failure Count"]) or 0,
        permanent_address=_address(reported["Permanent HW addr"]),
        queue_id=_integer(head.get("Slave queue ID", "")) or 0,
        speed=_integer(head.get("Speed", "").removesuffix(" Mbps")),
        duplex=duplex if duplex in ("full", "half") else None,
        lacp=port,
        unknown=frozenset(unknown),
    )


def _are_cut_infiniband(members: tuple[MemberSnapshot, ...], options: dict[str, object]) -> bool:
    """Kernels before 4.12 print 6 of 20 bytes: flags, queue pair and the first two bytes of the subnet prefix."""
    prefixes = {member.permanent_address[4:] for member in members if len(member.permanent_address) == 6}
    return options.get("fail_over_mac") == 1 and bool(prefixes) and prefixes <= {b"\xfe\x80", b"\xfe\xc0"}


def _parse_side(fields: dict[str, str], key: str) -> LacpSide:
    return LacpSide(
        system_priority=_number_of(fields, "system priority"),
        system_address=_address(fields.get("system mac address", "")),
        key=_number_of(fields, key),
        port_priority=_number_of(fields, "port priority"),
        port_number=_number_of(fields, "port number"),
        state=_number_of(fields, "port state"),
    )


def _number_of(fields: dict[str, str], label: str) -> int:
    """A number that no rule needs; 0 where the driver's version has no such line."""
    return _integer(fields.get(label, "")) or 0


def _address(text: str) -> bytes:
    try:
        return bytes.fromhex(text.replace(":", ""))
    except ValueError:
        return b""
