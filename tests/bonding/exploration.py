"""The pure bonding core explored to the end: every state that two members can bring it into, and a promise that breaks.

From one state all events of a small world lead on: cables, administrative states, the primary, members added and
removed, the bond down and up, half an interval of time. States are distinguished by all that decides what happens next;
counters and absolute times are left out (a time counts as its distance from now). Breadth first, so that the first
broken promise has the shortest story. Where monitor and another event are due at once, both orders are tried: an event
before the time that makes the monitor due is at the same distance as one after it.
"""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from ibbond.bonding import events as e
from ibbond.bonding.effects import BondEffect, FailedOver, NotifyPeers, Prepare
from ibbond.bonding.member import Link
from ibbond.bonding.registry import Registry
from ibbond.bonding.state import BondTimer
from ibbond.errors import Refused
from ibbond.machine import MS
from ibbond.netdev.device import AddressOrigin, NetdevEvent
from ibbond.netdev.namespace import Namespace
from ibbond.wire.hardware_type import INFINIBAND
from tests.bonding.bond_host import IB_ADDRESSES, FakeDriver, infiniband

MEMBERS = ("ib1", "ib2")
MIIMON = 100
HALF = MIIMON // 2 * MS
STEPS = 8  # a time further away than so many half intervals is as good as past

Act = Callable[["World"], list[BondEffect]]


@dataclass
class World:
    """A bond of two members and its host; `now` only grows."""

    namespace: Namespace = field(default_factory=Namespace)
    now: int = 1_000 * MS
    usable_since: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.registry = Registry(self.namespace)
        for name in MEMBERS:
            self.namespace.register(infiniband(name, IB_ADDRESSES[name]))
        self.bond = self.registry.create(self.now, "bond0")

    def do(self, event: e.BondEvent) -> list[BondEffect]:
        """One request and what is due at once; a refused one changes nothing that counts here."""
        try:
            effects = self.bond.handle(self.now, event)
        except Refused:
            effects = []
        return effects + self.run_due()

    def run_due(self) -> list[BondEffect]:
        effects: list[BondEffect] = []
        while not self.bond.gone and (at := self.bond.deadline()) is not None and at <= self.now:
            effects += self.bond.tick(self.now)
        return effects

    def wait(self) -> list[BondEffect]:
        effects, until = [], self.now + HALF
        while not self.bond.gone and (at := self.bond.deadline()) is not None and at <= until:
            self.now = max(self.now, at)
            effects += self.bond.tick(self.now)
        self.now = until
        return effects

    def plug(self, name: str, on: bool) -> list[BondEffect]:
        device = self.namespace.get(name)
        if device is None:
            return []
        driver = device.driver
        assert isinstance(driver, FakeDriver)
        driver.plugged = on
        device.set_carrier(on and device.up)
        return self.run_due()

    def admin(self, name: str, up: bool) -> list[BondEffect]:
        device = self.namespace.get(name)
        if device is None:
            return []
        device.open() if up else device.close()
        return self.run_due()

    def readdress(self, name: str) -> list[BondEffect]:
        device = self.namespace.get(name)
        if device is None:
            return []
        device.address = bytes((device.address[0], device.address[1] ^ 1)) + device.address[2:]
        device.address_origin = AddressOrigin.PERMANENT
        device.notify(NetdevEvent.CHANGEADDR)
        return self.run_due()

    def unregister(self, name: str) -> list[BondEffect]:
        device = self.namespace.get(name)
        if device is not None:
            self.namespace.unregister(device)
        return self.run_due()


def key(world: World) -> Hashable:
    """All that decides what happens next; equal keys have equal successors."""
    bond, now = world.bond, world.now

    def distance(at: int | None) -> int | None:
        return None if at is None or at < now - STEPS * HALF else min(at - now, STEPS * HALF)

    state = bond._state
    devices = tuple(
        (name, None) if (device := world.namespace.get(name)) is None
        else (name, device.up, device.carrier, device.driver.plugged, device.address, device.master is not None)  # type: ignore[attr-defined]
        for name in MEMBERS
    )  # fmt: skip
    members = tuple(
        (
            member.name, member.link, member.delay, distance(member.delay_ends_at), member.backup, member.inactive,
            max(0, distance(member.receives_until) or 0), member.original_mtu, member.permanent_address,
        )
        for member in bond.members.values()
    )  # fmt: skip
    waiting = state.preparation
    return (
        devices, members, bond.gone, bond.device.up, bond.device.carrier, bond.device.type,
        bond.device.address if bond.members else None,
        bond.active, state.primary_member.name if state.primary_member else None, state.force_primary,
        repr(bond.values),
        state.announcements_left, distance(state.announce_at), state.reports_left, state.lock_taken,
        (waiting.target.name, distance(waiting.until)) if waiting else None,
        tuple(distance(state.timers.get(timer)) for timer in BondTimer),
    )  # fmt: skip


ASKED = ("switch", "primary ib1", "clear", "remove", "unregister", "down", "unplug")  # reasons to move the traffic


def at_rest(world: World) -> bool:
    return not world.bond.gone and world.bond.device.up


def state_promises(before: World, world: World, did: str, effects: list[BondEffect]) -> str | None:
    """What holds in every state, and after every step, of a driver without known defects."""
    bond = world.bond
    if bond.gone:
        return "the bond is gone without a request"
    active = bond.members.get(bond.active or "")
    up = [member for member in bond.members.values() if member.link is Link.UP]
    states = [member.name for member in bond.members.values() if not member.backup]
    if states not in ([], [bond.active]):
        return f"{states} are in state active, and {bond.active} is the active member"
    if bond.device.up and active is None and up:
        return "no member is active, although one is up"
    if bond.device.up and active is not None and active.link is Link.DOWN and up:
        return "a member that is down is active, although another one is up"
    if active is not None and active.device.address != bond.device.address:
        return "the bond has not the address of its active member"
    if bond.device.up and bond.device.carrier != bool(up or (active is not None and active.link is Link.FAIL)):
        return f"carrier is {bond.device.carrier}, and {len(up)} members are up"
    if not bond.members and bond.device.type == INFINIBAND and any(bond.device.address[6:]):
        return "a bond without members has a part of an address of a member"
    if bond.route() != bond.active:
        return "frames leave by another member than the active one"
    delay = bond.values.downdelay
    if bond.device.up and not delay and any(not member.usable for member in up):
        return "a member without carrier is up, and it is not noticed at once"
    return None


def step_promises(before: World, world: World, did: str, effects: list[BondEffect]) -> str | None:
    """What one step may not do: move traffic without a reason, lose frames of a planned switch, forget peers."""
    bond, old = world.bond, before.bond
    moved = [effect for effect in effects if isinstance(effect, FailedOver)]
    prior = bond.members.get(old.active or "")
    works = prior is not None and prior.link is Link.UP and prior.usable and at_rest(before) and at_rest(world)
    if works and old.active != bond.active:
        assert prior is not None
        if not any(isinstance(effect, Prepare) for effect in effects) and before.bond._state.preparation is None:
            return "a working member was left before the new one was prepared"
        if not bond.accepts(prior.name, world.now) and did != "wait":
            return "frames on their way to the member that was left are dropped"
        if not bond.values.primary and not did.startswith(ASKED) and before.bond._state.preparation is None:
            return "traffic was moved away from a working member without a request"
    begun = bond._state.preparation is not None and before.bond._state.preparation is None
    if works and begun and not bond.values.primary and not did.startswith(ASKED):
        return "traffic is to leave a working member without a request"
    if works and moved and old.active == bond.active:
        return "a failover to the member that was active before"
    if bond.active and bond.active != old.active and at_rest(before) and bond.device.carrier:
        notified = sum(isinstance(effect, NotifyPeers) for effect in effects)
        if notified + bond._state.announcements_left < bond.values.num_peer_notif:
            return "peers are notified of a failover less often than num_grat_arp says"
    return None


@dataclass
class Outcome:
    """What an exploration has found; `story` is the shortest that breaks a promise."""

    states: int
    depth: int
    steps: int
    broken: str | None = None
    story: tuple[str, ...] = ()


def events(*, wide: bool) -> dict[str, Act]:
    """What can happen; `wide` adds members, administrative states and devices to cables, primary and time."""
    found: dict[str, Act] = {"wait": lambda world: world.wait()}
    for name in MEMBERS:
        found |= _events_of(name)
    found["primary ib1"] = lambda world: world.do(e.SetOption("primary", "ib1\n"))
    found["primary none"] = lambda world: world.do(e.SetOption("primary", "\n"))
    found["switch ib2"] = lambda world: world.do(e.SetOption("active_slave", "ib2\n"))
    found["clear active"] = lambda world: world.do(e.SetOption("active_slave", "\n"))
    if wide:
        for name in MEMBERS:
            found |= _wide_events_of(name)
        found["bond down"] = lambda world: world.do(e.Close())
        found["bond up"] = lambda world: world.do(e.Open())
    return found


def _events_of(name: str) -> dict[str, Act]:
    return {
        f"unplug {name}": lambda world: world.plug(name, False),
        f"plug {name}": lambda world: world.plug(name, True),
        f"ready {name}": lambda world: world.do(e.Ready(name)),
    }


def _wide_events_of(name: str) -> dict[str, Act]:
    return {
        f"down {name}": lambda world: world.admin(name, False),
        f"up {name}": lambda world: world.admin(name, True),
        f"add {name}": lambda world: world.do(e.AddMember(name)),
        f"remove {name}": lambda world: world.do(e.RemoveMember(name)),
        f"unregister {name}": lambda world: world.unregister(name),
        f"readdress {name}": lambda world: world.readdress(name),
    }


def start(quirk: str = "", **options: Any) -> World:
    """A bond that is up, with both members; one row of the table of defects may be on."""
    world = World()
    if quirk:
        state = world.bond._state
        state.rules = replace(state.rules, defects=frozenset({quirk}))
    usual = {"mode": "active-backup", "miimon": MIIMON, "num_grat_arp": 1, "resend_igmp": 0}
    for option, value in {**usual, **options}.items():
        world.bond.handle(world.now, e.SetOption(option, f"{value}\n"))
    for name in MEMBERS:
        world.do(e.AddMember(name))
    world.do(e.Open())
    for _ in range(6):
        world.wait()
    return world


def explore(world: World, acts: dict[str, Act], *, most: int = 10**9) -> Outcome:
    """Until no new state appears, a promise breaks, or `most` states are known."""
    first = pickle.dumps(world)
    known = {key(world)}
    waiting: deque[tuple[bytes, tuple[str, ...]]] = deque([(first, ())])
    steps = depth = 0
    while waiting and len(known) < most:
        image, story = waiting.popleft()
        for did, after, effects in successors(image, acts):
            steps += 1
            before: World = pickle.loads(image)
            broken = state_promises(before, after, did, effects) or step_promises(before, after, did, effects)
            if broken:
                return Outcome(len(known), depth, steps, broken, (*story, did))
            if (found := key(after)) not in known:
                known.add(found)
                depth = max(depth, len(story) + 1)
                waiting.append((pickle.dumps(after), (*story, did)))
    return Outcome(len(known), depth, steps)


def successors(image: bytes, acts: dict[str, Act]) -> Iterator[tuple[str, World, list[BondEffect]]]:
    for did, act in acts.items():
        world: World = pickle.loads(image)
        yield did, world, act(world)
