"""What must hold before a bond is made to fail, and which classes are safe on it. Pure: facts in, refusals out.

Read first: `drill.classes`. The facts come from a world (a lab, the simulator, this host). A fact that the world does
not tell is None, and then its guard stays silent; that the second member is up is always known.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ibbond.drill.classes import CLASSES, DrillClass, Traffic
from ibbond.errors import Refused

HOP = re.compile(r"->[^{]*\{(0x[0-9a-f]+)\}\[(\d+)\]", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Member:
    """A member of the bond: `is_up` is the bond's own judgement (MII), the rest what its port says."""

    name: str
    is_up: bool
    port: str = ""  # two members of one port (P_Key children) are one member for a drill
    adapter: str = ""
    switch: str = ""
    port_state: str | None = None  # ACTIVE, INIT, DOWN
    hardware_address: bytes = b""


@dataclass(frozen=True, slots=True)
class BondFacts:
    """A bond before a drill. `errors` are those of `ibbond check`; `busy` says what else changes the network now."""

    name: str  # as people write it: bond0, h1/bond0
    mode: str
    is_up: bool
    active: str | None
    members: tuple[Member, ...]
    errors: tuple[str, ...] = ()
    session_over_bond: str | None = None  # the controlling session that runs over it
    busy: str | None = None
    way_to_far_end: str | None = None  # why the undo of a disabled far end could not be sent
    has_arp_monitor: bool = False
    primary: str | None = None
    primary_reselect: str = "always"

    def member(self, name: str | None) -> Member | None:
        return next((member for member in self.members if member.name == name), None)

    @property
    def spare(self) -> Member | None:
        """The member that is to take over: up, on another port than the active one."""
        active = self.member(self.active)
        usable = [m for m in self.members if m is not active and m.is_up and m.port_state in (None, "ACTIVE")]
        return next((m for m in usable if active is None or not m.port or m.port != active.port), None)

    def returns_to(self, victim: str) -> bool:
        """Whether the bond goes back to a member by itself once it is up again."""
        return self.primary == victim and self.primary_reselect == "always"


def refuse_unsafe(facts: BondFacts, *, has_console: bool = False) -> None:
    """Raise `Refused` with the first reason not to drill this bond at all."""
    what = f"cannot drill {facts.name}"
    if facts.mode != "active-backup":
        raise Refused(what, why=f"its mode is {facts.mode}", fix="Drill a bond in mode active-backup")
    if not facts.is_up:
        raise Refused(what, why="it is down", fix=f"Set it up: ip link set {facts.name.rpartition('/')[2]} up")
    if len(facts.members) < 2:
        count = "only one member" if facts.members else "no members"
        raise Refused(what, why=f"it has {count}", fix="Add a second one: ibbond bond add BOND MEMBER")
    active = facts.member(facts.active)
    if active is None:
        raise Refused(what, why="none of its members is active", fix="See why with: ibbond bond show BOND")
    if facts.spare is None:
        raise Refused(what, why=_why_no_spare(facts, active), fix="Repair that first; run ibbond check for how")
    if facts.errors:
        more = f" and {len(facts.errors) - 1} more" if len(facts.errors) > 1 else ""
        raise Refused(
            what, why=f"ibbond check finds an error: {facts.errors[0]}{more}", fix="Run ibbond check and fix it"
        )
    if facts.session_over_bond and not has_console:
        raise Refused(
            what,
            why=f"the session that controls the drill runs over it ({facts.session_over_bond})",
            fix="Log in another way, or confirm with --i-have-a-console that you can",
        )
    if facts.busy:
        raise Refused(what, why=facts.busy, fix="Wait until it is done")


def _why_no_spare(facts: BondFacts, active: Member) -> str:
    """The state of the members beside the active one."""
    states = []
    for member in facts.members:
        if member is active:
            continue
        if not member.is_up:
            states.append(f"{member.name} is down")
        elif member.port_state not in (None, "ACTIVE"):
            states.append(f"the port of {member.name} is {member.port_state}")
        else:
            states.append(f"{member.name} is on the same port as {active.name}")
    return f"no second member could take over: {', '.join(states)}"


def why_not(row: DrillClass, facts: BondFacts) -> str | None:
    """Why a class is not safe on this bond, or None. Only for bonds that `refuse_unsafe` lets pass."""
    active, spare = facts.member(facts.active), facts.spare
    assert active is not None
    assert spare is not None
    if row.name == "adapter-removed" and active.adapter and active.adapter == spare.adapter:
        return f"{active.name} and {spare.name} are ports of one adapter, which takes both"
    if row.name == "port-disabled" and active.adapter and active.adapter != spare.adapter:
        return (
            f"the undo has to be sent through another port of {active.adapter}, and {spare.name} is on {spare.adapter}"
        )
    if row.name == "switch-death" and active.switch and active.switch == spare.switch:
        return f"{active.name} and {spare.name} are on one switch"
    if row.name == "far-end-disabled" and facts.way_to_far_end is not None:
        return facts.way_to_far_end
    return None


def why_way_is_unsafe(trace: str, spare: str, far_guid: int, far_port: int) -> str | None:
    """Why the far end must not be disabled from the spare port: `trace` is what ibtracert prints of the way there.

    A hop reads `[OUT] -> switch port {GUID}[IN] lid ...`. The way crosses the victim when it enters its switch by the
    very port that would be disabled; without a way at all the undo could not be sent either.
    """
    hops = HOP.findall(trace)
    if not any(int(guid, 16) == far_guid for guid, _ in hops):
        return f"there is no way from {spare} to the far end, by which the undo could be sent"
    if any(int(guid, 16) == far_guid and int(port) == far_port for guid, port in hops):
        return f"the way from {spare} to the far end crosses the cable that would be disabled"
    return None


def is_noticed(row: DrillClass, facts: BondFacts) -> bool:
    """Whether a monitor of this bond can see the fault."""
    return not row.silent or facts.has_arp_monitor


def chosen(names: Sequence[str], possible: Sequence[str], world: str) -> tuple[list[DrillClass], list[tuple[str, str]]]:
    """The classes to drill, and those left out with the reason. `Refused` for a name that does not exist."""
    for name in names:
        if name not in CLASSES:
            raise Refused(
                f"no class {name}", why="drills have none of that name", fix=f"Choose one of {', '.join(CLASSES)}"
            )
        if name not in possible:
            raise Refused(f"cannot drill {name} here", why=f"{world} has no way to do it", fix="Choose another class")
    rows = [row for name, row in CLASSES.items() if name in possible and (not names or name in names)]
    left_out = [
        (name, "not asked for" if name in possible else f"{world} has no way to do it")
        for name in CLASSES
        if CLASSES[name] not in rows
    ]
    return rows, left_out


def moves(row: DrillClass, facts: BondFacts) -> bool:
    """Whether the bond is expected to have another active member after the fault."""
    return row.traffic in (Traffic.STOPS, Traffic.MOVES) and is_noticed(row, facts)
