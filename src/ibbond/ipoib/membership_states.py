"""The states of one group in which an interface wants to be, as a table: asked for, waiting to be, joined.

Read first: RFC 4391 sections 5 and 10; `ipoib_multicast.c` of Linux, whose flags BUSY, FOUND and ATTACHED stand for
these states. What is received or sent meanwhile is in `membership`: a group whose membership is renewed is still used.
"""

from __future__ import annotations

import enum

from ibbond.machine import Symbol


class MemberState(Symbol):
    IDLE = enum.auto()  # nothing asks for it: it is new, or it was only sent to and has been given up
    QUEUED = enum.auto()  # until the broadcast group is joined and the port is active
    JOINING = enum.auto()  # the administrator is asked
    BACKOFF = enum.auto()  # refused, or not answered: asked again after a while
    NO_ROOM = enum.auto()  # the same, together with all other groups that the subnet has no room for
    JOINED = enum.auto()


class MemberInput(Symbol):
    NEEDED = enum.auto()  # to be received, or for a packet
    NEEDED_LATER = enum.auto()  # the same before the broadcast group is joined
    AGAIN = enum.auto()  # the subnet manager has forgotten it, or more is wanted than before
    TURN = enum.auto()  # the broadcast group is joined, the port active
    GRANTED = enum.auto()
    REFUSED = enum.auto()  # or not answered
    REFUSED_AT_LAST = enum.auto()  # as often as a group that is only sent to is asked for
    NO_RESOURCES = enum.auto()
    DUE = enum.auto()  # the back-off has ended


class MemberReaction(Symbol):
    IGNORE = enum.auto()
    ASK = enum.auto()
    QUEUE = enum.auto()
    START_OVER = enum.auto()  # forget refusals and the pending request, and queue
    USE = enum.auto()
    BACK_OFF = enum.auto()
    SHARE_BACK_OFF = enum.auto()
    GIVE_UP = enum.auto()


_S, _I, _R = MemberState, MemberInput, MemberReaction

MEMBERSHIP_TABLE: dict[tuple[MemberState, MemberInput], tuple[MemberReaction, MemberState]] = {
    (_S.IDLE, _I.NEEDED): (_R.ASK, _S.JOINING),
    (_S.IDLE, _I.NEEDED_LATER): (_R.QUEUE, _S.QUEUED),
    (_S.IDLE, _I.AGAIN): (_R.START_OVER, _S.QUEUED),
    (_S.IDLE, _I.TURN): (_R.IGNORE, _S.IDLE),
    (_S.IDLE, _I.GRANTED): (_R.IGNORE, _S.IDLE),
    (_S.IDLE, _I.REFUSED): (_R.IGNORE, _S.IDLE),
    (_S.IDLE, _I.REFUSED_AT_LAST): (_R.IGNORE, _S.IDLE),
    (_S.IDLE, _I.NO_RESOURCES): (_R.IGNORE, _S.IDLE),
    (_S.IDLE, _I.DUE): (_R.IGNORE, _S.IDLE),
    (_S.QUEUED, _I.NEEDED): (_R.ASK, _S.JOINING),
    (_S.QUEUED, _I.NEEDED_LATER): (_R.IGNORE, _S.QUEUED),
    (_S.QUEUED, _I.AGAIN): (_R.START_OVER, _S.QUEUED),
    (_S.QUEUED, _I.TURN): (_R.ASK, _S.JOINING),
    (_S.QUEUED, _I.GRANTED): (_R.IGNORE, _S.QUEUED),
    (_S.QUEUED, _I.REFUSED): (_R.IGNORE, _S.QUEUED),
    (_S.QUEUED, _I.REFUSED_AT_LAST): (_R.IGNORE, _S.QUEUED),
    (_S.QUEUED, _I.NO_RESOURCES): (_R.IGNORE, _S.QUEUED),
    (_S.QUEUED, _I.DUE): (_R.IGNORE, _S.QUEUED),
    (_S.JOINING, _I.NEEDED): (_R.IGNORE, _S.JOINING),
    (_S.JOINING, _I.NEEDED_LATER): (_R.IGNORE, _S.JOINING),
    (_S.JOINING, _I.AGAIN): (_R.START_OVER, _S.QUEUED),
    (_S.JOINING, _I.TURN): (_R.IGNORE, _S.JOINING),
    (_S.JOINING, _I.GRANTED): (_R.USE, _S.JOINED),
    (_S.JOINING, _I.REFUSED): (_R.BACK_OFF, _S.BACKOFF),
    (_S.JOINING, _I.REFUSED_AT_LAST): (_R.GIVE_UP, _S.IDLE),
    (_S.JOINING, _I.NO_RESOURCES): (_R.SHARE_BACK_OFF, _S.NO_ROOM),
    (_S.JOINING, _I.DUE): (_R.IGNORE, _S.JOINING),
    (_S.BACKOFF, _I.NEEDED): (_R.IGNORE, _S.BACKOFF),
    (_S.BACKOFF, _I.NEEDED_LATER): (_R.IGNORE, _S.BACKOFF),
    (_S.BACKOFF, _I.AGAIN): (_R.START_OVER, _S.QUEUED),
    (_S.BACKOFF, _I.TURN): (_R.IGNORE, _S.BACKOFF),
    (_S.BACKOFF, _I.GRANTED): (_R.IGNORE, _S.BACKOFF),
    (_S.BACKOFF, _I.REFUSED): (_R.IGNORE, _S.BACKOFF),
    (_S.BACKOFF, _I.REFUSED_AT_LAST): (_R.IGNORE, _S.BACKOFF),
    (_S.BACKOFF, _I.NO_RESOURCES): (_R.IGNORE, _S.BACKOFF),
    (_S.BACKOFF, _I.DUE): (_R.QUEUE, _S.QUEUED),
    (_S.NO_ROOM, _I.NEEDED): (_R.IGNORE, _S.NO_ROOM),
    (_S.NO_ROOM, _I.NEEDED_LATER): (_R.IGNORE, _S.NO_ROOM),
    (_S.NO_ROOM, _I.AGAIN): (_R.START_OVER, _S.QUEUED),
    (_S.NO_ROOM, _I.TURN): (_R.IGNORE, _S.NO_ROOM),
    (_S.NO_ROOM, _I.GRANTED): (_R.IGNORE, _S.NO_ROOM),
    (_S.NO_ROOM, _I.REFUSED): (_R.IGNORE, _S.NO_ROOM),
    (_S.NO_ROOM, _I.REFUSED_AT_LAST): (_R.IGNORE, _S.NO_ROOM),
    (_S.NO_ROOM, _I.NO_RESOURCES): (_R.IGNORE, _S.NO_ROOM),
    (_S.NO_ROOM, _I.DUE): (_R.QUEUE, _S.QUEUED),
    (_S.JOINED, _I.NEEDED): (_R.IGNORE, _S.JOINED),
    (_S.JOINED, _I.NEEDED_LATER): (_R.IGNORE, _S.JOINED),
    (_S.JOINED, _I.AGAIN): (_R.START_OVER, _S.QUEUED),
    (_S.JOINED, _I.TURN): (_R.IGNORE, _S.JOINED),
    (_S.JOINED, _I.GRANTED): (_R.IGNORE, _S.JOINED),
    (_S.JOINED, _I.REFUSED): (_R.IGNORE, _S.JOINED),
    (_S.JOINED, _I.REFUSED_AT_LAST): (_R.IGNORE, _S.JOINED),
    (_S.JOINED, _I.NO_RESOURCES): (_R.IGNORE, _S.JOINED),
    (_S.JOINED, _I.DUE): (_R.IGNORE, _S.JOINED),
}
