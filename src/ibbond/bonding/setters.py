"""What writing an option does: the checks of its row, its parse, and its side effects.

Read first: `__bond_opt_set` and the setters of bond_options.c of the kernel's driver; the rows are in `options`. Every
function here raises `Refused` with the kernel's errno, or `Rejected`, which `write` turns into it.
"""

import errno
import re
from collections.abc import Callable

from ibbond.bonding import addresses, admission, arp_monitor, departure, failover, miimon, selection
from ibbond.bonding.member import MAX_TARGETS, Link, Member
from ibbond.bonding.option import (
    NAME_CHARACTERS,
    Kind,
    Mode,
    Option,
    Rejected,
    check_dependencies,
    first_word,
    is_device_name,
    parse_value,
    refusal,
)
from ibbond.bonding.options import ARP_MODES, OPTIONS
from ibbond.bonding.state import BondTimer, State
from ibbond.bonding.values import TICKS
from ibbond.errors import Refused
from ibbond.machine import MS
from ibbond.netdev.device import Device

DEFAULT_MIIMON = 100  # for modes that must have one
MAX_QUEUE = 16

SPEAK_FOR_THEMSELVES = ("slaves", "active_slave")  # these files change when what they show does

_SHORT = re.compile(r"[ \t\n\v\f\r]*(-?[0-9]+)")


def write(state: State, name: str, text: str) -> None:
    """One write(2) to the option's file. An empty one never reaches the driver."""
    option = OPTIONS.get(name)
    if option is None or option.read_only or (option.since > state.rules.profile.kernel and not option.ours):
        raise Refused(
            f"cannot set {name} of {state.name}",
            why="there is no such option" if option is None else "it cannot be written",
            fix="See `ibbond options`",
            code=errno.ENOENT if option is None else errno.EACCES,
        )
    if text:
        set_option(state, option, text)


def set_option(state: State, option: Option, text: str) -> None:
    try:
        check_dependencies(option, state.values.kind, bool(state.members), state.device.up)
        if option.kind is Kind.VALUE:
            set_number(state, option, parse_value(option, text, state.rules.profile.kernel))
        else:
            _RAW[option.name](state, text)
    except Rejected as rejected:
        _say_refusal(state, option, text, rejected.code)
        raise refusal(state.name, option.name, rejected) from rejected
    except Refused as refused:
        _say_refusal(state, option, text, refused.code)
        raise
    if option.name not in SPEAK_FOR_THEMSELVES:
        state.changed(option.name)


def set_number(state: State, option: Option, number: int) -> None:
    """A value that was parsed already; raises `Rejected`."""
    setter = _NUMBERS.get(option.key)
    if setter is None:
        state.values.store(option.key, number)
    else:
        setter(state, number)


def set_priority(state: State, member: Member, priority: int) -> None:
    """`prio`, by netlink: a new choice is made unless there is a primary."""
    option = OPTIONS["prio"]
    try:
        check_dependencies(option, state.values.kind, bool(state.members), state.device.up)
    except Rejected as rejected:
        raise refusal(state.name, "prio", rejected) from rejected
    member.priority = priority
    if state.primary_member is not None:
        state.say("prio updated, but will not affect failover re-selection as primary slave have been set", member)
    else:
        selection.select_active(state)
    state.changed("prio", member)


def _say_refusal(state: State, option: Option, text: str, code: int) -> None:
    """`bond_opt_error_interpret`."""
    line = text.split("\n", 1)[0]
    mode = state.values.kind
    match code:
        case errno.EINVAL:
            state.say(f"option {option.name}: invalid value ({line})", level="error")
            if option.kind is Kind.VALUE and option.limits is not None:
                low, high = option.limits
                state.say(f"option {option.name}: allowed values {low} - {high}", level="error")
        case errno.EACCES:
            text = f"mode dependency failed, not supported in mode {mode.word}({mode.value})"
            state.say(f"option {option.name}: {text}", level="error")
        case errno.ENOTEMPTY:
            state.say(f"option {option.name}: unable to set because the bond device has slaves", level="error")
        case errno.EBUSY:
            state.say(f"option {option.name}: unable to set because the bond device is up", level="error")
        case errno.ENODEV:
            state.say(f"option {option.name}: interface {line} does not exist!", level="error")


def _set_mode(state: State, number: int) -> None:
    values, mode = state.values, Mode(number)
    if mode not in ARP_MODES:
        values.arp_interval = 0
        values.miimon = values.miimon or DEFAULT_MIIMON
    if mode is Mode.BALANCE_ALB:
        values.tlb_dynamic_lb = 1
    values.arp_validate = 0
    values.mode = number
    state.say_what_mode_carries()


def _set_miimon(state: State, number: int) -> None:
    values = state.values
    values.miimon = number
    probed = number and values.arp_interval
    if probed:
        values.arp_interval = 0
        values.arp_validate = 0
    if not state.running:
        return
    if number:
        state.timers.stop(BondTimer.ARP)
        if probed:
            _trust_carriers(state)
        if values.link_events:  # carriers count when they change: nothing waits for a run
            state.timers.set(BondTimer.MONITOR, state.now + number * MS)
        elif state.timers.get(BondTimer.MONITOR) is None or not state.rules.kernel("pending_run_kept"):
            state.run_monitor_now()
    else:
        state.timers.stop(BondTimer.MONITOR)


def _set_arp_interval(state: State, number: int) -> None:
    values = state.values
    values.arp_interval = number
    if number:
        values.miimon = 0
        for member in state.members.values():
            member.delay_ends_at = None  # delays are the MII monitor's
    if not state.running:
        return
    if number:
        state.timers.stop(BondTimer.MONITOR)
        state.probing = True
        if state.timers.get(BondTimer.ARP) is None or not state.rules.kernel("pending_run_kept"):
            state.run_arp_monitor_now()
    else:
        state.timers.stop(BondTimer.ARP)
        if values.arp_validate:
            state.probing = False
        if not values.miimon:
            _trust_carriers(state)


def _trust_carriers(state: State) -> None:
    """The ARP monitor is off: no member is on trial any longer, and with `link_events` the carriers count immediately.

    Else a bond whose targets did not answer stays without an active member until a miimon is set (row `polled_links`).
    """
    if state.values.link_events:
        arp_monitor.end_trial(state)
        miimon.carrier_changed(state)


def _delay_setter(name: str) -> Callable[[State, int], None]:
    def set_delay(state: State, number: int) -> None:
        miimon, words = state.values.miimon, OPTIONS[name].label
        if not miimon:
            state.say(f"Unable to set {words} as MII monitoring is disabled", level="error")
            raise Rejected(errno.EPERM, "it counts runs of the MII monitor, which is off", "Set miimon first")
        ticks = number // miimon
        if number % miimon:
            rounded = f"{words} ({number}) is not a multiple of miimon ({miimon}), value rounded to {ticks * miimon} ms"
            state.say(rounded, level="warning")
        state.values.store(name, ticks)

    return set_delay


def _set_all_slaves_active(state: State, number: int) -> None:
    if number == state.values.all_slaves_active:
        return
    state.values.all_slaves_active = number
    for member in state.members.values():
        if member.backup:
            member.inactive = not number


def _set_primary_reselect(state: State, number: int) -> None:
    state.values.primary_reselect = number
    selection.select_active(state)


def _set_min_links(state: State, number: int) -> None:
    state.values.min_links = number
    failover.set_carrier(state)


def _set_link_events(state: State, number: int) -> None:
    state.values.link_events = number
    for member in state.members.values():
        member.delay_ends_at = None
    if state.running and number and not state.values.arp_interval:
        state.run_monitor_now()


def _write_slaves(state: State, text: str) -> None:
    command = first_word(text)[: NAME_CHARACTERS + 1]
    sign, name = command[:1], command[1:]
    if sign not in ("+", "-") or not is_device_name(name):
        state.say("no command found in slaves file - use +ifname or -ifname", level="error")
        raise Rejected(errno.EPERM, f"{text.strip()!r} is not a command", "Write +NAME or -NAME")
    device = state.namespace.get(name)
    if device is None:
        raise Rejected(errno.ENODEV, f"there is no device {name}", "See `ip link`")
    if sign == "+":
        admission.add_member(state, device)
    else:
        departure.remove_member(state, device)


def _write_primary(state: State, text: str) -> None:
    name = text.split("\n", 1)[0]
    values = state.values
    if not name:
        values.primary, state.primary_member = "", None
        selection.select_active(state)
        return
    member = state.members.get(name)
    if member is not None:
        values.primary, state.primary_member, state.force_primary = member.name, member, True
        selection.select_active(state)
        return
    if state.primary_member is not None:
        state.primary_member = None
        selection.select_active(state)
    values.primary = name[:NAME_CHARACTERS]


def _write_active(state: State, text: str) -> None:
    name = first_word(text)[:NAME_CHARACTERS]
    if not name or text.startswith("\n"):
        _clear_active(state)
        return
    device = state.namespace.get(name)
    if device is None:
        raise Rejected(errno.ENODEV, f"there is no device {name}", "See the file slaves")
    member = _own_member(state, device)
    if member is state.active_member:
        state.preparation = None
        return
    if state.active_member is None or member.link is not Link.UP or not member.usable:
        reason = f"Could not set as active slave; either {name} is down or the link is down"
        state.say(reason, member, "error")
        why = "no member is active" if state.active_member is None else f"{name} is down or its link is down"
        raise Rejected(errno.EINVAL, why, "See the members' mii_status")
    if selection.may_prepare(state, member):
        selection.prepare(state, member)
    else:
        selection.switch(state, member)


def _own_member(state: State, device: Device) -> Member:
    member = state.member_of(device)
    if member is None:
        other = device.master is not None
        state.say_of(f"Device is not {'our' if other else 'bonding'} slave", device.name, "error")
        raise Rejected(errno.EINVAL, f"{device.name} is not one of its members", "See the file slaves")
    return member


def _clear_active(state: State) -> None:
    """Choose again; see the row `cleared_active_drops`."""
    state.preparation = None
    if state.rules.kernel("cleared_active_drops"):
        failover.change_active(state, None)
        selection.select_active(state)
        return
    present, state.active_member = state.active_member, None
    best = selection.find_best(state)
    state.active_member = present
    if best is None or best is present:
        return
    if selection.may_prepare(state, best):
        selection.prepare(state, best)
    else:
        selection.switch(state, best)


def _write_queue(state: State, text: str) -> None:
    name, colon, number = text.partition(":")
    digits = _SHORT.match(number)
    queue = int(digits.group(1)) & 0xFFFF if digits else -1  # `%hd`: what does not fit wraps, what follows is ignored
    device = state.namespace.get(name) if is_device_name(name) else None
    member = state.member_of(device) if device is not None else None
    taken = queue and any(m.queue_id == queue for m in state.members.values() if m is not member)
    if not colon or not 0 <= queue <= MAX_QUEUE or member is None or taken:
        why = f"{text.strip()!r} is not NAME:ID of a member, with an ID up to {MAX_QUEUE} that no other member has"
        raise Rejected(errno.EPERM, why, "For example: ib0:1")
    member.queue_id = queue


def _write_targets(state: State, text: str) -> None:
    line = text.split("\n", 1)[0]
    target = addresses.parse_ipv4(line[1:])
    if target is None:
        state.say("invalid ARP target specified", level="error")
        raise Rejected(errno.EPERM, f"{line!r} has no IPv4 address after its sign", "Write +A.B.C.D or -A.B.C.D")
    if line[0] == "+":
        add_target(state, target)
    elif line[0] == "-":
        remove_target(state, target)
    else:
        state.say("no command found in arp_ip_targets file - use +<addr> or -<addr>", level="error")
        raise Rejected(errno.EPERM, f"{line!r} has no sign", "Write +A.B.C.D or -A.B.C.D")


def add_target(state: State, target: bytes) -> None:
    """One IPv4 target more; raises `Rejected`."""
    values, text = state.values, ".".join(map(str, target))
    if target in (bytes(4), b"\xff" * 4):
        state.say(f"invalid ARP target {text} specified for addition", level="error")
        raise Rejected(errno.EINVAL, f"{text} is not the address of a host", "Name a host")
    if target in values.arp_ip_target:
        state.say(f"ARP target {text} is already present", level="error")
        raise Rejected(errno.EINVAL, f"{text} is a target already", "Choose another host")
    if len(values.arp_ip_target) == MAX_TARGETS:
        state.say("ARP target table is full!", level="error")
        raise Rejected(errno.EINVAL, f"the list already has {MAX_TARGETS} targets", "Remove one first")
    place = len(values.arp_ip_target)
    for member in state.members.values():
        member.target_rx[place] = state.now
    values.arp_ip_target += (target,)


def remove_target(state: State, target: bytes) -> None:
    values, text = state.values, ".".join(map(str, target))
    if target not in values.arp_ip_target:
        invalid = target in (bytes(4), b"\xff" * 4)
        text = f"invalid ARP target {text} specified for removal" if invalid else ""
        state.say(text or f"unable to remove nonexistent ARP target {text}", level="error")
        raise Rejected(errno.EINVAL, f"{text} is not a target", "See the file arp_ip_target")
    if len(values.arp_ip_target) == 1 and values.arp_interval:
        state.say("Removing last arp target with arp_interval on", level="warning")
    place = values.arp_ip_target.index(target)
    for member in state.members.values():
        member.target_rx = [*member.target_rx[:place], *member.target_rx[place + 1 :], 0]
    values.arp_ip_target = tuple(other for other in values.arp_ip_target if other != target)


def _write_targets6(state: State, text: str) -> None:
    line, values = text.split("\n", 1)[0], state.values
    target = addresses.parse_ipv6(line[1:])
    if target is None or line[0] not in "+-":
        raise Rejected(errno.EPERM, f"{line!r} is not a sign and an IPv6 address", "Write +ADDRESS or -ADDRESS")
    if line[0] == "-":
        if target not in values.ns_ip6_target:
            raise Rejected(errno.EINVAL, f"{line[1:]} is not a target", "See its current value first")
        values.ns_ip6_target = tuple(other for other in values.ns_ip6_target if other != target)
        return
    special = target[0] == 0xFF or int.from_bytes(target, "big") <= 1
    if special or target in values.ns_ip6_target or len(values.ns_ip6_target) == MAX_TARGETS:
        raise Rejected(errno.EINVAL, f"{line[1:]} cannot be a target, is one, or there are 16", "Choose another host")
    values.ns_ip6_target += (target,)


def _write_actor_system(state: State, text: str) -> None:
    system = addresses.parse_ethernet(text.split("\n", 1)[0])
    if system is None or system[0] & 1:
        state.say("Invalid ad_actor_system MAC address.", level="error")
        raise Rejected(errno.EINVAL, "it is not a unicast Ethernet address", "Write six octets with colons")
    state.values.ad_actor_system = system


_NUMBERS: dict[str, Callable[[State, int], None]] = {
    "mode": _set_mode,
    "miimon": _set_miimon,
    "arp_interval": _set_arp_interval,
    **{name: _delay_setter(name) for name in sorted(TICKS)},
    "all_slaves_active": _set_all_slaves_active,
    "primary_reselect": _set_primary_reselect,
    "min_links": _set_min_links,
    "link_events": _set_link_events,
}

_RAW: dict[str, Callable[[State, str], None]] = {
    "slaves": _write_slaves,
    "primary": _write_primary,
    "active_slave": _write_active,
    "queue_id": _write_queue,
    "arp_ip_target": _write_targets,
    "ns_ip6_target": _write_targets6,
    "ad_actor_system": _write_actor_system,
}
