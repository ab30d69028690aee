"""Answers to the commands of /dev/infiniband/uverbsN, and its events, as bytes.

Read first: rdma/ib_user_verbs.h of Linux (ABI 6). Functions are named after the commands (`uverbs`); `uverbs.Envelope`
decides how much of an answer is written.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from ibbond.wire.uverbs import AsyncEvent, ModifyQp, pack_path

EX_QUERY_DEVICE_BYTES = 304


class DeviceLimits(NamedTuple):
    """What QUERY_DEVICE says, in its order behind the GUIDs; zero where a kind of object does not exist."""

    max_mr_bytes: int
    page_size_cap: int = 0xFFFF_F000
    vendor_id: int = 0
    vendor_part_id: int = 0
    hardware_version: int = 1
    max_qp: int = 0
    max_qp_wr: int = 0
    capabilities: int = 0
    max_sge: int = 0
    max_sge_read: int = 0
    max_cq: int = 0
    max_cqe: int = 0
    max_mr: int = 0
    max_pd: int = 0
    max_qp_rd_atomic: int = 0
    max_ee_rd_atomic: int = 0
    max_res_rd_atomic: int = 0
    max_qp_init_rd_atomic: int = 0
    max_ee_init_rd_atomic: int = 0
    atomic_cap: int = 0
    max_ee: int = 0
    max_rdd: int = 0
    max_mw: int = 0
    max_raw_ipv6_qp: int = 0
    max_raw_ethernet_qp: int = 0
    max_multicast_groups: int = 0
    max_multicast_qp_attach: int = 0
    max_total_multicast_qp_attach: int = 0
    max_ah: int = 0
    max_fmr: int = 0
    max_map_per_fmr: int = 0
    max_srq: int = 0
    max_srq_wr: int = 0
    max_srq_sge: int = 0
    max_pkeys: int = 0
    local_ack_delay: int = 0
    ports: int = 0


_DEVICE = struct.Struct("=Q8s8sQQ32IHBB4x")


def pack_device(firmware: int, node_guid: int, limits: DeviceLimits, *, extended: bool) -> bytes:
    guid = node_guid.to_bytes(8)
    core = _DEVICE.pack(firmware, guid, guid, *limits)
    if not extended:
        return core
    return (core + struct.pack("=II", 0, EX_QUERY_DEVICE_BYTES)).ljust(EX_QUERY_DEVICE_BYTES, b"\0")


class PortAttributes(NamedTuple):
    """What QUERY_PORT says; codes are those of PortInfo."""

    capability_mask: int
    max_message_bytes: int
    bad_pkeys: int
    bad_qkeys: int
    gid_table: int
    pkey_table: int
    lid: int
    sm_lid: int
    state: int
    max_mtu: int
    active_mtu: int
    lmc: int
    vl_cap: int
    sm_sl: int
    subnet_timeout: int
    init_type_reply: int
    width: int
    speed: int
    physical_state: int
    link_layer: int = 1  # InfiniBand


_PORT = struct.Struct("=5I3H12B2x")


def pack_port(port: PortAttributes) -> bytes:
    return _PORT.pack(*port)


def pack_words(*words: int) -> bytes:
    """Handles, keys and numbers: most answers are u32 alone."""
    return struct.pack(f"={len(words)}I", *words)


class QueueMemory(NamedTuple):
    """Where a program maps a queue (`mminfo`): offset in the file and size, bytes. Zeros if there is none."""

    offset: int = 0
    size: int = 0

    def pack(self) -> bytes:
        return struct.pack("=QII", self.offset, self.size, 0)


class QpCaps(NamedTuple):
    """What a queue pair was made with."""

    max_send_wr: int
    max_recv_wr: int
    max_send_sge: int
    max_recv_sge: int
    max_inline: int


_QUERY_QP_REST = struct.Struct("=5I5IHH15B5x")


def pack_query_qp(attributes: ModifyQp, caps: QpCaps, *, all_signaled: bool) -> bytes:
    """`attributes` has the current values in the fields of MODIFY_QP."""
    a = attributes
    rest = _QUERY_QP_REST.pack(
        *caps,
        a.qkey,
        a.rq_psn,
        a.sq_psn,
        a.dest_qpn,
        a.access,
        a.pkey_index,
        a.alternate_pkey_index,
        a.state,
        a.state,
        a.path_mtu,
        a.path_mig_state,
        0,  # draining
        a.max_rd_atomic,
        a.max_dest_rd_atomic,
        a.min_rnr_timer,
        a.port,
        a.timeout,
        a.retry_count,
        a.rnr_retry,
        a.alternate_port,
        a.alternate_timeout,
        all_signaled,
    )
    return pack_path(a.path) + pack_path(a.alternate) + rest


def pack_comp_event(user: int) -> bytes:
    """What a program reads from a completion channel: the `user` number of its CREATE_CQ."""
    return struct.pack("=Q", user)


def pack_async_event(element: int, kind: AsyncEvent) -> bytes:
    """`element` is the `user` number of a CQ, QP or SRQ, or the number of a port."""
    return struct.pack("=QII", element, kind, 0)
