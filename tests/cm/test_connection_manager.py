"""The communication manager alone: two of them and a wire that may lose, repeat and delay what they say."""

from __future__ import annotations

import functools
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibbond.cm.connection_manager import REMEMBERED, TIMEWAIT, ConnectionManager, timeout_ns
from ibbond.cm.events import (
    CmEffect,
    CmEvent,
    Disconnected,
    NoReply,
    Notify,
    RejReceived,
    RepReceived,
    ReqReceived,
    RtuReceived,
    TimewaitExit,
)
from ibbond.cm.states import CM_TABLE, CM_VERBS, CmInput, CmState, CmVerb
from ibbond.fabric.events import SendMad
from ibbond.machine import MS
from ibbond.wire.cm import CmMad, CmPath, Drep, Dreq, Message, Mra, Rej, Rejected, RejectReason, Rep, Req, Rtu

CODE = 13  # 34 ms
SERVICE = 0x1_0000
WAIT = timeout_ns(CODE)
RETRIES = 3


def req(qpn: int = 0x50, guid: int = 0xA) -> Req:
    return Req(
        local_id=0,
        service_id=SERVICE,
        ca_guid=guid,
        qpn=qpn,
        psn=1,
        primary=CmPath(local_lid=4, remote_lid=5),
        remote_timeout=CODE,
        local_timeout=CODE,
        max_cm_retries=RETRIES,
    )


def rep(qpn: int = 0x60) -> Rep:
    return Rep(local_id=0, remote_id=0, qpn=qpn, psn=2, ca_guid=0xB)


def user(_now: int, _event: CmEvent) -> None:
    """Events are looked at where they come out."""


def listening() -> ConnectionManager:
    manager = ConnectionManager()
    manager.listen(user, SERVICE)
    return manager


@dataclass
class Pair:
    """An active and a passive manager. `deliver` moves everything that is on the wire, `lose` takes it away."""

    active: ConnectionManager = field(default_factory=lambda: listening())
    passive: ConnectionManager = field(default_factory=lambda: listening())
    now: int = 0
    to_active: deque[bytes] = field(default_factory=deque)
    to_passive: deque[bytes] = field(default_factory=deque)
    received: dict[str, list[object]] = field(default_factory=lambda: {"active": [], "passive": []})
    local: int = -1
    remote: int = -1

    def take(self, side: str, effects: Sequence[CmEffect]) -> None:
        wire = self.to_passive if side == "active" else self.to_active
        for effect in effects:
            if isinstance(effect, SendMad):
                wire.append(effect.mad.mad)
            else:
                self.received[side].append(effect.event)
                if isinstance(effect.event, ReqReceived):
                    self.remote = effect.event.local_id

    def connect(self, request: Req | None = None) -> None:
        self.local, effects = self.active.connect(self.now, user, "h1/1", request or req())
        self.take("active", effects)

    def deliver(self, copies: Callable[[], int] = lambda: 1) -> list[str]:
        """The names of the messages that arrived, each so many times."""
        names = []
        while self.to_active or self.to_passive:
            for side, wire, manager in (
                ("passive", self.to_passive, self.passive),
                ("active", self.to_active, self.active),
            ):
                while wire:
                    mad = CmMad.parse(wire.popleft())
                    for _ in range(copies()):
                        names.append(type(mad.message).__name__)
                        self.take(side, manager.handle(self.now, "h2/1" if side == "passive" else "h1/1", mad))
        return names

    def deliver_one(self, side: str) -> str:
        wire, manager = (self.to_passive, self.passive) if side == "passive" else (self.to_active, self.active)
        mad = CmMad.parse(wire.popleft())
        self.take(side, manager.handle(self.now, "h2/1" if side == "passive" else "h1/1", mad))
        return type(mad.message).__name__

    def lose(self) -> list[str]:
        lost = [type(CmMad.parse(raw).message).__name__ for raw in (*self.to_passive, *self.to_active)]
        self.to_active.clear()
        self.to_passive.clear()
        return lost

    def wait(self, ns: int) -> None:
        self.now += ns
        self.take("active", self.active.tick(self.now))
        self.take("passive", self.passive.tick(self.now))

    def accept(self) -> None:
        self.take("passive", self.passive.accept(self.now, self.remote, rep()))

    def ready(self) -> None:
        self.take("active", self.active.ready(self.local))

    def kinds(self, side: str) -> list[type]:
        return [type(each) for each in self.received[side]]

    def states(self) -> tuple[CmState | None, CmState | None]:
        return self.active.state(self.local), self.passive.state(self.remote)


def connected(request: Req | None = None) -> Pair:
    pair = Pair()
    pair.connect(request)
    pair.deliver()
    pair.accept()
    pair.deliver()
    pair.ready()
    assert pair.deliver() == ["Rtu"]
    assert pair.states() == (CmState.ESTABLISHED, CmState.ESTABLISHED)
    return pair


def arrive(
    manager: ConnectionManager, now: int, effects: Sequence[CmEffect], port: str = "h2/1"
) -> list[SendMad | CmEvent]:
    """Deliver these messages to it: what it sends and reports."""
    mads = [CmMad.parse(each.mad.mad) for each in effects if isinstance(each, SendMad)]
    return [
        effect.event if isinstance(effect, Notify) else effect
        for mad in mads
        for effect in manager.handle(now, port, mad)
    ]


class TestConnecting:
    def test_three_messages(self) -> None:
        pair = Pair()
        pair.connect()
        assert pair.deliver() == ["Req"]
        pair.accept()
        assert pair.deliver() == ["Rep"]
        assert pair.kinds("active") == [RepReceived]
        pair.ready()
        assert pair.deliver() == ["Rtu"]
        assert pair.kinds("passive") == [ReqReceived, RtuReceived]
        assert pair.active.deadline() is pair.passive.deadline() is None

    def test_each_message_lost_once(self) -> None:
        pair = Pair()
        pair.connect()
        assert pair.lose() == ["Req"]
        pair.wait(WAIT)
        assert pair.deliver() == ["Req"]
        pair.accept()
        assert pair.lose() == ["Rep"]
        pair.wait(WAIT)  # both sides repeat; the repeated REQ is answered by the REP again
        assert pair.deliver().count("Rep") >= 1
        pair.ready()
        assert pair.lose() == ["Rtu"]
        pair.wait(WAIT)
        assert pair.deliver() == ["Rep", "Rtu"]
        assert pair.states() == (CmState.ESTABLISHED, CmState.ESTABLISHED)
        assert pair.kinds("active") == [RepReceived]
        assert pair.kinds("passive") == [ReqReceived, RtuReceived], "no one received anything twice"

    def test_data_are_as_good_as_an_rtu(self) -> None:
        pair = Pair()
        pair.connect()
        pair.deliver()
        pair.accept()
        pair.deliver()
        pair.ready()
        pair.lose()
        pair.take("passive", pair.passive.data_arrived(pair.now, pair.remote))
        assert pair.kinds("passive") == [ReqReceived, RtuReceived]
        assert pair.passive.data_arrived(pair.now, pair.remote) == []
        assert pair.passive.data_arrived(pair.now, pair.remote + 1) == []

    def test_a_repeated_request_makes_no_second_connection(self) -> None:
        pair = Pair()
        pair.connect()
        pair.to_passive.append(pair.to_passive[0])
        assert pair.deliver() == ["Req", "Req"]
        assert pair.kinds("passive") == [ReqReceived]

    def test_no_one_answers(self) -> None:
        pair = Pair()
        pair.connect()
        sent = pair.lose()
        while not pair.received["active"]:
            pair.wait(WAIT)
            sent += pair.lose()
        assert sent == ["Req"] * (1 + RETRIES) + ["Rej"]
        assert pair.received["active"] == [NoReply(pair.local)]
        assert pair.now == WAIT * (1 + RETRIES)

    def test_the_active_side_dies_after_its_request(self) -> None:
        pair = Pair()
        pair.connect()
        pair.deliver()
        pair.accept()
        sent = pair.lose()
        while NoReply not in pair.kinds("passive"):
            pair.now += WAIT
            pair.take("passive", pair.passive.tick(pair.now))
            sent += pair.lose()
        assert sent == ["Rep"] * (1 + RETRIES) + ["Rej"]

    def test_mra_asks_for_more_time(self) -> None:
        pair = Pair()
        pair.connect()
        pair.lose()
        timeout = 16
        pair.take("active", pair.active.handle(pair.now, "h1/1", CmMad(9, Mra(77, pair.local, Rejected.REQ, timeout))))
        pair.wait(WAIT)
        assert pair.lose() == []
        pair.wait(timeout_ns(timeout))
        assert pair.lose() == ["Req"]

    def test_two_connections_do_not_meet(self) -> None:
        pair = connected()
        first = pair.local, pair.remote
        pair.connect(req(qpn=0x51))
        pair.deliver()
        pair.accept()
        pair.deliver()
        pair.ready()
        pair.deliver()
        assert (pair.local, pair.remote) != first
        assert pair.active.state(first[0]) is pair.passive.state(first[1]) is CmState.ESTABLISHED


class TestUsers:
    """Who has a service, and users that take their time."""

    def test_a_request_goes_to_the_user_of_its_service_and_port(self) -> None:
        asked = ConnectionManager()
        users = {name: functools.partial(user) for name in ("one", "family", "port")}
        asked.listen(users["one"], 0x10)
        asked.listen(users["family"], 0x0106_0000, 0xFFFF_FFFF_FFFF_0000)
        asked.listen(users["port"], 0x20, port="h2/1")
        for service, port, name in ((0x10, "h2/2", "one"), (0x0106_0CBC, "h2/2", "family"), (0x20, "h2/1", "port")):
            _, mads = ConnectionManager().connect(0, user, "h1/1", replace(req(guid=service), service_id=service))
            (effect,) = asked.handle(0, port, CmMad.parse(mads[0].mad.mad))
            assert isinstance(effect, Notify)
            assert effect.user is users[name]

    @pytest.mark.parametrize(("service", "port"), [(0x11, "h2/1"), (SERVICE, "h2/1")])
    def test_a_service_without_a_user_is_rejected(self, service: int, port: str) -> None:
        asked = ConnectionManager()
        asked.listen(user, SERVICE)
        asked.stop_listening(user)
        asking = ConnectionManager()
        local, mads = asking.connect(0, user, "h1/1", replace(req(), service_id=service))
        (answer,) = asked.handle(0, port, CmMad.parse(mads[0].mad.mad))
        assert isinstance(answer, SendMad)
        assert (answer.mad.source_lid, answer.mad.destination_lid) == (5, 4)
        assert arrive(asking, 0, [answer]) == [RejReceived(local, RejectReason.INVALID_SERVICE_ID, bytes(148))]
        assert asked.deadline() is None, "nothing is kept of it"

    def test_a_user_that_asks_for_time(self) -> None:
        """It is not given up, and a repeated REQ gets the MRA again."""
        pair = Pair()
        pair.connect()
        pair.deliver()
        pair.take("passive", pair.passive.delay(pair.remote, 20))
        assert pair.deliver() == ["Mra"]
        pair.wait(WAIT * (RETRIES + 2))
        assert pair.lose() == []
        pair.take("passive", pair.passive.handle(pair.now, "h2/1", CmMad(1, replace(req(), local_id=pair.local))))
        assert pair.deliver() == ["Mra"]
        pair.accept()
        pair.deliver()
        pair.ready()
        assert pair.deliver() == ["Rtu"]
        assert pair.kinds("passive") == [ReqReceived, RtuReceived]

    def test_the_rtu_waits_for_the_user(self) -> None:
        """A program moves its queue pair first; repeated REPs change nothing meanwhile."""
        pair = Pair()
        pair.connect()
        pair.deliver()
        pair.accept()
        pair.deliver()
        for _ in range(RETRIES):
            pair.wait(WAIT)
            assert pair.deliver() == ["Rep"]
        assert pair.kinds("active") == [RepReceived]
        pair.ready()
        assert pair.deliver() == ["Rtu"]
        assert pair.states() == (CmState.ESTABLISHED, CmState.ESTABLISHED)

    def test_messages_follow_another_path(self) -> None:
        pair = connected()
        pair.active.reroute(pair.local, 6, 9)
        (mad,) = pair.active.disconnect(pair.now, pair.local)
        assert (mad.mad.source_lid, mad.mad.destination_lid) == (6, 9)

    def test_repetition_may_be_quicker_than_the_peer_was_promised(self) -> None:
        asking = ConnectionManager()
        asking.connect(0, user, "h1/1", replace(req(), remote_timeout=20), repeat_ns=MS)
        assert asking.deadline() == MS


class TestRejecting:
    def test_a_request(self) -> None:
        pair = Pair()
        pair.connect()
        pair.deliver()
        pair.take("passive", pair.passive.reject(pair.now, pair.remote, RejectReason.CONSUMER, b"no"))
        assert pair.deliver() == ["Rej"]
        (refusal,) = pair.received["active"]
        assert isinstance(refusal, RejReceived)
        assert (refusal.reason, refusal.private[:2]) == (RejectReason.CONSUMER, b"no")
        assert pair.states() == (CmState.TIMEWAIT, CmState.TIMEWAIT)

    def test_the_rejection_is_lost_and_reported_again(self) -> None:
        pair = Pair()
        pair.connect()
        pair.deliver()
        pair.take("passive", pair.passive.reject(pair.now, pair.remote, RejectReason.CONSUMER))
        assert pair.lose() == ["Rej"]
        pair.wait(WAIT)
        assert pair.deliver() == ["Req", "Rej"]
        assert pair.kinds("active") == [RejReceived]

    def test_a_reply(self) -> None:
        pair = Pair()
        pair.connect()
        pair.deliver()
        pair.accept()
        pair.deliver()
        pair.take("active", pair.active.reject(pair.now, pair.local, RejectReason.CONSUMER))
        assert pair.deliver() == ["Rej"]
        assert pair.kinds("passive") == [ReqReceived, RejReceived]

    def test_giving_up_a_request_before_the_peers_id_is_known(self) -> None:
        pair = Pair()
        pair.connect()
        pair.deliver()
        pair.take("active", pair.active.disconnect(pair.now, pair.local))
        assert pair.deliver() == ["Rej"]
        assert pair.kinds("passive") == [ReqReceived, RejReceived]
        assert pair.passive.accept(pair.now, pair.remote, rep()) == [], "there is nothing to accept any more"

    def test_a_queue_pair_that_is_used_again_ends_the_old_connection(self) -> None:
        pair = connected()
        old = pair.remote
        again, effects = pair.active.connect(pair.now, user, "h1/1", req())  # the same QPN, another id
        pair.take("active", effects)
        assert pair.deliver() == ["Req", "Rej"]
        assert Disconnected(old) in pair.received["passive"]
        refusal = pair.received["active"][-1]
        assert isinstance(refusal, RejReceived)
        assert (refusal.local_id, refusal.reason) == (again, RejectReason.STALE_CONNECTION)

    @pytest.mark.parametrize("gives_up", ["disconnect", "tick"])
    def test_a_peer_that_gives_up_ends_its_own_connection_alone(self, gives_up: str) -> None:
        """Every host numbers from the same id on."""
        asked, guids = listening(), (0xA, 0xB)
        peers = [listening() for _ in guids]
        ids = []
        for peer, guid in zip(peers, guids, strict=True):
            local, sent = peer.connect(0, user, "h1/1", req(guid=guid))
            assert local == 1
            (requested,) = arrive(asked, 0, sent)
            assert isinstance(requested, ReqReceived)
            ids.append(requested.local_id)
        asked.accept(0, ids[0], rep())
        effects: Sequence[CmEffect] = peers[1].disconnect(0, 1) if gives_up == "disconnect" else []
        now = 0
        while gives_up == "tick" and Notify(user, NoReply(1)) not in effects:
            now += WAIT
            effects = peers[1].tick(now)
        assert arrive(asked, now, effects) == [RejReceived(ids[1], RejectReason.TIMEOUT, bytes(148))]
        assert [asked.state(each) for each in ids] == [CmState.REP_SENT, CmState.TIMEWAIT]

    def test_giving_up_a_reply(self) -> None:
        pair = Pair()
        pair.connect()
        pair.deliver()
        pair.accept()
        for _ in range(1 + RETRIES):
            assert "Rep" in pair.lose()
            pair.now += WAIT
            pair.take("passive", pair.passive.tick(pair.now))
        assert pair.deliver() == ["Rej"]
        assert pair.kinds("active") == [RejReceived]


class TestParting:
    @pytest.mark.parametrize("side", ["active", "passive"])
    def test_two_messages(self, side: str) -> None:
        pair = connected()
        manager, number = (pair.active, pair.local) if side == "active" else (pair.passive, pair.remote)
        pair.take(side, manager.disconnect(pair.now, number))
        assert pair.deliver() == ["Dreq", "Drep"]
        assert pair.kinds("active")[-1] is pair.kinds("passive")[-1] is Disconnected
        assert pair.states() == (CmState.TIMEWAIT, CmState.TIMEWAIT)
        pair.wait(TIMEWAIT)
        assert pair.states() == (None, None)
        assert pair.kinds("active")[-1] is pair.kinds("passive")[-1] is TimewaitExit

    def test_both_at_once(self) -> None:
        pair = connected()
        pair.take("active", pair.active.disconnect(pair.now, pair.local))
        pair.take("passive", pair.passive.disconnect(pair.now, pair.remote))
        pair.deliver()
        for side in ("active", "passive"):
            assert pair.kinds(side).count(Disconnected) == 1

    def test_a_lost_drep_is_said_again(self) -> None:
        pair = connected()
        pair.take("active", pair.active.disconnect(pair.now, pair.local))
        assert pair.deliver() == ["Dreq", "Drep"]
        pair.take("passive", pair.passive.handle(pair.now, "h2/1", CmMad(5, Dreq(pair.local, pair.remote, 0x60))))
        assert pair.lose() == ["Drep"]
        assert pair.kinds("passive").count(Disconnected) == 1

    def test_a_drep_is_said_again_however_late_the_dreq_is_repeated(self) -> None:
        pair = connected(replace(req(), remote_timeout=20))
        pair.take("active", pair.active.disconnect(pair.now, pair.local))
        assert pair.deliver_one("passive") == "Dreq"
        assert pair.lose() == ["Drep"]
        pair.wait(timeout_ns(20))
        assert pair.states() == (CmState.DREQ_SENT, None)
        assert pair.deliver() == ["Dreq", "Drep"]
        assert pair.received["active"][-1] == Disconnected(pair.local)
        assert pair.kinds("passive").count(Disconnected) == 1
        assert pair.passive.deadline() is None

    def test_an_adapter_that_was_away_answers_for_its_old_connections(self) -> None:
        pair = connected()
        pair.passive.forget(pair.remote)
        pair.take("active", pair.active.disconnect(pair.now, pair.local))
        assert pair.deliver() == ["Dreq", "Drep"]
        assert pair.received["active"][-1] == Disconnected(pair.local)
        assert Disconnected not in pair.kinds("passive"), "it received that the adapter was gone"

    def test_a_reply_that_was_lost_and_taken_back(self) -> None:
        """The side that asked never learned the other's id, and its DREP names it all the same."""
        pair = Pair()
        pair.connect()
        pair.deliver()
        pair.accept()
        assert pair.lose() == ["Rep"]
        pair.take("passive", pair.passive.disconnect(pair.now, pair.remote))
        assert pair.deliver() == ["Dreq", "Drep"]
        assert pair.received["passive"][-1] == Disconnected(pair.remote)

    def test_only_so_many_connections_are_remembered(self) -> None:
        pair = Pair()
        for number in range(REMEMBERED + 1):
            pair.connect(req(qpn=number))
            pair.active.disconnect(pair.now, pair.local)
        pair.wait(TIMEWAIT)
        last = pair.local
        for number, answers in ((1, 0), (2, 1), (last, 1)):
            assert len(pair.active.handle(pair.now, "h1/1", CmMad(1, Dreq(3, number, 0x60)))) == answers

    def test_without_an_answer_it_is_over_too(self) -> None:
        pair = connected()
        pair.take("active", pair.active.disconnect(pair.now, pair.local))
        for _ in range(RETRIES + 2):
            pair.lose()
            pair.wait(WAIT)
        assert pair.kinds("active")[-1] is Disconnected
        assert pair.active.disconnect(pair.now, pair.local) == []


STALE: list[Callable[[int], Message]] = [
    lambda number: replace(rep(), local_id=3, remote_id=number),
    lambda number: Rtu(3, number),
    lambda number: Rej(3, number, Rejected.REP, RejectReason.CONSUMER),
    lambda number: Dreq(3, number, 0x60),
    lambda number: Drep(3, number),
    lambda number: Mra(3, number, Rejected.REP, 20),
]


@pytest.mark.parametrize("message", STALE)
def test_messages_about_ids_that_are_not_there_change_nothing(message: Callable[[int], Message]) -> None:
    pair = connected()
    before = pair.states()
    for manager in (pair.active, pair.passive):
        assert manager.handle(pair.now, "h1/1", CmMad(1, message(0xDEAD))) == []
    assert pair.states() == before


@pytest.mark.parametrize("message", [STALE[1], STALE[2], STALE[4], STALE[5]])
def test_messages_that_come_too_late_change_nothing(message: Callable[[int], Message]) -> None:
    pair = connected()
    before = pair.states()
    assert pair.active.handle(pair.now, "h1/1", CmMad(1, message(pair.local))) == []
    assert pair.states() == before


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (CmState.REP_SENT, lambda number: Rtu(3, number)),
        (CmState.REP_SENT, lambda number: Rej(3, number, Rejected.REP, RejectReason.CONSUMER)),
        (CmState.REP_SENT, lambda number: Mra(3, number, Rejected.REP, 20)),
        (CmState.REP_SENT, lambda number: Dreq(3, number, 0x60)),
        (CmState.DREQ_SENT, lambda number: Drep(3, number)),
    ],
)
def test_messages_of_another_peers_id_change_nothing(state: CmState, message: Callable[[int], Message]) -> None:
    pair = Pair()
    pair.connect()
    pair.deliver()
    pair.accept()
    if state is CmState.DREQ_SENT:
        pair.passive.disconnect(pair.now, pair.remote)
    due_at = pair.passive.deadline()
    assert pair.passive.handle(pair.now, "h2/1", CmMad(1, message(pair.remote))) == []
    assert (pair.passive.state(pair.remote), pair.passive.deadline()) == (state, due_at)


@pytest.mark.parametrize("seed", range(30))
def test_whatever_the_wire_does_both_agree_in_the_end(seed: int) -> None:
    """Messages are lost or doubled for a while; the user accepts, and parts when the connection stands."""
    random, pair = Random(seed), Pair()
    arrived: list[str] = []
    pair.connect()
    for step in range(200):
        some = (0, 0, 1, 2) if step < 100 else (1,)
        arrived += pair.deliver(functools.partial(random.choice, some))
        if pair.passive.state(pair.remote) is CmState.REQ_RCVD:
            pair.accept()
        if RepReceived in pair.kinds("active") and pair.active.state(pair.local) is CmState.REP_RCVD:
            pair.ready()
        if pair.active.state(pair.local) is CmState.ESTABLISHED and random.random() < 0.1:
            pair.take("active", pair.active.disconnect(pair.now, pair.local))
        pair.wait(5 * MS)
    for _ in range(200):
        arrived += pair.deliver()
        pair.wait(20 * MS)
    half_open = pair.states() == (None, CmState.ESTABLISHED) and "Dreq" not in arrived  # the transport will notice
    assert half_open or pair.states() in ((None, None), (CmState.ESTABLISHED,) * 2), f"seed {seed}: {arrived}"
    for side in ("active", "passive"):
        ends = [kind for kind in pair.kinds(side) if kind in (Disconnected, NoReply, RejReceived)]
        assert len(ends) <= 1, f"seed {seed}: {pair.kinds(side)}"


class TestTable:
    def test_every_state_has_an_answer_to_every_message(self) -> None:
        assert CM_TABLE.keys() == set(itertools.product(CmState, CmInput))

    def test_every_state_can_be_entered_and_left(self) -> None:
        steps = [(state, after) for (state, _), (_, after) in CM_TABLE.items()]
        steps += [(state, after) for (state, _), after in CM_VERBS.items()]
        begin = {CmState.REQ_SENT, CmState.REQ_RCVD}  # by connect, and by a REQ
        assert {after for state, after in steps if after is not state} | begin == set(CmState)
        assert {state for state, after in steps if after is not state} | {CmState.TIMEWAIT} == set(CmState)

    def test_every_verb_has_a_state(self) -> None:
        assert {verb for _, verb in CM_VERBS} == set(CmVerb)

    def test_a_rejection_of_the_reply_ends_what_this_side_took_for_established(self) -> None:
        """Every RTU was lost, and the peer gave its REP up."""
        pair = Pair()
        pair.connect()
        pair.deliver()
        pair.accept()
        pair.deliver()
        pair.ready()
        for _ in range(RETRIES + 1):
            pair.lose()
            pair.wait(WAIT)
        assert pair.deliver() == ["Rej"]
        assert pair.kinds("active") == [RepReceived, RejReceived]
        assert pair.states() == (CmState.TIMEWAIT, CmState.TIMEWAIT)


numbers = st.integers(0, 2**32 - 1)


@given(st.data())
def test_any_message_in_any_state_is_survived(data: st.DataObject) -> None:
    pair = connected() if data.draw(st.booleans()) else Pair()
    if pair.local < 0:
        pair.connect()
    for _ in range(10):
        known = st.sampled_from([pair.local, pair.remote & 0xFFFFFFFF, 0]) | numbers
        a, b = data.draw(known) & 0xFFFFFFFF, data.draw(known) & 0xFFFFFFFF
        messages: list[Message] = [
            replace(req(), local_id=a),
            replace(rep(), local_id=a, remote_id=b),
            Rtu(a, b),
            Rej(a, b, Rejected.OTHER, RejectReason.TIMEOUT),
            Dreq(a, b, 0x60),
            Drep(a, b),
            Mra(a, b, Rejected.REQ, 31),
        ]
        message = data.draw(st.sampled_from(messages))
        for manager in (pair.active, pair.passive):
            for effect in manager.handle(pair.now, "h1/1", CmMad(7, message)):
                if isinstance(effect, SendMad):
                    CmMad.parse(effect.mad.mad)
        pair.now += data.draw(st.integers(0, 10**9))
        pair.active.tick(pair.now)
        pair.passive.tick(pair.now)
