"""What an adapter says of itself to programs: its limits, and its ports as they are now.

Read first: InfiniBand Architecture volume 1, 11.2.1.2 (Query HCA). Numbers of an adapter of the time of QDR; zero
where it has no such objects.
"""

from __future__ import annotations

from ibbond.fabric.hca import Hca
from ibbond.fabric.node import DEVICE_ID, VENDOR_ID
from ibbond.fabric.port import GUIDS_PER_PORT, PKEYS_PER_PORT, Port
from ibbond.wire.uverbs_answers import DeviceLimits, PortAttributes

FIRMWARE = 2 << 32 | 42 << 16 | 5000
MAX_MESSAGE_BYTES = 1 << 24  # one message is copied in one go
MAX_WORK_REQUESTS = 16384
MAX_PIECES = 32
MAX_INLINE_BYTES = 1024
MAX_COMPLETIONS = 1 << 20
MAX_READS = 16  # in flight at once, at either end
MAX_OBJECTS = 8192  # of one open device, all kinds together
MAX_REGION_BYTES = 1 << 40
LOCAL_ACK_DELAY = 15
RC_RNR_NAK_GENERATION, PORT_ACTIVE_EVENT, SYSTEM_IMAGE_GUID = 1 << 12, 1 << 10, 1 << 11
ATOMIC_HCA = 1


def limits(hca: Hca) -> DeviceLimits:
    return DeviceLimits(
        max_mr_bytes=MAX_REGION_BYTES,
        vendor_id=VENDOR_ID,
        vendor_part_id=DEVICE_ID,
        max_qp=MAX_OBJECTS,
        max_qp_wr=MAX_WORK_REQUESTS,
        capabilities=RC_RNR_NAK_GENERATION | PORT_ACTIVE_EVENT | SYSTEM_IMAGE_GUID,
        max_sge=MAX_PIECES,
        max_sge_read=MAX_PIECES,
        max_cq=MAX_OBJECTS,
        max_cqe=MAX_COMPLETIONS,
        max_mr=MAX_OBJECTS,
        max_pd=MAX_OBJECTS,
        max_qp_rd_atomic=MAX_READS,
        max_res_rd_atomic=MAX_READS * MAX_OBJECTS,
        max_qp_init_rd_atomic=MAX_READS,
        atomic_cap=ATOMIC_HCA,
        max_srq=MAX_OBJECTS,
        max_srq_wr=MAX_WORK_REQUESTS,
        max_srq_sge=MAX_PIECES,
        max_pkeys=PKEYS_PER_PORT,
        local_ack_delay=LOCAL_ACK_DELAY,
        ports=len(hca.ports),
    )


def port_attributes(port: Port) -> PortAttributes:
    info = port.info
    return PortAttributes(
        capability_mask=info.capability_mask,
        max_message_bytes=MAX_MESSAGE_BYTES,
        bad_pkeys=info.p_key_violations,
        bad_qkeys=info.q_key_violations,
        gid_table=GUIDS_PER_PORT,
        pkey_table=PKEYS_PER_PORT,
        lid=port.lid,
        sm_lid=port.sm_lid,
        state=port.state,
        max_mtu=info.mtu_cap,
        active_mtu=info.neighbor_mtu,
        lmc=info.lmc,
        vl_cap=info.vl_cap,
        sm_sl=info.sm_sl,
        subnet_timeout=info.subnet_timeout,
        init_type_reply=info.init_type_reply,
        width=info.width_active,
        speed=info.speed_active,
        physical_state=info.physical_state,
    )
