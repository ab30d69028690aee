"""The file system without a kernel: what it answers, with a backend made up here."""

import ctypes
import errno
import os
import select
import stat

import pytest

from ibbond.abi.device_tree import DeviceTree
from ibbond.errors import Refused
from ibbond.sysfs.mount import library

if library() is None:
    pytest.skip("libfuse3 is not installed", allow_module_level=True)
os.environ.setdefault("FUSE_LIBRARY_PATH", str(library()))

from ibbond.sysfs.fuse import View
from tests.abi.test_device_tree import Made

MIIMON = "/bond0/bonding/miimon"


class Store:
    """Answers every file with `text`, keeps what was written, refuses "no"."""

    def __init__(self) -> None:
        self.text = "100\n"
        self.written: list[tuple[str, str]] = []

    def read(self, path: str) -> str:
        if path.endswith("carrier"):
            raise Refused("cannot read", why="it is down", fix="Set it up", code=errno.EINVAL)
        return self.text

    def write(self, path: str, text: str) -> None:
        if text == "no":
            raise Refused("cannot", why="no", fix="Write yes", code=errno.EBUSY)
        self.written.append((path, text))

    def proc(self, bond: str) -> str:
        return f"about {bond}\n"


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def view(store: Store) -> View:
    return View(DeviceTree(Made()), store, None)  # type: ignore[arg-type]


def polled(view: View, handle: int) -> int:
    events = ctypes.c_uint(0)
    view.poll(MIIMON, handle, None, ctypes.pointer(events))
    return events.value


def test_attributes(view: View) -> None:
    assert view.getattr("/bond0")["st_mode"] == stat.S_IFDIR | 0o755
    assert view.getattr(MIIMON)["st_mode"] == stat.S_IFREG | 0o644
    assert view.getattr(MIIMON)["st_size"] == 4096
    assert stat.S_ISLNK(view.getattr("/ib0/master")["st_mode"])
    for path in ("/nothing", "/bond0/queues", "/bond0/bonding/nothing"):
        with pytest.raises(OSError, match="No such file") as refused:
            view.getattr(path)
        assert refused.value.errno == errno.ENOENT


def test_a_read_from_the_start_renders_again_and_later_pieces_are_of_that_text(view: View, store: Store) -> None:
    handle = view.open(MIIMON, os.O_RDONLY)
    assert view.read(MIIMON, 2, 0, handle) == b"10"
    store.text = "777\n"
    assert view.read(MIIMON, 4096, 2, handle) == b"0\n"
    assert view.read(MIIMON, 4096, 4, handle) == b""
    assert view.read(MIIMON, 4096, 0, handle) == b"777\n"


def test_one_write_is_one_request_and_its_errno_is_the_writers(view: View, store: Store) -> None:
    handle = view.open(MIIMON, os.O_WRONLY)
    assert view.write(MIIMON, b"50\n", 0, handle) == 3
    with pytest.raises(OSError, match="Invalid"):
        view.write(MIIMON, b"\xff", 3, handle)
    assert store.written == [("bond0/bonding/miimon", "50\n")]
    with pytest.raises(OSError, match="busy") as refused:
        view.write(MIIMON, b"no", 0, handle)
    assert refused.value.errno == errno.EBUSY
    assert view.write(MIIMON, b"x" * 5000, 0, handle) == 4096


@pytest.mark.parametrize(
    ("path", "flags"),
    [
        ("/bond0/bonding/mii_status", os.O_WRONLY),
        ("/bond0/bonding/mii_status", os.O_RDWR),
        ("/ib0/create_child", os.O_RDONLY),
        ("/bond0/proc_net_bonding", os.O_WRONLY),
    ],
)
def test_modes_hold_for_root(view: View, path: str, flags: int) -> None:
    with pytest.raises(PermissionError) as refused:
        view.open(path, flags)
    assert refused.value.errno == errno.EACCES


def test_no_file_is_made_or_removed(view: View) -> None:
    with pytest.raises(PermissionError) as refused:
        view.create("/bond0/bonding/new", 0o644)
    assert refused.value.errno == errno.EACCES
    for remove in (view.unlink, view.rmdir):
        with pytest.raises(PermissionError) as refused:
            remove(MIIMON)
        assert refused.value.errno == errno.EPERM
    assert view.truncate(MIIMON, 0) == 0


def test_a_poll_sees_what_changed_since_the_read(view: View) -> None:
    handle, other = view.open(MIIMON, os.O_RDONLY), view.open("/bond0/bonding/mode", os.O_RDONLY)
    urgent = select.POLLPRI | select.POLLERR
    assert polled(view, handle) & urgent == urgent  # nothing read yet
    view.read(MIIMON, 4096, 0, handle)
    view.read("/bond0/bonding/mode", 4096, 0, other)
    assert polled(view, handle) & urgent == 0
    view.changed("bond0/bonding/miimon")
    assert polled(view, handle) & urgent == urgent
    assert polled(view, other) & urgent == 0
    view.read(MIIMON, 4096, 0, handle)
    assert polled(view, handle) & urgent == 0


def test_a_read_may_fail_and_procfs_is_a_file(view: View) -> None:
    handle = view.open("/eth0/carrier", os.O_RDONLY)
    with pytest.raises(OSError, match="Invalid") as refused:
        view.read("/eth0/carrier", 4096, 0, handle)
    assert refused.value.errno == errno.EINVAL
    handle = view.open("/bond1/proc_net_bonding", os.O_RDONLY)
    assert view.read("/bond1/proc_net_bonding", 4096, 0, handle) == b"about bond1\n"


def test_lists(view: View) -> None:
    assert view.readdir("/", 0)[:2] == [".", ".."]
    assert {"bond0", "ib0", "bonding_masters"} <= set(view.readdir("/", 0))
    assert "slaves" in view.readdir("/bond0/bonding", 0)
    assert view.readlink("/ib0/master") == "../bond0"
