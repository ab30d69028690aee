"""A support bundle: what `check` and a person need to judge a host's bonds, as a partial copy of its file system.

Read first: ops/read_facts.py, which reads it back (`check --root`). Files keep their places below the root and symbolic
links in /sys stay links, so whatever reads a live host reads the copy. What no file contains (addresses with their
flags, routes, policy rules, neighbors, the driver's log, the switch ports) goes to `ibbond/`. Left out on purpose: logs
of others, and of configuration files all that check does not read (config/without_secrets.py).
"""

from __future__ import annotations

import contextlib
import io
import os
import tarfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from ibbond.abi.ip_text import render_addresses, render_routes
from ibbond.backend.kernel.bonds import SAVED_ADDRESSES, SAVED_LOG, KernelBackend
from ibbond.backend.kernel.files import CLASS_NET, HostFiles
from ibbond.config.files import PATTERNS
from ibbond.config.without_secrets import without_secrets
from ibbond.errors import Refused
from ibbond.host.output_file import open_output
from ibbond.ops import read_network
from ibbond.ops.read_facts import NEIGHBORS, ask_neighbors
from ibbond.wire.hardware_type import INFINIBAND

FORMAT = "2"  # 1 had no routes, rules, neighbors, sysctls and address flags
HOST_FILES = (
    "proc/sys/kernel/osrelease",
    "proc/version",
    "proc/net/if_inet6",
    "proc/net/dev_mcast",
    "proc/sys/net/ipv4/neigh/default/*",
    "etc/os-release",
    "etc/modprobe.d/*",
    "sys/module/bonding/version",
    "sys/module/bonding/parameters/*",
    "sys/module/ib_ipoib/parameters/*",
    *PATTERNS,
)
DEVICE_FILES = [
    "addr_assign_type",
    "addr_len",
    "address",
    "broadcast",
    "carrier",
    "carrier_changes",
    "carrier_down_count",
    "carrier_up_count",
    "dev_id",
    "dev_port",
    "duplex",
    "flags",
    "ifindex",
    "mode",
    "mtu",
    "operstate",
    "pkey",
    "speed",
    "tx_queue_len",
    "type",
    "umcast",
]
DEVICE_DIRECTORIES = ("bonding", "bonding_slave", "statistics")
ADAPTER_FILES = ("board_id", "fw_ver", "hca_type", "node_desc", "node_guid", "node_type", "sys_image_guid")
PORT_FILES = ("state", "phys_state", "lid", "sm_lid", "sm_sl", "rate", "link_layer", "gids/0")
MAX_BYTES = 1 << 20
TIMEOUT_SECONDS = 5.0
COMMANDS = {
    read_network.SAVED_RULES: (("ip", "-4", "rule", "show"), ("ip", "-6", "rule", "show")),
    read_network.SAVED_NEIGHBORS: (("ip", "neigh", "show"),),
}


@dataclass(slots=True)
class Bundle:
    """Files and links of the copy, by their place below its root."""

    files: dict[str, bytes] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)


def collect(host: KernelBackend) -> Bundle:
    """Everything about the bonds of this host and the devices below them. Refused where there is no bonding driver."""
    host.read("bonding_masters")
    files = host.files
    bundle = Bundle()
    bonds = host.bonds()
    members = [name for bond in bonds for name in (files.text(f"{CLASS_NET}/{bond}/bonding/slaves") or "").split()]
    infiniband = [name for name in files.entries(CLASS_NET) if files.number(f"{CLASS_NET}/{name}/type") == INFINIBAND]
    addresses = read_network.addresses(host) or []
    devices = list(dict.fromkeys([*bonds, *members, *infiniband, *(each.device for each in addresses)]))
    _take(files, bundle, f"{CLASS_NET}/bonding_masters")
    for pattern in HOST_FILES:
        for path in files.matching(pattern):
            _take(files, bundle, path)
    for bond in bonds:
        _take(files, bundle, f"proc/net/bonding/{bond}")
    for device in devices:
        _take_device(files, bundle, device)
    for path in read_network.sysctls(files, devices):
        _take(files, bundle, f"{read_network.SYSCTL}/{path}")
    bundle.files[SAVED_ADDRESSES] = render_addresses(addresses).encode()
    if (routes := read_network.routes(host)) is not None:
        bundle.files[read_network.SAVED_ROUTES] = render_routes(routes).encode()
    for path, words in COMMANDS.items():
        if output := "".join(_output(command) for command in words):
            bundle.files[path] = output.encode()
    bundle.files[SAVED_LOG] = "".join(f"{line}\n" for line in host.log()).encode()
    for (adapter, number), text in ask_neighbors(_ports(files, devices)).items():
        if text:
            bundle.files[f"{NEIGHBORS}/{adapter}-{number}"] = text.encode()
    taken = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    bundle.files["ibbond/bundle"] = f"format {FORMAT}\ntaken {taken}\nhost {os.uname().nodename}\n".encode()
    return bundle


def write_tar(bundle: Bundle, path: Path) -> None:
    """A .tar.gz, mode 0600: a bundle has addresses and names in it. Refused when it cannot be written."""
    now = int(time.time())
    try:
        descriptor = open_output(path, mode=0o600)
        with os.fdopen(descriptor, "wb") as out, tarfile.open(fileobj=out, mode="w:gz") as tar:
            for name, content in sorted(bundle.files.items()):
                info = tarfile.TarInfo(name)
                info.size, info.mtime, info.mode = len(content), now, 0o644
                tar.addfile(info, io.BytesIO(content))
            for name, target in sorted(bundle.links.items()):
                info = tarfile.TarInfo(name)
                info.type, info.linkname, info.mtime = tarfile.SYMTYPE, target, now
                tar.addfile(info)
    except OSError as error:
        raise Refused(
            f"cannot write {path}", why=os.strerror(error.errno or 5), fix="Choose another file with --output", code=2
        ) from None


def write_directory(bundle: Bundle, path: Path) -> None:
    """The same as a directory, which must not exist yet."""
    try:
        path.mkdir(mode=0o700, parents=True)
        for name, content in bundle.files.items():
            place = path / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        for name, target in bundle.links.items():
            place = path / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(target)
    except OSError as error:
        raise Refused(
            f"cannot write {path}",
            why=os.strerror(error.errno or 5),
            fix="Choose a directory that does not exist yet",
            code=2,
        ) from None


def _take_device(files: HostFiles, bundle: Bundle, device: str) -> None:
    """A device where it really is, the link to it in class/net, and the adapter and port below it."""
    link = f"{CLASS_NET}/{device}"
    base = _follow(files, bundle, link)
    if base is None:
        return
    for name in DEVICE_FILES:
        _take(files, bundle, f"{base}/{name}")
    for directory in DEVICE_DIRECTORIES:
        for name in files.entries(f"{base}/{directory}"):
            _take(files, bundle, f"{base}/{directory}/{name}")
    for name in files.entries(base):
        if name == "master" or name.startswith(("upper_", "lower_")):
            _follow(files, bundle, f"{base}/{name}")
    parent = _follow(files, bundle, f"{base}/device")
    if parent is None:
        return
    bundle.files.setdefault(f"{parent}/uevent", (files.text(f"{parent}/uevent") or "").encode())
    _follow(files, bundle, f"{parent}/physfn")
    for adapter in files.entries(f"{parent}/infiniband"):
        below = f"{parent}/infiniband/{adapter}"
        for name in ADAPTER_FILES:
            _take(files, bundle, f"{below}/{name}")
        for port in files.entries(f"{below}/ports"):
            for name in (*PORT_FILES, *(f"counters/{c}" for c in files.entries(f"{below}/ports/{port}/counters"))):
                _take(files, bundle, f"{below}/ports/{port}/{name}")
            for index in files.entries(f"{below}/ports/{port}/pkeys"):
                if files.number(path := f"{below}/ports/{port}/pkeys/{index}"):
                    _take(files, bundle, path)


def _follow(files: HostFiles, bundle: Bundle, path: str) -> str | None:
    """Take a link along and say where it leads; a directory that is not a link leads to itself."""
    target = files.where(path)
    if target is None:
        return None
    if os.path.islink(files.name(path)):
        bundle.links[path] = os.path.relpath(target, os.path.dirname(path))
        bundle.files.setdefault(f"{target}/.kept", b"")  # a link to nothing would be no link
    return target


def _take(files: HostFiles, bundle: Bundle, path: str) -> None:
    """One file, as far as it can be read; large ones are cut, of configuration only what check reads is kept."""
    try:
        with open(files.name(path), "rb") as file:
            content = file.read(MAX_BYTES)
    except OSError:
        return
    if not path.startswith(("sys/", "proc/")) and path != "etc/os-release":
        content = without_secrets(path, content.decode("utf-8", "replace")).encode()
    bundle.files[path] = content


def _output(command: tuple[str, ...]) -> str:
    """What a program prints; nothing where it is not installed, fails or takes long."""
    import subprocess

    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
        )
        return done.stdout if done.returncode == 0 else ""
    return ""


def _ports(files: HostFiles, devices: list[str]) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    for device in devices:
        parent = files.where(f"{CLASS_NET}/{device}/device")
        for adapter in files.entries(f"{parent}/infiniband") if parent else []:
            numbers = files.entries(f"{parent}/infiniband/{adapter}/ports")
            found += [(adapter, int(number)) for number in numbers if number.isdigit()]
    return list(dict.fromkeys(found))
