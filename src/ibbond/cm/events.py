"""What the connection manager reports to its users: facts about one connection, by the manager's local id.

Read first: of Linux `ib_cm.h`, `enum ib_cm_event_type`, whose names these have.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ibbond.fabric.events import SendMad
from ibbond.wire.cm import Rep, Req


@dataclass(frozen=True, slots=True)
class ReqReceived:
    """A peer asks for a connection at this port; the user answers with `accept` or `reject`, or asks for time (MRA)."""

    local_id: int
    port: str
    request: Req


@dataclass(frozen=True, slots=True)
class RepReceived:
    """The peer has accepted; the user moves its queue pair to RTS, then calls `ready` (which sends the RTU)."""

    local_id: int
    reply: Rep


@dataclass(frozen=True, slots=True)
class RtuReceived:
    """At the passive side: the peer is ready, known by its RTU or by its first data."""

    local_id: int


@dataclass(frozen=True, slots=True)
class RejReceived:
    """The peer has rejected the request or the reply, or gave up waiting (reason TIMEOUT)."""

    local_id: int
    reason: int
    private: bytes


@dataclass(frozen=True, slots=True)
class NoReply:
    """The request or the reply was repeated as often as allowed, without an answer."""

    local_id: int


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection has ended: by a DREQ of the peer, by its DREP, or (not `answered`) without one."""

    local_id: int
    answered: bool = True


@dataclass(frozen=True, slots=True)
class TimewaitExit:
    """The local id is free again, and a queue pair that had this connection may have another one."""

    local_id: int


CmEvent = ReqReceived | RepReceived | RtuReceived | RejReceived | NoReply | Disconnected | TimewaitExit
CmUser = Callable[[int, CmEvent], None]  # called with the time and the event


@dataclass(frozen=True, slots=True)
class Notify:
    """Effect: call this user with this event."""

    user: CmUser
    event: CmEvent


CmEffect = SendMad | Notify
