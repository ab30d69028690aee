"""Requests to the subnet administrator that wait for their answers, and are sent again when none comes.

Read first: InfiniBand Architecture volume 1, section 15.4 (SA access), and of Linux `core/sa_query.c`. A subnet
manager that starts or sweeps drops requests silently, so the first repetition comes early. Of each kind only some are
in flight at once, so that a thousand joins are a stream that others can interrupt. Left out: tables (RMPP).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

from ibbond.ipoib.events import EmitMad, PortFacts
from ibbond.machine import MS, Deadlines
from ibbond.verbs.verbs import GSI_QPN, ManagementDatagram, PortState
from ibbond.wire.mad import RESPONSE, MadHeader, ManagementClass
from ibbond.wire.sa import SaAttribute, SaMad

SOFTWARE_CLIENT = 0x8000 << 48  # transaction ids of software at the port; tools on sockets have smaller ones


@dataclass(frozen=True, slots=True)
class Join:
    """The answer concerns our membership in this group."""

    mgid: bytes


@dataclass(frozen=True, slots=True)
class Leave:
    mgid: bytes


@dataclass(frozen=True, slots=True)
class AskPath:
    """The answer concerns the path to this GID."""

    gid: bytes


Token = Join | Leave | AskPath

# How long to wait for each try's answer, in milliseconds; the request has failed after the last.
TIMEOUT_MS: dict[type[Token], tuple[int, ...]] = {
    Join: (200, 400, 1000),
    Leave: (200, 400, 1000),
    AskPath: (200, 300, 500),
}


ATTRIBUTES: dict[type[Token], SaAttribute] = {
    Join: SaAttribute.MC_MEMBER_RECORD,
    Leave: SaAttribute.MC_MEMBER_RECORD,
    AskPath: SaAttribute.PATH_RECORD,
}

# How many requests of one kind wait for an answer; the others wait for their turn.
MAX_AT_ONCE: dict[type[Token], int] = {Join: 16, Leave: 16, AskPath: 128}


@dataclass(eq=False, slots=True)
class Query:
    """`make` gives the MAD when it is sent for the first time: many wait for a long time, and things change."""

    token: Token
    transaction_id: int
    make: Callable[[], SaMad]
    mad: bytes = b""
    tries: int = 0


class Queries:
    """One interface's requests to the administrator; at most one request per token is in flight."""

    def __init__(self, port: PortFacts, qpn: int) -> None:
        self._port = port
        self._prefix = SOFTWARE_CLIENT | qpn << 24
        self._sequence = 0
        self._by_id: dict[int, Query] = {}
        self._by_token: dict[Token, Query] = {}
        self._due: Deadlines[int] = Deadlines()  # by transaction id
        self._sent: dict[type[Token], int] = dict.fromkeys(TIMEOUT_MS, 0)  # how many wait for an answer
        self._unsent: dict[type[Token], OrderedDict[Token, Query]] = {kind: OrderedDict() for kind in TIMEOUT_MS}
        self._now = 0

    def ask(self, now: int, token: Token, make: Callable[[], SaMad]) -> list[EmitMad]:
        """Send a request, or have it wait for its turn; an earlier one with the same token is forgotten."""
        self.forget(token)
        self._sequence = self._sequence + 1 & 0xFFFFFF
        query = self._by_id[self._prefix | self._sequence] = Query(token, self._prefix | self._sequence, make)
        self._by_token[token] = query
        self._unsent[type(token)][token] = query
        return self._send_waiting(now, type(token))

    def forget(self, token: Token) -> None:
        """Drop the request; those that wait for its place go with the next request, answer or tick."""
        query = self._by_token.pop(token, None)
        if query is None:
            return
        del self._by_id[query.transaction_id]
        self._due.report(query.transaction_id, None)
        if query.tries:
            self._sent[type(token)] -= 1
        else:
            del self._unsent[type(token)][token]

    def forget_all(self, which: Callable[[Token], bool] = lambda _: True) -> None:
        for token in [token for token in self._by_token if which(token)]:
            self.forget(token)

    def waits_for(self, token: Token) -> bool:
        return token in self._by_token

    def sent(self, token: Token) -> bool:
        """Whether the administrator may have seen the request that waits."""
        query = self._by_token.get(token)
        return query is not None and query.tries > 0

    def answered(self, raw: bytes) -> tuple[Token, SaMad] | None:
        """Which request these bytes answer; None for anything else. Raises `Malformed`."""
        if MadHeader.parse(raw).management_class != ManagementClass.SUBNET_ADMINISTRATION:
            return None
        mad = SaMad.parse(raw)
        query = self._by_id.get(mad.transaction_id)
        if (
            query is None
            or not query.mad
            or mad.attribute != ATTRIBUTES[type(query.token)]
            or not mad.method & RESPONSE
        ):
            return None
        self.forget(query.token)
        return query.token, mad

    def proceed(self, now: int) -> list[EmitMad]:
        """Send those whose turn has come."""
        return [mad for kind in TIMEOUT_MS for mad in self._send_waiting(now, kind)]

    def tick(self, now: int) -> tuple[list[EmitMad], list[Token]]:
        """Repeat what got no answer in time; what was repeated enough has failed."""
        sent: list[EmitMad] = []
        failed: list[Token] = []
        for transaction in self._due.due(now):
            query = self._by_id[transaction]
            if query.tries < len(TIMEOUT_MS[type(query.token)]):
                sent += self._send(now, query)
            else:
                self.forget(query.token)
                failed.append(query.token)
        return sent + self.proceed(now), failed

    def repeat(self, now: int) -> list[EmitMad]:
        """Send everything again, from the first try on: the subnet manager is somewhere else now."""
        sent: list[EmitMad] = []
        for query in self._by_id.values():
            if query.tries:
                query.tries = 0
                sent += self._send(now, query)
        return sent

    def deadline(self) -> int | None:
        if any(waiting and self._sent[kind] < MAX_AT_ONCE[kind] for kind, waiting in self._unsent.items()):
            return self._now
        return self._due.earliest()

    def _send_waiting(self, now: int, kind: type[Token]) -> list[EmitMad]:
        self._now = now
        waiting = self._unsent[kind]
        sent: list[EmitMad] = []
        while waiting and self._sent[kind] < MAX_AT_ONCE[kind]:
            _, query = waiting.popitem(last=False)
            self._sent[kind] += 1
            sent += self._send(now, query)
        return sent

    def _send(self, now: int, query: Query) -> list[EmitMad]:
        self._due.report(query.transaction_id, now + TIMEOUT_MS[type(query.token)][query.tries] * MS)
        query.tries += 1
        if not query.mad:
            query.mad = replace(query.make(), transaction_id=query.transaction_id).pack()
        port = self._port
        if port.state != PortState.ACTIVE or not port.sm_lid:
            return []
        return [EmitMad(ManagementDatagram(port.lid, port.sm_lid, GSI_QPN, GSI_QPN, query.mad))]
