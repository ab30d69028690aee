"""The states of a port and its link, as a table: what the physical link does, and what PortInfo Set may ask.

Read first: InfiniBand Architecture volume 1, 7.2 (the link states) and 14.2.5.6 (PortInfo). A link trains to Init by
itself; Armed and Active are the subnet manager's to write. Left out: sleep (taken as polling), recovery, and port 0 of
switches, which is always up.
"""

from __future__ import annotations

import enum

from ibbond.machine import Symbol
from ibbond.verbs.verbs import PortState
from ibbond.wire.port_info import PhysicalState


class LinkState(Symbol):
    """PortState and PortPhysicalState together, as far as both can be."""

    DISABLED = enum.auto()
    POLLING = enum.auto()
    INIT = enum.auto()
    ARMED = enum.auto()
    ACTIVE = enum.auto()


class PortInput(Symbol):
    TRAINED = enum.auto()  # the other end answers
    LOST = enum.auto()  # it no longer does
    SET_DOWN = enum.auto()  # PortInfo Set asks for this PortState
    SET_INIT = enum.auto()
    SET_ARMED = enum.auto()
    SET_ACTIVE = enum.auto()
    SET_POLLING = enum.auto()  # or for this PortPhysicalState
    SET_DISABLED = enum.auto()


class PortReaction(Symbol):
    IGNORE = enum.auto()
    REFUSE = enum.auto()  # the Set changes nothing and is answered with a status
    CHANGE = enum.auto()
    ACTIVATE = enum.auto()  # and raise PORT_ACTIVE
    FAIL = enum.auto()  # and raise PORT_ERR
    RETRAIN = enum.auto()  # the link goes down and, if the other end answers, up to Init
    DISABLE = enum.auto()  # the link goes down


_S, _I, _R = LinkState, PortInput, PortReaction

PORT_TABLE: dict[tuple[LinkState, PortInput], tuple[PortReaction, LinkState]] = {
    (_S.DISABLED, _I.TRAINED): (_R.IGNORE, _S.DISABLED),
    (_S.DISABLED, _I.LOST): (_R.IGNORE, _S.DISABLED),
    (_S.DISABLED, _I.SET_DOWN): (_R.RETRAIN, _S.POLLING),
    (_S.DISABLED, _I.SET_INIT): (_R.REFUSE, _S.DISABLED),
    (_S.DISABLED, _I.SET_ARMED): (_R.REFUSE, _S.DISABLED),
    (_S.DISABLED, _I.SET_ACTIVE): (_R.REFUSE, _S.DISABLED),
    (_S.DISABLED, _I.SET_POLLING): (_R.RETRAIN, _S.POLLING),
    (_S.DISABLED, _I.SET_DISABLED): (_R.DISABLE, _S.DISABLED),
    (_S.POLLING, _I.TRAINED): (_R.CHANGE, _S.INIT),
    (_S.POLLING, _I.LOST): (_R.IGNORE, _S.POLLING),
    (_S.POLLING, _I.SET_DOWN): (_R.RETRAIN, _S.POLLING),
    (_S.POLLING, _I.SET_INIT): (_R.REFUSE, _S.POLLING),
    (_S.POLLING, _I.SET_ARMED): (_R.REFUSE, _S.POLLING),
    (_S.POLLING, _I.SET_ACTIVE): (_R.REFUSE, _S.POLLING),
    (_S.POLLING, _I.SET_POLLING): (_R.RETRAIN, _S.POLLING),
    (_S.POLLING, _I.SET_DISABLED): (_R.DISABLE, _S.DISABLED),
    (_S.INIT, _I.TRAINED): (_R.IGNORE, _S.INIT),
    (_S.INIT, _I.LOST): (_R.CHANGE, _S.POLLING),
    (_S.INIT, _I.SET_DOWN): (_R.RETRAIN, _S.POLLING),
    (_S.INIT, _I.SET_INIT): (_R.REFUSE, _S.INIT),
    (_S.INIT, _I.SET_ARMED): (_R.CHANGE, _S.ARMED),
    (_S.INIT, _I.SET_ACTIVE): (_R.REFUSE, _S.INIT),
    (_S.INIT, _I.SET_POLLING): (_R.RETRAIN, _S.POLLING),
    (_S.INIT, _I.SET_DISABLED): (_R.DISABLE, _S.DISABLED),
    (_S.ARMED, _I.TRAINED): (_R.IGNORE, _S.ARMED),
    (_S.ARMED, _I.LOST): (_R.CHANGE, _S.POLLING),
    (_S.ARMED, _I.SET_DOWN): (_R.RETRAIN, _S.POLLING),
    (_S.ARMED, _I.SET_INIT): (_R.REFUSE, _S.ARMED),
    (_S.ARMED, _I.SET_ARMED): (_R.IGNORE, _S.ARMED),
    (_S.ARMED, _I.SET_ACTIVE): (_R.ACTIVATE, _S.ACTIVE),
    (_S.ARMED, _I.SET_POLLING): (_R.RETRAIN, _S.POLLING),
    (_S.ARMED, _I.SET_DISABLED): (_R.DISABLE, _S.DISABLED),
    (_S.ACTIVE, _I.TRAINED): (_R.IGNORE, _S.ACTIVE),
    (_S.ACTIVE, _I.LOST): (_R.FAIL, _S.POLLING),
    (_S.ACTIVE, _I.SET_DOWN): (_R.RETRAIN, _S.POLLING),
    (_S.ACTIVE, _I.SET_INIT): (_R.REFUSE, _S.ACTIVE),
    (_S.ACTIVE, _I.SET_ARMED): (_R.REFUSE, _S.ACTIVE),
    (_S.ACTIVE, _I.SET_ACTIVE): (_R.IGNORE, _S.ACTIVE),
    (_S.ACTIVE, _I.SET_POLLING): (_R.RETRAIN, _S.POLLING),
    (_S.ACTIVE, _I.SET_DISABLED): (_R.DISABLE, _S.DISABLED),
}

STATES: dict[LinkState, tuple[int, int]] = {  # what PortInfo says
    LinkState.DISABLED: (PortState.DOWN, PhysicalState.DISABLED),
    LinkState.POLLING: (PortState.DOWN, PhysicalState.POLLING),
    LinkState.INIT: (PortState.INIT, PhysicalState.LINK_UP),
    LinkState.ARMED: (PortState.ARMED, PhysicalState.LINK_UP),
    LinkState.ACTIVE: (PortState.ACTIVE, PhysicalState.LINK_UP),
}
LINK_STATES = {states: link_state for link_state, states in STATES.items()}
SET_STATE: dict[int, PortInput] = {
    PortState.DOWN: PortInput.SET_DOWN,
    PortState.INIT: PortInput.SET_INIT,
    PortState.ARMED: PortInput.SET_ARMED,
    PortState.ACTIVE: PortInput.SET_ACTIVE,
}
SET_PHYSICAL: dict[int, PortInput] = {
    PhysicalState.SLEEP: PortInput.SET_POLLING,
    PhysicalState.POLLING: PortInput.SET_POLLING,
    PhysicalState.DISABLED: PortInput.SET_DISABLED,
}
