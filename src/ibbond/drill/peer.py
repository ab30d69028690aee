"""The peer of a drill on a real host: `ibbond drill --serve`, and the drill's side of that connection.

Read first: `drill.traffic`. The peer is reached over the bond's own network, and answers only who proves by HMAC-SHA256
over a fresh nonce that it has the token; the nonce of the other side proves the peer in turn. Then one JSON object a
line: `start`, `connect`, `progress`, `clock`, `moves`, `end`. One drill at a time: another gets `busy`. When the
connection closes, the peer's programs end. Left out: secrecy, for there is nothing secret in probes.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import ipaddress
import json
import secrets
import select
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from ibbond.abi.netlink_attributes import attributes
from ibbond.demo.generators import Endpoint
from ibbond.drill.traffic import End
from ibbond.errors import Refused
from ibbond.host.ip_settings import NDA_DST, NDA_LLADDR, NEIGHBOR
from ibbond.host.rtnetlink import messages
from ibbond.lab.exec import HostHandle

PORT = 7000
VERSION = 1
TOKEN_BYTES = (16, 4096)
PATIENCE = 60.0  # for an answer: the connection runs over the bond that fails
CLOCK_ROUNDS = 15
NEWNEIGH, RTMGRP_NEIGH = 28, 1 << 2
MAX_LINE = 1 << 28  # the last words of a long drill


class LocalHandle(NamedTuple):
    """This host itself, as `lab.exec.HostHandle` is a lab's host."""

    def popen(self, command: Sequence[str], *, priority: int = 0, **options: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, start_new_session=True, **{**options, "process_group": None})


def local_seat(name: str, address: str) -> Endpoint:
    """This host as a place for the demo's programs."""
    return Endpoint(name, local_handle(), address)


def local_handle() -> HostHandle:
    return LocalHandle()  # type: ignore[return-value]


def read_token(file: Path | None) -> bytes:
    """The shared secret; `Refused` where it is missing, short, or readable by others."""
    what = "cannot use the token"
    fix = "Create one: umask 077; head -c 32 /dev/urandom | base64 > FILE; and copy it to the peer"
    if file is None:
        raise Refused(
            "no token was given",
            why="a peer answers only hosts that have the same token",
            fix=f"Give --token FILE. {fix}",
        )
    try:
        mode, token = file.stat().st_mode, file.read_bytes().strip()
    except OSError as error:
        raise Refused(what, why=f"{file}: {error.strerror}", fix=fix, code=error.errno or 0) from None
    if mode & 0o077:
        raise Refused(what, why=f"other users may read {file}", fix=f"chmod 600 {file}")
    if not TOKEN_BYTES[0] <= len(token) <= TOKEN_BYTES[1]:
        raise Refused(
            what, why=f"{file} has {len(token)} bytes, and needs {TOKEN_BYTES[0]} to {TOKEN_BYTES[1]}", fix=fix
        )
    return token


def proof(token: bytes, role: str, *nonces: str) -> str:
    """What only an owner of the token can say to these nonces in this role."""
    return hmac.new(token, "\n".join((role, *nonces)).encode(), hashlib.sha256).hexdigest()


class Line:
    """JSON objects, one a line, over a socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._rest = b""

    def send(self, value: object) -> None:
        self.sock.sendall(json.dumps(value).encode() + b"\n")

    def receive(self, limit: int = MAX_LINE) -> dict[str, Any]:
        """The next object; ConnectionError at the end, ValueError for what is not an object."""
        pieces, size = [self._rest], len(self._rest)
        while b"\n" not in pieces[-1]:
            piece = self.sock.recv(1 << 18)
            if not piece:
                raise ConnectionError("the other side has closed the connection")
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                raise ValueError("a line is too long")
        line, self._rest = b"".join(pieces).split(b"\n", 1)
        value = json.loads(line)
        if not isinstance(value, dict):
            raise ValueError("not an object")
        return value


class Peer:
    """The drill's side: the peer's programs, its clock, and when its neighbor entries changed."""

    def __init__(self, host: str, token: bytes) -> None:
        self.host = host
        what = f"cannot drill with the peer {host}"
        try:
            sock = socket.create_connection((host, PORT), timeout=10)
            sock.settimeout(PATIENCE)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.line = Line(sock)
            self.own_address = str(sock.getsockname()[0])
            self.address = str(sock.getpeername()[0])
            self._authenticate(token, what)
        except (OSError, ValueError, KeyError) as error:
            fix = f"Run on {host}: ibbond drill --serve --token FILE"
            raise Refused(what, why=f"it does not answer on port {PORT} ({error})", fix=fix) from None

    def _authenticate(self, token: bytes, what: str) -> None:
        hello = self.line.receive(4096)
        if hello.get("version") != VERSION:
            raise Refused(what, why="it runs another version of ibbond", fix="Install the same version there")
        nonce = secrets.token_hex(16)
        self.line.send({"nonce": nonce, "proof": proof(token, "drill", str(hello["nonce"]), nonce)})
        answer = self.line.receive(4096)
        if answer.get("busy"):
            raise Refused(what, why="another drill is using it", fix="Wait until that one has ended")
        expected = proof(token, "peer", str(hello["nonce"]), nonce)
        if not hmac.compare_digest(str(answer.get("proof", "")), expected):
            raise Refused(what, why="the tokens differ", fix="Copy the same token file to both hosts")
        self.name = str(answer.get("name", self.host))

    def ask(self, do: str, **words: object) -> dict[str, Any]:
        try:
            self.line.send({"do": do, **words})
            answer = self.line.receive()
        except (OSError, ValueError) as error:
            why, fix = f"the connection to it broke ({error})", "Check that host, then run the drill again"
            raise Refused(f"cannot continue with the peer {self.host}", why=why, fix=fix) from None
        if "refused" in answer:
            raise Refused(f"the peer {self.host} cannot {do}", why=str(answer["refused"]), fix="See its output")
        return answer

    def clock(self) -> tuple[int, int]:
        """What is added to the peer's times to get this host's, and how far that may be off (half a round trip), ns."""
        rounds = []
        for _ in range(CLOCK_ROUNDS):
            before = time.monotonic_ns()
            theirs = int(self.ask("clock")["ns"])
            after = time.monotonic_ns()
            rounds.append((after - before, (before + after) // 2 - theirs))
        best = sorted(rounds)[:5]
        return round(median(offset for _, offset in best)), best[0][0] // 2

    def close(self) -> None:
        self.line.sock.close()


class NeighborLog:
    """When neighbors of this host were found at another address: (ns, ip, address) from rtnetlink, on a thread."""

    def __init__(self) -> None:
        self.moves: list[tuple[int, str, str]] = []
        self._known: dict[str, str] = {}
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        self._socket.bind((0, RTMGRP_NEIGH))
        self._ended = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while not self._ended.is_set():
            if not select.select([self._socket], [], [], 0.2)[0]:
                continue
            with contextlib.suppress(OSError, ValueError):
                raw = self._socket.recv(1 << 17)
                now = time.monotonic_ns()
                for message in messages(raw):
                    if message.type == NEWNEIGH:
                        self._note(now, message.body)

    def _note(self, now: int, body: bytes) -> None:
        found = attributes(body, NEIGHBOR.size)
        if NDA_DST not in found or NDA_LLADDR not in found:
            return
        ip, address = str(ipaddress.ip_address(found[NDA_DST])), found[NDA_LLADDR].hex(":")
        if self._known.get(ip) != address:
            self._known[ip] = address
            self.moves.append((now, ip, address))

    def close(self) -> None:
        self._ended.set()


def serve(token: bytes, say: Callable[[str], None], *, address: str = "") -> None:
    """Answer drills, one after the other, until a signal ends it."""
    with listening(address) as listener:
        say(f"answering drills on port {PORT}; Ctrl-C ends it")
        busy = threading.Lock()
        while True:
            sock, caller = listener.accept()
            threading.Thread(target=answer, args=(sock, token, busy, say, str(caller[0])), daemon=True).start()


@contextlib.contextmanager
def listening(address: str) -> Iterator[socket.socket]:
    try:
        listener = socket.create_server((address, PORT))
    except OSError as error:
        fix = f"See who listens there: ss -ltnp sport = :{PORT}"
        raise Refused("cannot answer drills", why=f"port {PORT}: {error.strerror}", fix=fix) from None
    with listener:
        yield listener


def answer(sock: socket.socket, token: bytes, busy: threading.Lock, say: Callable[[str], None], caller: str) -> None:
    """One connection to its end."""
    line = Line(sock)
    with sock, contextlib.suppress(OSError, ValueError, KeyError):
        sock.settimeout(10)
        nonce = secrets.token_hex(16)
        line.send({"version": VERSION, "nonce": nonce})
        hello = line.receive(4096)
        theirs = str(hello["nonce"])
        if not hmac.compare_digest(str(hello.get("proof", "")), proof(token, "drill", nonce, theirs)):
            line.send({"proof": ""})
            say(f"{caller} does not have the token")
            return
        if not busy.acquire(blocking=False):
            line.send({"busy": True})
            return
        try:
            line.send({"proof": proof(token, "peer", nonce, theirs), "name": socket.gethostname()})
            say(f"a drill of {caller} begins")
            sock.settimeout(None)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            Serving(line, address_of(sock), caller).run()
        finally:
            busy.release()
            say(f"the drill of {caller} has ended")


def address_of(sock: socket.socket) -> str:
    """Our end's address; empty for a socket that has none."""
    name = sock.getsockname()
    return str(name[0]) if name else ""


class Serving:
    """The requests of one drill."""

    def __init__(self, line: Line, own: str, caller: str) -> None:
        self.line, self.own, self.caller = line, own, caller
        self.end: End | None = None
        self.log = NeighborLog()

    def run(self) -> None:
        """Until the drill closes the connection: then its programs end."""
        try:
            while True:
                request = self.line.receive(65536)
                try:
                    self.line.send(self._serve(request))
                except (KeyError, TypeError, AssertionError) as error:
                    self.line.send({"refused": f"the request is not understood ({error!r})"})
        finally:
            self.log.close()
            if self.end is not None:
                self.end.kill()

    def _serve(self, request: dict[str, Any]) -> dict[str, Any]:
        match request["do"]:
            case "clock":
                return {"ns": time.monotonic_ns()}
            case "start":
                spacing = min(max(int(request["spacing_us"]), 100), 10_000_000)
                self.end = End(local_seat("peer", self.own), self.caller, spacing)
                return {}
            case "moves":
                return {"moves": self.log.moves}
        assert self.end is not None, "start comes first"
        match request["do"]:
            case "progress":
                return {"listens": self.end.listens, "silent": self.end.silent()}
            case "connect":
                self.end.connect()
                return {}
            case "end":
                self.end.ask_to_end()
                return {"finals": self.end.finals()}
        raise KeyError(request["do"])
