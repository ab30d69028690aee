"""The states of a subnet manager, as a table: what each event means to a dead one, a standby and a master.

Read first: InfiniBand Architecture volume 1, 14.4 (the SM state machine). Left out: DISCOVERING, because ours calls
itself master when it begins to sweep, and yields as soon as the sweep finds a better one; DISABLE and ACKNOWLEDGE,
which only managers from elsewhere send each other.
"""

from __future__ import annotations

import enum

from ibbond.machine import Symbol
from ibbond.wire.smp import SmState


class ManagerState(Symbol):
    NOT_ACTIVE = enum.auto()
    STANDBY = enum.auto()
    MASTER = enum.auto()


class ManagerInput(Symbol):
    START = enum.auto()  # its process starts, and there is no master
    STAND_BY = enum.auto()  # its process starts, and there is one
    STOP = enum.auto()  # its process or its node dies
    MASTER_SILENT = enum.auto()  # the master has not answered for the last time
    HANDOVER = enum.auto()  # another manager yields to it (SMInfo Set)
    BETTER_MASTER = enum.auto()  # a sweep has found a master of higher priority, or lower GUID
    OVERRULED = enum.auto()  # another manager has written its LID to this manager's port
    LINK_CHANGED = enum.auto()  # a link of its own node came up or went down
    TRAP = enum.auto()


class ManagerReaction(Symbol):
    IGNORE = enum.auto()
    BEGIN = enum.auto()  # sweep, knowing nothing of members and services
    WATCH = enum.auto()  # ask the master again and again whether it lives
    END = enum.auto()
    ASK_AT_ONCE = enum.auto()  # whether the master lives
    SWEEP = enum.auto()  # soon
    COMPETE = enum.auto()  # sweep, trusting nothing: find out which of the two has to yield
    REPRESS = enum.auto()  # answer the trap, and sweep


_S, _I, _R = ManagerState, ManagerInput, ManagerReaction

MANAGER_TABLE: dict[tuple[ManagerState, ManagerInput], tuple[ManagerReaction, ManagerState]] = {
    (_S.NOT_ACTIVE, _I.START): (_R.BEGIN, _S.MASTER),
    (_S.NOT_ACTIVE, _I.STAND_BY): (_R.WATCH, _S.STANDBY),
    (_S.NOT_ACTIVE, _I.STOP): (_R.IGNORE, _S.NOT_ACTIVE),
    (_S.NOT_ACTIVE, _I.MASTER_SILENT): (_R.IGNORE, _S.NOT_ACTIVE),
    (_S.NOT_ACTIVE, _I.HANDOVER): (_R.IGNORE, _S.NOT_ACTIVE),
    (_S.NOT_ACTIVE, _I.BETTER_MASTER): (_R.IGNORE, _S.NOT_ACTIVE),
    (_S.NOT_ACTIVE, _I.OVERRULED): (_R.IGNORE, _S.NOT_ACTIVE),
    (_S.NOT_ACTIVE, _I.LINK_CHANGED): (_R.IGNORE, _S.NOT_ACTIVE),
    (_S.NOT_ACTIVE, _I.TRAP): (_R.IGNORE, _S.NOT_ACTIVE),
    (_S.STANDBY, _I.START): (_R.BEGIN, _S.MASTER),
    (_S.STANDBY, _I.STAND_BY): (_R.WATCH, _S.STANDBY),
    (_S.STANDBY, _I.STOP): (_R.END, _S.NOT_ACTIVE),
    (_S.STANDBY, _I.MASTER_SILENT): (_R.BEGIN, _S.MASTER),
    (_S.STANDBY, _I.HANDOVER): (_R.BEGIN, _S.MASTER),
    (_S.STANDBY, _I.BETTER_MASTER): (_R.IGNORE, _S.STANDBY),  # it does not sweep
    (_S.STANDBY, _I.OVERRULED): (_R.IGNORE, _S.STANDBY),  # the master's LID belongs there
    (_S.STANDBY, _I.LINK_CHANGED): (_R.ASK_AT_ONCE, _S.STANDBY),
    (_S.STANDBY, _I.TRAP): (_R.IGNORE, _S.STANDBY),
    (_S.MASTER, _I.START): (_R.BEGIN, _S.MASTER),
    (_S.MASTER, _I.STAND_BY): (_R.WATCH, _S.STANDBY),
    (_S.MASTER, _I.STOP): (_R.END, _S.NOT_ACTIVE),
    (_S.MASTER, _I.MASTER_SILENT): (_R.IGNORE, _S.MASTER),  # it watches no other
    (_S.MASTER, _I.HANDOVER): (_R.COMPETE, _S.MASTER),
    (_S.MASTER, _I.BETTER_MASTER): (_R.WATCH, _S.STANDBY),
    (_S.MASTER, _I.OVERRULED): (_R.COMPETE, _S.MASTER),
    (_S.MASTER, _I.LINK_CHANGED): (_R.SWEEP, _S.MASTER),
    (_S.MASTER, _I.TRAP): (_R.REPRESS, _S.MASTER),
}

SM_INFO_STATE: dict[ManagerState, SmState] = {  # what SMInfo says
    ManagerState.NOT_ACTIVE: SmState.NOT_ACTIVE,
    ManagerState.STANDBY: SmState.STANDBY,
    ManagerState.MASTER: SmState.MASTER,
}
