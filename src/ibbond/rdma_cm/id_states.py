"""The states of an RDMA CM id, as tables: what its program may ask for in each of them, and what events do.

Read first: rdma_cm(7), and of Linux `core/cma.c`, `enum rdma_cm_state`. An id can be destroyed in every state. Its
program is notified once that a connection has ended: until the peer answers a DREQ the id is still CONNECTED.
"""

from __future__ import annotations

import enum

from ibbond.machine import Symbol


class IdState(Symbol):
    IDLE = enum.auto()
    BOUND = enum.auto()  # to a port, and to an address or all of them
    LISTENING = enum.auto()
    RESOLVING_ADDRESS = enum.auto()
    ADDRESS_RESOLVED = enum.auto()
    RESOLVING_ROUTE = enum.auto()
    ROUTE_RESOLVED = enum.auto()
    CONNECTING = enum.auto()
    CONNECTED = enum.auto()
    DISCONNECTED = enum.auto()
    REMOVED = enum.auto()  # its adapter was removed: it can only be destroyed


class IdVerb(Symbol):
    """What a program asks for."""

    BIND = enum.auto()
    LISTEN = enum.auto()
    RESOLVE_ADDRESS = enum.auto()
    RESOLVE_ROUTE = enum.auto()
    MAKE_QUEUE_PAIR = enum.auto()
    CONNECT = enum.auto()
    ACCEPT = enum.auto()
    REJECT = enum.auto()
    DISCONNECT = enum.auto()


class IdInput(Symbol):
    """What happens to an id."""

    REQUESTED = enum.auto()  # by a peer's REQ: the id is made for it
    RESOLVED = enum.auto()  # the address or the route that was looked for
    FAILED = enum.auto()  # to resolve it
    ESTABLISHED = enum.auto()  # by RTU, by data, or by REP and the own queue pair
    ENDED = enum.auto()  # by REJ, DREQ, DREP, or without an answer
    REMOVED = enum.auto()


class IdReaction(Symbol):
    NOTIFY = enum.auto()
    IGNORE = enum.auto()


_S, _V, _I, _R = IdState, IdVerb, IdInput, IdReaction

ID_VERBS: dict[tuple[IdState, IdVerb], IdState | None] = {  # None: too late, and the program has the event already
    (_S.IDLE, _V.BIND): _S.BOUND,
    (_S.IDLE, _V.RESOLVE_ADDRESS): _S.RESOLVING_ADDRESS,
    (_S.IDLE, _V.MAKE_QUEUE_PAIR): _S.IDLE,
    (_S.IDLE, _V.DISCONNECT): None,
    (_S.BOUND, _V.LISTEN): _S.LISTENING,
    (_S.BOUND, _V.RESOLVE_ADDRESS): _S.RESOLVING_ADDRESS,
    (_S.BOUND, _V.MAKE_QUEUE_PAIR): _S.BOUND,
    (_S.BOUND, _V.DISCONNECT): None,
    (_S.LISTENING, _V.DISCONNECT): None,
    (_S.RESOLVING_ADDRESS, _V.MAKE_QUEUE_PAIR): _S.RESOLVING_ADDRESS,
    (_S.RESOLVING_ADDRESS, _V.DISCONNECT): None,
    (_S.ADDRESS_RESOLVED, _V.RESOLVE_ROUTE): _S.RESOLVING_ROUTE,
    (_S.ADDRESS_RESOLVED, _V.MAKE_QUEUE_PAIR): _S.ADDRESS_RESOLVED,
    (_S.ADDRESS_RESOLVED, _V.DISCONNECT): None,
    (_S.RESOLVING_ROUTE, _V.MAKE_QUEUE_PAIR): _S.RESOLVING_ROUTE,
    (_S.RESOLVING_ROUTE, _V.DISCONNECT): None,
    (_S.ROUTE_RESOLVED, _V.MAKE_QUEUE_PAIR): _S.ROUTE_RESOLVED,
    (_S.ROUTE_RESOLVED, _V.CONNECT): _S.CONNECTING,
    (_S.ROUTE_RESOLVED, _V.DISCONNECT): None,
    (_S.CONNECTING, _V.MAKE_QUEUE_PAIR): _S.CONNECTING,
    (_S.CONNECTING, _V.ACCEPT): _S.CONNECTING,  # until the peer's RTU
    (_S.CONNECTING, _V.REJECT): _S.DISCONNECTED,
    (_S.CONNECTING, _V.DISCONNECT): _S.DISCONNECTED,
    (_S.CONNECTED, _V.MAKE_QUEUE_PAIR): _S.CONNECTED,
    (_S.CONNECTED, _V.DISCONNECT): _S.CONNECTED,  # until the peer's DREP
    (_S.DISCONNECTED, _V.MAKE_QUEUE_PAIR): _S.DISCONNECTED,  # in error from the start
    (_S.DISCONNECTED, _V.ACCEPT): None,
    (_S.DISCONNECTED, _V.REJECT): None,
    (_S.DISCONNECTED, _V.DISCONNECT): None,
    (_S.REMOVED, _V.RESOLVE_ROUTE): None,
    (_S.REMOVED, _V.MAKE_QUEUE_PAIR): None,
    (_S.REMOVED, _V.CONNECT): None,
    (_S.REMOVED, _V.ACCEPT): None,
    (_S.REMOVED, _V.REJECT): None,
    (_S.REMOVED, _V.DISCONNECT): None,
}  # a verb in any other state is refused

ID_TABLE: dict[tuple[IdState, IdInput], tuple[IdReaction, IdState]] = {
    (_S.IDLE, _I.REQUESTED): (_R.NOTIFY, _S.CONNECTING),
    (_S.IDLE, _I.RESOLVED): (_R.IGNORE, _S.IDLE),
    (_S.IDLE, _I.FAILED): (_R.IGNORE, _S.IDLE),
    (_S.IDLE, _I.ESTABLISHED): (_R.IGNORE, _S.IDLE),
    (_S.IDLE, _I.ENDED): (_R.IGNORE, _S.IDLE),
    (_S.IDLE, _I.REMOVED): (_R.NOTIFY, _S.REMOVED),
    (_S.BOUND, _I.REQUESTED): (_R.IGNORE, _S.BOUND),
    (_S.BOUND, _I.RESOLVED): (_R.IGNORE, _S.BOUND),
    (_S.BOUND, _I.FAILED): (_R.IGNORE, _S.BOUND),
    (_S.BOUND, _I.ESTABLISHED): (_R.IGNORE, _S.BOUND),
    (_S.BOUND, _I.ENDED): (_R.IGNORE, _S.BOUND),
    (_S.BOUND, _I.REMOVED): (_R.NOTIFY, _S.REMOVED),
    (_S.LISTENING, _I.REQUESTED): (_R.IGNORE, _S.LISTENING),
    (_S.LISTENING, _I.RESOLVED): (_R.IGNORE, _S.LISTENING),
    (_S.LISTENING, _I.FAILED): (_R.IGNORE, _S.LISTENING),
    (_S.LISTENING, _I.ESTABLISHED): (_R.IGNORE, _S.LISTENING),
    (_S.LISTENING, _I.ENDED): (_R.IGNORE, _S.LISTENING),
    (_S.LISTENING, _I.REMOVED): (_R.NOTIFY, _S.REMOVED),
    (_S.RESOLVING_ADDRESS, _I.REQUESTED): (_R.IGNORE, _S.RESOLVING_ADDRESS),
    (_S.RESOLVING_ADDRESS, _I.RESOLVED): (_R.NOTIFY, _S.ADDRESS_RESOLVED),
    (_S.RESOLVING_ADDRESS, _I.FAILED): (_R.NOTIFY, _S.IDLE),
    (_S.RESOLVING_ADDRESS, _I.ESTABLISHED): (_R.IGNORE, _S.RESOLVING_ADDRESS),
    (_S.RESOLVING_ADDRESS, _I.ENDED): (_R.IGNORE, _S.RESOLVING_ADDRESS),
    (_S.RESOLVING_ADDRESS, _I.REMOVED): (_R.NOTIFY, _S.REMOVED),
    (_S.ADDRESS_RESOLVED, _I.REQUESTED): (_R.IGNORE, _S.ADDRESS_RESOLVED),
    (_S.ADDRESS_RESOLVED, _I.RESOLVED): (_R.IGNORE, _S.ADDRESS_RESOLVED),
    (_S.ADDRESS_RESOLVED, _I.FAILED): (_R.IGNORE, _S.ADDRESS_RESOLVED),
    (_S.ADDRESS_RESOLVED, _I.ESTABLISHED): (_R.IGNORE, _S.ADDRESS_RESOLVED),
    (_S.ADDRESS_RESOLVED, _I.ENDED): (_R.IGNORE, _S.ADDRESS_RESOLVED),
    (_S.ADDRESS_RESOLVED, _I.REMOVED): (_R.NOTIFY, _S.REMOVED),
    (_S.RESOLVING_ROUTE, _I.REQUESTED): (_R.IGNORE, _S.RESOLVING_ROUTE),
    (_S.RESOLVING_ROUTE, _I.RESOLVED): (_R.NOTIFY, _S.ROUTE_RESOLVED),
    (_S.RESOLVING_ROUTE, _I.FAILED): (_R.NOTIFY, _S.ADDRESS_RESOLVED),
    (_S.RESOLVING_ROUTE, _I.ESTABLISHED): (_R.IGNORE, _S.RESOLVING_ROUTE),
    (_S.RESOLVING_ROUTE, _I.ENDED): (_R.IGNORE, _S.RESOLVING_ROUTE),
    (_S.RESOLVING_ROUTE, _I.REMOVED): (_R.NOTIFY, _S.REMOVED),
    (_S.ROUTE_RESOLVED, _I.REQUESTED): (_R.IGNORE, _S.ROUTE_RESOLVED),
    (_S.ROUTE_RESOLVED, _I.RESOLVED): (_R.IGNORE, _S.ROUTE_RESOLVED),
    (_S.ROUTE_RESOLVED, _I.FAILED): (_R.IGNORE, _S.ROUTE_RESOLVED),
    (_S.ROUTE_RESOLVED, _I.ESTABLISHED): (_R.IGNORE, _S.ROUTE_RESOLVED),
    (_S.ROUTE_RESOLVED, _I.ENDED): (_R.IGNORE, _S.ROUTE_RESOLVED),
    (_S.ROUTE_RESOLVED, _I.REMOVED): (_R.NOTIFY, _S.REMOVED),
    (_S.CONNECTING, _I.REQUESTED): (_R.IGNORE, _S.CONNECTING),
    (_S.CONNECTING, _I.RESOLVED): (_R.IGNORE, _S.CONNECTING),
    (_S.CONNECTING, _I.FAILED): (_R.IGNORE, _S.CONNECTING),
    (_S.CONNECTING, _I.ESTABLISHED): (_R.NOTIFY, _S.CONNECTED),
    (_S.CONNECTING, _I.ENDED): (_R.NOTIFY, _S.DISCONNECTED),
    (_S.CONNECTING, _I.REMOVED): (_R.NOTIFY, _S.REMOVED),
    (_S.CONNECTED, _I.REQUESTED): (_R.IGNORE, _S.CONNECTED),
    (_S.CONNECTED, _I.RESOLVED): (_R.IGNORE, _S.CONNECTED),
    (_S.CONNECTED, _I.FAILED): (_R.IGNORE, _S.CONNECTED),
    (_S.CONNECTED, _I.ESTABLISHED): (_R.IGNORE, _S.CONNECTED),
    (_S.CONNECTED, _I.ENDED): (_R.NOTIFY, _S.DISCONNECTED),
    (_S.CONNECTED, _I.REMOVED): (_R.NOTIFY, _S.REMOVED),
    (_S.DISCONNECTED, _I.REQUESTED): (_R.IGNORE, _S.DISCONNECTED),
    (_S.DISCONNECTED, _I.RESOLVED): (_R.IGNORE, _S.DISCONNECTED),
    (_S.DISCONNECTED, _I.FAILED): (_R.IGNORE, _S.DISCONNECTED),
    (_S.DISCONNECTED, _I.ESTABLISHED): (_R.IGNORE, _S.DISCONNECTED),
    (_S.DISCONNECTED, _I.ENDED): (_R.NOTIFY, _S.DISCONNECTED),  # the DREP to the DREQ of an id that was CONNECTING
    (_S.DISCONNECTED, _I.REMOVED): (_R.NOTIFY, _S.REMOVED),
    (_S.REMOVED, _I.REQUESTED): (_R.IGNORE, _S.REMOVED),
    (_S.REMOVED, _I.RESOLVED): (_R.IGNORE, _S.REMOVED),
    (_S.REMOVED, _I.FAILED): (_R.IGNORE, _S.REMOVED),
    (_S.REMOVED, _I.ESTABLISHED): (_R.IGNORE, _S.REMOVED),
    (_S.REMOVED, _I.ENDED): (_R.IGNORE, _S.REMOVED),
    (_S.REMOVED, _I.REMOVED): (_R.IGNORE, _S.REMOVED),
}
