"""The view over /sys/class/net of a lab host: mounted, served, taken away, whatever becomes of the lab.

Read first: mount_namespaces(7), fuse(4), fuse(8). The lab opens /dev/fuse and mounts it from a thread that visits the
host's mount namespace; the thread that serves stays outside, for a server below its own mount waits for itself. When
the lab is killed its descriptor closes, the kernel ends the connection, and programs get ENOTCONN instead of hanging;
the next lab to take the host over unmounts what is dead. Left out: what is in the view (`abi.device_tree`, `fuse`).
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import threading
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ibbond.abi.device_tree import DeviceTree
from ibbond.backend.contract import Files
from ibbond.host.guard import Faults
from ibbond.host.mounts import own_directory
from ibbond.host.namespace import NetNamespace
from ibbond.host.syscalls import MNT_DETACH, MS_NODEV, MS_NOEXEC, MS_NOSUID, mount, unmount
from ibbond.sysfs.kernel_tree import CLASS, KernelTree

if TYPE_CHECKING:
    from ibbond.sysfs.fuse import View

DEVICE = "/dev/fuse"
KIND = "fuse.ibbond"
LIBRARIES = ("libfuse3.so.3", "libfuse3.so.4")
FORCE_AND_DETACH = 0x1 | MNT_DETACH  # the first ends the connection, so that no caller keeps waiting for an answer
ATTRIBUTES_STAY = 86400.0  # seconds: the attributes of a name never change
END_TIMEOUT = 0.005


def why_not() -> str | None:
    """None where the view can be served, else the reason."""
    if library() is None:
        return "libfuse3 is not installed (Debian: apt install libfuse3-3)"
    try:
        os.close(os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"{DEVICE}: {error.strerror}"
    return None


def library() -> str | None:
    """The name by which libfuse 3 is loaded."""
    for name in LIBRARIES:
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return name
    return None


class Mounted:
    """The view over one host's /sys/class/net; `close` takes it away."""

    def __init__(
        self,
        space: NetNamespace,
        tree: DeviceTree,
        backend: Files,
        devices: Iterable[str],
        faults: Faults | None = None,
    ) -> None:
        """`devices` are the names that the host's kernel must know, or else /sys is another namespace's.

        OSError where it cannot be mounted.
        """
        view_of = _view_class()
        self._space = space
        self._kernel: KernelTree | None = None
        descriptor = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._kernel = space.run_in_mounts(lambda: _prepared(set(devices)))
            self.view = view_of(tree, backend, self._kernel, faults)
            space.run_in_mounts(lambda: _mount(descriptor))
        except BaseException:
            os.close(descriptor)
            self._close_kernel()
            raise
        name = f"sysfs {space.name}"
        self._thread = threading.Thread(target=_serve, args=(self.view, descriptor), name=name, daemon=True)
        self._thread.start()

    @property
    def serving(self) -> bool:
        return self._thread.is_alive()

    def abort(self) -> None:
        """End the connection: waiting callers get ENOTCONN, and the serving thread ends soon."""
        self.view.close()
        try:
            self._space.run_in_mounts(lambda: unmount(CLASS, FORCE_AND_DETACH))
        except OSError as error:
            if error.errno != errno.EINVAL:  # it was unmounted inside the host
                raise

    def ended(self) -> bool:
        """Whether the serving thread has ended; waits for it a moment."""
        self._thread.join(END_TIMEOUT)
        if self._thread.is_alive():
            return False
        self._close_kernel()
        return True

    def _close_kernel(self) -> None:
        if self._kernel is not None:
            self._kernel.close()
            self._kernel = None


def _view_class() -> type[View]:
    """mfusepy takes libfuse 2 where it finds one, which cannot serve what others have mounted."""
    name = library()
    if name is not None:
        os.environ.setdefault("FUSE_LIBRARY_PATH", name)
    from ibbond.sysfs.fuse import View

    return View


def _prepared(devices: set[str]) -> KernelTree | None:
    """In the host's mount namespace: nothing of an earlier view is left, and the kernel's own tree is held."""
    while _is_view(CLASS):
        unmount(CLASS, FORCE_AND_DETACH)
    try:
        kernel = KernelTree()
    except FileNotFoundError:
        return None
    if devices <= set(kernel.devices()):
        return kernel
    kernel.close()  # a container that keeps its own /sys: not this host's devices
    return None


def _is_view(place: str) -> bool:
    """Whether a view of ibbond is the topmost mount there, alive or dead."""
    with open("/proc/thread-self/mountinfo") as mounts:
        kinds = [line.partition(" - ")[2].split()[0] for line in mounts if line.split()[4] == place]
    return bool(kinds) and kinds[-1] == KIND


def _mount(descriptor: int) -> None:
    options = f"fd={descriptor},rootmode={stat.S_IFDIR:o},user_id=0,group_id=0,allow_other,default_permissions"
    mount("ibbond", CLASS, KIND, MS_NOSUID | MS_NODEV | MS_NOEXEC, options)


def _serve(view: View, descriptor: int) -> None:
    """Until the connection ends. libfuse changes the working directory and closes the descriptor."""
    import mfusepy

    own_directory()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mfusepy.FUSE(
            view,
            f"/dev/fd/{descriptor}",
            foreground=True,
            nothreads=True,
            direct_io=True,
            attr_timeout=ATTRIBUTES_STAY,
            entry_timeout=0.0,  # names come and go at any time
            negative_timeout=0.0,
        )
