"""The seccomp filter, run by an interpreter of its own here: what is trapped, and that all else is allowed."""

import os
import struct

import pytest

from ibbond.host.notification import AUDIT_ARCH_X86_64, HIGH, LOW, NETLINK_RDMA, Call, filter_program

ALLOW, NOTIFY = 0x7FFF0000, 0x7FC00000
AARCH64, I386 = 0xC00000B7, 0x40000003


def verdict(call: int, *arguments: int, arch: int = AUDIT_ARCH_X86_64) -> int:
    """What the kernel would return for `struct seccomp_data` (number, architecture, pointer, six arguments)."""
    data = struct.pack("=iIQ6Q", call, arch, 0, *arguments, *[0] * (6 - len(arguments)))
    code = [struct.unpack_from("=HBBI", filter_program(), at) for at in range(0, len(filter_program()), 8)]
    accumulator = at = 0
    for _ in range(len(code)):
        operation, true, false, operand = code[at]
        match operation:
            case 0x20:
                accumulator = struct.unpack_from("=I", data, operand)[0]
            case 0x15:
                at += true if accumulator == operand else false
            case 0x35:
                at += true if accumulator >= operand else false
            case 0x06:
                return int(operand)
        at += 1
    raise AssertionError("the filter does not return")


@pytest.mark.parametrize("call", [Call.WRITE, Call.IOCTL, Call.FSTAT, Call.NEWFSTATAT, Call.SENDMSG, Call.STATX])
def test_calls_on_our_numbers_are_trapped_and_on_others_not(call: Call) -> None:
    assert [verdict(call, number) for number in (LOW, HIGH - 1)] == [NOTIFY] * 2
    assert [verdict(call, number) for number in (0, LOW - 1, HIGH, 0xFFFFFFFF)] == [ALLOW] * 4


def test_opens_with_the_flags_of_rdma_libraries_are_trapped() -> None:
    assert verdict(Call.OPENAT, 0xFFFFFF9C, 1, os.O_RDWR | os.O_CLOEXEC) == NOTIFY
    assert verdict(Call.OPEN, 1, os.O_RDWR | os.O_NONBLOCK) == NOTIFY
    for flags in (os.O_RDONLY | os.O_CLOEXEC, os.O_RDWR, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, os.O_WRONLY):
        assert verdict(Call.OPENAT, 0xFFFFFF9C, 1, flags) == ALLOW
        assert verdict(Call.OPEN, 1, flags) == ALLOW


def test_only_the_rdma_family_of_netlink_is_trapped() -> None:
    assert verdict(Call.SOCKET, 16, 3, NETLINK_RDMA) == NOTIFY
    assert verdict(Call.SOCKET, 16, 3, 0) == ALLOW
    assert verdict(Call.SOCKET, 2, 1, NETLINK_RDMA) == ALLOW


@pytest.mark.parametrize("arch", [AARCH64, I386])
def test_other_architectures_are_let_through(arch: int) -> None:
    assert verdict(Call.WRITE, LOW, arch=arch) == ALLOW


def test_reads_polls_and_everything_else_are_let_through() -> None:
    served = {int(call) for call in Call}
    assert all(verdict(number, LOW, 1, 2) == ALLOW for number in range(460) if number not in served)
