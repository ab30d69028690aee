"""Which network manager has a device of this host: networkd, NetworkManager or ifupdown, by what each keeps in /run.

Read first: /run/systemd/netif/links/INDEX (sd-network), /run/NetworkManager/devices/INDEX, /run/network/ifstate of
ifupdown. Nothing is asked of a service, so nothing is started. Left out: wicked, which keeps its state in its process.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Manager:
    """A tool that has a device, and how it lets it go."""

    device: str
    tool: str
    hand_over: str


def managers(devices: Mapping[str, int], root: str = "/") -> list[Manager]:
    """The managers of these devices (name and index); none for those that no tool has."""
    found = []
    ifstate = "\n".join(_text(path) for path in sorted(Path(root, "run/network").glob("ifstate*")))
    for name, index in devices.items():
        networkd = _text(Path(root, f"run/systemd/netif/links/{index}"))
        if re.search(r"^NETWORK_FILE=\S", networkd, re.M) and "ADMIN_STATE=unmanaged" not in networkd:
            file = re.search(r"^NETWORK_FILE=(\S+)", networkd, re.M)
            fix = f"remove {file[1] if file else 'its file'}, then networkctl reload"
            found.append(Manager(name, "systemd-networkd", fix))
        manager = _text(Path(root, f"run/NetworkManager/devices/{index}"))
        if re.search(r"^managed=true", manager, re.M) and re.search(r"^connection-uuid=\S", manager, re.M):
            found.append(Manager(name, "NetworkManager", f"nmcli device set {name} managed no"))
        if re.search(rf"^{re.escape(name)}=", ifstate, re.M):
            found.append(Manager(name, "ifupdown", f"ifdown {name}, then remove it from /etc/network/interfaces"))
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace") if path.is_file() else ""
    except OSError:
        return ""
