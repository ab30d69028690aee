"""Semantic mutants: edits that make the software wrong in a way that a user would notice. The list only grows.

Each has the file, a piece of it that occurs once, and what stands there instead. A mutant leaves the list only with an
argument that it behaves as the original does. `run.py` says which of them stories and tests notice.
"""

from typing import NamedTuple


class Mutant(NamedTuple):
    name: str
    room: str
    file: str  # below src/ibbond
    old: str
    new: str
    tests: str  # what to run where no story notices


def of(room: str, file: str, tests: str, *edits: tuple[str, str, str]) -> list[Mutant]:
    return [Mutant(name, room, file, old, new, tests) for name, old, new in edits]


MUTANTS: list[Mutant] = [
    *of(
        "bonding",
        "bonding/datapath.py",
        "tests/bonding tests/stack/test_connected_mode.py",
        (
            "sends-by-first-member",
            "    return state.active_member\n",
            "    return next(iter(state.members.values()), None)\n",
        ),
        ("backup-receives-all", "    if not member.inactive:\n", "    if True:\n"),
        (
            "handover-takes-multicast",
            "return unicast and member.receives_until",
            "return member.receives_until",
        ),
        ("no-handover-filter", "return unicast and member.receives_until is not None and", "return False and"),
    ),
    *of(
        "bonding",
        "bonding/announcements.py",
        "tests/bonding",
        (
            "one-announcement-fewer",
            "    state.announcements_left = state.values.num_peer_notif\n    if",
            "    state.announcements_left = max(0, state.values.num_peer_notif - 1)\n    if",
        ),
        ("announces-without-carrier", "return state.running and state.device.carrier and", "return state.running and"),
        ("no-group-reports", "    state.emit(ResendReports())\n", ""),
        ("announcement-not-repeated", "state.now + _spacing(state) if state.announcements_left else None", "None"),
    ),
    *of(
        "bonding",
        "bonding/miimon.py",
        "tests/bonding",
        (
            "updelay-ignored",
            "Link.DOWN: values.updelay} if values.miimon",
            "Link.DOWN: 0} if values.miimon",
        ),
        (
            "updelay-one-run-longer",
            "state.now + member.delay * state.values.miimon * MS",
            "state.now + (member.delay + 1) * state.values.miimon * MS",
        ),
        (
            "loss-of-carrier-keeps-link",
            "    (Link.UP, False): (Link.FAIL, Link.DOWN),",
            "    (Link.UP, False): (Link.UP, Link.UP),",
        ),
        (
            "return-not-noticed",
            "    (Link.DOWN, True): (Link.BACK, Link.UP),",
            "    (Link.DOWN, True): (Link.DOWN, Link.DOWN),",
        ),
        ("failed-active-not-replaced", "        return member is state.active_member\n", "        return False\n"),
        (
            "primary-return-not-looked-at",
            "return active is None or member is state.primary_member or member.priority > active.priority\n    if proposal",
            "return active is None or member.priority > active.priority\n    if proposal",
        ),
    ),
    *of(
        "bonding",
        "bonding/selection.py",
        "tests/bonding",
        ("primary-never-returns", "    if state.values.primary_reselect == ALWAYS:\n", "    if False:\n"),
        (
            "failed-primary-is-chosen",
            "    if primary is None or primary.link is not Link.UP:\n",
            "    if primary is None:\n",
        ),
        (
            "no-make-before-break",
            '        not state.rules.kernel("break_before_make")\n        and',
            "        False\n        and",
        ),
        (
            "prepared-member-not-checked",
            "    if target.link is Link.UP and target.usable and target is not",
            "    if target is not",
        ),
    ),
    *of(
        "bonding",
        "bonding/failover.py",
        "tests/bonding",
        (
            "bond-never-loses-carrier",
            "    carrier = _should_have_carrier(state)\n",
            "    carrier = _should_have_carrier(state) or state.device.carrier\n",
        ),
        (
            "old-member-stays-active",
            "            set_inactive(state, old)\n            _hand_over",
            "            _hand_over",
        ),
        ("bond-keeps-old-address", "        identity.follow_active(state, new, old)\n", ""),
        ("failover-not-announced", "        announcements.start(state)\n", ""),
        (
            "new-member-gets-no-groups",
            "    if new is not None:\n        _count(state, new, 1)\n        if state.running:\n            sync_lists(state, new)\n",
            "",
        ),
    ),
    *of(
        "bonding",
        "bonding/arp_monitor.py",
        "tests/bonding tests/replay/test_fair.py",
        ("own-probes-are-life", "    if event.own and not state", "    if False and not state"),
        (
            "trial-does-not-move",
            "    rotated = members[place + 1 :] + members[: place + 1]\n",
            "    rotated = members[place:] + members[:place]\n",
        ),
        ("validation-of-other-targets", "target in targets:\n        member.last_rx", "True:\n        member.last_rx"),
        (
            "missed-max-one-more",
            "is_within(state, received, missed):\n            member.proposal",
            "is_within(state, received, missed + 3):\n            member.proposal",
        ),
    ),
    *of(
        "stack",
        "stack/bond_effects.py",
        "tests/stack",
        (
            "no-announcement-frames",
            "        reported = layer.announce()\n",
            "        reported: list[tuple[bytes, bytes]] = []\n",
        ),
        (
            "no-report-frames",
            "        reported = layer.report()\n",
            "        reported: list[tuple[bytes, bytes]] = []\n",
        ),
        (
            "late-answers-leave",
            "                    host.links.superseded(host.now, old)\n",
            "                    pass\n",
        ),
        (
            "failover-keeps-flows",
            "            case FailedOver(old, new):\n                self._generation.bump()\n",
            "            case FailedOver(old, new):\n",
        ),
        ("probe-by-active-only", "target, device.address), member=member)", "target, device.address))"),
    ),
    *of(
        "stack",
        "stack/neighbors.py",
        "tests/stack",
        (
            "announcement-not-believed",
            "        if moved and entry.hardware and not override:\n",
            "        if moved and entry.hardware and not confirmed:\n",
        ),
        (
            "waiting-packets-lost",
            "        while entry.waiting:\n            packet, offload = entry.waiting.popleft()\n",
            "        entry.waiting.clear()\n        while entry.waiting:\n            packet, offload = entry.waiting.popleft()\n",
        ),
        (
            "moved-neighbor-keeps-flows",
            "                self._moved.append(ip)\n            self._generation.bump()\n",
            "                self._moved.append(ip)\n",
        ),
        (
            "readdressed-not-solicited",
            "        return [Solicit(entry.ip) for entry in solicited]\n",
            "        return []\n",
        ),
    ),
    *of(
        "stack",
        "stack/standby.py",
        "tests/stack",
        (
            "standby-not-prepared",
            "                host.links.prepare(host.now, member, bond.device.multicast, neighbors)\n",
            "                pass\n",
        ),
        (
            "standby-without-neighbors",
            "member, bond.device.multicast, neighbors)",
            "member, bond.device.multicast, [])",
        ),
        ("standby-without-groups", "member, bond.device.multicast, neighbors)", "member, [], neighbors)"),
    ),
    *of(
        "stack",
        "verbs/generation.py",
        "tests/stack/test_flows.py",
        ("generation-never-bumps", "        self.value += 1\n", "        pass\n"),
    ),
    *of(
        "stack",
        "stack/host_stack.py",
        "tests/stack",
        ("port-events-lost", "            self.links.port_raised(now, port, kind)\n", "            pass\n"),
    ),
    *of(
        "ipoib",
        "ipoib/paths.py",
        "tests/ipoib",
        (
            "paths-not-invalidated",
            "            route.valid = False\n\n    def flush",
            "            pass\n\n    def flush",
        ),
        (
            "doubt-does-not-ask",
            "        route.valid = False\n        return self._ask(now, route)\n",
            "        return []\n",
        ),
        (
            "new-path-not-used",
            "            neighbor.path = self._path(record, neighbor.qpn)\n            for",
            "            neighbor.path = neighbor.path or self._path(record, neighbor.qpn)\n            for",
        ),
        (
            "waiting-for-path-lost",
            "                effects += self._transmit(now, neighbor, neighbor.path, packet)\n            neighbor.waiting.clear()\n",
            "                pass\n            neighbor.waiting.clear()\n",
        ),
        (
            "superseded-keeps-waiting",
            "            lost += len(route.waiting)\n            route.waiting.clear()\n        for neighbor",
            "            pass\n        for neighbor",
        ),
    ),
    *of(
        "ipoib",
        "ipoib/membership.py",
        "tests/ipoib",
        (
            "no-join-after-reregistration",
            "            self._on(now, group, MemberInput.AGAIN)\n        return self.proceed(now)\n",
            "            pass\n        return self.proceed(now)\n",
        ),
        (
            "left-group-stays-joined",
            '        return self._leave(now, group, "the group was left")\n',
            "        return []\n",
        ),
        (
            "groups-sent-to-are-not-joined",
            "            group.wanted = JoinState.FULL\n            self._on(now, group, MemberInput.AGAIN)\n",
            "            pass\n",
        ),
        (
            "stop-leaves-nothing",
            '            effects += self._leave(now, group, "the interface stopped", pkey)\n',
            "            pass\n",
        ),
    ),
    *of(
        "ipoib",
        "ipoib/interface.py",
        "tests/ipoib",
        (
            "pkey-change-ignored",
            "            return effects + self._keys_changed(now)\n",
            "            return effects\n",
        ),
        ("port-down-keeps-carrier", "        return effects + self._restart(now)\n", "        return effects\n"),
        (
            "reregistration-ignored",
            "            return effects + self._flush_lightly(now)\n",
            "            return effects\n",
        ),
        (
            "questions-stay-at-old-manager",
            "            return list(self._queries.repeat(now))",
            "            return []",
        ),
        ("carrier-without-groups", "        return effects + self._want_groups(now)\n", "        return effects\n"),
    ),
    *of(
        "subnet",
        "manager/groups.py",
        "tests/manager",
        ("leave-does-not-leave", "        else:\n            del group.members[member.guid]\n", ""),
        ("gone-port-stays-member", "if group.members.pop(guid, 0)]", "if group.members.get(guid, 0)]"),
        ("join-state-forgets", "group.members.get(member.guid, 0) | asked.join_state", "asked.join_state & ~1"),
    ),
    *of(
        "subnet",
        "manager/sweep.py",
        "tests/manager tests/fabric",
        (
            "linear-blocks-written-once",
            "                if known.get(block, BLANK) != entries:\n",
            "                if block not in known:\n",
        ),
        (
            "multicast-masks-written-once",
            "                if not differs:\n",
            "                if not differs or mlid in known:\n",
        ),
        (
            "broken-trees-kept",
            "        if tree is None or not tree.holds(self._graph, seats.counts):\n",
            "        if tree is None:\n",
        ),
        ("moved-lid-no one-asked-again", "self._published.get(guid, end.lid) != end.lid", "False"),
        ("restarted-switch-believed", "            if been_off or node.guid", "            if node.guid"),
        (
            "links-stay-armed",
            "        for state in (PortState.ARMED, PortState.ACTIVE):\n",
            "        for state in (PortState.ARMED,):\n",
        ),
    ),
    *of(
        "subnet",
        "fabric/transit.py",
        "tests/fabric",
        ("packets-on-cut-cables-arrive", "cable.epoch != epoch or ", ""),
        ("multicast-returns-to-ingress", " & ~(1 << ingress.number)\n", "\n"),
    ),
    *of(
        "cm",
        "cm/connection_manager.py",
        "tests/cm tests/ipoib/test_connected.py tests/stack/test_connected_mode.py",
        ("repeated-req-is-new", "            if conn.remote_id == request.local_id:  #", "            if False:  #"),
        ("requests-not-repeated", "conn.tries <= conn.max_retries:\n", "conn.tries <= 0:\n"),
        ("given-up-one-try-early", "conn.tries <= conn.max_retries:\n", "conn.tries < conn.max_retries:\n"),
        (
            "reroute-ignored",
            "            conn.local_lid, conn.remote_lid = local_lid, remote_lid\n",
            "            pass\n",
        ),
        (
            "drep-names-no one",
            "                answer = self._say(conn, Drep(conn.local_id, message.local_id))\n                effects = [answer,",
            "                answer = self._say(conn, Drep(conn.local_id, 0))\n                effects = [answer,",
        ),
        ("stale-connection-kept", "conn.state is CmState.ESTABLISHED:\n", "False:\n"),
    ),
    *of(
        "cm",
        "cm/states.py",
        "tests/cm tests/ipoib/test_connected.py",
        (
            "lost-rtu-not-sent-again",
            "(_S.ESTABLISHED, _I.REP): (_R.RTU_AGAIN,",
            "(_S.ESTABLISHED, _I.REP): (_R.IGNORE,",
        ),
        ("lost-rep-not-sent-again", "(_S.REP_SENT, _I.REQ): (_R.REPEAT,", "(_S.REP_SENT, _I.REQ): (_R.IGNORE,"),
        (
            "data-does-not-establish",
            "(_S.REP_SENT, _I.DATA): (_R.ESTABLISH, _S.ESTABLISHED)",
            "(_S.REP_SENT, _I.DATA): (_R.IGNORE, _S.REP_SENT)",
        ),
        ("dreq-not-answered-again", "(_S.TIMEWAIT, _I.DREQ): (_R.DREP_AGAIN,", "(_S.TIMEWAIT, _I.DREQ): (_R.IGNORE,"),
        (
            "dreq-ignored",
            "(_S.ESTABLISHED, _I.DREQ): (_R.RELEASE, _S.TIMEWAIT)",
            "(_S.ESTABLISHED, _I.DREQ): (_R.IGNORE, _S.ESTABLISHED)",
        ),
    ),
]
