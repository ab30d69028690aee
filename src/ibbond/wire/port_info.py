"""PortInfo: the attribute that says what a port is, and by whose writing a subnet comes to life.

Read first: InfiniBand Architecture volume 1, section 14.2.5.6. Values are the standard's codes (MTU 4 = 2048 bytes,
width 2 = 4x, state 4 = Active); in a Set, state 0 and physical state 0 mean no change. Left out: extended port
information (ExtendedPortInfo of vendors).
"""

from __future__ import annotations

import enum
import struct
from typing import NamedTuple, Self

from ibbond.errors import Malformed


class Capability(enum.IntFlag):
    """Bits of PortInfo.CapabilityMask that we use."""

    IS_SM = 1 << 1
    NOTICE = 1 << 2
    TRAP = 1 << 3
    SL_MAPPING = 1 << 6
    SM_DISABLED = 1 << 10
    CAPABILITY_MASK2 = 1 << 15
    COMMUNICATION_MANAGEMENT = 1 << 16
    VENDOR_CLASS = 1 << 20
    CAPABILITY_MASK_NOTICE = 1 << 22
    CLIENT_REREGISTRATION = 1 << 25


class PhysicalState(enum.IntEnum):
    """PortInfo.PortPhysicalState; in a Set, 0 is no change."""

    NO_CHANGE = 0
    SLEEP = 1
    POLLING = 2
    DISABLED = 3
    TRAINING = 4
    LINK_UP = 5
    RECOVERY = 6


M_KEY_BYTES = 8  # it is the first field
LOCAL_PORT = 28  # the byte of LocalPortNum
MTU_BYTES = {1: 256, 2: 512, 3: 1024, 4: 2048, 5: 4096}
MTU_CODE = {size: code for code, size in MTU_BYTES.items()}


_LAYOUT = struct.Struct("!QQHHIHH16B3H4BHIHBB")


class PortInfo(NamedTuple):
    """All 64 bytes of PortInfo; names are the standard's, spelled out where a word was short.

    A tuple, because a sweep reads and changes thousands of them: a dataclass of this size takes four times as long.
    """

    m_key: int = 0
    gid_prefix: int = 0
    lid: int = 0
    sm_lid: int = 0
    capability_mask: int = 0
    diag_code: int = 0
    m_key_lease: int = 0
    local_port: int = 0
    width_enabled: int = 0
    width_supported: int = 0
    width_active: int = 0
    speed_supported: int = 0
    state: int = 0
    physical_state: int = 0
    down_default: int = 0
    m_key_protect: int = 0
    lmc: int = 0
    speed_active: int = 0
    speed_enabled: int = 0
    neighbor_mtu: int = 0
    sm_sl: int = 0
    vl_cap: int = 0
    init_type: int = 0
    vl_high_limit: int = 0
    vl_arb_high_cap: int = 0
    vl_arb_low_cap: int = 0
    init_type_reply: int = 0
    mtu_cap: int = 0
    vl_stall_count: int = 0
    hoq_life: int = 0
    operational_vls: int = 0
    enforcement: int = 0  # partition in 8, partition out 4, filter raw in 2, filter raw out 1
    m_key_violations: int = 0
    p_key_violations: int = 0
    q_key_violations: int = 0
    guid_cap: int = 0
    client_reregister: bool = False
    multicast_pkey_suppression: int = 0
    subnet_timeout: int = 0
    response_time: int = 0
    local_phy_errors: int = 0
    overrun_errors: int = 0
    max_credit_hint: int = 0
    round_trip_latency: int = 0
    capability_mask2: int = 0
    speed_ext_active: int = 0
    speed_ext_supported: int = 0
    speed_ext_enabled: int = 0

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the 64 bytes of the attribute; `Malformed` for another length, unknown codes are kept as they are."""
        if len(data) != _LAYOUT.size:
            raise Malformed(f"PortInfo needs {_LAYOUT.size} bytes, got {len(data)}")
        raw = _LAYOUT.unpack(data)
        m_key, prefix, lid, sm_lid, capability, diag, lease, local, enabled, supported, active = raw[:11]
        speed_state, physical, protect, speed, mtu_sl, vl_cap, high_limit, high_cap, low_cap = raw[11:20]
        mtu_cap, stall, vls, m_violations, p_violations, q_violations, guid_cap, reregister = raw[20:28]
        response, errors, credit, latency, capability2, ext, ext_enabled = raw[28:]
        return cls(
            m_key,
            prefix,
            lid,
            sm_lid,
            capability,
            diag,
            lease,
            local,
            enabled,
            supported,
            active,
            speed_state >> 4,
            speed_state & 15,
            physical >> 4,
            physical & 15,
            protect >> 6,
            protect & 7,
            speed >> 4,
            speed & 15,
            mtu_sl >> 4,
            mtu_sl & 15,
            vl_cap >> 4,
            vl_cap & 15,
            high_limit,
            high_cap,
            low_cap,
            mtu_cap >> 4,
            mtu_cap & 15,
            stall >> 5,
            stall & 31,
            vls >> 4,
            vls & 15,
            m_violations,
            p_violations,
            q_violations,
            guid_cap,
            bool(reregister >> 7),
            reregister >> 5 & 3,
            reregister & 31,
            response & 31,
            errors >> 4,
            errors & 15,
            credit,
            latency & 0xFFFFFF,
            capability2,
            ext >> 4,
            ext & 15,
            ext_enabled & 31,
        )

    def pack(self) -> bytes:
        return _LAYOUT.pack(
            self.m_key,
            self.gid_prefix,
            self.lid,
            self.sm_lid,
            self.capability_mask,
            self.diag_code,
            self.m_key_lease,
            self.local_port,
            self.width_enabled,
            self.width_supported,
            self.width_active,
            self.speed_supported << 4 | self.state,
            self.physical_state << 4 | self.down_default,
            self.m_key_protect << 6 | self.lmc,
            self.speed_active << 4 | self.speed_enabled,
            self.neighbor_mtu << 4 | self.sm_sl,
            self.vl_cap << 4 | self.init_type,
            self.vl_high_limit,
            self.vl_arb_high_cap,
            self.vl_arb_low_cap,
            self.init_type_reply << 4 | self.mtu_cap,
            self.vl_stall_count << 5 | self.hoq_life,
            self.operational_vls << 4 | self.enforcement,
            self.m_key_violations,
            self.p_key_violations,
            self.q_key_violations,
            self.guid_cap,
            self.client_reregister << 7 | self.multicast_pkey_suppression << 5 | self.subnet_timeout,
            self.response_time,
            self.local_phy_errors << 4 | self.overrun_errors,
            self.max_credit_hint,
            self.round_trip_latency,
            self.capability_mask2,
            self.speed_ext_active << 4 | self.speed_ext_supported,
            self.speed_ext_enabled,
        )

    def changed(self, **changes: int) -> PortInfo:
        """A copy with other values in these fields."""
        values = list(self)
        for name, value in changes.items():
            values[_PLACE[name]] = value
        return PortInfo._make(values)

    def unchanged(self) -> PortInfo:
        """Ready for a Set that leaves the link's state alone and clears no counters of violations."""
        return self.changed(state=0, physical_state=PhysicalState.NO_CHANGE, client_reregister=False)


_PLACE = {name: place for place, name in enumerate(PortInfo._fields)}


def seen_through(packed: bytes, local_port: int, *, hides_key: bool) -> bytes:
    """PortInfo as the answer has it: the port that the question came in by, and perhaps no M_Key (14.2.4.1)."""
    key = bytes(M_KEY_BYTES) if hides_key else packed[:M_KEY_BYTES]
    return b"%b%b%c%b" % (key, packed[M_KEY_BYTES:LOCAL_PORT], local_port, packed[LOCAL_PORT + 1 :])
