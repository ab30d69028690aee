"""What bonds owe their peers and operators, over time: carrier, primary, delays, announcements, memberships.

Read first: `sim/checkers`, for promises of one moment. Here a checker remembers: since when a member is usable, how
many announcements have left since a failover (read from the datagrams that hosts give to the subnet). Left out: what
traffic feels (`sim/traffic`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ibbond.bonding.bond import Bond
from ibbond.bonding.events import SetOption
from ibbond.bonding.member import Link, Member
from ibbond.bonding.option import Mode
from ibbond.errors import Malformed
from ibbond.fabric.events import KillSubnetManager
from ibbond.ipoib.membership import NOTHING
from ibbond.machine import MS
from ibbond.sim.checkers import Broken, bonds
from ibbond.stack.events import NetworkEvent, OnHost, OnSubnet, ToBond
from ibbond.wire import arp, nd
from ibbond.wire.group_reports import is_report
from ibbond.wire.ipoib import ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Encapsulated

if TYPE_CHECKING:
    from ibbond.sim.world import World

PRIMARY_MS = 150  # a planned switch is prepared for up to 100 ms
ANNOUNCED_MS = 300  # beyond the spacing of the announcements
REPORT = b"report"


@dataclass(slots=True)
class Failover:
    """One failover, and what has been announced through the new member since."""

    bond: str
    member: str
    port: str
    at: int
    due: int
    unmanaged: bool  # without a subnet manager, for a while at least
    announced: Counter[bytes] = field(default_factory=Counter)
    groupless: bool = False  # the host was in no group, for a while at least: there is nothing to report


@dataclass(slots=True)
class BondPromises:
    """One per world. `follow` after everything but packets, `announced` for announcements, `check_end` at the end."""

    failovers: dict[str, Failover] = field(default_factory=dict)
    _active: dict[str, str | None] = field(default_factory=dict)
    _usable: dict[tuple[str, str], tuple[bool, int, bool]] = field(default_factory=dict)
    _links: dict[tuple[str, str], Link] = field(default_factory=dict)
    _just_at: int = -1
    _just: dict[str, Counter[bytes]] = field(default_factory=dict)
    _primary_waits: dict[str, int] = field(default_factory=dict)
    _chosen: set[str] = field(default_factory=set)  # bonds whose active member an operator has chosen

    def on_fault(self, event: NetworkEvent) -> None:
        match event:
            case OnHost(host, ToBond(bond, SetOption("active_slave", _))):
                self._chosen.add(f"{host}/{bond}")
            case OnSubnet(KillSubnetManager()):
                for failover in self.failovers.values():
                    failover.unmanaged = True
            case _:
                pass

    def follow(self, world: World) -> None:
        """Look at every bond; raise `Broken`."""
        for name, bond in bonds(world):
            if bond.values.kind is not Mode.ACTIVE_BACKUP:
                continue
            carrier_follows_members(name, bond)
            self._follow_primary(world, name, bond)
            for member in bond.members.values():
                self._follow_delays(world, name, bond, member)
            if self._active.get(name) != bond.active:
                self._failed_over(world, name, bond)
        for failover in self.failovers.values():
            host, _, device = failover.bond.partition("/")
            layer = world.network.hosts[host].ip.get(device)  # Linux's `ip_mc_rejoin_groups` repeats what is joined
            failover.groupless |= layer is None or not layer.groups.joined
        for failover in [each for each in self.failovers.values() if each.due <= world.now]:
            del self.failovers[failover.bond]
            self._check_announced(world, failover)

    def _follow_primary(self, world: World, name: str, bond: Bond) -> None:
        primary = bond.members.get(bond.values.primary)
        if primary is None or primary.link is not Link.UP:
            self._chosen.discard(name)
        if (
            primary is None
            or not bond.device.up
            or primary.link is not Link.UP
            or bond.active == primary.name
            or bond.values.number("primary_reselect")
            or name in self._chosen
        ):
            self._primary_waits.pop(name, None)
        elif world.now - self._primary_waits.setdefault(name, world.now) > PRIMARY_MS * MS:
            raise Broken(f"{name} has {bond.active} active although its primary {primary.name} is up")

    def _follow_delays(self, world: World, name: str, bond: Bond, member: Member) -> None:
        """With `link_events`: a member is up `updelay` after its carrier is back, down `downdelay` after it is lost."""
        key, values = (name, member.name), bond.values
        before = bond.members.get(self._active.get(name) or "")
        lonely = bond.active is None or before is None or before.link is not Link.UP  # updelay is not waited for
        kept = self._links.get(key) is not Link.DOWN  # its downdelay was not over: it is up again at once
        self._links[key] = member.link
        usable, since, alone = self._usable.get(key, (member.device.usable, world.now, True))
        if usable != member.device.usable or not bond.device.up or not values.link_events or not values.miimon:
            self._usable[key] = (member.device.usable, world.now, lonely or kept)
            return
        alone = alone or lonely or member.link is Link.FAIL
        delay = (values.updelay if usable else values.downdelay) * values.miimon * MS
        wanted, lasted = Link.UP if usable else Link.DOWN, world.now - since
        self._usable[key] = (usable, since, alone or member.link is wanted)
        if member.link is not wanted and lasted > delay + MS:
            raise Broken(f"{name}: {member.name} is {member.link.word} {lasted / MS:.0f} ms after its carrier changed")
        if usable and member.link is Link.UP and lasted + MS < delay and not alone:
            raise Broken(f"{name}: {member.name} is up {lasted / MS:.0f} ms after its carrier, before its updelay")

    def _failed_over(self, world: World, name: str, bond: Bond) -> None:
        self._active[name] = bond.active
        self.failovers.pop(name, None)
        if bond.active is None or not bond.device.up or world.now < world.story.quiet_ms * MS:
            return
        if bond.rules.defects:
            return  # the kernel counts otherwise, see `announcements_burnt` and `announcements_lost_in_outage`
        values = bond.values
        spacing = values.peer_notif_delay * values.miimon or values.miimon or values.arp_interval or 100
        due = world.now + (values.num_peer_notif * spacing + ANNOUNCED_MS) * MS
        port = world.story.topology.port_of(f"{name.partition('/')[0]}/{bond.active}")
        unmanaged = world.manager_dead or world.network.subnet.manager is None
        just = self._just.get(port, Counter()) if self._just_at == world.now else Counter()
        self.failovers[name] = Failover(name, bond.active, port, world.now, due, unmanaged, Counter(just))

    def announced(self, now: int, port: str, found: list[bytes]) -> None:
        """A host gives these (see `announced_by`) to the subnet at `port`: they count for its failover."""
        if now != self._just_at:
            self._just_at, self._just = now, {}
        self._just.setdefault(port, Counter()).update(found)  # those of this moment may be of a failover in it
        failover = next((each for each in self.failovers.values() if each.port == port), None)
        if failover is not None:
            failover.announced.update(found)

    def _check_announced(self, world: World, failover: Failover) -> None:
        host, _, device = failover.bond.partition("/")
        bond = world.network.hosts[host].registry.bonds.get(device)
        if bond is None or bond.active != failover.member or not bond.device.carrier:
            return
        wanted = bond.values.num_peer_notif
        for address, at in world.hosts[host].addresses.items():
            if at == device and failover.announced[address] != wanted:
                raise Broken(
                    f"{failover.bond} announced {address.hex()} {failover.announced[address]} times after its"
                    f" failover to {failover.member} at {failover.at / MS:.3f} ms, and num_grat_arp is {wanted}"
                )
        if failover.unmanaged or world.manager_dead or failover.groupless:
            return  # without the administrator no group can be joined, and no report leaves
        if bond.values.resend_igmp and not failover.announced[REPORT]:
            raise Broken(f"{failover.bond} reported no group after it failed over to {failover.member}")

    def check_end(self, world: World) -> None:
        """The last failovers were announced, and the administrator has exactly the memberships that hosts hold."""
        self.follow(world)  # nothing may have changed since they were due
        manager = world.network.subnet.manager
        if manager is None:
            return
        held: dict[bytes, set[int]] = {}
        for host in world.network.hosts.values():
            for interface in host.links:
                for group in interface.groups:
                    if group.held is not NOTHING:
                        held.setdefault(group.mgid, set()).add(int.from_bytes(interface.port.gid[8:]))
        for mgid, known in manager.groups.by_mgid.items():
            if set(known.members) != held.get(mgid, set()):
                raise Broken(
                    f"group {mgid.hex(':', 2)} has {len(known.members)} members, and {len(held.get(mgid, ()))} hold it"
                )


def carrier_follows_members(name: str, bond: Bond) -> None:
    """A bond that is up has carrier exactly when a member is up, or carries traffic while its downdelay runs."""
    if not bond.device.up or bond.rules.defects:
        return
    active = bond.members.get(bond.active or "")
    up = any(member.link is Link.UP for member in bond.members.values())
    if bond.device.carrier != (up or (active is not None and active.link is Link.FAIL)):
        raise Broken(f"{name} has carrier {bond.device.carrier}, and {'a' if up else 'no'} member is up")


def announced_by(payload: bytes) -> list[bytes]:
    """The addresses that a frame announces unasked; `REPORT` for a group report."""
    try:
        frame = Encapsulated.parse(payload)
        if frame.ethertype == ETHERTYPE_ARP:
            packet = arp.Arp.parse(frame.payload)
            return [packet.sender_ip] if packet.gratuitous else []
        if frame.ethertype not in (ETHERTYPE_IPV4, ETHERTYPE_IPV6):
            return []
        if is_report(frame.payload):
            return [REPORT]
        if frame.ethertype == ETHERTYPE_IPV6 and nd.is_message(frame.payload):
            message = nd.parse(frame.payload)
            if isinstance(message, nd.NeighborAdvertisement) and not message.solicited:
                return [message.target]
    except Malformed:
        pass
    return []
