"""How other processes speak with a lab: one Unix socket per lab, JSON lines, this side.

A request is `{"do": NAME, "with": {...}}`. An answer is one line: `{"ok": RESULT}`, `{"refused": {"what", "why", "fix",
"code"}}` or `{"failed": TEXT}`. A request that follows something gets `{"item": ...}` lines until either side closes.
Descriptors travel beside an answer (SCM_RIGHTS). The socket's mode is 0600: who may speak is who owns the lab.
Left out: the serving side (`backend.control_server`), what the requests mean (`lab.daemon`).
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import stat
import struct
import tempfile
import threading
from array import array
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ibbond.backend.lock import alone
from ibbond.bonding.option import Version
from ibbond.bonding.snapshot import BondSnapshot
from ibbond.errors import Refused

if TYPE_CHECKING:
    from ibbond.host.ip_settings import IpSetting

DEFAULT_LAB = "lab"
CONTROL = "IBBOND_CONTROL"  # the socket of the lab that this process runs in
HOST = "IBBOND_HOST"  # the lab host that this process runs in
MAX_LINE_BYTES = 1 << 24
MAX_DESCRIPTORS = 8
LOCK_LAYOUT = struct.Struct("hhqqi4x")  # struct flock: type, whence, start, length, process
WHOLE_FILE = LOCK_LAYOUT.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)


def runtime_directory() -> Path:
    """Where sockets and state of running labs live: /run/ibbond, or the user's own place. Not made here."""
    if os.geteuid() == 0 and os.access("/run", os.W_OK):
        return Path("/run/ibbond")
    if own := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(own) / "ibbond"
    return Path(tempfile.gettempdir()) / f"ibbond-{os.geteuid()}"


def made_runtime_directory() -> Path:
    """The runtime directory, created if missing, private to this user; `Refused` if another user owns it."""
    directory = runtime_directory()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    facts = directory.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.geteuid():
        raise Refused(
            f"cannot use {directory}",
            why="it belongs to another user",
            fix="Set XDG_RUNTIME_DIR to a directory that you own",
            code=errno.EPERM,
        )
    directory.chmod(0o700)
    return directory


def socket_path(lab: str) -> Path:
    """The socket of the lab of this name; the environment's own lab when the name is empty and there is one."""
    if not lab and (inside := os.environ.get(CONTROL)):
        return Path(inside)
    return runtime_directory() / f"{lab or DEFAULT_LAB}.sock"


class Control:
    """One connection to a lab. Threads may share it for requests: they are sent one after the other."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.connect(str(path))
        except OSError as error:
            self._socket.close()
            raise no_lab(path, error) from None
        self._waiting = bytearray()
        self._asking = threading.Lock()
        self.path = path

    @classmethod
    def of(cls, lab: str = "") -> Control:
        """The connection to a lab by its name (see `socket_path`)."""
        return cls(socket_path(lab))

    def ask(self, do: str, **words: object) -> object:
        """Send a request, give back its result; what the lab refuses is raised as `Refused` here too."""
        return self.ask_for_descriptors(do, **words)[0]

    def ask_with_descriptor(self, descriptor: int, do: str, **words: object) -> object:
        """The same with an open file, of which the lab gets a copy."""
        with self._asking:
            self._send(do, words, [descriptor])
            line, _ = self._line()
        return result_of(line)

    def ask_for_descriptors(self, do: str, **words: object) -> tuple[object, list[int]]:
        """The same, with the descriptors that came beside the answer (close-on-exec)."""
        with self._asking:
            self._send(do, words)
            line, descriptors = self._line()
        return result_of(line), descriptors

    def follow(self, do: str, **words: object) -> Iterator[object]:
        """Items as they come, until the lab ends."""
        self._send(do, words)
        while True:
            try:
                line, _ = self._line()
            except Refused:
                return
            if "item" not in line:
                result_of(line)
                return
            yield line["item"]

    def fileno(self) -> int:
        return self._socket.fileno()

    def hang_up(self) -> None:
        """End `follow`, in whatever thread it waits; what has arrived is still given out."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Control:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, do: str, words: dict[str, object], descriptors: Sequence[int] = ()) -> None:
        request = json.dumps({"do": do, "with": words}).encode() + b"\n"
        try:
            if descriptors:
                request = request[socket.send_fds(self._socket, [request], descriptors) :]
            self._socket.sendall(request)
        except OSError as error:
            raise no_lab(self.path, error) from None

    def _line(self) -> tuple[dict[str, object], list[int]]:
        descriptors: list[int] = []
        while (end := self._waiting.find(b"\n")) < 0:
            try:
                piece, ancillary, _, _ = self._socket.recvmsg(1 << 16, socket.CMSG_SPACE(4 * MAX_DESCRIPTORS))
            except OSError as error:
                raise no_lab(self.path, error) from None
            if not piece or len(self._waiting) > MAX_LINE_BYTES:
                raise Refused(
                    "the lab did not answer",
                    why="it ended before it answered" if not piece else "its answer was cut off",
                    fix=f"Read its log: {self.path.with_suffix('.log')}",
                    code=errno.EPIPE,
                )
            for level, kind, data in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    received = array("i")
                    received.frombytes(data[: len(data) - len(data) % received.itemsize])
                    descriptors += received
            self._waiting += piece
        line = json.loads(bytes(self._waiting[:end]))
        del self._waiting[: end + 1]
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        return line, descriptors


def result_of(line: dict[str, object]) -> object:
    """The result in an answer, or the refusal that it holds, raised."""
    if isinstance(refused := line.get("refused"), dict):
        raise Refused(str(refused["what"]), why=str(refused["why"]), fix=str(refused["fix"]), code=int(refused["code"]))
    if "failed" in line:
        raise Refused(
            "the lab could not carry out the request",
            why=f"it failed with {line['failed']}",
            fix="The lab's log has the traceback (ibbond lab status names the lab); please report it",
            code=errno.EIO,
        )
    return line.get("ok")


def no_lab(path: Path, error: OSError) -> Refused:
    name = path.name.removesuffix(".sock")
    if error.errno in (errno.EACCES, errno.EPERM):
        return Refused(
            f"cannot connect to lab {name}",
            why=f"{path} belongs to another user",
            fix="Run as the user who started the lab",
            code=errno.EPERM,
        )
    option = "" if name == DEFAULT_LAB else f" --name {name}"
    lab = f"lab {name}" if option else "lab"
    if locked(path.with_suffix(".lock")):
        return Refused(
            f"lab {name} does not answer",
            why="it is starting or shutting down",
            fix="Try again in a moment",
            code=errno.EAGAIN,
        )
    if path.with_suffix(".json").exists():
        left, remedy = "programs of its hosts", f"Start it again with: ibbond lab up{option}"
        from ibbond.host.named_namespaces import named_hosts

        if named_hosts(name):
            left, remedy = "its hosts and the programs in them", f"Take it over with: ibbond lab up{option} --resume"
        return Refused(
            f"no {lab} is running",
            why=f"it was killed; {left} may be left",
            fix=f"{remedy}; or remove it with: ibbond lab down{option}",
            code=errno.ENOENT,
        )
    return Refused(
        f"no {lab} is running",
        why=f"no process answers at {path}",
        fix=f"Start one with: ibbond lab up{option}",
        code=errno.ENOENT,
    )


def locked(path: Path) -> bool:
    """Whether a process holds this lab's lock (fcntl(2), open file description locks). Asking does not block anyone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        in_the_way: int = LOCK_LAYOUT.unpack(fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, WHOLE_FILE))[0]
    finally:
        os.close(descriptor)
    return in_the_way != fcntl.F_UNLCK


class LabBackend:
    """The bonds of one lab host, reached through the lab's socket (see `backend.contract`)."""

    def __init__(self, control: Control, host: str) -> None:
        self.where = host
        self._control = control
        self._seen_log: list[str] | None = None

    def read(self, path: str) -> str:
        return str(self._ask("read", path=path))

    def write(self, path: str, text: str) -> None:
        self._ask("write", path=path, text=text)

    def entries(self, path: str) -> list[str]:
        return texts(self._ask("entries", path=path))

    def set_admin(self, device: str, up: bool) -> None:
        self._ask("set_admin", device=device, up=up)

    def addresses(self, device: str) -> list[str]:
        return texts(self._ask("addresses", device=device))

    @cached_property
    def version(self) -> Version:
        found = self._ask("version")
        return tuple(int(part) for part in found) if isinstance(found, list) else (0, 0)

    @property
    def loaded(self) -> bool:
        return True

    def load_driver(self) -> None:
        """A lab's driver is always there."""

    def bonds(self) -> list[str]:
        return texts(self._ask("bonds"))

    def options(self, bond: str) -> dict[str, str]:
        found = self._ask("options", bond=bond)
        return {str(name): str(text) for name, text in found.items()} if isinstance(found, dict) else {}

    def master(self, device: str) -> str | None:
        found = self._ask("master", device=device)
        return None if found is None else str(found)

    def ip_settings(self) -> tuple[IpSetting, ...]:
        import msgspec

        from ibbond.host.ip_settings import KINDS

        found = self._ask("ip_settings")
        return tuple(msgspec.convert(value, KINDS[kind]) for kind, value in found) if isinstance(found, list) else ()

    def add_ip(self, setting: IpSetting) -> None:
        self._set_ip("add_ip", setting)

    def owner_of(self, device: str, address: bytes) -> bytes | None:
        return None

    def delete_ip(self, setting: IpSetting) -> None:
        self._set_ip("delete_ip", setting)

    def _set_ip(self, do: str, setting: IpSetting) -> None:
        import msgspec

        self._ask(do, kind=type(setting).__name__, setting=msgspec.to_builtins(setting))

    def snapshot(self, bond: str) -> BondSnapshot:
        import msgspec

        return as_tuples(msgspec.convert(self._ask("snapshot", bond=bond), BondSnapshot))

    def proc(self, bond: str) -> str:
        return str(self._ask("proc", bond=bond))

    def log(self) -> list[str]:
        return texts(self._ask("log"))

    def new_log_lines(self) -> list[str]:
        lines, seen = self.log(), self._seen_log
        self._seen_log = lines
        if seen is None:
            return []
        kept = next(count for count in range(len(lines), -1, -1) if lines[:count] == seen[len(seen) - count :])
        return lines[kept:]

    def alone(self) -> AbstractContextManager[None]:
        return alone(str(self._control.path.with_suffix(".lock")), "the bonds of this lab")

    def reconnect(self) -> LabBackend:
        return LabBackend(Control(self._control.path), self.where)

    def watch(self) -> Iterator[dict[str, object]]:
        for item in self._control.follow("events", past=False):
            if isinstance(item, dict) and str(item.get("where", "")).partition("/")[0] == self.where:
                yield item

    def _ask(self, do: str, **words: object) -> object:
        return self._control.ask(do, host=self.where, **words)


def as_tuples(snapshot: BondSnapshot) -> BondSnapshot:
    """JSON knows neither tuples nor bytes; the options of a snapshot do."""
    from base64 import b64decode

    from ibbond.bonding.option import Kind
    from ibbond.bonding.options import OPTIONS

    for name, value in snapshot.options.items():
        kind = OPTIONS[name].kind if name in OPTIONS else None
        if isinstance(value, list):
            targets = kind in (Kind.TARGETS, Kind.TARGETS6)
            snapshot.options[name] = tuple(
                b64decode(item) if targets else tuple(item) if isinstance(item, list) else item for item in value
            )
        elif kind is Kind.ADDRESS and isinstance(value, str):
            snapshot.options[name] = b64decode(value)
    return snapshot


def texts(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []
