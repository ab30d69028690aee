"""The texts that options' files will read when a request is done, in place of numbers, old words and `+` and `-`.

Read first: bonding/option.py, whose table says what an option takes, when, and what it counts. Everything that the
driver would refuse, round or not keep is Refused here, before anything is changed. Left out: what members there may be
(requests.py).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping

from ibbond.backend.contract import Backend
from ibbond.backend.state import BondState
from ibbond.bonding.option import Kind, Mode, Option, Rejected, check_dependencies, describe, parse_value, refusal
from ibbond.bonding.options import OPTIONS
from ibbond.errors import Refused
from ibbond.topology.reader import unknown

MAX_TARGETS = 16
MONITORS = ("miimon", "arp_interval")  # setting one stops the other


def desired_texts(
    host: Backend, bond: str, options: Mapping[str, str], present: BondState | None, members: Collection[str]
) -> dict[str, str]:
    """The options that were asked for, and those that change with them. `members` are those that the bond will have."""
    name = f"{host.where}/{bond}" if host.where else bond
    old = present.options if present else {}
    mode_text = options.get("mode") or old.get("mode") or "balance-rr"
    mode = Mode(parse(host, name, OPTIONS["mode"], mode_text))
    found: dict[str, str] = {}
    for option_name, text in options.items():
        option = _settable(host, name, option_name, has_it=option_name in old)
        try:
            check_dependencies(option, mode, False, False)
        except Rejected as rejected:
            raise refusal(name, option_name, rejected) from None
        found[option_name] = _text(host, name, option, text, old.get(option_name, ""), members)
    if "num_unsol_na" in found:
        found.setdefault("num_grat_arp", found.pop("num_unsol_na"))
    if all(found.get(option, "0") != "0" for option in MONITORS):
        raise Refused(
            f"cannot set both miimon and arp_interval of {name}",
            why="a bond uses one of the two monitors; setting one disables the other",
            fix="Set only one of them",
        )
    return found | _consequences(name, mode, old, found)


def _consequences(name: str, mode: Mode, old: Mapping[str, str], asked: Mapping[str, str]) -> dict[str, str]:
    """What else changes: the other monitor, and the delays, which are counted in runs of the MII monitor."""
    changes: dict[str, str] = {}
    if asked.get("arp_interval", "0") != "0":
        changes["miimon"] = "0"
    elif asked.get("miimon", "0") != "0" and old.get("arp_interval", "0") != "0":
        changes |= {"arp_interval": "0", "arp_validate": "none"}
    miimon = int(changes.get("miimon") or asked.get("miimon") or old.get("miimon") or "0")
    for option in (option for option in OPTIONS.values() if option.counted_in_runs and mode in option.modes):
        delay = int(asked.get(option.name) or old.get(option.name) or "0")
        if not delay:
            continue
        if miimon and delay % miimon == 0:
            changes[option.name] = str(delay)
        elif miimon:
            lower = delay // miimon * miimon
            fix = f"Set {option.name} to {lower} or {lower + miimon}"
            if option.name not in asked:
                fix = f"Set both: ibbond bond set {name} miimon={miimon} {option.name}={lower + miimon}"
            raise Refused(
                f"cannot set {option.name if option.name in asked else 'miimon'} of {name}",
                why=f"{option.name} {delay} is not a multiple of miimon {miimon}: the driver would make it {lower}",
                fix=fix,
            )
        elif option.name in asked:
            why = f"{option.name} counts runs of the MII monitor, which is off (miimon 0)"
            raise Refused(f"cannot set {option.name} of {name}", why=why, fix="Set miimon too: miimon=100")
        else:
            changes[option.name] = "0"
    return changes


def parse(host: Backend, name: str, option: Option, text: str) -> int:
    try:
        return parse_value(option, text, host.version)
    except Rejected as rejected:
        what = f"cannot set {option.name} of {name} to {text!r}"
        fix = f"It takes {describe(option, host.version)}"
        raise Refused(what, why=rejected.why, fix=fix, code=rejected.code) from None


def _text(host: Backend, name: str, option: Option, text: str, old: str, members: Collection[str]) -> str:
    match option.kind:
        case Kind.QUEUES:
            return _pairs(name, option, old, text, members)
        case Kind.VALUE if option.of_member:
            return _pairs(name, option, old, text, members)
        case Kind.VALUE:
            value = parse(host, name, option, text)
            return option.word_of(value) if option.shows_word else str(value)
        case Kind.TARGETS | Kind.TARGETS6:
            return _targets(name, option, old, text)
        case Kind.NAME:
            return _member(name, option, text.strip(), members)
        case _:
            return text.strip()


def _member(name: str, option: Option, text: str, members: Collection[str]) -> str:
    """A member's name, or nothing for `none`. The driver would remember any name, and switch when it joins."""
    if text in ("", "none"):
        return ""
    if text not in members:
        raise Refused(
            f"cannot set {option.name} of {name}",
            why=f"{text} is not a member",
            fix=f"Its members are {', '.join(members) or 'none'}; an empty value clears it",
        )
    return text


def _targets(name: str, option: Option, old: str, text: str) -> str:
    """`+A` and `-A` change the list, plain addresses are the whole of it, `none` empties it."""
    words = [] if text.strip() == "none" else text.replace(",", " ").split()
    result = old.split() if any(word[0] in "+-" for word in words) else []
    kind = ipaddress.IPv4Address if option.kind is Kind.TARGETS else ipaddress.IPv6Address
    for word in words:
        try:
            address = kind(word.lstrip("+-"))
        except ValueError:
            raise Refused(
                f"cannot set {option.name} of {name}",
                why=f"{word!r} is not an IPv{4 if kind is ipaddress.IPv4Address else 6} address",
                fix="Write addresses, each with + or - to change the list; an empty value clears it",
            ) from None
        if word.startswith("-"):
            result = [target for target in result if target != str(address)]
        elif address.is_unspecified or address.is_multicast or str(address) in ("255.255.255.255", "::1"):
            raise Refused(
                f"cannot set {option.name} of {name}",
                why=f"{address} is not a unicast address",
                fix="Use a unicast address",
            )
        elif str(address) not in result:
            result.append(str(address))
    if len(result) > MAX_TARGETS:
        raise Refused(
            f"cannot set {option.name} of {name}", why=f"it holds at most {MAX_TARGETS} targets", fix="List fewer"
        )
    return " ".join(result)


def _pairs(name: str, option: Option, old: str, text: str, members: Collection[str]) -> str:
    """`ib0:2` for one member; the others keep theirs."""
    what = f"cannot set {option.name} of {name}"
    result = dict.fromkeys(members, "0") | dict(pair.rpartition(":")[::2] for pair in old.split())
    low, high = option.limits or (0, 0)
    for word in text.replace(",", " ").split() or [""]:
        member, colon, number = word.rpartition(":")
        digits = number.lstrip("+-") if len(number) < 12 else ""
        if not colon or not digits.isdecimal() or not low <= int(number) <= high:
            why = f"{word!r} is not MEMBER:NUMBER with a number of {low} to {high}"
            raise Refused(what, why=why, fix=f"Write for example {next(iter(result), 'ib0')}:5")
        if member not in result:
            raise Refused(what, why=f"{member} is not a member", fix=f"Its members are {', '.join(result) or 'none'}")
        result[member] = str(int(number))
    taken = [number for number in result.values() if number != "0"]
    if option.kind is Kind.QUEUES and len(set(taken)) < len(taken):
        raise Refused(what, why="two members cannot share a queue", fix="Give each member a different queue, or 0")
    return " ".join(f"{member}:{number}" for member, number in result.items())


def _settable(host: Backend, name: str, option_name: str, *, has_it: bool) -> Option:
    """The row of an option that can be set on this host. A bond that has it may be of a kernel with a backport."""
    what = f"cannot set {option_name} of {name}"
    option = OPTIONS.get(option_name)
    if not option_name:
        raise Refused(
            "no option name was given",
            why="the option name before = is missing",
            fix="Write OPTION=VALUE; see ibbond options",
        )
    if option_name == "mtu":
        raise Refused(
            what, why="it is a setting of the device, not of the bond", fix=f"Use ip link set {name} mtu VALUE"
        )
    if option is None:
        raise unknown(f"no option {option_name}", option_name, OPTIONS)
    if option.ours and not host.where:
        raise Refused(what, why="it exists only in ibbond's own driver, in lab hosts", fix="See ibbond options")
    if option.kind is Kind.MEMBERS:
        raise Refused(what, why="members are added and removed, not set", fix="Use ibbond bond add or remove")
    if option.read_only:
        raise Refused(what, why="it is read-only", fix="See ibbond options")
    if option.since > host.version > (0, 0) and not (option.ours or has_it):
        release = ".".join(map(str, host.version))
        since = ".".join(map(str, option.since))
        raise Refused(what, why=f"kernel {release} does not have it", fix=f"It was added in Linux {since}")
    return option
