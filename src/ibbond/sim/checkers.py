"""What must hold at every moment of every story, whatever breaks; one checker per promise.

A checker looks at the world after each step and raises `Broken` with the sentence that is no longer true. They read the
same model that the live lab runs; they never change it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ibbond.bonding.bond import Bond
from ibbond.bonding.member import Link
from ibbond.machine import MS
from ibbond.stack.events import Deliver

if TYPE_CHECKING:
    from ibbond.sim.programs import Probe
    from ibbond.sim.world import World


class Broken(AssertionError):
    """A promise that does not hold; the message says which, where and when."""


def bonds(world: "World") -> list[tuple[str, Bond]]:
    return [
        (f"{name}/{bond.device.name}", bond)
        for name, host in world.network.hosts.items()
        for bond in host.registry.bonds.values()
    ]


def at_most_one_active(world: "World") -> None:
    """Only the active member is in state active; while there is none, the one that the ARP monitor tries."""
    for name, bond in bonds(world):
        active = [member.name for member in bond.members.values() if not member.backup]
        if active and active not in ([bond.active], [bond.on_trial]):
            raise Broken(f"{name} has {active} in state active, and {bond.active} is the active member")


def some_member_active(world: "World") -> None:
    """While a member's link is up (its delays are over), one is active."""
    for name, bond in bonds(world):
        if bond.active is None and bond.device.up:
            up = [member.name for member in bond.members.values() if member.link is Link.UP]
            if up:
                raise Broken(f"{name} has no active member although {up} are up")


def active_member_is_up(world: "World") -> None:
    """A member whose link is down does not stay active while another one is up."""
    for name, bond in bonds(world):
        if bond.active is None or bond.members[bond.active].link is not Link.DOWN or not bond.device.up:
            continue
        if any(member.link is Link.UP for member in bond.members.values()):
            raise Broken(f"{name} keeps {bond.active}, which is down, although another member is up")


def address_is_the_active_members(world: "World") -> None:
    """With fail_over_mac=active the bond's hardware address is its active member's."""
    for name, bond in bonds(world):
        if bond.active is None:
            continue
        member = bond.members[bond.active].device
        if member.type == bond.device.type and member.address != bond.device.address:
            raise Broken(f"{name} has address {bond.device.address.hex(':')}, {bond.active} {member.address.hex(':')}")


STATE_CHECKERS: tuple[Callable[["World"], None], ...] = (
    at_most_one_active,
    some_member_active,
    active_member_is_up,
    address_is_the_active_members,
)


@dataclass(slots=True)
class DeliveryChecker:
    """No frame is delivered twice, and none through a backup but within `handover_ms` after a switch."""

    last_active: dict[str, tuple[str | None, str | None, int]] = field(default_factory=dict)

    def follow(self, world: "World") -> None:
        """Remember, per bond, the active member, the one before it, and when that one ceased to be (none is no one)."""
        for name, bond in bonds(world):
            active, before, since = self.last_active.get(name, (None, None, 0))
            if active is not None and active != bond.active:
                before, since = active, world.now
            self.last_active[name] = (bond.active, before, since)

    def delivered(self, world: "World", effect: Deliver) -> None:
        """A packet reached a host's IP stack through a member of a bond."""
        name = f"{effect.host}/{effect.device}"
        if not effect.member or name not in self.last_active:
            return
        active, before, since = self.last_active[name]
        bond = world.network.hosts[effect.host].registry.bonds[effect.device]
        grace = bond.values.number("handover_ms") * MS
        if effect.member == active or (effect.member == before and world.now - since <= grace):
            return
        if effect.member in (bond.active, bond.on_trial):  # became active in this very step, or is tried
            return
        raise Broken(f"{name} delivered a frame through {effect.member}, and {active} is active")


def arrives_once(probe: "Probe", host: str) -> None:
    """A probe has reached the program of a host: for the first time, or two copies were delivered."""
    if probe.copies[host] > 1:
        raise Broken(f"{probe.kind} probe {probe.number} of {probe.source} reached {host} {probe.copies[host]} times")


def all_reached(world: "World") -> None:
    """At the end: every probe sent after the settle time has arrived where it should."""
    settled = (world.last_fault_ms + world.story.settle_ms) * MS + world.began
    last = world.now - 200 * MS  # what was sent later may still be on its way
    for probe in world.probes:
        if not settled <= probe.sent_at <= last:
            continue
        if probe.kind == "icmp" and probe.answered_at is None:
            raise Broken(
                f"ping {probe.number} from {probe.source} to {probe.target} was not answered after the settle time"
            )
        if probe.kind == "udp" and probe.target not in probe.copies:
            raise Broken(
                f"UDP probe {probe.number} from {probe.source} did not reach {probe.target} after the settle time"
            )
        if probe.kind == "multicast":
            deaf = [host for host in world.listeners if host != probe.source and host not in probe.copies]
            if deaf:
                raise Broken(f"multicast probe {probe.number} of {probe.source} did not reach {deaf} after settling")
