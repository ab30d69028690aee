"""Questions to NETLINK_RDMA are read or refused, and answered in the messages of netlink(7)."""

import errno
import struct

from hypothesis import given
from hypothesis import strategies as st

from ibbond.errors import Malformed
from ibbond.wire import rdma_netlink
from ibbond.wire.rdma_netlink import CLIENT_NLDEV, NLM_F_ACK, NLM_F_DUMP, Attribute, Command, attribute, u32

GET = CLIENT_NLDEV << 10 | Command.GET


def question(flags: int, *attributes: bytes, kind: int = GET) -> bytes:
    body = b"".join(attributes)
    return struct.pack("=IHHII", 16 + len(body), kind, flags, 77, 88) + body


@given(st.binary(max_size=80))
def test_any_bytes_are_a_question_or_refused(raw: bytes) -> None:
    try:
        found = rdma_netlink.parse(raw)
    except Malformed:
        return
    assert (found.number(Attribute.DEV_INDEX) or 0) >= 0
    assert isinstance(found.text(Attribute.DEV_NAME), str)


def test_attributes_are_read() -> None:
    found = rdma_netlink.parse(question(0, u32(Attribute.DEV_INDEX, 3), attribute(Attribute.CHARDEV_TYPE, "uverbs")))
    assert found.command == Command.GET
    assert found.number(Attribute.DEV_INDEX) == 3
    assert found.text(Attribute.CHARDEV_TYPE) == "uverbs"


def test_a_dump_is_one_packet_that_ends_with_done() -> None:
    (packet,) = rdma_netlink.answers(rdma_netlink.parse(question(NLM_F_DUMP)), [b"aaaa", b"bbbb"])
    kinds, at = [], 0
    while at < len(packet):
        length, kind, _, sequence, port = struct.unpack_from("=IHHII", packet, at)
        assert (sequence, port) == (77, 88)
        kinds.append(kind)
        at += length
    assert kinds == [GET, GET, rdma_netlink.NLMSG_DONE]


def test_what_is_not_served_and_what_is_not_there_are_errors() -> None:
    asked = rdma_netlink.parse(question(NLM_F_ACK))
    for bodies, code in ((None, errno.EOPNOTSUPP), ([], errno.EINVAL)):
        (packet,) = rdma_netlink.answers(asked, bodies)
        assert struct.unpack_from("=H", packet, 4)[0] == rdma_netlink.NLMSG_ERROR
        assert struct.unpack_from("=i", packet, 16)[0] == -code
    assert len(rdma_netlink.answers(asked, [b"body"])) == 2, "the body, then the acknowledgment"
