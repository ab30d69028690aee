"""The states of one neighbor, as a table: what each event does in each of them.

Read first: `net/core/neighbour.c` of Linux (`neigh_update`, `neigh_timer_handler`, `__neigh_event_send`), RFC 4861
section 7.3. NUD_FAILED is NONE here: a failed entry is forgotten. SUSPECT is not in Linux: it is STALE after our own
address has changed, when the neighbor does not know yet where to send its answers.
"""

from __future__ import annotations

import enum

from ibbond.machine import SECOND, Symbol

RETRY = 1 * SECOND  # retrans_time
REACHABLE_FOR = 30 * SECOND  # base_reachable_time
DELAY = 5 * SECOND  # delay_first_probe_time
STALE_FOR = 60 * SECOND  # gc_stale_time: idle entries are forgotten then


class NudState(Symbol):
    NONE = enum.auto()  # there is no entry
    INCOMPLETE = enum.auto()
    REACHABLE = enum.auto()
    STALE = enum.auto()
    SUSPECT = enum.auto()
    DELAY = enum.auto()
    PROBE = enum.auto()


class NudInput(Symbol):
    """What is sent to the neighbor, what is received from it, and time."""

    PACKET = enum.auto()  # to be sent
    REQUEST = enum.auto()  # its address is needed, without a packet (`neigh_event_send`)
    CONFIRMED = enum.auto()  # it has answered our solicitation
    MOVED = enum.auto()  # it is at a new address, says a message that we did not ask for
    SEEN = enum.auto()  # it is where it was, says such a message
    CONTRADICTED = enum.auto()  # it is at another address, says a message that must not override
    READDRESSED = enum.auto()  # our own address has changed
    TIMEOUT = enum.auto()  # the time-out of the state
    UNANSWERED = enum.auto()  # the same, after the last solicitation


class NudReaction(Symbol):
    IGNORE = enum.auto()
    QUEUE = enum.auto()
    SEND = enum.auto()
    SOLICIT = enum.auto()  # the first of `ATTEMPTS`, broadcast
    SEND_AND_SOLICIT = enum.auto()
    SOLICIT_ONE = enum.auto()  # the first of `ATTEMPTS`, to its address alone
    REPEAT = enum.auto()  # the next one, broadcast
    LEARN = enum.auto()  # the address
    EXPIRE = enum.auto()  # flows that use it must confirm it again
    DOUBT = enum.auto()  # the same, because our own address has changed
    FORGET = enum.auto()  # and give up what is queued


LASTS = {  # after that: TIMEOUT
    NudState.INCOMPLETE: RETRY,
    NudState.REACHABLE: REACHABLE_FOR,
    NudState.STALE: STALE_FOR,
    NudState.SUSPECT: STALE_FOR,
    NudState.DELAY: DELAY,
    NudState.PROBE: RETRY,
}
SOLICITS = frozenset({NudReaction.SOLICIT, NudReaction.SEND_AND_SOLICIT, NudReaction.SOLICIT_ONE})
RESTARTS = frozenset(
    {NudReaction.SOLICIT, NudReaction.REPEAT, NudReaction.LEARN, NudReaction.DOUBT}
)  # time begins again

_S, _I, _R = NudState, NudInput, NudReaction

NUD_TABLE: dict[tuple[NudState, NudInput], tuple[NudReaction, NudState]] = {
    (_S.NONE, _I.PACKET): (_R.SOLICIT, _S.INCOMPLETE),
    (_S.NONE, _I.REQUEST): (_R.SOLICIT, _S.INCOMPLETE),
    (_S.NONE, _I.CONFIRMED): (_R.LEARN, _S.REACHABLE),
    (_S.NONE, _I.MOVED): (_R.LEARN, _S.STALE),
    (_S.NONE, _I.SEEN): (_R.IGNORE, _S.NONE),
    (_S.NONE, _I.CONTRADICTED): (_R.IGNORE, _S.NONE),
    (_S.NONE, _I.READDRESSED): (_R.IGNORE, _S.NONE),
    (_S.NONE, _I.TIMEOUT): (_R.IGNORE, _S.NONE),
    (_S.NONE, _I.UNANSWERED): (_R.IGNORE, _S.NONE),
    (_S.INCOMPLETE, _I.PACKET): (_R.QUEUE, _S.INCOMPLETE),
    (_S.INCOMPLETE, _I.REQUEST): (_R.IGNORE, _S.INCOMPLETE),
    (_S.INCOMPLETE, _I.CONFIRMED): (_R.LEARN, _S.REACHABLE),
    (_S.INCOMPLETE, _I.MOVED): (_R.LEARN, _S.STALE),
    (_S.INCOMPLETE, _I.SEEN): (_R.IGNORE, _S.INCOMPLETE),  # no address is known that it could still have
    (_S.INCOMPLETE, _I.CONTRADICTED): (_R.IGNORE, _S.INCOMPLETE),  # or contradict
    (_S.INCOMPLETE, _I.READDRESSED): (_R.SOLICIT, _S.INCOMPLETE),  # the answer goes to the old address
    (_S.INCOMPLETE, _I.TIMEOUT): (_R.REPEAT, _S.INCOMPLETE),
    (_S.INCOMPLETE, _I.UNANSWERED): (_R.FORGET, _S.NONE),
    (_S.REACHABLE, _I.PACKET): (_R.SEND, _S.REACHABLE),
    (_S.REACHABLE, _I.REQUEST): (_R.IGNORE, _S.REACHABLE),
    (_S.REACHABLE, _I.CONFIRMED): (_R.LEARN, _S.REACHABLE),
    (_S.REACHABLE, _I.MOVED): (_R.LEARN, _S.STALE),
    (_S.REACHABLE, _I.SEEN): (_R.IGNORE, _S.REACHABLE),
    (_S.REACHABLE, _I.CONTRADICTED): (_R.IGNORE, _S.STALE),
    (_S.REACHABLE, _I.READDRESSED): (_R.DOUBT, _S.SUSPECT),
    (_S.REACHABLE, _I.TIMEOUT): (_R.EXPIRE, _S.STALE),
    (_S.REACHABLE, _I.UNANSWERED): (_R.IGNORE, _S.REACHABLE),
    (_S.STALE, _I.PACKET): (_R.SEND, _S.DELAY),
    (_S.STALE, _I.REQUEST): (_R.SOLICIT, _S.PROBE),
    (_S.STALE, _I.CONFIRMED): (_R.LEARN, _S.REACHABLE),
    (_S.STALE, _I.MOVED): (_R.LEARN, _S.STALE),
    (_S.STALE, _I.SEEN): (_R.IGNORE, _S.STALE),
    (_S.STALE, _I.CONTRADICTED): (_R.IGNORE, _S.STALE),
    (_S.STALE, _I.READDRESSED): (_R.DOUBT, _S.SUSPECT),
    (_S.STALE, _I.TIMEOUT): (_R.FORGET, _S.NONE),
    (_S.STALE, _I.UNANSWERED): (_R.IGNORE, _S.STALE),
    (_S.SUSPECT, _I.PACKET): (_R.SEND_AND_SOLICIT, _S.PROBE),  # the solicitation says where we are
    (_S.SUSPECT, _I.REQUEST): (_R.SOLICIT, _S.PROBE),
    (_S.SUSPECT, _I.CONFIRMED): (_R.LEARN, _S.REACHABLE),
    (_S.SUSPECT, _I.MOVED): (_R.LEARN, _S.STALE),
    (_S.SUSPECT, _I.SEEN): (_R.IGNORE, _S.SUSPECT),
    (_S.SUSPECT, _I.CONTRADICTED): (_R.IGNORE, _S.SUSPECT),
    (_S.SUSPECT, _I.READDRESSED): (_R.DOUBT, _S.SUSPECT),
    (_S.SUSPECT, _I.TIMEOUT): (_R.FORGET, _S.NONE),
    (_S.SUSPECT, _I.UNANSWERED): (_R.IGNORE, _S.SUSPECT),
    (_S.DELAY, _I.PACKET): (_R.SEND, _S.DELAY),
    (_S.DELAY, _I.REQUEST): (_R.IGNORE, _S.DELAY),
    (_S.DELAY, _I.CONFIRMED): (_R.LEARN, _S.REACHABLE),
    (_S.DELAY, _I.MOVED): (_R.LEARN, _S.STALE),
    (_S.DELAY, _I.SEEN): (_R.IGNORE, _S.DELAY),
    (_S.DELAY, _I.CONTRADICTED): (_R.IGNORE, _S.DELAY),
    (_S.DELAY, _I.READDRESSED): (_R.DOUBT, _S.SUSPECT),
    (_S.DELAY, _I.TIMEOUT): (_R.SOLICIT_ONE, _S.PROBE),
    (_S.DELAY, _I.UNANSWERED): (_R.IGNORE, _S.DELAY),
    (_S.PROBE, _I.PACKET): (_R.SEND, _S.PROBE),
    (_S.PROBE, _I.REQUEST): (_R.IGNORE, _S.PROBE),
    (_S.PROBE, _I.CONFIRMED): (_R.LEARN, _S.REACHABLE),
    (_S.PROBE, _I.MOVED): (_R.LEARN, _S.STALE),
    (_S.PROBE, _I.SEEN): (_R.IGNORE, _S.PROBE),
    (_S.PROBE, _I.CONTRADICTED): (_R.IGNORE, _S.PROBE),
    (_S.PROBE, _I.READDRESSED): (_R.DOUBT, _S.SUSPECT),
    (_S.PROBE, _I.TIMEOUT): (_R.REPEAT, _S.PROBE),
    (_S.PROBE, _I.UNANSWERED): (_R.FORGET, _S.NONE),
}
