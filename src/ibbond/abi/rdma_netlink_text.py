"""What NETLINK_RDMA says of the adapters of a host.

Read first: `wire.rdma_netlink` for the messages, `drivers/infiniband/core/nldev.c` of Linux for which attributes an
answer has. Left out: what rdma(8) changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ibbond.abi.infiniband_text import FIRMWARE, RDMA_CM_ABI, RDMA_CM_DEV, RdmaDevice
from ibbond.fabric.port import Port
from ibbond.wire import uverbs
from ibbond.wire.rdma_netlink import DRIVER_RXE, Attribute, Command, Question, attribute, device_number, u8, u32, u64

CA = 1  # node type


def answer(question: Question, devices: Sequence[RdmaDevice]) -> list[bytes] | None:
    """The bodies of the answer; None for a command that is not served."""
    match question.command:
        case Command.GET:
            return [_device(device) for device in _asked(question, devices)]
        case Command.PORT_GET:
            return list(_ports(question, devices))
        case Command.SYS_GET:  # queues are shared by device, and process_vm_writev breaks copy-on-write as a store does
            return [u8(Attribute.SYS_ATTR_NETNS_MODE, 1) + u8(Attribute.SYS_ATTR_COPY_ON_FORK, 1)]
        case Command.GET_CHARDEV:
            return list(_character_device(question, devices))
        case _:
            return None


def _asked(question: Question, devices: Sequence[RdmaDevice]) -> Sequence[RdmaDevice]:
    index, name = question.number(Attribute.DEV_INDEX), question.text(Attribute.DEV_NAME)
    if index is None and not name:
        return devices if question.dump else ()
    return [device for device in devices if device.number + 1 == index or device.name == name]


def _head(device: RdmaDevice) -> bytes:
    return u32(Attribute.DEV_INDEX, device.number + 1) + attribute(Attribute.DEV_NAME, device.name)


def _device(device: RdmaDevice) -> bytes:
    return b"".join((
        _head(device),
        u32(Attribute.PORT_INDEX, len(device.ports)),
        u64(Attribute.CAP_FLAGS, 0),
        attribute(Attribute.FW_VERSION, ".".join(map(str, FIRMWARE))),
        u64(Attribute.NODE_GUID, device.hca.guid),
        u64(Attribute.SYS_IMAGE_GUID, device.hca.guid),
        u8(Attribute.DEV_NODE_TYPE, CA),
        attribute(Attribute.DEV_PROTOCOL, "ib"),
    ))  # fmt: skip


def _ports(question: Question, devices: Sequence[RdmaDevice]) -> Iterator[bytes]:
    wanted = question.number(Attribute.PORT_INDEX)
    for device in _asked(question, devices):
        for port in device.ports:
            if question.dump or wanted == port.number:
                yield _head(device) + _port(port)


def _port(port: Port) -> bytes:
    info = port.info
    return b"".join((
        u32(Attribute.PORT_INDEX, port.number),
        u64(Attribute.CAP_FLAGS, info.capability_mask),
        u64(Attribute.SUBNET_PREFIX, info.gid_prefix),
        u32(Attribute.LID, port.lid),
        u32(Attribute.SM_LID, port.sm_lid),
        u8(Attribute.LMC, info.lmc),
        u8(Attribute.PORT_STATE, port.state),
        u8(Attribute.PORT_PHYS_STATE, info.physical_state),
    ))  # fmt: skip


def _character_device(question: Question, devices: Sequence[RdmaDevice]) -> Iterator[bytes]:
    match question.text(Attribute.CHARDEV_TYPE):
        case "uverbs":
            for device in _asked(question, devices):
                yield b"".join((
                    attribute(Attribute.CHARDEV_NAME, device.uverbs),
                    u64(Attribute.CHARDEV_ABI, uverbs.PROVIDER_ABI_VERSION),
                    u64(Attribute.CHARDEV, device_number(*device.uverbs_dev)),
                    u32(Attribute.UVERBS_DRIVER_ID, DRIVER_RXE),
                ))  # fmt: skip
        case "rdma_cm":
            yield b"".join((
                attribute(Attribute.CHARDEV_NAME, "rdma_cm"),
                u64(Attribute.CHARDEV_ABI, RDMA_CM_ABI),
                u64(Attribute.CHARDEV, device_number(*RDMA_CM_DEV)),
            ))  # fmt: skip
