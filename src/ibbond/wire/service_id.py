"""The 64-bit service ids by which connections are asked for: those of IPoIB connected mode and of RDMA CM.

Read first: RFC 4755 section 3.5, annex A11 of the InfiniBand Architecture (RDMA IP CM service). Linux and RFC 4755
disagree about the first byte of the former; ibbond sends Linux's form and accepts both.
"""

CONNECTED_MODE_LINUX = 0x10 << 56
CONNECTED_MODE_STANDARD = 0x01 << 56
RDMA_CM_PREFIX = 0x0000_0000_0100_0000
RDMA_CM_MASK = 0xFFFF_FFFF_FF00_0000
RDMA_CM_TCP = 0x06  # RDMA_PS_TCP and the like: reliable connections


def connected_mode(qpn: int) -> int:
    """The service by which the IPoIB interface with this UD queue pair takes connections, as Linux writes it."""
    return CONNECTED_MODE_LINUX | qpn


def connected_mode_standard(qpn: int) -> int:
    """The same service as RFC 4755 writes it."""
    return CONNECTED_MODE_STANDARD | qpn


def connected_mode_qpn(service_id: int) -> int | None:
    """The UD queue pair that is asked for, in either form; None when the id is of another service."""
    if service_id & ~0xFFFFFF in (CONNECTED_MODE_LINUX, CONNECTED_MODE_STANDARD):
        return service_id & 0xFFFFFF
    return None


def rdma_cm(port: int, protocol: int = RDMA_CM_TCP) -> int:
    """The service of an RDMA CM listener on an IP port."""
    return RDMA_CM_PREFIX | protocol << 16 | port


def rdma_cm_port(service_id: int) -> tuple[int, int] | None:
    """(protocol, port) of an RDMA CM service; None when the id is of another service."""
    if service_id >> 24 != RDMA_CM_PREFIX >> 24:
        return None
    return service_id >> 16 & 0xFF, service_id & 0xFFFF
