"""More changes than a netlink socket holds: the listener says so, with an empty queue, and receives what comes next."""

import errno
import socket
from collections.abc import Callable

import pytest

from ibbond.host.namespace import NetNamespace
from ibbond.host.rtnetlink import RouteListener, RouteSocket


def test_what_comes_after_an_overflow_is_received(make_host: Callable[[str], NetNamespace]) -> None:
    listener, requests = make_host("h1").run_in(lambda: (RouteListener(), RouteSocket()))
    listener._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    for turn in range(60):
        requests.set_mtu(1, 2000 + turn)
    with pytest.raises(OSError, match="buffer") as lost:
        listener.receive()
    assert lost.value.errno == errno.ENOBUFS
    assert listener.receive() == [], "nothing stale is left behind the loss"
    requests.set_mtu(1, 9000)
    assert len(listener.receive()) == 1
    listener.close()
    requests.close()
