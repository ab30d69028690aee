"""Requests to the subnet administrator that wait for their answers, and are sent again when none comes.

Read first: InfiniBand Architecture volume 1, section 15.4 (SA access), and of Linux `core/sa_query.c`. A subnet
manager that starts or sweeps drops requests silently, so the first repetition comes early. Left out: tables (RMPP).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ibbond.ipoib.events import EmitMad, PortFacts
from ibbond.machine import MS
from ibbond.verbs.verbs import GSI_QPN, ManagementDatagram, PortState
from ibbond.wire.mad import MadHeader, ManagementClass
from ibbond.wire.sa import SaMad

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
PATIENCE_MS: dict[type[Token], tuple[int, ...]] = {
    Join: (200, 400, 1000),
    Leave: (200, 400, 1000),
    AskPath: (200, 300, 500),
}


@dataclass(eq=False, slots=True)
class Query:
    token: Token
    mad: SaMad
    tries: int
    due_at: int


class Queries:
    """One interface's conversation with the administrator; at most one request per token is under way."""

    def __init__(self, port: PortFacts, qpn: int) -> None:
        self._port = port
        self._prefix = SOFTWARE_CLIENT | qpn << 24
        self._sequence = 0
        self._by_id: dict[int, Query] = {}
        self._by_token: dict[Token, Query] = {}

    def ask(self, now: int, token: Token, mad: SaMad) -> list[EmitMad]:
        """Send a request; an earlier one with the same token is forgotten."""
        self.forget(token)
        self._sequence = self._sequence + 1 & 0xFFFFFF
        query = Query(token, replace(mad, transaction_id=self._prefix | self._sequence), tries=0, due_at=now)
        self._by_id[query.mad.transaction_id] = query
        self._by_token[token] = query
        return self._send(now, query)

    def forget(self, token: Token) -> None:
        query = self._by_token.pop(token, None)
        if query is not None:
            del self._by_id[query.mad.transaction_id]

    def forget_all(self, which: Callable[[Token], bool] = lambda _: True) -> None:
        for token in [token for token in self._by_token if which(token)]:
            self.forget(token)

    def waits_for(self, token: Token) -> bool:
        return token in self._by_token

    def answered(self, raw: bytes) -> tuple[Token, SaMad] | None:
        """Which request these bytes answer; None for anything else. Raises `Malformed`."""
        if MadHeader.parse(raw).management_class != ManagementClass.SUBNET_ADMINISTRATION:
            return None
        mad = SaMad.parse(raw)
        query = self._by_id.get(mad.transaction_id)
        if query is None or mad.attribute != query.mad.attribute or mad.method == query.mad.method:
            return None
        self.forget(query.token)
        return query.token, mad

    def tick(self, now: int) -> tuple[list[EmitMad], list[Token]]:
        """Repeat what got no answer in time; what was repeated enough has failed."""
        sent: list[EmitMad] = []
        failed: list[Token] = []
        for query in [query for query in self._by_id.values() if query.due_at <= now]:
            if query.tries < len(PATIENCE_MS[type(query.token)]):
                sent += self._send(now, query)
            else:
                self.forget(query.token)
                failed.append(query.token)
        return sent, failed

    def repeat(self, now: int) -> list[EmitMad]:
        """Send everything again, from the first try on: the subnet manager is somewhere else now."""
        sent: list[EmitMad] = []
        for query in self._by_id.values():
            query.tries = 0
            sent += self._send(now, query)
        return sent

    def deadline(self) -> int | None:
        return min((query.due_at for query in self._by_id.values()), default=None)

    def _send(self, now: int, query: Query) -> list[EmitMad]:
        query.due_at = now + PATIENCE_MS[type(query.token)][query.tries] * MS
        query.tries += 1
        port = self._port
        if port.state != PortState.ACTIVE or not port.sm_lid:
            return []
        return [EmitMad(ManagementDatagram(port.lid, port.sm_lid, GSI_QPN, GSI_QPN, query.mad.pack()))]
