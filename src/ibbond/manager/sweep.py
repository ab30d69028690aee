"""One sweep of the subnet manager: look, number, route, connect groups, then open the ports.

Read first: InfiniBand Architecture volume 1, 14.4 (what a subnet manager must do). The order is chosen so that nothing
breaks that works: links between switches open before routes use them, tables are complete before a host's port is
Active, and a multicast tree is kept while it still connects its members.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from ibbond.manager.attachments import Attachments
from ibbond.manager.directory import Directory, EndPort
from ibbond.manager.discovery import PortKey, SeenNode, SeenPort, SubnetMap, asked, discover
from ibbond.manager.groups import Group, Groups
from ibbond.manager.routing import Graph, Tree, choose_root, linear_tables, multicast_masks, spanning_tree
from ibbond.manager.smp_client import SmpRequest, SmpResponses, Task
from ibbond.manager.subnet_config import SubnetConfig
from ibbond.verbs.verbs import FIRST_MLID, PortState
from ibbond.wire.gid import DEFAULT_GID_PREFIX
from ibbond.wire.pkey import DEFAULT_PKEY
from ibbond.wire.port_info import Capability, PortInfo
from ibbond.wire.smp import (
    MLIDS_PER_BLOCK,
    NO_PORT,
    PORTS_PER_POSITION,
    Block16,
    SmControl,
    SmInfo,
    SmpAttribute,
    SmState,
    SwitchInfo,
)

SUBNET_TIMEOUT = 18  # 4.096 us x 2^18, about 1.07 s: how often an agent repeats a trap
PKEYS_PER_BLOCK = 32
LIDS_PER_BLOCK = 64
BLANK = bytes([NO_PORT]) * LIDS_PER_BLOCK
IS_SM = int(Capability.IS_SM)
Ends = Sequence[tuple[SeenNode, SeenPort]]  # the ports with a LID of their own
UNKNOWN = b""  # a block that must be written whatever it should hold


@dataclass(slots=True)
class Change:
    """What a sweep found to be different; `again` when something could not be done and must be tried again."""

    arrived: list[EndPort] = field(default_factory=list)
    gone: list[EndPort] = field(default_factory=list)
    moved: set[int] = field(default_factory=set)  # GUIDs of adapter ports that have another LID than ever before
    groups_ended: list[Group] = field(default_factory=list)
    competing_master: bool = False  # another master is there, which has to yield to this one
    again: bool = False
    better_master: int = 0  # the GUID of a manager to which this one must yield; nothing was written then


class Sweeper:
    """What a manager has written so far, and the tasks that write more."""

    def __init__(self, guid: int, config: SubnetConfig, groups: Groups, directory: Directory) -> None:
        self._guid = guid
        self._config = config
        self._groups = groups
        self._directory = directory
        self._lids = config.lids
        self._switches: list[SeenNode] = []  # of the last map
        self._graph: Graph = {}
        self._linear: dict[int, dict[int, bytes]] = {}  # switch -> block -> what was written
        self._masks: dict[int, dict[int, int]] = {}  # switch -> MLID -> what was written
        self._trees: dict[int, Tree] = {}
        self._seats: dict[int, Attachments] = {}  # by MLID
        self._trusted = SubnetMap()  # the last map, where it is known to be complete
        self._failed = False  # a table could not be written
        self._register_all = False
        self._to_register: dict[int, None] = {}  # GUIDs that did not answer when asked to register
        self._published: dict[int, int] = {}  # GUID -> the last LID that the administrator gave out, gone ports too

    @property
    def failed(self) -> bool:
        """Something could not be written since the last sweep began: only another one makes it true."""
        return self._failed

    def resync(self) -> None:
        """Trust nothing that was written before, but keep LIDs; every port is asked to register."""
        self._linear.clear()
        self._masks.clear()
        self._trees.clear()
        self._register_all = True
        self.rescan()

    def rescan(self) -> None:
        """The next sweep reads everything again."""
        self._trusted = SubnetMap()

    def invalidate(self) -> None:
        """Another manager has written switches: the next sweep reads everything again and writes all tables."""
        self.rescan()
        for node in self._switches:
            self._invalidate(node)

    def sweep(self) -> Generator[Sequence[SmpRequest], SmpResponses, Change]:
        found = yield from discover(self._trusted)
        self._trusted = SubnetMap()
        ends = found.end_ports()
        competitors = yield from self._competing_masters(ends)
        better = next((port for port, is_better in competitors if is_better), None)
        if better is not None:
            yield from self._hand_over(better)
            return Change(better_master=better.guid)
        self._number(ends)
        yield from self._configure(found, ends)
        change = self._publish(found, ends)
        change.competing_master = bool(competitors)
        self._switches = found.switches()
        graph = _graph(found)
        if graph.keys() != self._graph.keys():
            self._seats.clear()
        self._graph = graph
        closed = [key for key in found.links if _is_closed(found, key)]
        yield from self._open(found, [key for key in closed if _joins_switches(found, key)])
        yield from self._write_linear()
        yield from self.write_groups([*self._groups.by_mgid.values(), *change.groups_ended])
        yield from self._open(found, [key for key in closed if not _joins_switches(found, key)])
        self._register_all = False
        if change.moved:
            self._register_all_others(found, change.moved)
        yield from self._register(found)
        change.again = self._failed or found.incomplete
        self._trusted = SubnetMap() if change.again else found
        return change

    def _competing_masters(
        self, ends: Ends
    ) -> Generator[Sequence[SmpRequest], SmpResponses, list[tuple[SeenPort, bool]]]:
        """Other masters, and whether each is better: the higher priority stays, then the lower GUID (14.4.1).

        Two subnets that were joined have two.
        """
        others = [port for _, port in ends if port.info.capability_mask & IS_SM and port.guid != self._guid]
        answers = yield [SmpRequest(port.path, SmpAttribute.SM_INFO) for port in others]
        competitors: list[tuple[SeenPort, bool]] = []
        for port, answer in zip(others, answers, strict=True):
            data = asked(answer)
            other = SmInfo.parse(data) if data is not None else None
            if other is not None and other.state == SmState.MASTER:
                competitors.append((port, (other.priority, -other.guid) > (self._config.priority, -self._guid)))
        return competitors

    def _hand_over(self, better: SeenPort) -> Task:
        """Send the other master a HANDOVER: what this one has written since must be written again by the other."""
        info = SmInfo(self._guid, 0, self._config.priority, SmState.MASTER)
        yield [SmpRequest(better.path, SmpAttribute.SM_INFO, SmControl.HANDOVER, info.pack(), better.info.m_key)]

    def look(self) -> Generator[Sequence[SmpRequest], SmpResponses, bool]:
        """A light sweep: True when a switch is silent or says that one of its ports changed."""
        answers = yield [SmpRequest(switch.path, SmpAttribute.SWITCH_INFO) for switch in self._switches]
        seen = [asked(answer) for answer in answers]
        return any(data is None or SwitchInfo.parse(data).port_state_change for data in seen)

    def reregister(self, guid: int) -> Task:
        """Set ClientReregister on one port, by what was last read of it."""
        for node, port in self._directory.map.end_ports():
            if port.guid == guid and (port.number or node.is_switch):
                yield [_set_port(port, port.info.unchanged().changed(client_reregister=True))]

    def _number(self, ends: Ends) -> None:
        """Every end port keeps its LID; a new one keeps what it brings along if that is free."""
        taken = set(self._lids.values())
        unknown = [port for _, port in ends if port.guid not in self._lids]
        for port in unknown:
            if 0 < port.info.lid < FIRST_MLID and port.info.lid not in taken:
                self._lids[port.guid] = port.info.lid
                taken.add(port.info.lid)
        free = 1
        for port in unknown:
            if port.guid not in self._lids:
                while free in taken:
                    free += 1
                self._lids[port.guid] = free
                taken.add(free)

    def _configure(self, found: SubnetMap, ends: Ends) -> Task:
        """Addresses, timeouts and P_Key tables of end ports, and what switches must know of table sizes."""
        for node in found.switches():
            been_off = 0 in node.ports and node.ports[0].info.lid == 0
            if been_off or node.guid not in self._directory.map.nodes:
                self._invalidate(node)
        ports: list[tuple[SeenPort, PortInfo]] = []
        others: list[SmpRequest] = []
        for node, port in ends:
            wanted = self._wanted(found, node, port)
            if wanted is not None:
                ports.append((port, wanted))
            if not node.is_switch:
                others += self._pkey_asks(port)
        for node in found.switches():
            others += self._switch_asks(node)
        answers = yield [*(_set_port(port, wanted) for port, wanted in ports), *others]
        for (port, wanted), answer in zip(ports, answers, strict=False):
            data = asked(answer)
            if data is not None:
                port.info = PortInfo.parse(data)
                if wanted.client_reregister:
                    self._to_register.pop(port.guid, None)
        self._failed = any(asked(answer) is None for answer in answers)

    def _invalidate(self, node: SeenNode) -> None:
        """The switch has been off, or another manager has written it: those of its tables that are used are unknown."""
        self._masks.pop(node.guid, None)
        used = node.switch.linear_top // LIDS_PER_BLOCK if node.switch is not None else 0
        self._linear[node.guid] = dict.fromkeys(range(used + 1), UNKNOWN)

    def _switch_asks(self, node: SeenNode) -> list[SmpRequest]:
        if node.switch is None:
            return []
        top = self._groups.mlids.top or FIRST_MLID
        if node.guid not in self._masks:
            top = max(top, node.switch.multicast_top)  # up to here it has to be cleared
        info = replace(
            node.switch,
            linear_top=max(self._lids.values(), default=0),
            multicast_top=top,
            lifetime=SUBNET_TIMEOUT,
        )
        if info == node.switch:
            return []
        node.switch = info
        return [SmpRequest(node.path, SmpAttribute.SWITCH_INFO, 0, info.pack())]

    def _wanted(self, found: SubnetMap, node: SeenNode, port: SeenPort) -> PortInfo | None:
        """What must be set at an end port; None if it is configured correctly."""
        info = port.info
        lid, sm_lid = self._lids[port.guid], self._lids.get(self._guid, 0)
        known = not port.fresh and (info.lid, info.sm_lid) == (lid, sm_lid)
        if known and not self._register_all and port.guid not in self._to_register:
            return None  # unchanged since the last sweep
        mtu = _link_mtu(found, (node.info.node_guid, port.number))
        new = info.state == PortState.INIT or port.guid not in self._directory.ends
        if not node.is_switch and (new or self._register_all):
            self._to_register[port.guid] = None
        register = port.guid in self._to_register and info.state != PortState.ACTIVE  # others: once there are routes
        if not register and (
            (info.lid, info.sm_lid, info.neighbor_mtu) == (lid, sm_lid, mtu)
            and (info.subnet_timeout, info.gid_prefix) == (SUBNET_TIMEOUT, DEFAULT_GID_PREFIX)
        ):
            return None
        return info.unchanged().changed(
            gid_prefix=DEFAULT_GID_PREFIX,
            lid=lid,
            sm_lid=sm_lid,
            neighbor_mtu=mtu,
            subnet_timeout=SUBNET_TIMEOUT,
            client_reregister=register,
        )

    def _pkey_asks(self, port: SeenPort) -> list[SmpRequest]:
        wanted = self._config.pkeys.get(port.guid, (DEFAULT_PKEY,))
        table = (*wanted, *[0] * (PKEYS_PER_BLOCK - len(wanted)))
        if table == port.pkeys:
            return []
        port.pkeys = table
        return [SmpRequest(port.path, SmpAttribute.PKEY_TABLE, 0, Block16(table).pack())]

    def _publish(self, found: SubnetMap, seen: Ends) -> Change:
        """Let the administrator see what is there now, and say what came and went."""
        ends: dict[int, EndPort] = {}
        before, directory = self._directory.ends, self._directory
        for node, port in seen:
            key = (node.info.node_guid, port.number)
            home = key if node.is_switch else found.links.get(key)
            if home is not None and not found.nodes[home[0]].is_switch:
                home = None
            pkeys = _keys_of(port.pkeys) if not node.is_switch else (DEFAULT_PKEY,)
            old = before.get(port.guid)
            if old is not None and not port.fresh and (old.lid, old.home, old.pkeys) == (port.info.lid, home, pkeys):
                ends[port.guid] = old
                continue
            gid = port.info.gid_prefix.to_bytes(8, "big") + port.guid.to_bytes(8, "big")
            ends[port.guid] = EndPort(port.guid, gid, port.info.lid, key, pkeys, port.info.neighbor_mtu, home)
        directory.ends, directory.map = ends, found
        directory.by_lid = {end.lid: end for end in ends.values()}
        if any(guid not in before or before[guid].home != end.home for guid, end in ends.items()):
            self._seats.clear()  # a port has appeared or moved: a group may have had it as a member without a location
        change = Change(
            arrived=[end for guid, end in ends.items() if guid not in before],
            gone=[end for guid, end in before.items() if guid not in ends],
            moved={
                guid
                for guid, end in ends.items()
                if not found.nodes[end.key[0]].is_switch and self._published.get(guid, end.lid) != end.lid
            },
        )
        self._published |= {guid: end.lid for guid, end in ends.items()}
        for end in change.gone:
            ended = [group for group, is_over in self._groups.forget(end.guid) if is_over]
            change.groups_ended += ended
        return change

    def _open(self, found: SubnetMap, keys: Iterable[PortKey]) -> Task:
        """Bring links from Init over Armed to Active, the switch's end before the host's."""
        ports = [(key, found.nodes[key[0]].ports[key[1]]) for key in keys]
        for state in (PortState.ARMED, PortState.ACTIVE):
            for on_switch in (True, False):
                batch = [
                    (key, port)
                    for key, port in ports
                    if port.info.state == state - 1 and found.nodes[key[0]].is_switch is on_switch
                ]
                answers = yield [_open_ask(found, key, port, state) for key, port in batch]
                for (_, port), answer in zip(batch, answers, strict=True):
                    data = asked(answer)
                    if data is not None:
                        port.info = PortInfo.parse(data)
                    else:
                        self._failed = True

    def _register_all_others(self, found: SubnetMap, moved: set[int]) -> None:
        """Others hold paths to a LID that is no more: when they register again they ask for these again."""
        ports = [port for node, port in found.end_ports() if not node.is_switch and port.guid not in moved]
        self._to_register |= dict.fromkeys(port.guid for port in ports)

    def _register(self, found: SubnetMap) -> Task:
        """Ask Active ports to register; they do so at once, so the tables must lead their requests here already."""
        ports = [port for node, port in found.end_ports() if not node.is_switch and port.guid in self._to_register]
        answers = yield [_set_port(port, port.info.unchanged().changed(client_reregister=True)) for port in ports]
        for port, answer in zip(ports, answers, strict=True):
            if asked(answer) is None:
                self._failed = True
            else:
                self._to_register.pop(port.guid)

    def _write_linear(self) -> Task:
        """Write those blocks of the linear tables that are not as they should be."""
        ends = self._directory.ends.values()
        homes = {end.lid: end.home for end in ends if end.lid and end.home is not None and end.home[0] in self._graph}
        tables = linear_tables(self._graph, homes)
        asks: list[SmpRequest] = []
        for switch, table in tables.items():
            known = self._linear.setdefault(switch, {})
            path = self._directory.map.nodes[switch].path
            last = max([max(table, default=0) // LIDS_PER_BLOCK, *known])
            row = bytearray([NO_PORT]) * ((last + 1) * LIDS_PER_BLOCK)
            for lid, port in table.items():
                row[lid] = port
            for block in range(last + 1):
                entries = bytes(row[block * LIDS_PER_BLOCK : (block + 1) * LIDS_PER_BLOCK])
                if known.get(block, BLANK) != entries:
                    known[block] = entries
                    asks.append(SmpRequest(path, SmpAttribute.LINEAR_FORWARDING_TABLE, block, entries))
        yield from self._write(asks)

    def write_groups(self, groups: Sequence[Group]) -> Task:
        """Write the multicast tables for these groups; one that has ended is taken out.

        A tree that must change is first cut down to what the old and the new one share: a packet on its way never
        sees a mixture that has a ring in it, and no member receives it twice. A switch whose tables are not known gets
        all groups, for what it has is overwritten in whole blocks.
        """
        if any(node.guid not in self._masks for node in self._switches):
            ended = [group for group in groups if group.mgid not in self._groups.by_mgid]
            groups = [*self._groups.by_mgid.values(), *ended]
        yield from self._write(self._raised_tops())
        shared: dict[int, dict[int, int]] = {}
        wanted: dict[int, dict[int, int]] = {}  # MLID -> switch -> mask
        for group in groups:
            old_tree = self._trees.get(group.mlid)
            masks = self._group_masks(group) if self._groups.by_mgid.get(group.mgid) is group else {}
            wanted[group.mlid] = masks
            if old_tree is not None and old_tree != self._trees.get(group.mlid):
                old = {switch: known.get(group.mlid, 0) for switch, known in self._masks.items()}
                shared[group.mlid] = {switch: mask & masks.get(switch, 0) for switch, mask in old.items()}
        if shared:
            yield from self._write(self._mask_asks(shared))
        yield from self._write(self._mask_asks(wanted))

    def _raised_tops(self) -> list[SmpRequest]:
        """Switches know how far their tables are used before they are: the next manager clears what it finds there."""
        top = self._groups.mlids.top
        short = [node for node in self._switches if node.switch is not None and node.switch.multicast_top < top]
        return [ask for node in short for ask in self._switch_asks(node)]

    def _group_masks(self, group: Group) -> dict[int, int]:
        seats = self._seats.get(group.mlid)
        if seats is None:
            seats = self._seats[group.mlid] = Attachments()
        seats.update(group.members, self._directory.ends, self._graph)
        if not seats.counts:
            self._trees.pop(group.mlid, None)
            return {}
        tree = self._trees.get(group.mlid)
        if tree is None or not tree.holds(self._graph, seats.counts):
            root = choose_root(self._graph, seats.counts, group.mlid - FIRST_MLID)
            assert root is not None, "a group with members has a root"
            tree = self._trees[group.mlid] = spanning_tree(self._graph, root)
        masks = multicast_masks(tree, (), seats.counts)
        for switch, mask in seats.masks.items():
            masks[switch] = masks.get(switch, 0) | mask
        return masks

    def _mask_asks(self, wanted: dict[int, dict[int, int]]) -> list[SmpRequest]:
        """The block writes that make these masks true, remembered as done."""
        asks: list[SmpRequest] = []
        for node in self._switches:
            fresh = node.guid not in self._masks
            known = self._masks.setdefault(node.guid, {})
            blocks: dict[tuple[int, int], None] = {}
            if fresh and node.switch is not None and node.switch.multicast_top >= FIRST_MLID:
                stale = (node.switch.multicast_top - FIRST_MLID) // MLIDS_PER_BLOCK
                positions = range(node.info.port_count // PORTS_PER_POSITION + 1)
                blocks.update(dict.fromkeys((block, at) for block in range(stale + 1) for at in positions))
            for mlid, masks in wanted.items():
                mask = masks.get(node.guid, 0)
                differs = known.get(mlid, 0) ^ mask
                if not differs:
                    continue
                known[mlid] = mask
                for position in range(node.info.port_count // PORTS_PER_POSITION + 1):
                    if differs >> position * PORTS_PER_POSITION & 0xFFFF:
                        blocks[(mlid - FIRST_MLID) // MLIDS_PER_BLOCK, position] = None
            for block, position in blocks:
                first, shift = FIRST_MLID + block * MLIDS_PER_BLOCK, position * PORTS_PER_POSITION
                row = tuple(known.get(mlid, 0) >> shift & 0xFFFF for mlid in range(first, first + MLIDS_PER_BLOCK))
                modifier = position << 28 | block
                asks.append(
                    SmpRequest(node.path, SmpAttribute.MULTICAST_FORWARDING_TABLE, modifier, Block16(row).pack())
                )
        return asks

    def _write(self, asks: Sequence[SmpRequest]) -> Task:
        """Write tables; a switch that did not take one is written again by the sweep that its silence brings."""
        answers = yield asks
        silent = {ask.path for ask, answer in zip(asks, answers, strict=True) if asked(answer) is None}
        self._failed = self._failed or bool(silent)
        for node in self._switches:
            if node.path in silent:
                self._invalidate(node)


@lru_cache(maxsize=256)  # most ports have the same table
def _keys_of(table: tuple[int, ...]) -> tuple[int, ...]:
    """The keys of a P_Key table; 0 is an empty entry."""
    return tuple(pkey for pkey in table if pkey)


def _set_port(port: SeenPort, wanted: PortInfo) -> SmpRequest:
    return SmpRequest(port.path, SmpAttribute.PORT_INFO, port.number, wanted.pack(), port.info.m_key)


def _open_ask(found: SubnetMap, key: PortKey, port: SeenPort, state: PortState) -> SmpRequest:
    mtu = _link_mtu(found, key)
    return _set_port(port, port.info.unchanged().changed(state=state, neighbor_mtu=mtu))


def _link_mtu(found: SubnetMap, key: PortKey) -> int:
    """What both ends of a link can carry."""
    node, peer_key = found.nodes[key[0]], found.links.get(key)
    own = node.ports[key[1]].info.mtu_cap
    if peer_key is None or peer_key[0] not in found.nodes:
        return own
    peer = found.nodes[peer_key[0]].ports.get(peer_key[1])
    return min(own, peer.info.mtu_cap) if peer is not None else own


def _is_closed(found: SubnetMap, key: PortKey) -> bool:
    """This end of a link is not Active yet."""
    port = found.nodes[key[0]].ports.get(key[1])
    return port is not None and port.info.state != PortState.ACTIVE


def _joins_switches(found: SubnetMap, key: PortKey) -> bool:
    return found.nodes[key[0]].is_switch and found.nodes[found.links[key][0]].is_switch


def _graph(found: SubnetMap) -> Graph:
    """The links between switches, by port number."""
    graph: dict[int, tuple[tuple[int, int, int], ...]] = {}
    for node in found.switches():
        edges = [
            (number, *found.links[node.guid, number])
            for number in sorted(node.ports)
            if (node.guid, number) in found.links and found.nodes[found.links[node.guid, number][0]].is_switch
        ]
        graph[node.guid] = tuple((own, peer, theirs) for own, peer, theirs in edges if peer != node.guid)
    return graph
