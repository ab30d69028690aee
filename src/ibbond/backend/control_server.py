"""How other processes speak with a lab: the serving side, one thread beside the lab's loop.

Read first: `backend.control_socket` for the words on the wire. The thread waits in the kernel and costs the data path
nothing while no client asks. A slow reader loses items, never the lab its time; a request that is not understood is
answered and forgotten. Processes of one network namespace (a lab host is one) have at most `MAX_CONNECTIONS` at a time,
and the last descriptors of this process are for them. Left out: what the requests mean, which the handlers decide.
"""

from __future__ import annotations

import contextlib
import errno
import inspect
import json
import os
import selectors
import socket
import threading
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ibbond.errors import Refused
from ibbond.host import credentials
from ibbond.host.descriptors import ALWAYS, is_scarce
from ibbond.host.guard import Entry, Faults

MAX_CONNECTIONS = 64
FULL_REST_S = 0.05  # when no descriptor is free
CLOSING_S, MEANWHILE_S = 2.0, 0.002  # what `close` waits in all, and between two calls of `meanwhile`
MAX_WAITING = 8 << 20  # bytes that a client has not read; beyond that it is dropped
MAX_REQUEST_BYTES = 1 << 20
ITEMS_WAITING = 10_000
MAX_DESCRIPTORS = 4  # that may come with requests at once


class WithDescriptors(NamedTuple):
    """A result that travels with open files, of which `owned` are closed when it has left."""

    result: object
    descriptors: Sequence[int]
    owned: Sequence[int] = ()


class TakesDescriptor(NamedTuple):
    """A handler of requests that bring an open file along: the argument `descriptor` of `call`, which is the handler's
    to close; -1 where none came.
    """

    call: Callable[..., object]


class Lease:
    """The result of a request whose connection must stay: `ended` is called when it closes."""

    def __init__(self, ended: Callable[[], object], result: object = None) -> None:
        self.ended = ended
        self.result = result


class Feed:
    """The result of a request that follows something: `items` at once, then whatever is published."""

    def __init__(self, items: Sequence[object]) -> None:
        self.items = items


Handler = Callable[..., object] | TakesDescriptor
MAX_REASON = 300  # characters
ARGUMENTS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(
        ("host", "path", "text", "device", "address", "bond", "port", "table", "file", "cable", "capture"), str
    ),
    **dict.fromkeys(("cables", "nodes", "pkeys"), list),
    **dict.fromkeys(("up", "past"), bool),
    "lid": int,
    "percent": (int, float),
}
LISTS = {"cables": str, "nodes": str, "pkeys": int}
TOO_MANY = {
    "refused": {
        "what": "the lab accepts no more connections",
        "why": f"{MAX_CONNECTIONS} from the same network namespace are open, or its descriptors are used up",
        "fix": "Close some, or try again in a moment",
        "code": errno.EAGAIN,
    }
}


class ControlServer:
    """Answers requests at a socket path by named handlers, each called in this server's thread."""

    def __init__(self, path: Path, handlers: Mapping[str, Handler], faults: Faults | None = None) -> None:
        self.path = path
        self._faults = faults or Faults()
        self._handlers = handlers
        self._listener = listen(path)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, None)
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._selector.register(self._wake, selectors.EVENT_READ, None)
        self._clients: dict[int, Client] = {}
        self._places: Counter[int] = Counter()  # connections by `namespace_of`
        self._published: deque[object] = deque(maxlen=ITEMS_WAITING)
        self._ending = False
        self._thread = threading.Thread(target=self._serve, name="control", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def enqueue(self, item: object) -> None:
        """Queue an item for all followers, sent once `ring` is called; from any thread."""
        self._published.append(item)

    def ring(self) -> None:
        """Send what was queued. Does nothing when there are no followers."""
        if self._published and self._clients:
            os.eventfd_write(self._wake, 1)

    def publish(self, item: object) -> None:
        """Send an item to all followers; from any thread."""
        self.enqueue(item)
        self.ring()

    def close(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Stop serving; the socket's name is gone first, so that no client connects to an ending lab.

        `meanwhile` is called until the request that is being answered is done: it may wait for the calling thread.
        """
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()
        self._ending = True
        os.eventfd_write(self._wake, 1)
        if self._thread.ident and self._thread is not threading.current_thread():
            until = time.monotonic() + CLOSING_S
            while self._thread.is_alive() and time.monotonic() < until:
                meanwhile()
                self._thread.join(timeout=MEANWHILE_S)

    def _serve(self) -> None:
        while not self._ending:
            if not self._faults.guard(Entry.CONTROL, self._turn):
                time.sleep(FULL_REST_S)
        self._faults.guard(Entry.CONTROL, self._hand_out)
        for client in list(self._clients.values()):
            client.socket.close()
        self._listener.close()
        self._selector.close()

    def _turn(self) -> None:
        for key, mask in self._selector.select():
            if key.fileobj is self._listener:
                self._accept()
            elif key.fd == self._wake:
                os.eventfd_read(self._wake)
                self._hand_out()
            elif key.fd in self._clients:
                self._attend(self._clients[key.fd], mask)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError:  # no descriptor is free: those that are connected go on
            time.sleep(FULL_REST_S)
            return
        connection.setblocking(False)
        place = namespace_of(credentials.of_peer(connection).pid)
        if self._places[place] >= MAX_CONNECTIONS or is_scarce(connection.fileno(), ALWAYS):
            with connection, contextlib.suppress(OSError):
                connection.send(encode(TOO_MANY))
            return
        self._places[place] += 1
        self._clients[connection.fileno()] = Client(connection, place)
        self._selector.register(connection, selectors.EVENT_READ, None)

    def _attend(self, client: Client, mask: int) -> None:
        try:
            if mask & selectors.EVENT_WRITE:
                client.flush()
            if mask & selectors.EVENT_READ:
                for line in client.lines():
                    self._answer(client, line)
            if not client.gone:
                self._watch(client)
        except OSError:
            self._drop(client)
        except Exception as error:  # whatever it is, the others are still to be answered
            self._faults.note(Entry.CONTROL, error)
            self._drop(client)

    def _answer(self, client: Client, line: bytes) -> None:
        descriptors: Sequence[int] = ()
        owned: Sequence[int] = ()
        self._hand_out()  # what is older than this request is not for who follows from now on
        if client.gone:
            return
        try:
            handler, words = self._understood(client, line)
            result = handler(**words)
            if isinstance(result, WithDescriptors):
                result, descriptors, owned = result
            if isinstance(result, Lease):
                client.ended, result = result.ended, result.result
            if isinstance(result, Feed):
                answers = [encode({"item": item}) for item in result.items]
                client.follows = True
            else:
                answers = [encode({"ok": result})]
        except Refused as refusal:
            words = {"what": refusal.what, "why": refusal.why, "fix": refusal.fix, "code": refusal.code}
            answers = [encode({"refused": words})]
        except Exception as error:
            answers = [encode({"failed": f"{type(error).__name__}: {error}"})]
            self._faults.note(Entry.CONTROL, error)
        client.close_descriptors()
        try:
            for answer in answers:
                client.send(answer, descriptors)
        finally:
            for descriptor in owned:
                os.close(descriptor)

    def _understood(self, client: Client, line: bytes) -> tuple[Callable[..., object], dict[str, Any]]:
        """The handler of a request and what to call it with; `Refused` where it does not fit."""
        try:
            request = json.loads(line)
            do, words = str(request["do"]), request.get("with", {})
            handler = self._handlers.get(do)
            call = handler.call if isinstance(handler, TakesDescriptor) else handler
            if call is not None:
                extra = {"descriptor": -1} if isinstance(handler, TakesDescriptor) else {}
                inspect.signature(call).bind(**words, **extra)
                for name, value in words.items():
                    check_argument(name, value)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            self._faults.malformed[Entry.CONTROL] += 1
            fix = "See backend/control_socket.py for what a request looks like"
            raise Refused("cannot read this request", why=str(error)[:MAX_REASON], fix=fix) from None
        if call is None:
            raise Refused(
                f"the lab does not know the request {do[:MAX_REASON]}",
                why="it may run another version of ibbond",
                fix="Restart the lab: ibbond lab down, then ibbond lab up",
            )
        if isinstance(handler, TakesDescriptor):
            words = {**words, "descriptor": client.descriptors.pop(0) if client.descriptors else -1}
        return call, words

    def _hand_out(self) -> None:
        while self._published:
            line = encode({"item": self._published.popleft()})
            for client in [client for client in self._clients.values() if client.follows]:
                try:
                    client.send(line)
                    self._watch(client)
                except OSError:
                    self._drop(client)

    def _watch(self, client: Client) -> None:
        mask = selectors.EVENT_READ | (selectors.EVENT_WRITE if client.waiting else 0)
        self._selector.modify(client.socket, mask)

    def _drop(self, client: Client) -> None:
        """Forget a client, once."""
        if client.gone:
            return
        client.gone = True
        client.close_descriptors()
        self._selector.unregister(client.socket)
        del self._clients[client.socket.fileno()]
        self._places[client.place] -= 1
        client.socket.close()
        try:
            if client.ended:
                client.ended()
        except Refused:
            pass  # no client is left to notify
        except Exception as error:
            self._faults.note(Entry.CONTROL, error)


class Client:
    """One connection: what was read and is no whole line yet, what was answered and is not written yet."""

    def __init__(self, connection: socket.socket, place: int) -> None:
        self.socket = connection
        self.place = place  # see `namespace_of`
        self.follows = False
        self.gone = False
        self.ended: Callable[[], object] | None = None
        self.waiting = bytearray()
        self.descriptors: list[int] = []  # that came with what was read; a request that wants them takes them
        self._read = bytearray()

    def lines(self) -> list[bytes]:
        """The whole lines that have come; OSError when the client is gone or talks without end."""
        piece, descriptors, _, _ = socket.recv_fds(self.socket, 1 << 16, MAX_DESCRIPTORS)
        self.descriptors += descriptors
        if not piece or len(self.descriptors) > MAX_DESCRIPTORS:
            raise ConnectionResetError
        self._read += piece
        *lines, rest = bytes(self._read).split(b"\n")
        self._read = bytearray(rest)
        if len(rest) > MAX_REQUEST_BYTES:
            raise ConnectionResetError
        return [line for line in lines if line.strip()]

    def close_descriptors(self) -> None:
        """Those that no request took."""
        while self.descriptors:
            os.close(self.descriptors.pop())

    def send(self, line: bytes, descriptors: Sequence[int] = ()) -> None:
        """Write or queue a line. Descriptors go with the line's first byte, so nothing may wait before them."""
        if descriptors and not self.waiting:
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors).tobytes())
            line = line[self.socket.sendmsg([line], [rights]) :]
        self.waiting += line
        if len(self.waiting) > MAX_WAITING:
            raise ConnectionResetError
        self.flush()

    def flush(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self.waiting:
                del self.waiting[: self.socket.send(self.waiting)]


def check_argument(name: str, value: object) -> None:
    """TypeError where an argument of this name is never of this type."""
    kind = ARGUMENTS.get(name)
    if kind is None:
        return
    if isinstance(value, bool) != (kind is bool) or not isinstance(value, kind):
        raise TypeError(f"{name} is a {type(value).__name__}")
    if isinstance(value, list) and not all(type(each) is LISTS[name] for each in value):
        raise TypeError(f"{name} has something in it that is not {LISTS[name].__name__}")


def namespace_of(process: int) -> int:
    """The network namespace of a process (an inode); 0 when it has ended or may not be looked at."""
    try:
        return os.stat(f"/proc/{process}/ns/net").st_ino
    except OSError:
        return 0


def encode(answer: Mapping[str, object]) -> bytes:
    """One line. msgspec knows dataclasses, tuples and bytes (as base64) besides what JSON knows.

    Text that came in as bytes that are not UTF-8 (PEP 383) goes out as it came; only `json` does that.
    """
    import msgspec

    try:
        return msgspec.json.encode(answer) + b"\n"
    except UnicodeEncodeError:
        return json.dumps(msgspec.to_builtins(answer)).encode() + b"\n"


def listen(path: Path) -> socket.socket:
    """The listening socket, mode 0600 from its first moment."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    listener.listen(32)
    listener.setblocking(False)
    return listener
