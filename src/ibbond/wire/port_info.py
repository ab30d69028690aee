"""PortInfo: the attribute that says what a port is, and by whose writing a subnet comes to life.

Read first: InfiniBand Architecture volume 1, section 14.2.5.6. Values are the standard's codes (MTU 4 = 2048 bytes,
width 2 = 4x, state 4 = Active); in a Set, state 0 and physical state 0 mean no change. Left out: extended port
information (ExtendedPortInfo of vendors).
"""

import enum
import struct
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import ClassVar, Self

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


MTU_BYTES = {1: 256, 2: 512, 3: 1024, 4: 2048, 5: 4096}
MTU_CODE = {size: code for code, size in MTU_BYTES.items()}


@dataclass(frozen=True, slots=True)
class PortInfo:
    """All 64 bytes of PortInfo; names are the standard's, spelled out where a word was short."""

    LAYOUT: ClassVar = struct.Struct("!QQHHIHH16B3H4BHIHBB")
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
        if len(data) != cls.LAYOUT.size:
            raise Malformed(f"PortInfo needs {cls.LAYOUT.size} bytes, got {len(data)}")
        raw = cls.LAYOUT.unpack(data)
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
            speed_supported=speed_state >> 4,
            state=speed_state & 15,
            physical_state=physical >> 4,
            down_default=physical & 15,
            m_key_protect=protect >> 6,
            lmc=protect & 7,
            speed_active=speed >> 4,
            speed_enabled=speed & 15,
            neighbor_mtu=mtu_sl >> 4,
            sm_sl=mtu_sl & 15,
            vl_cap=vl_cap >> 4,
            init_type=vl_cap & 15,
            vl_high_limit=high_limit,
            vl_arb_high_cap=high_cap,
            vl_arb_low_cap=low_cap,
            init_type_reply=mtu_cap >> 4,
            mtu_cap=mtu_cap & 15,
            vl_stall_count=stall >> 5,
            hoq_life=stall & 31,
            operational_vls=vls >> 4,
            enforcement=vls & 15,
            m_key_violations=m_violations,
            p_key_violations=p_violations,
            q_key_violations=q_violations,
            guid_cap=guid_cap,
            client_reregister=bool(reregister >> 7),
            multicast_pkey_suppression=reregister >> 5 & 3,
            subnet_timeout=reregister & 31,
            response_time=response & 31,
            local_phy_errors=errors >> 4,
            overrun_errors=errors & 15,
            max_credit_hint=credit,
            round_trip_latency=latency & 0xFFFFFF,
            capability_mask2=capability2,
            speed_ext_active=ext >> 4,
            speed_ext_supported=ext & 15,
            speed_ext_enabled=ext_enabled & 31,
        )

    def pack(self) -> bytes:
        return self.LAYOUT.pack(
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

    def changed(self, **changes: int) -> Self:
        """A copy with other values in these fields: `dataclasses.replace`, but quick, for there are many fields."""
        values = list(_VALUES(self))
        for name, value in changes.items():
            values[_PLACE[name]] = value
        return type(self)(*values)


_NAMES = tuple(field.name for field in fields(PortInfo))
_PLACE = {name: place for place, name in enumerate(_NAMES)}
_VALUES = attrgetter(*_NAMES)
