"""Which IP multicast groups the programs of a lab host have joined, read from /proc/net/igmp and igmp6.

Read first: `igmp_mc_seq_show` of net/ipv4/igmp.c and `igmp6_mc_seq_show` of net/ipv6/mcast.c. The kernel has no
message for a join before Linux 6.14, and then sends none for a leave that a program's death makes; so the watcher
reads these files when a report passes, when a message comes, and every few seconds. Left out: source filters, and what
a file has beyond `MAX_BYTES`: programs can make it as long as they like, and the newest groups come first.
"""

from __future__ import annotations

import os
import sys

from ibbond.host.namespace import NetNamespace

MAX_BYTES = 128 << 10  # of one file: some 2,000 groups, far more than a host may be in (`stack.host_groups.MAX_GROUPS`)


class GroupFiles:
    """The two files of one host, opened once: reading needs no change of namespace.

    `complete` says whether the last reading got to the end of both.
    """

    def __init__(self, space: NetNamespace) -> None:
        self.complete = True
        self._files = [
            (space.run_in(lambda: _file("/proc/thread-self/net/igmp")), _parse_igmp),
            (space.run_in(lambda: _file("/proc/thread-self/net/igmp6")), _parse_igmp6),
        ]

    def read(self) -> dict[str, tuple[bytes, ...]]:
        """Device name to its groups (4 bytes each, then 16 bytes each), sorted."""
        found: dict[str, list[bytes]] = {}
        self.complete = True
        for descriptor, parse in self._files:
            if descriptor >= 0:
                text, complete = _text(descriptor)
                self.complete &= complete
                parse(text, found)
        return {
            device: tuple(sorted(groups, key=lambda group: (len(group), group))) for device, groups in found.items()
        }

    def close(self) -> None:
        for descriptor, _ in self._files:
            if descriptor >= 0:
                os.close(descriptor)
        self._files = []


def _file(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return -1  # no IPv6 in this kernel


def _text(descriptor: int) -> tuple[str, bool]:
    """The whole lines of a file, up to `MAX_BYTES`, and whether these are all."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    parts: list[bytes] = []
    left = MAX_BYTES
    while left > 0 and (part := os.read(descriptor, min(left, 1 << 16))):
        parts.append(part)
        left -= len(part)
    raw = b"".join(parts)
    return raw[: raw.rfind(b"\n") + 1].decode(), left > 0


def _parse_igmp(text: str, found: dict[str, list[bytes]]) -> None:
    """A line per device (`2 ib0 : 1 V3`), under it a line per group: the address as a hexadecimal host-order word."""
    groups: list[bytes] = []
    for line in text.splitlines()[1:]:
        words = line.split()
        if not line.startswith("\t") and len(words) > 1:
            groups = found.setdefault(words[1].rstrip(":"), [])
        elif words:
            groups.append(int(words[0], 16).to_bytes(4, sys.byteorder))


def _parse_igmp6(text: str, found: dict[str, list[bytes]]) -> None:
    """A line per group: `2 ib0 ff020000000000000000000000000001 1 0000000C 0`. ff01:: (this node) leaves no device."""
    for line in text.splitlines():
        words = line.split()
        group = bytes.fromhex(words[2])
        if group[1] & 0x0F > 1:
            found.setdefault(words[1], []).append(group)
