"""The guest's end of the line: takes requests from `virtual_machine.py`, one JSON object a line, and answers each.

A host is a pair of namespaces (network, mount) with its own /sys. Every command is a child of this process that enters
them first; `ibbond` commands are forks of this warm interpreter, because starting Python under software emulation takes
seconds. Standard library only, apart from the command line under test.
"""

import ctypes
import importlib
import io
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000
MS_REC_PRIVATE = 0x4000 | 0x40000
libc = ctypes.CDLL(None, use_errno=True)

Answer = dict[str, object]


@dataclass
class Started:
    pid: int
    out: str
    err: str


hosts: dict[str, tuple[int, int]] = {}
started: dict[int, Started] = {}


def main() -> None:
    warm_up()
    line = os.open(find_port(), os.O_RDWR)
    answer(line, {"kernel": os.uname().release})
    pending = b""
    while True:
        while b"\n" not in pending:
            data = os.read(line, 65536)
            if not data:
                time.sleep(0.05)
            pending += data
        text, pending = pending.split(b"\n", 1)
        try:
            answer(line, serve(json.loads(text)))
        except Exception:
            answer(line, {"error": traceback.format_exc()})


def warm_up() -> None:
    """Import what the commands need, once; a module that does not import fails in its own test.

    A test that has become another user (`os.setuid`) may not be able to read the checkout any more.
    """
    names = ["json", "ipaddress", "tarfile", "tempfile", "subprocess"]
    names += [f"ibbond.cli.{name}" for name in ("main", "bond", "check", "watch", "ib_bond", "collect")]
    names += [f"ibbond.ops.{name}" for name in ("check", "collect", "read_facts")]
    names += [f"ibbond.backend.{name}" for name in ("apply", "requests", "kernel.bonds", "kernel.refusals")]
    names += ["ibbond.backend.kernel.netlink_options", "ibbond.backend.kernel.watch"]
    names += ["ibbond.topology.model"]
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError:
            traceback.print_exc()


def find_port() -> str:
    for _ in range(200):
        for path in Path("/sys/class/virtio-ports").glob("*"):
            if (path / "name").read_text().strip() == "ibbond":
                return f"/dev/{path.name}"
        time.sleep(0.05)
    raise SystemExit("no virtio port named ibbond")


def answer(line: int, value: Answer) -> None:
    data = json.dumps(value).encode() + b"\n"
    while data:
        data = data[os.write(line, data) :]


def serve(request: dict[str, object]) -> Answer:
    host = str(request["host"])
    match request["op"]:
        case "open":
            hosts[host] = make_namespaces()
            return {}
        case "close":
            for fd in hosts.pop(host):
                os.close(fd)
            return {}
        case "run":
            return finish(spawn(host, lambda: execute(request)), float(str(request["timeout"])))
        case "ibbond":
            return finish(spawn(host, lambda: command_line(request)), float(str(request["timeout"])))
        case "start":
            child = spawn(host, lambda: command_line(request))
            started[child.pid] = child
            return {"number": child.pid}
        case "output":
            return {"out": Path(started[int(str(request["number"]))].out).read_text()}
        case "stop":
            child = started.pop(int(str(request["number"])))
            os.kill(child.pid, signal.SIGINT)
            return finish(child, 20)
        case "python":
            return run_python(host, str(request["source"]), float(str(request["timeout"])))
        case "read":
            return run_python(host, f"answer = open({request['path']!r}).read()", 60, key="text")
        case "write":
            source = f"fd = os.open({request['path']!r}, os.O_WRONLY)\nos.write(fd, {request['text']!r}.encode())"
            return run_python(host, source, 60)
    raise ValueError(f"unknown request {request}")


def make_namespaces() -> tuple[int, int]:
    """A network namespace with a mount namespace that shows its /sys; both live as long as the file descriptors."""
    ready, tell = os.pipe()
    hold, let_go = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(let_go)
        check(libc.unshare(CLONE_NEWNS | CLONE_NEWNET), "unshare")
        check(libc.mount(b"none", b"/", None, MS_REC_PRIVATE, None), "mount /")
        check(libc.mount(b"sysfs", b"/sys", b"sysfs", 0, None), "mount /sys")
        os.system("ip link set lo up")
        os.write(tell, b"x")
        os.read(hold, 1)
        os._exit(0)
    os.close(tell)
    os.close(hold)
    assert os.read(ready, 1) == b"x", "no namespaces"
    found = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY), os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY)
    os.close(let_go)
    os.close(ready)
    os.waitpid(pid, 0)
    return found


def check(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), what)


def enter(host: str) -> None:
    network, mounts = hosts[host]
    cwd = os.getcwd()
    check(libc.setns(network, CLONE_NEWNET), "setns net")
    check(libc.setns(mounts, CLONE_NEWNS), "setns mnt")
    os.chdir(cwd)


def spawn(host: str, work: Callable[[], int]) -> Started:
    """Fork a child in the host's namespaces, its output in two files."""
    out, err = (tempfile.mkstemp(prefix="guest-") for _ in range(2))
    pid = os.fork()
    if pid:
        os.close(out[0])
        os.close(err[0])
        return Started(pid, out[1], err[1])
    code = 99
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        os.dup2(out[0], 1)
        os.dup2(err[0], 2)
        sys.stdin = io.TextIOWrapper(io.FileIO(0, "r", closefd=False))
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), write_through=True)
        sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), write_through=True)
        enter(host)
        code = work()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def finish(child: Started, timeout: float) -> Answer:
    """Wait for a child. The other end of the line has its own timeout; ours is for what it gave up on."""
    begin = time.monotonic()
    while True:
        pid, status = os.waitpid(child.pid, os.WNOHANG)
        if pid:
            break
        if time.monotonic() - begin > 2 * timeout:
            os.kill(child.pid, signal.SIGKILL)
        time.sleep(0.01)
    answer: dict[str, object] = {"code": os.waitstatus_to_exitcode(status), "seconds": time.monotonic() - begin}
    for key, path in (("out", child.out), ("err", child.err)):
        answer[key] = Path(path).read_text(errors="replace")
        os.unlink(path)
    return answer


def execute(request: dict[str, object]) -> int:
    command = [str(word) for word in list(request["command"])]  # type: ignore[call-overload]
    if request["input"]:
        reader, writer = os.pipe()
        os.write(writer, str(request["input"]).encode())
        os.close(writer)
        os.dup2(reader, 0)
    os.environ.update({str(k): str(v) for k, v in dict(request["environment"]).items()})  # type: ignore[call-overload]
    os.execvp(command[0], command)


def command_line(request: dict[str, object]) -> int:
    from ibbond.cli.main import main

    sys.argv = ["ibbond", *(str(word) for word in list(request["words"]))]  # type: ignore[call-overload]
    main()
    return 0


def run_python(host: str, source: str, timeout: float, key: str = "answer") -> Answer:
    def work() -> int:
        scope: dict[str, object] = {"os": os, "answer": None}
        exec(compile(source, "<test>", "exec"), scope)
        print(json.dumps(scope["answer"]))
        return 0

    result = finish(spawn(host, work), timeout)
    if result["code"] != 0:
        raise RuntimeError(str(result["err"]))
    lines = str(result["out"]).splitlines()
    return {key: json.loads(lines[-1])}


if __name__ == "__main__":
    main()
