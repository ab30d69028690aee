"""The tables `files` and `exec` of a host: configuration that only this host sees, and commands for its start.

Read first: docs/topology.md, "Programs and their files". Left out: whether a path can be used on this machine
(`host.own_files`), running the commands (`lab.commands`).
"""

from pathlib import PurePosixPath

from ibbond.errors import Refused
from ibbond.topology.model import HostFile
from ibbond.topology.reader import Reader, wrong_kind

MAX_FILE_BYTES = 1 << 20
MODES = range(0o1000)
SYSTEM_TREES = ("/proc", "/sys", "/dev")


def read_files(table: Reader) -> tuple[HostFile, ...]:
    """`files = { "/etc/x.conf" = "text", "/usr/local/bin/check" = { text = "...", mode = 0o755 } }`, by path."""
    files = []
    for path, value in table.take("files", dict, {}).items():
        where = f"{table.where}.files.{path!r}"
        check_path(where, path)
        if isinstance(value, str):
            value = {"text": value}
        if not isinstance(value, dict):
            raise wrong_kind(where, value, str)
        described = Reader(value, where)
        text = described.require("text", str, "a file has a text")
        mode = described.take("mode", int, 0o644)
        described.done()
        if mode not in MODES:
            raise Refused(f"{where} has mode {mode:#o}", why="a mode is 0o000 to 0o777", fix="Write for example 0o755")
        if len(text.encode()) > MAX_FILE_BYTES:
            why = f"it has {len(text.encode())} bytes, a file of a host has at most {MAX_FILE_BYTES}"
            raise Refused(f"{where} is too large", why=why, fix="Have a command of exec fetch it")
        files.append(HostFile(path, text, mode))
    paths = {file.path for file in files}
    for file in files:
        for directory in paths.intersection(map(str, PurePosixPath(file.path).parents)):
            what = f"{table.where}.files has {directory} and {file.path}"
            raise Refused(what, why="one of them would have to be a file and a directory", fix="Rename one")
    return tuple(sorted(files))


def check_path(where: str, path: str) -> None:
    parts = PurePosixPath(path).parts
    why = ""
    if not path.startswith("/") or path.startswith("//"):
        why = "a path begins with one /"
    elif str(PurePosixPath(path)) != path or ".." in parts or "\0" in path:
        why = "a path names a file, without .., empty parts and a / at its end"
    elif len(parts) < 3:
        why = "the root directory is that of this machine"
    elif f"/{parts[1]}" in SYSTEM_TREES:
        why = f"/{parts[1]} is the kernel's"
    if why:
        raise Refused(f"{where} cannot be a file", why=why, fix="Write for example /etc/keepalived/keepalived.conf")


def read_commands(table: Reader) -> tuple[tuple[str, ...], ...]:
    """`exec = ["a line for the shell", ["program", "word"]]` as the words to run."""
    commands = []
    for number, item in enumerate(table.take("exec", list, []), 1):
        where = f"{table.where}.exec, number {number}"
        words = ["/bin/sh", "-c", item] if isinstance(item, str) else item
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise wrong_kind(where, item, str)
        if not words or not words[0].strip() or not words[-1].strip() or any("\0" in word for word in words):
            fix = 'Write for example "sysctl -w net.ipv4.ip_nonlocal_bind=1", or a list of words'
            raise Refused(f"{where} is {item!r}", why="it names no program", fix=fix)
        commands.append(tuple(words))
    return tuple(commands)
