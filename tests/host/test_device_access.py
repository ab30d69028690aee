"""Who may open which device file of a host, and which port it is (`host.device_access`)."""

import os
import socket
import tempfile
from pathlib import Path

import pytest

from ibbond.host import credentials
from ibbond.host.credentials import Credentials
from ibbond.host.device_access import DeviceFile, may_open, port_of

PORTS = ("h1/1", "h1/2", "h1-2/1")


@pytest.mark.parametrize("file", list(DeviceFile))
@pytest.mark.parametrize(("uid", "gid"), [(0, 0), (0, 1000), (1000, 0), (1000, 1000)])
def test_as_the_file_system_has_it(file: DeviceFile, uid: int, gid: int) -> None:
    """The same answer as open(2) of a file with that owner and mode."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = Path(folder, file.name)
        path.touch()
        path.chmod(file.mode)
        child = os.fork()
        if child == 0:
            os.setgroups([])
            os.setgid(gid)
            os.setuid(uid)
            os._exit(0 if os.access(path, os.R_OK | os.W_OK) else 1)
        _, status = os.waitpid(child, 0)
    assert may_open(Credentials(1, uid, gid), file) == (status == 0)


def test_only_root_sends_mads_and_all_may_use_rdma_cm() -> None:
    user, root = Credentials(7, 1000, 1000), Credentials(7, 0, 0)
    assert [may_open(user, file) for file in DeviceFile] == [False, False, True]
    assert all(may_open(root, file) for file in DeviceFile)


@pytest.mark.parametrize(
    ("node", "port"),
    [
        ("", "h1/1"),
        ("h1", "h1/1"),
        ("h1:2", "h1/2"),
        ("h1/2", "h1/2"),
        ("h1-2", "h1-2/1"),
        ("h1:3", None),
        ("h1:02", None),
        ("h2:1", None),
        ("s1", None),
        ("s1:0", None),
        (":", None),
        ("h1:2:", None),
        ("h1/1/1", None),
        ("\ufffd", None),
    ],
)
def test_a_host_has_its_own_ports(node: str, port: str | None) -> None:
    assert port_of(node, "h1", PORTS, lambda _: True) == port
    assert port_of(node, "h1", (), lambda _: True) is None


@pytest.mark.parametrize(
    ("node", "active", "port"),
    [
        ("", {"h1/2", "h1-2/1"}, "h1/2"),
        ("h1", {"h1-2/1"}, "h1-2/1"),
        ("h1", set(), "h1/1"),
        ("h1-2", {"h1/2"}, "h1-2/1"),
        ("h1:1", {"h1/2"}, "h1/1"),
    ],
)
def test_the_first_active_port_is_taken_where_none_is_named(node: str, active: set[str], port: str) -> None:
    assert port_of(node, "h1", PORTS, active.__contains__) == port


def descriptors_of(path: str) -> int:
    """How many descriptors of this process refer to `path`; threads of the test runner open others at any time."""
    open_files = Path("/proc/self/fd")
    return sum(1 for name in os.listdir(open_files) if os.path.realpath(open_files / name) == path)


def test_the_kernel_says_who_it_is() -> None:
    own = Credentials(os.getpid(), os.geteuid(), os.getegid())
    one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, two:
        assert credentials.of_peer(one) == own
    server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    client = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    with server, client, open(os.devnull) as null:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        server.bind("")
        client.bind("")
        before = descriptors_of(os.devnull)
        client.connect(server.getsockname())
        socket.send_fds(client, [b"x"], [null.fileno()] * 3)
        assert credentials.receive(server, 10) == (b"x", own, client.getsockname())
        assert descriptors_of(os.devnull) == before, "received descriptors are closed"
