"""How a program moves its own queue pair from state to state: what INIT_QP_ATTR answers.

Read first: of Linux `core/cm.c`, `cm_init_qp_init_attr` and its neighbors, and `cma_ib_init_qp_attr` of `core/cma.c`,
which answers while there is no peer. Left out: SQD, and alternate paths.
"""

from __future__ import annotations

import errno

from ibbond.fabric.port import Port
from ibbond.rdma_cm.connecting import Reached
from ibbond.rdma_cm.ids import RdmaId, refused
from ibbond.wire.rdma_cm import QueuePairAttributes
from ibbond.wire.uverbs import AccessFlags, Path, QpMask, QpState

M = QpMask
TO_INIT = M.STATE | M.PKEY_INDEX | M.PORT | M.ACCESS_FLAGS
TO_RTR = M.STATE | M.AV | M.PATH_MTU | M.DEST_QPN | M.RQ_PSN | M.MAX_DEST_RD_ATOMIC | M.MIN_RNR_TIMER
TO_RTS = M.STATE | M.SQ_PSN | M.TIMEOUT | M.RETRY_COUNT | M.RNR_RETRY | M.MAX_QP_RD_ATOMIC
READS = AccessFlags.REMOTE_READ | AccessFlags.REMOTE_ATOMIC


def queue_pair_attributes(one: RdmaId, port: Port, state: QpState, reached: Reached | None) -> QueuePairAttributes:
    """`Refused` where a state is asked for that needs a peer, and there is none yet."""
    if state is QpState.INIT:
        index = next((index for index, key in enumerate(port.pkey_table) if key & 0x7FFF == one.pkey & 0x7FFF), 0)
        access = 0
        if reached is not None:
            access = AccessFlags.REMOTE_WRITE | (READS if reached.responder_resources else 0)
        return QueuePairAttributes(TO_INIT, state, port.number, pkey_index=index, access=access)
    if reached is None or state not in (QpState.RTR, QpState.RTS):
        raise refused(one, f"there is nothing to move its queue pair to {state.name} by", errno.EINVAL)
    peer = reached.peer
    if state is QpState.RTR:
        return QueuePairAttributes(
            TO_RTR,
            state,
            port.number,
            path_mtu=reached.mtu,
            rq_psn=peer.receive_psn,
            dest_qpn=peer.qpn,
            path=Path(
                reached.gid, 0, peer.lid, service_level=peer.service_level, static_rate=reached.rate, port=port.number
            ),
            max_dest_rd_atomic=reached.responder_resources,
        )
    return QueuePairAttributes(
        TO_RTS,
        state,
        port.number,
        sq_psn=peer.send_psn,
        timeout=peer.timeout,
        retry_count=peer.retry_count,
        rnr_retry=peer.rnr_retry_count,
        max_rd_atomic=reached.initiator_depth,
    )
