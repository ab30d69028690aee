"""One port of a node: what PortInfo says of it, its P_Key table, its counters, its cable.

Read first: InfiniBand Architecture volume 1, 14.2.5.6 (PortInfo), 10.9.1 (P_Key matching), 16.1.3 (counters). The port
of a host is what `ipoib` looks at: name, state, lid, sm_lid, gid, guid, pkeys, mtu_bytes. Left out: virtual lanes
beyond their tables, LMC above zero (one LID a port).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ibbond.fabric.port_states import LINK_STATES, PORT_TABLE, STATES, LinkState, PortInput, PortReaction
from ibbond.verbs.verbs import PortState
from ibbond.wire.gid import DEFAULT_GID_PREFIX
from ibbond.wire.pkey import DEFAULT_PKEY, FULL_MEMBER, pkeys_match
from ibbond.wire.port_info import MTU_BYTES, MTU_CODE, Capability, PhysicalState, PortInfo
from ibbond.wire.smp import NodeType

if TYPE_CHECKING:
    from ibbond.fabric.cable import Cable
    from ibbond.fabric.node import Node

PKEYS_PER_PORT = 64
GUIDS_PER_PORT = 8
VL_CAP = 4  # VL0-7
HCA_CAPABILITIES = (
    Capability.NOTICE
    | Capability.TRAP
    | Capability.SL_MAPPING
    | Capability.COMMUNICATION_MANAGEMENT
    | Capability.CAPABILITY_MASK_NOTICE
    | Capability.CLIENT_REREGISTRATION
)
SWITCH_CAPABILITIES = Capability.NOTICE | Capability.TRAP | Capability.SL_MAPPING | Capability.CAPABILITY_MASK_NOTICE
WIDTH_1X, WIDTH_4X = 1, 2
SPEED_SDR, SPEED_DDR, SPEED_QDR = 1, 2, 4


@dataclass(slots=True)
class PortCounters:
    """What a port has counted. Data are 4-byte words from LRH to ICRC, as PortXmitData counts them."""

    symbol_errors: int = 0
    link_error_recovery: int = 0
    link_downed: int = 0
    receive_errors: int = 0
    receive_remote_errors: int = 0
    receive_switch_relay_errors: int = 0
    transmit_discards: int = 0
    transmit_constraint_errors: int = 0
    receive_constraint_errors: int = 0
    local_link_integrity_errors: int = 0
    buffer_overruns: int = 0
    vl15_dropped: int = 0
    transmit_wait: int = 0
    transmit_words: int = 0
    receive_words: int = 0
    transmit_packets: int = 0
    receive_packets: int = 0
    transmit_multicast: int = 0
    receive_multicast: int = 0
    transmit_unicast_more: int = 0  # than packets less multicast, since these can be written one without the other
    receive_unicast_more: int = 0

    @property
    def transmit_unicast(self) -> int:
        return self.transmit_packets - self.transmit_multicast + self.transmit_unicast_more

    @property
    def receive_unicast(self) -> int:
        return self.receive_packets - self.receive_multicast + self.receive_unicast_more

    def write(self, values: Mapping[str, int]) -> None:
        """Set counters by name; all others, those of unicast too, keep what they have."""
        transmit = values.get("transmit_unicast", self.transmit_unicast)
        receive = values.get("receive_unicast", self.receive_unicast)
        for name, value in values.items():
            if not name.endswith("_unicast"):
                setattr(self, name, value)
        self.transmit_unicast_more += transmit - self.transmit_unicast
        self.receive_unicast_more += receive - self.receive_unicast


class Port:
    """A port. `info` is the one truth of what PortInfo says; `state`, `lid` and the others mirror it for speed."""

    __slots__ = (
        "_packed",
        "_pkey_table",
        "cable",
        "counters",
        "gid",
        "guid",
        "guids",
        "info",
        "is_end_port",
        "lid",
        "m_key_expires_at",
        "mirrored",
        "mtu_bytes",
        "name",
        "node",
        "number",
        "peer",
        "pkeys",
        "sl_to_vl",
        "sm_lid",
        "state",
        "vl_arbitration",
    )

    def __init__(self, node: Node, number: int, guid: int, mtu_bytes: int) -> None:
        self.node = node
        self.number = number
        self.guid = guid
        self.name = f"{node.name}/{number}"
        self.is_end_port = number == 0 or node.node_type != NodeType.SWITCH  # it has a LID of its own
        self.cable: Cable | None = None
        self.peer: Port | None = None  # the port at the other end, while there is light on the cable
        self.mirrored = False
        self.power_up(mtu_bytes)

    def power_up(self, mtu_bytes: int) -> None:
        """Be as after power-on: nothing that a subnet manager wrote is left, nothing is counted."""
        self.counters = PortCounters()
        self.guids = [self.guid] + [0] * (GUIDS_PER_PORT - 1)
        self.sl_to_vl: dict[int, bytes] = {}
        self.vl_arbitration: dict[int, bytes] = {}
        self.m_key_expires_at: int | None = None
        self.state = PortState.DOWN
        self.lid = 0
        self.sm_lid = 0
        self.mtu_bytes = mtu_bytes
        self.gid = b""
        self.pkeys: tuple[int, ...] = ()
        self.pkey_table = [DEFAULT_PKEY] + [0] * (PKEYS_PER_PORT - 1)
        self.info = _power_up(self, mtu_bytes)
        self.change()

    @property
    def link_state(self) -> LinkState:
        return LINK_STATES[self.state, self.info.physical_state]

    @property
    def may_train(self) -> bool:
        """Neither disabled nor up already."""
        return PORT_TABLE[self.link_state, PortInput.TRAINED][0] is not PortReaction.IGNORE

    def step(self, event: PortInput, **fields: int) -> PortReaction:
        """Read the table; fields of PortInfo that change with the state change with it. The caller does the rest."""
        before = self.link_state
        reaction, after = PORT_TABLE[before, event]
        if after is not before:
            state, physical_state = STATES[after]
            self.change(state=state, physical_state=physical_state, **fields)
        return reaction

    @property
    def pkey_table(self) -> list[int]:
        return self._pkey_table

    @pkey_table.setter
    def pkey_table(self, table: list[int]) -> None:
        self._pkey_table = table
        last = max((index for index, pkey in enumerate(table) if pkey), default=-1)
        self.pkeys = tuple(table[: last + 1])

    def change(self, **fields: int) -> None:
        """Change fields of PortInfo, the only way to do so."""
        info = self.info = self.info.changed(**fields)
        self._packed = b""
        self.state = PortState(info.state)
        self.lid = info.lid
        self.sm_lid = info.sm_lid
        self.mtu_bytes = MTU_BYTES[info.neighbor_mtu]
        self.gid = info.gid_prefix.to_bytes(8, "big") + self.guid.to_bytes(8, "big")

    def packed_info(self) -> bytes:
        """The 64 bytes of `info`, which are asked for far more often than they change."""
        if not self._packed:
            self._packed = self.info.pack()
        return self._packed

    def admits(self, pkey: int) -> bool:
        """A packet of this P_Key may pass: one key of the table has its low 15 bits, and one of both is full."""
        return any(pkeys_match(own, pkey) for own in self.pkeys if own & 0x7FFF)

    def holds(self, pkey: int) -> bool:
        """The table has the key itself, or (for a limited key) its full form."""
        return pkey in self.pkeys or pkey | FULL_MEMBER in self.pkeys


def _power_up(port: Port, mtu_bytes: int) -> PortInfo:
    """What a port says of itself before any subnet manager has written to it."""
    managed = port.is_end_port
    on_switch = port.node.node_type == NodeType.SWITCH
    always_up = on_switch and port.number == 0
    return PortInfo(
        gid_prefix=DEFAULT_GID_PREFIX,
        capability_mask=(SWITCH_CAPABILITIES if on_switch else HCA_CAPABILITIES) if managed else 0,
        local_port=port.number,
        width_enabled=WIDTH_1X | WIDTH_4X,
        width_supported=WIDTH_1X | WIDTH_4X,
        width_active=WIDTH_4X,
        speed_supported=SPEED_SDR | SPEED_DDR | SPEED_QDR,
        speed_enabled=SPEED_SDR | SPEED_DDR | SPEED_QDR,
        speed_active=SPEED_QDR,
        state=PortState.ACTIVE if always_up else PortState.DOWN,
        physical_state=PhysicalState.LINK_UP if always_up else PhysicalState.POLLING,
        down_default=PhysicalState.POLLING,
        neighbor_mtu=MTU_CODE[mtu_bytes],
        mtu_cap=MTU_CODE[mtu_bytes],
        vl_cap=VL_CAP,
        vl_arb_high_cap=8,
        vl_arb_low_cap=8,
        operational_vls=VL_CAP,  # until a manager says otherwise
        guid_cap=GUIDS_PER_PORT if managed else 0,
        response_time=16,
    )
