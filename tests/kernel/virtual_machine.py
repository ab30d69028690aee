"""A distribution kernel in QEMU with this checkout inside, and hosts (network namespaces) on it to run commands on.

Read `guest.py` for the other end of the line. The root file system of this machine is visible inside, read-only under a
tmpfs overlay, so the same interpreter and the same sources run on the other kernel; /proc, /sys and /dev are the
guest's own. There is no network device but those that a test makes. Nothing here knows bonding.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import lzma
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent.parent
MODULES = (
    "virtio_pci",
    "virtio_console",
    "9pnet_virtio",
    "9p",
    "overlay",
    "bonding max_bonds=0",
    "dummy numdummies=0",
    "veth",
    "8021q",
    "bridge",
)
# The kernel measures its TSC while it boots, wrong by factors on a busy machine; the ACPI timer cannot be mistaken.
COMMAND_LINE = (
    "console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off nokaslr no_timer_check cryptomgr.notests "
    "random.trust_cpu=on clocksource=acpi_pm audit=0 log_buf_len=4M"
)
PR_SET_PDEATHSIG = 1
# For scripts in the guest: tries a command until it succeeds, by the guest's clock; what was awaited is named.
WAIT_FOR = """
wait_for() {
    read up rest </proc/uptime; end=$((${up%.*} + 120))
    until eval "$2" >/dev/null 2>&1; do
        read up rest </proc/uptime
        [ ${up%.*} -lt $end ] || { echo "not after two minutes: $1 ($2)" >&2; return 1; }
        sleep 0.1
    done
}
"""
SHARE_OPTIONS = "multidevs=remap,security_model=none"


class Missing(Exception):
    """What is needed to boot is not on this machine; the text says what and how to get it."""


def kernel_root() -> Path:
    """The directory that `tests/kernel/prepare` filled."""
    cache = Path(os.environ.get("IBBOND_KERNEL_DIR") or Path.home() / ".cache/ibbond/kernel")
    root = cache / (os.environ.get("IBBOND_KERNEL_RELEASE") or "default")
    if not shutil.which("qemu-system-x86_64"):
        raise Missing("qemu-system-x86_64 is not installed: run tests/kernel/prepare")
    for file in ("lookib.ko", "busybox"):
        if not (root / file).exists():
            raise Missing(f"no unpacked kernel with {file} in {root}: run tests/kernel/prepare")
    return root.resolve()


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str
    seconds: float = 0.0

    def json(self) -> object:
        return json.loads(self.out)


class VirtualMachine:
    """Boots at construction; `close` ends it. One request at a time."""

    def __init__(
        self, root: Path, *, memory_mib: int = 768, boot_seconds: float = 240, modules: Sequence[str] = ()
    ) -> None:
        self.root = root
        self.directory = Path(tempfile.mkdtemp(prefix="ibbond-kernel-"))
        self.release = next((root / "tree/lib/modules").iterdir()).name
        self.names = itertools.count(1)
        initramfs = self.directory / "initramfs"
        initramfs.write_bytes(build_initramfs(root, modules))
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.directory / "line"))
        listener.listen(1)
        listener.settimeout(boot_seconds)
        self.qemu = subprocess.Popen(
            self.command(initramfs, memory_mib),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=(self.directory / "errors").open("wb"),
            preexec_fn=end_with_parent,
        )
        try:
            self.line, _ = listener.accept()
            self.line.settimeout(boot_seconds)
            self.received = b""
            self.hello = self.reply()
        except (OSError, ValueError) as error:
            self.close()
            raise RuntimeError(f"the virtual machine did not come up ({error}):\n{self.console()}") from error
        finally:
            listener.close()

    def command(self, initramfs: Path, memory_mib: int) -> list[str]:
        kernel = next((self.root / "tree/boot").glob("vmlinuz-*"))
        # Software emulation unless asked: a /dev/kvm that exists need not work (nested, filtered MSRs).
        accelerator = os.environ.get("IBBOND_KERNEL_ACCELERATOR") or "tcg,thread=multi"
        command = ["qemu-system-x86_64", "-accel", accelerator, "-machine", "q35", "-cpu", "max", "-smp", "2"]
        command += ["-m", str(memory_mib), "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]
        command += ["-kernel", str(kernel), "-initrd", str(initramfs), "-append", COMMAND_LINE]
        command += ["-chardev", f"file,id=console,path={self.directory}/console", "-serial", "chardev:console"]
        command += ["-fsdev", f"local,id=root,path=/,readonly=on,{SHARE_OPTIONS}"]
        command += ["-device", "virtio-9p-pci,fsdev=root,mount_tag=hostroot"]
        command += ["-chardev", f"socket,id=line,path={self.directory}/line", "-device", "virtio-serial-pci"]
        return [*command, "-device", "virtserialport,chardev=line,name=ibbond"]

    def console(self) -> str:
        parts = [self.directory / name for name in ("errors", "console")]
        return "\n".join(part.read_text(errors="replace")[-4000:] for part in parts if part.exists())

    def request(self, *, timeout: float = 300, **fields: object) -> dict[str, object]:
        """One request to the guest and its answer; RuntimeError when the guest says that it went wrong."""
        self.line.settimeout(timeout)
        self.line.sendall(json.dumps({**fields, "timeout": timeout}).encode() + b"\n")
        try:
            answer = self.reply()
        except TimeoutError as error:
            raise RuntimeError(f"no answer in {timeout} s to {fields}:\n{self.console()}") from error
        if "error" in answer:
            raise RuntimeError(str(answer["error"]))
        return answer

    def reply(self) -> dict[str, object]:
        while b"\n" not in self.received:
            data = self.line.recv(65536)
            if not data:
                raise OSError(f"the guest hung up:\n{self.console()}")
            self.received += data
        text, self.received = self.received.split(b"\n", 1)
        answer: dict[str, object] = json.loads(text)
        return answer

    def host(self) -> Host:
        """A fresh host: its own network namespace and its own /sys."""
        return Host(self, f"host{next(self.names)}")

    def close(self) -> None:
        if self.qemu.poll() is None:
            self.qemu.kill()
        self.qemu.wait()
        if hasattr(self, "line"):
            self.line.close()
        shutil.rmtree(self.directory, ignore_errors=True)


class Host:
    """One network namespace of the guest. Commands run as root in it, in the checkout's directory."""

    def __init__(self, machine: VirtualMachine, name: str) -> None:
        self.machine = machine
        self.name = name
        self.group = int(name.removeprefix("host"))
        machine.request(op="open", host=name)

    def close(self) -> None:
        self.machine.request(op="close", host=self.name)

    def try_run(self, *command: str, stdin: str = "", timeout: float = 300, **environment: str) -> Result:
        answer = self.machine.request(
            op="run", host=self.name, command=command, input=stdin, environment=environment, timeout=timeout
        )
        return Result(**answer)  # type: ignore[arg-type]

    def run(self, *command: str, **options: str) -> str:
        """The output of a command that must succeed."""
        result = self.try_run(*command, **options)  # type: ignore[arg-type]
        assert result.code == 0, f"{shlex.join(command)} ended with {result.code}:\n{result.out}{result.err}"
        return result.out

    def sh(self, script: str) -> str:
        """A script; it has `wait_for WHAT COMMAND`, for a sleep is too short on some machine."""
        return self.run("sh", "-ec", WAIT_FOR + script)

    def ibbond(self, *words: str, timeout: float = 300) -> Result:
        """The command line in a fork of a warm interpreter: what `ibbond WORDS` prints and how it ends."""
        return Result(**self.machine.request(op="ibbond", host=self.name, words=words, timeout=timeout))  # type: ignore[arg-type]

    def ok(self, *words: str) -> str:
        """The output of an `ibbond` command that must succeed."""
        result = self.ibbond(*words)
        assert result.code == 0, f"ibbond {shlex.join(words)} ended with {result.code}:\n{result.out}{result.err}"
        return result.out

    def python(self, source: str, timeout: float = 300) -> object:
        """Run statements in a fork of the guest's interpreter; what they leave in `answer` comes back."""
        return self.machine.request(op="python", host=self.name, source=source, timeout=timeout)["answer"]

    def start(self, *words: str) -> int:
        """Start `ibbond WORDS` and let it run; see `output` and `stop`."""
        return int(str(self.machine.request(op="start", host=self.name, words=words)["number"]))

    def output(self, number: int) -> str:
        return str(self.machine.request(op="output", host=self.name, number=number)["out"])

    def stop(self, number: int) -> Result:
        return Result(**self.machine.request(op="stop", host=self.name, number=number))  # type: ignore[arg-type]

    def output_with(self, number: int, text: str, seconds: float = 60) -> str:
        """The output of a started command, once it holds `text`."""
        until = time.monotonic() + seconds
        while text not in (out := self.output(number)):
            assert time.monotonic() < until, f"no {text!r} in:\n{out}"
            time.sleep(0.1)
        return out

    def read(self, path: str) -> str:
        return str(self.machine.request(op="read", host=self.name, path=f"/sys/class/net/{path}")["text"])

    def write(self, path: str, text: str) -> None:
        self.machine.request(op="write", host=self.name, path=f"/sys/class/net/{path}", text=text)

    def add_port(self, name: str, *, adapter: int = 0, port: int = 1, hub: int | None = None, node: int = 0) -> str:
        """A look-alike IPoIB device; returns its hardware address."""
        address = (
            f"80:00:02:{0x08 + port:02x}:fe:80:00:00:00:00:00:00:00:02:c9:03:{node:02x}:10:{adapter:02x}:{port:02x}"
        )
        hub = self.group if hub is None else hub
        self.run("ip", "link", "add", name, "address", address, "group", str(hub), "type", "lookib")
        return address

    def carrier(self, name: str, up: bool) -> None:
        self.write(f"{name}/carrier", "1" if up else "0")


def end_with_parent() -> None:
    """A test run that is killed takes its machine along."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def build_initramfs(root: Path, modules: Sequence[str] = ()) -> bytes:
    """An archive with busybox, the kernel modules (with these besides) in load order, and the script for the rest."""
    tree = ModuleTree(root / "tree/lib/modules")
    tree.files["lookib"] = root / "lookib.ko"
    words: dict[str, str] = {}
    for wanted in (*MODULES, *modules, "lookib"):
        name, _, parameters = wanted.partition(" ")
        words[name.replace("-", "_")] = parameters
        tree.add(name)
    order = "".join(f"{name} {words.get(name, '')}\n" for name in tree.images)
    script = (HERE / "guest_init.sh").read_text()
    for key, value in {"PYTHON": sys.executable, "AGENT": str(HERE / "guest.py"), "CHECKOUT": str(CHECKOUT)}.items():
        script = script.replace(f"@{key}@", shlex.quote(value))
    busybox = (root / "busybox").read_bytes()
    entries = [("bin", 0o40755, b""), ("modules", 0o40755, b""), ("bin/busybox", 0o100755, busybox)]
    entries += [("init", 0o100755, script.encode()), ("modules/order", 0o100644, order.encode())]
    entries += [(f"modules/{name}.ko", 0o100644, image) for name, image in tree.images.items()]
    return pack_cpio(entries)


class ModuleTree:
    """Finds kernel modules and the order in which they load, from the `depends` that each carries."""

    def __init__(self, directory: Path) -> None:
        found = directory.rglob("*.ko*")
        self.files = {path.name.split(".ko")[0].replace("-", "_"): path for path in found}
        builtin = "\n".join(path.read_text() for path in directory.glob("*/modules.builtin"))
        self.builtin = {Path(line).name.split(".ko")[0].replace("-", "_") for line in builtin.split()}
        self.images: dict[str, bytes] = {}

    def add(self, name: str) -> None:
        name = name.replace("-", "_")
        if name in self.images or name in self.builtin:
            return
        image = read_module(self.files[name])
        found = re.search(rb"\0depends=([^\0]*)\0", image)
        for needed in found.group(1).decode().split(",") if found else []:
            if needed:
                self.add(needed)
        self.images[name] = image


def read_module(path: Path) -> bytes:
    if path.suffix == ".xz":
        return lzma.decompress(path.read_bytes())
    if path.suffix == ".zst":
        return subprocess.run(["zstd", "-dcq", str(path)], check=True, capture_output=True).stdout
    return path.read_bytes()


def pack_cpio(entries: list[tuple[str, int, bytes]]) -> bytes:
    """A `newc` archive, the format of an initramfs (Documentation/driver-api/early-userspace/buffer-format.rst)."""
    archive = bytearray()
    for inode, (name, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")], start=1):
        raw = name.encode() + b"\0"
        fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(raw), 0)
        archive += b"070701" + b"".join(b"%08X" % field for field in fields) + raw
        archive += bytes(-len(archive) % 4) + data
        archive += bytes(-len(archive) % 4)
    return bytes(archive)
