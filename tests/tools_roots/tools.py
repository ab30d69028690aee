"""Other projects' own parsers and generators, run offline in their roots on files that ibbond rendered.

Read first: `prepare`, which makes the roots. Each function takes rendered files and gives back a desired state, read
from what the tool printed or generated. A tool runs in namespaces of its own (mount, network, process) over an overlay
that ends with it: neither the root nor this machine is changed, and no service is started but networkd's parser.
"""

import os
import re
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from ibbond.config import cloud_init, ifupdown, netplan, networkd, networkmanager
from ibbond.config.desired import Desired, Problem, Source
from ibbond.config.ifupdown import with_prefix

CACHE = Path(os.environ.get("IBBOND_ROOTS_DIR") or Path.home() / ".cache/ibbond/roots")
RELEASES = {"bookworm": "Debian 12", "trixie": "Debian 13"}
SCRIPT = """
set -e
mount -t tmpfs tmpfs "$2"
mkdir "$2/upper" "$2/work" "$2/root"
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$2/root"
mount -t proc proc "$2/root/proc"
mount -t tmpfs tmpfs "$2/root/run"
mount -t tmpfs tmpfs "$2/root/tmp"
cp -r "$3/." "$2/root/"
chmod -R go-rwx "$2/root/etc/NetworkManager/system-connections" "$2/root/etc/netplan" 2>/dev/null || true
chroot "$2/root" sh -c "$4" > "$5" 2> "$6" || echo "exit $?" >> "$6"
mkdir -p "$7"
cp -r "$2/root/run/." "$7/" 2>/dev/null || true
cp -r "$2/root/tmp/." "$7/" 2>/dev/null || true
"""

Tool = Callable[[Path, dict[str, str]], Desired]


class Ran:
    """What a tool printed, and the files that it left in /run and /tmp."""

    def __init__(self, root: Path, files: dict[str, str], command: str) -> None:
        with tempfile.TemporaryDirectory(prefix="ibbond-roots-") as name:
            folder = Path(name)
            for part in ("mount", "files", "left"):
                (folder / part).mkdir()
            for path, text in files.items():
                target = folder / "files" / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(text)
            where = [folder / part for part in ("mount", "files")]
            words = [root, *where, command, folder / "out", folder / "err", folder / "left"]
            unshare = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "sh", "-c", SCRIPT, "sh"]
            environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
            done = subprocess.run(
                [*unshare, *map(str, words)], capture_output=True, text=True, env=environment, timeout=120
            )
            assert done.returncode == 0, done.stderr
            self.out, self.err = ((folder / part).read_text(errors="replace") for part in ("out", "err"))
            self.left = {
                str(path.relative_to(folder / "left")): path.read_text(errors="replace")
                for path in sorted((folder / "left").rglob("*"))
                if path.is_file() and path.stat().st_size < 1 << 20
            }


def root_of(family: str, release: str) -> Path | None:
    """The root, where `prepare` has made it."""
    root = CACHE / f"{family}-{release}"
    return root if (root / "complete").exists() and os.geteuid() == 0 else None


def nmcli(root: Path, files: dict[str, str]) -> Desired:
    """`nmcli --offline connection modify` reads a keyfile, drops what it does not take, and prints the rest."""
    commands = [
        f"echo '=== {path}'; nmcli --offline connection modify connection.autoconnect-priority 1 < '/{path}'"
        for path in files
    ]
    ran = Ran(root, files, "; ".join(commands))
    parts = re.split(r"^=== (.*)$", ran.out, flags=re.M)
    desired = networkmanager.read(dict(zip(parts[1::2], parts[2::2], strict=True)))
    return with_complaints(desired, [line for line in ran.err.splitlines() if line.strip()])


def networkd_log(root: Path, files: dict[str, str]) -> Desired:
    """networkd has no offline parser: it is started where there is no device, and names what it does not take."""
    command = (
        "mkdir -p /run/systemd/netif/links /run/systemd/netif/leases; chown -R systemd-network /run/systemd/netif;"
        " SYSTEMD_LOG_LEVEL=debug SYSTEMD_LOG_TARGET=console timeout 3 /usr/lib/systemd/systemd-networkd"
    )
    ran = Ran(root, files, command)
    complaints = []
    texts = dict(files)
    for line in ran.err.splitlines():
        if found := re.search(r"/(etc/systemd/network/[^:]+):(\d+): (.*)", line):
            complaints.append(found[0])
            rows = texts[found[1]].split("\n")
            rows[int(found[2]) - 1] = ""  # what it ignores is not there
            texts[found[1]] = "\n".join(rows)
    assert "systemd" in ran.err or "network" in ran.err, ran.err
    return with_complaints(networkd.read(texts), complaints)


def netplan_generate(root: Path, files: dict[str, str]) -> Desired:
    """`netplan generate`, and what it wrote for its renderer."""
    ran = Ran(root, files, "netplan generate --root-dir /")
    made = {path: text for path, text in ran.left.items() if path.endswith((".netdev", ".network"))}
    profiles = {path: text for path, text in ran.left.items() if path.endswith(".nmconnection")}
    desired = networkmanager.read(profiles) if profiles else networkd.read(made)
    lines = [line for line in ran.err.splitlines() if line.strip() and not line.startswith("Running in chroot")]
    return with_complaints(desired, lines)


def heads_of(files: dict[str, str]) -> tuple[list[str], str]:
    """The names of stanzas, and the lines that ifquery does not print: `auto`, and which family and method."""
    (text,) = files.values()
    lines = [line for line in text.splitlines() if line.startswith(("auto", "iface"))]
    return list(dict.fromkeys(line.split()[1] for line in lines if line.startswith("iface"))), "\n".join(lines)


def ifquery(root: Path, files: dict[str, str]) -> Desired:
    """ifupdown's `ifquery NAME`: one line an option, of all stanzas of that name; addresses without their length."""
    names, heads = heads_of(files)
    interfaces = {"etc/network/interfaces": "source /etc/network/interfaces.d/*\n"}
    ran = Ran(root, files | interfaces, f'for each in {" ".join(names)}; do echo "=== $each"; ifquery $each; done')
    parts = re.split(r"^=== (.*)$", ran.out, flags=re.M)
    text = heads + "\n"
    for name, body in zip(parts[1::2], parts[2::2], strict=True):
        lines = [(key, value) for key, _, value in (line.partition(": ") for line in body.splitlines())]
        masks = [value for key, value in lines if key == "netmask"]
        lines = [
            (key, with_prefix(value, masks.pop(0)) if key == "address" else value)
            for key, value in lines
            if key != "netmask"
        ]
        text += f"iface {name} inet static\n" + "".join(f"    {key} {value}\n" for key, value in lines)
    return with_complaints(ifupdown.read({"interfaces": text}), ran.err.splitlines())


def ifquery2(root: Path, files: dict[str, str]) -> Desired:
    """ifupdown2's `ifquery NAME`, in the format of the file."""
    names, heads = heads_of(files)
    interfaces = {"etc/network/interfaces": "source /etc/network/interfaces.d/*\n"}
    ran = Ran(root, files | interfaces, f"for each in {' '.join(names)}; do ifquery $each; done")
    return with_complaints(ifupdown.read({"interfaces": f"{heads}\n{ran.out}"}, tool="ifupdown2"), ran.err.splitlines())


def net_convert(root: Path, files: dict[str, str]) -> Desired:
    """cloud-init's own converter to netplan's language, where that distribution has it."""
    (text,) = files.values()
    command = (
        "mkdir -p /tmp/out; cloud-init devel net-convert -p in.yaml -k yaml -d /tmp/out -D ubuntu -O netplan;"
        " cp /etc/netplan/50-* /tmp/out/ 2>/dev/null"  # 25.1 writes there whatever it is notified
    )
    body = text if text.startswith("network:") else f"network:\n{text}"
    lines = body.splitlines()[1:]
    ran = Ran(root, {"in.yaml": "\n".join(line[2:] for line in lines) + "\n"}, f"cd /; {command}")
    made = {path: text for path, text in ran.left.items() if path.startswith("out/") and path.endswith(".yaml")}
    made = dict(sorted(made.items())[:1])
    return with_complaints(netplan.read(made, cloud_init.TOOL), [] if made else ran.err.splitlines()[-5:])


def with_complaints(desired: Desired, lines: list[str]) -> Desired:
    desired.problems += [Problem("tool", Source("stderr"), line, "") for line in lines]
    return desired


TOOLS: dict[str, tuple[str, Tool]] = {  # format: family of roots, what reads it there
    "networkmanager": ("networkmanager", nmcli),
    "networkd": ("networkd", networkd_log),
    "netplan": ("netplan", netplan_generate),
    "netplan-networkmanager": ("netplan", netplan_generate),
    "ifupdown": ("ifupdown", ifquery),
    "ifupdown2": ("ifupdown2", ifquery2),
    "cloud-init-1": ("cloud-init", net_convert),
    "cloud-init-2": ("cloud-init", net_convert),
}
