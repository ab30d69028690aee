"""The states of a connection being made, used and ended, as a table: what each message does in each of them.

Read first: InfiniBand Architecture volume 1, 12.9.5 to 12.9.8, and of Linux `core/cm.c`, the handlers of messages. As
there, DATA is the first message at a connected queue pair (IB_EVENT_COMM_EST), as good as an RTU. Here a DREP is sent
at once and not by the user, so there is no DREQ_RCVD; an MRA changes how long is waited, not the state.
"""

from __future__ import annotations

import enum

from ibbond.machine import Symbol


class CmState(Symbol):
    REQ_SENT = enum.auto()
    REP_RCVD = enum.auto()
    REQ_RCVD = enum.auto()
    REP_SENT = enum.auto()
    ESTABLISHED = enum.auto()
    DREQ_SENT = enum.auto()
    TIMEWAIT = enum.auto()


class CmInput(Symbol):
    """A message of the peer (REQ: a repeated one), data from it, or the end of waiting and repeating."""

    REQ = enum.auto()
    REP = enum.auto()
    RTU = enum.auto()
    MRA = enum.auto()
    REJ = enum.auto()
    DREQ = enum.auto()
    DREP = enum.auto()
    DATA = enum.auto()
    TIMEOUT = enum.auto()


class CmVerb(Symbol):
    """What the user asks for."""

    ACCEPT = enum.auto()
    READY = enum.auto()
    DELAY = enum.auto()
    REJECT = enum.auto()
    DISCONNECT = enum.auto()


class Reaction(Symbol):
    """What is sent, and what the user is notified of."""

    IGNORE = enum.auto()
    REPEAT = enum.auto()  # the last answer again
    REPLIED = enum.auto()  # RepReceived
    RTU_AGAIN = enum.auto()  # the first one was lost
    ESTABLISH = enum.auto()  # RtuReceived
    REJECTED = enum.auto()  # RejReceived
    WAIT_LONGER = enum.auto()
    RELEASE = enum.auto()  # DREP, Disconnected
    DREP_AGAIN = enum.auto()
    RELEASED = enum.auto()  # Disconnected
    GIVE_UP = enum.auto()  # REJ with reason TIMEOUT, NoReply
    UNANSWERED = enum.auto()  # Disconnected, without an answer
    FORGET = enum.auto()  # TimewaitExit


_S, _I, _R = CmState, CmInput, Reaction

CM_TABLE: dict[tuple[CmState, CmInput], tuple[Reaction, CmState]] = {
    (_S.REQ_SENT, _I.REQ): (_R.IGNORE, _S.REQ_SENT),
    (_S.REQ_SENT, _I.REP): (_R.REPLIED, _S.REP_RCVD),
    (_S.REQ_SENT, _I.RTU): (_R.IGNORE, _S.REQ_SENT),
    (_S.REQ_SENT, _I.MRA): (_R.WAIT_LONGER, _S.REQ_SENT),
    (_S.REQ_SENT, _I.REJ): (_R.REJECTED, _S.TIMEWAIT),
    (_S.REQ_SENT, _I.DREQ): (_R.RELEASE, _S.TIMEWAIT),  # its REP was lost, then taken back
    (_S.REQ_SENT, _I.DREP): (_R.IGNORE, _S.REQ_SENT),
    (_S.REQ_SENT, _I.DATA): (_R.IGNORE, _S.REQ_SENT),
    (_S.REQ_SENT, _I.TIMEOUT): (_R.GIVE_UP, _S.TIMEWAIT),
    (_S.REP_RCVD, _I.REQ): (_R.IGNORE, _S.REP_RCVD),
    (_S.REP_RCVD, _I.REP): (_R.REPEAT, _S.REP_RCVD),  # an MRA, if the user has asked for time
    (_S.REP_RCVD, _I.RTU): (_R.IGNORE, _S.REP_RCVD),
    (_S.REP_RCVD, _I.MRA): (_R.IGNORE, _S.REP_RCVD),
    (_S.REP_RCVD, _I.REJ): (_R.REJECTED, _S.TIMEWAIT),
    (_S.REP_RCVD, _I.DREQ): (_R.RELEASE, _S.TIMEWAIT),
    (_S.REP_RCVD, _I.DREP): (_R.IGNORE, _S.REP_RCVD),
    (_S.REP_RCVD, _I.DATA): (_R.IGNORE, _S.REP_RCVD),
    (_S.REP_RCVD, _I.TIMEOUT): (_R.IGNORE, _S.REP_RCVD),  # the user takes its time, and the peer gives up
    (_S.REQ_RCVD, _I.REQ): (_R.REPEAT, _S.REQ_RCVD),  # an MRA, if the user has asked for time
    (_S.REQ_RCVD, _I.REP): (_R.IGNORE, _S.REQ_RCVD),
    (_S.REQ_RCVD, _I.RTU): (_R.IGNORE, _S.REQ_RCVD),
    (_S.REQ_RCVD, _I.MRA): (_R.IGNORE, _S.REQ_RCVD),
    (_S.REQ_RCVD, _I.REJ): (_R.REJECTED, _S.TIMEWAIT),  # the peer gave up
    (_S.REQ_RCVD, _I.DREQ): (_R.RELEASE, _S.TIMEWAIT),
    (_S.REQ_RCVD, _I.DREP): (_R.IGNORE, _S.REQ_RCVD),
    (_S.REQ_RCVD, _I.DATA): (_R.IGNORE, _S.REQ_RCVD),
    (_S.REQ_RCVD, _I.TIMEOUT): (_R.IGNORE, _S.REQ_RCVD),
    (_S.REP_SENT, _I.REQ): (_R.REPEAT, _S.REP_SENT),
    (_S.REP_SENT, _I.REP): (_R.IGNORE, _S.REP_SENT),
    (_S.REP_SENT, _I.RTU): (_R.ESTABLISH, _S.ESTABLISHED),
    (_S.REP_SENT, _I.MRA): (_R.WAIT_LONGER, _S.REP_SENT),
    (_S.REP_SENT, _I.REJ): (_R.REJECTED, _S.TIMEWAIT),
    (_S.REP_SENT, _I.DREQ): (_R.RELEASE, _S.TIMEWAIT),
    (_S.REP_SENT, _I.DREP): (_R.IGNORE, _S.REP_SENT),
    (_S.REP_SENT, _I.DATA): (_R.ESTABLISH, _S.ESTABLISHED),
    (_S.REP_SENT, _I.TIMEOUT): (_R.GIVE_UP, _S.TIMEWAIT),
    (_S.ESTABLISHED, _I.REQ): (_R.REPEAT, _S.ESTABLISHED),
    (_S.ESTABLISHED, _I.REP): (_R.RTU_AGAIN, _S.ESTABLISHED),
    (_S.ESTABLISHED, _I.RTU): (_R.IGNORE, _S.ESTABLISHED),
    (_S.ESTABLISHED, _I.MRA): (_R.IGNORE, _S.ESTABLISHED),
    (_S.ESTABLISHED, _I.REJ): (_R.REJECTED, _S.TIMEWAIT),  # the peer gave its REP up: all RTUs were lost
    (_S.ESTABLISHED, _I.DREQ): (_R.RELEASE, _S.TIMEWAIT),
    (_S.ESTABLISHED, _I.DREP): (_R.IGNORE, _S.ESTABLISHED),
    (_S.ESTABLISHED, _I.DATA): (_R.IGNORE, _S.ESTABLISHED),
    (_S.ESTABLISHED, _I.TIMEOUT): (_R.IGNORE, _S.ESTABLISHED),
    (_S.DREQ_SENT, _I.REQ): (_R.IGNORE, _S.DREQ_SENT),
    (_S.DREQ_SENT, _I.REP): (_R.IGNORE, _S.DREQ_SENT),
    (_S.DREQ_SENT, _I.RTU): (_R.IGNORE, _S.DREQ_SENT),
    (_S.DREQ_SENT, _I.MRA): (_R.IGNORE, _S.DREQ_SENT),
    (_S.DREQ_SENT, _I.REJ): (_R.RELEASED, _S.TIMEWAIT),
    (_S.DREQ_SENT, _I.DREQ): (_R.RELEASE, _S.TIMEWAIT),  # both at once
    (_S.DREQ_SENT, _I.DREP): (_R.RELEASED, _S.TIMEWAIT),
    (_S.DREQ_SENT, _I.DATA): (_R.IGNORE, _S.DREQ_SENT),
    (_S.DREQ_SENT, _I.TIMEOUT): (_R.UNANSWERED, _S.TIMEWAIT),
    (_S.TIMEWAIT, _I.REQ): (_R.REPEAT, _S.TIMEWAIT),  # the REJ, if that was the answer
    (_S.TIMEWAIT, _I.REP): (_R.REPEAT, _S.TIMEWAIT),
    (_S.TIMEWAIT, _I.RTU): (_R.IGNORE, _S.TIMEWAIT),
    (_S.TIMEWAIT, _I.MRA): (_R.IGNORE, _S.TIMEWAIT),
    (_S.TIMEWAIT, _I.REJ): (_R.IGNORE, _S.TIMEWAIT),
    (_S.TIMEWAIT, _I.DREQ): (_R.DREP_AGAIN, _S.TIMEWAIT),
    (_S.TIMEWAIT, _I.DREP): (_R.IGNORE, _S.TIMEWAIT),
    (_S.TIMEWAIT, _I.DATA): (_R.IGNORE, _S.TIMEWAIT),
    (_S.TIMEWAIT, _I.TIMEOUT): (_R.FORGET, _S.TIMEWAIT),
}

CM_VERBS: dict[tuple[CmState, CmVerb], CmState] = {  # a verb in any other state sends nothing
    (_S.REQ_SENT, CmVerb.DISCONNECT): _S.TIMEWAIT,  # REJ with reason TIMEOUT
    (_S.REP_RCVD, CmVerb.READY): _S.ESTABLISHED,
    (_S.REP_RCVD, CmVerb.DELAY): _S.REP_RCVD,
    (_S.REP_RCVD, CmVerb.REJECT): _S.TIMEWAIT,
    (_S.REP_RCVD, CmVerb.DISCONNECT): _S.TIMEWAIT,  # REJ
    (_S.REQ_RCVD, CmVerb.ACCEPT): _S.REP_SENT,
    (_S.REQ_RCVD, CmVerb.DELAY): _S.REQ_RCVD,
    (_S.REQ_RCVD, CmVerb.REJECT): _S.TIMEWAIT,
    (_S.REQ_RCVD, CmVerb.DISCONNECT): _S.TIMEWAIT,  # REJ
    (_S.REP_SENT, CmVerb.DISCONNECT): _S.DREQ_SENT,
    (_S.ESTABLISHED, CmVerb.DISCONNECT): _S.DREQ_SENT,
}
