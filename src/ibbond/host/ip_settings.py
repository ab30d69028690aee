"""IP settings of devices as values, which can move to another device: addresses, routes, nexthop objects and groups of
them, permanent neighbors, rules.

Read first: rtnetlink(7), linux/rtnetlink.h, if_addr.h, neighbour.h, nexthop.h, fib_rules.h; ip(8) for the words. What a
setting does not need to be understood for stays as raw attributes, so that all tables, metrics, labels and lifetimes
survive a move. Left out: reading those of a namespace (`ip_settings_read`).
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from ibbond.abi.netlink_attributes import attribute, attributes, number, text
from ibbond.host import rtnetlink
from ibbond.host.rtnetlink import (
    ADDRESS,
    APPEND,
    CREATE,
    DUMP,
    EXCLUSIVE,
    IFA_ADDRESS,
    IFA_FLAGS,
    IFA_LOCAL,
    IFA_PROTOCOL,
    NEXT_HOP,
    ROUTE,
    RTA_DST,
    RTA_GATEWAY,
    RTA_MULTIPATH,
    RTA_OIF,
    RTA_TABLE,
    RTA_VIA,
    RTNH_F_ONLINK,
    U32,
    RouteSocket,
)

NEWNEIGHBOR, DELNEIGHBOR, GETNEIGHBOR = 28, 29, 30
NEWRULE, DELRULE, GETRULE = 32, 33, 34
NEWNEXTHOP, DELNEXTHOP, GETNEXTHOP = 104, 105, 106
NEIGHBOR = struct.Struct("=BxxxiHBB")  # family, ifindex, state, flags, type
RULE = struct.Struct("=BBBBBxxBI")  # family, dst len, src len, tos, table, action, flags
NEXTHOP = struct.Struct("=BBBxI")  # family, scope, protocol, flags
NEXTHOP_SHARE = struct.Struct("=IBxxx")  # struct nexthop_grp: the id of an object, its weight less one
CACHE = struct.Struct("=IIII")  # struct ifa_cacheinfo: preferred, valid, created, updated
IFA_LABEL, IFA_BROADCAST, IFA_CACHEINFO, IFA_METRIC = 3, 4, 6, 9
RTA_METRIC, RTA_SOURCE, RTA_FLOW = 6, 7, 11
RTA_CACHEINFO, RTA_ENCAP_TYPE, RTA_ENCAP, RTA_EXPIRES, RTA_NEXTHOP = 12, 21, 22, 23, 30
OF_HOP = (RTA_GATEWAY, RTA_FLOW, RTA_VIA, RTA_ENCAP_TYPE, RTA_ENCAP)
NOT_KEPT = (RTA_OIF, RTA_MULTIPATH, RTA_CACHEINFO, RTA_TABLE, RTA_EXPIRES, RTA_NEXTHOP)
NDA_DST, NDA_LLADDR = 1, 2
NHA_ID, NHA_GROUP, NHA_GROUP_TYPE, NHA_OIF, NHA_GATEWAY, NHA_ENCAP_TYPE, NHA_ENCAP, NHA_RES_GROUP = (
    1,
    2,
    3,
    5,
    6,
    7,
    8,
    12,
)
OF_NEXTHOP = (NHA_GROUP, NHA_GROUP_TYPE, NHA_GATEWAY, NHA_ENCAP_TYPE, NHA_ENCAP, NHA_RES_GROUP)
FRA_IIFNAME, FRA_PRIORITY, FRA_OIFNAME, FRA_TABLE = 3, 6, 17, 15

FOREVER = 0xFFFFFFFF
TEMPORARY, NO_DAD = 0x01, 0x02  # IFA_F_*, the first one of IPv6
KEPT_FLAGS = 0x10 | 0x100 | 0x200 | 0x400  # home address, mngtmpaddr, noprefixroute, autojoin
RTPROT_KERNEL = 2
NUD_KNOWN, NUD_PERMANENT = 0x02 | 0x04 | 0x08 | 0x10, 0x80  # reachable, stale, delay, probe
NTF_USE, NTF_PROXY = 0x01, 0x08
INVERTED = 2  # FIB_RULE_INVERT
USER_HZ = 100
ROUTE_TYPES = {2: "local ", 3: "broadcast ", 4: "anycast ", 5: "multicast ", 6: "blackhole ", 7: "unreachable "}
FAMILIES = (socket.AF_INET, socket.AF_INET6)

Attributes = tuple[tuple[int, bytes], ...]


@dataclass(frozen=True, slots=True)
class IpAddress:
    """An IP address of a device. Lifetimes, in seconds, run down and are not compared.

    `is_new` marks one that was asked for: what had been in use before it moved was found to be unique then.
    """

    device: str
    local: bytes
    prefix: int
    peer: bytes = b""
    broadcast: bytes = b""
    label: str = ""
    scope: int = 0
    flags: int = 0
    metric: int = 0
    protocol: int = 0
    preferred: int = field(default=FOREVER, compare=False)
    valid: int = field(default=FOREVER, compare=False)
    is_new: bool = field(default=False, compare=False)

    @classmethod
    def of(cls, device: str, address: str) -> Self:
        """From `10.0.0.1/24`; raises ValueError."""
        interface = ipaddress.ip_interface(address)
        broadcast = b""
        if interface.version == 4 and interface.network.prefixlen < 31:
            broadcast = interface.network.broadcast_address.packed
        scope = rtnetlink.RT_SCOPE_LINK if interface.version == 6 and interface.is_link_local else 0
        length = interface.network.prefixlen
        return cls(device, interface.packed, length, broadcast=broadcast, scope=scope, is_new=True)

    @property
    def devices(self) -> tuple[str, ...]:
        return (self.device,)

    @property
    def text(self) -> str:
        return f"{ipaddress.ip_address(self.local)}/{self.prefix}"

    def __str__(self) -> str:
        peer = f" peer {ipaddress.ip_address(self.peer)}" if self.peer else ""
        label = f" label {self.label}" if self.label else ""
        return f"address {self.text}{peer}{label} dev {self.device}"

    def on(self, devices: Mapping[str, str]) -> Self:
        """The same on other devices, by their old names. A label that begins with the device's name follows."""
        device = devices.get(self.device, self.device)
        label = self.label
        if label.startswith(f"{self.device}:"):
            label = (device + label.removeprefix(self.device))[:15]
        return replace(self, device=device, label=label)

    def pack(self, index: Callable[[str], int]) -> bytes:
        family = socket.AF_INET if len(self.local) == 4 else socket.AF_INET6
        flags = self.flags | (NO_DAD if family == socket.AF_INET6 and not self.is_new else 0)
        body = ADDRESS.pack(family, self.prefix, flags & 0xFF, self.scope, index(self.device))
        body += attribute(IFA_LOCAL, self.local) + attribute(IFA_ADDRESS, self.peer or self.local)
        body += attribute(IFA_FLAGS, U32.pack(flags))
        body += attribute(IFA_BROADCAST, self.broadcast) if self.broadcast else b""
        body += attribute(IFA_LABEL, self.label.encode() + b"\0") if self.label else b""
        body += attribute(IFA_METRIC, U32.pack(self.metric)) if self.metric else b""
        body += attribute(IFA_PROTOCOL, bytes((self.protocol,))) if self.protocol else b""
        if self.valid != FOREVER or self.preferred != FOREVER:
            body += attribute(IFA_CACHEINFO, CACHE.pack(self.preferred, self.valid, 0, 0))
        return body


@dataclass(frozen=True, slots=True)
class Hop:
    """One next hop of a route; `attributes` are its gateway and encapsulation."""

    device: str
    attributes: Attributes = ()
    flags: int = 0
    weight: int = 0


@dataclass(frozen=True, slots=True)
class IpRoute:
    """A route of any table. `header` has family, destination and source length, TOS, protocol, scope and type.

    One that uses a nexthop object (`nexthop` is its id) has the object's hops.
    """

    header: tuple[int, int, int, int, int, int, int]
    table: int
    attributes: Attributes
    hops: tuple[Hop, ...]
    nexthop: int = 0
    expires: int = field(default=0, compare=False)  # seconds, 0: never

    @property
    def devices(self) -> tuple[str, ...]:
        return tuple(hop.device for hop in self.hops)

    @property
    def source(self) -> bytes:
        """The source address that it prefers, or nothing."""
        return dict(self.attributes).get(RTA_SOURCE, b"")

    @property
    def has_gateway(self) -> bool:
        return self.nexthop != 0 or any(
            kind in (RTA_GATEWAY, RTA_VIA) for hop in self.hops for kind, _ in hop.attributes
        )

    def __str__(self) -> str:
        family, length, *_, kind = self.header
        found = dict(self.attributes)
        destination = "default"
        if length:
            destination = f"{socket.inet_ntop(family, found.get(RTA_DST, b''))}/{length}"
        metric = number(found.get(RTA_METRIC, b""))
        words = [ROUTE_TYPES.get(kind, "") + destination]
        hops = [f"nexthop {self._hop(hop)}" if len(self.hops) > 1 else self._hop(hop) for hop in self.hops]
        words += [f"nhid {self.nexthop}"] if self.nexthop else hops
        words += [f"src {ipaddress.ip_address(self.source)}"] if self.source else []
        words += [f"metric {metric}"] if metric and (family, metric) != (socket.AF_INET6, 1024) else []
        words += [f"table {self.table}"] if self.table != rtnetlink.RT_TABLE_MAIN else []
        return "route " + " ".join(words)

    def _hop(self, hop: Hop) -> str:
        found = dict(hop.attributes)
        gateway = found.get(RTA_GATEWAY) or found.get(RTA_VIA, b"")[2:]
        via = f"via {ipaddress.ip_address(gateway)} " if gateway else ""
        return f"{via}dev {hop.device}{' onlink' if hop.flags & RTNH_F_ONLINK else ''}"

    def on(self, devices: Mapping[str, str]) -> Self:
        hops = tuple(replace(hop, device=devices.get(hop.device, hop.device)) for hop in self.hops)
        return replace(self, hops=tuple(dict.fromkeys(hops)))

    def pack(self, index: Callable[[str], int]) -> bytes:
        family, length, source_length, tos, protocol, scope, kind = self.header
        single = self.hops[0] if len(self.hops) == 1 else None
        table = self.table if self.table < 256 else 0
        flags = single.flags if single and not self.nexthop else 0
        body = ROUTE.pack(family, length, source_length, tos, table, protocol, scope, kind, flags)
        body += attribute(RTA_TABLE, U32.pack(self.table))
        body += b"".join(attribute(*each) for each in self.attributes)
        body += attribute(RTA_EXPIRES, U32.pack(self.expires)) if self.expires else b""
        if self.nexthop:
            return body + attribute(RTA_NEXTHOP, U32.pack(self.nexthop))
        if single:
            body += attribute(RTA_OIF, U32.pack(index(single.device)))
            return body + b"".join(attribute(*each) for each in single.attributes)
        packed = b""
        for hop in self.hops:
            inner = b"".join(attribute(*each) for each in hop.attributes)
            packed += NEXT_HOP.pack(NEXT_HOP.size + len(inner), hop.flags, hop.weight, index(hop.device)) + inner
        return body + attribute(RTA_MULTIPATH, packed)


@dataclass(frozen=True, slots=True)
class IpNexthop:
    """A nexthop object of this id, over `device`, or a group of such objects, whose devices are `members`."""

    identity: int
    header: tuple[int, int, int]  # family, protocol, flags
    attributes: Attributes
    device: str = ""
    members: tuple[str, ...] = ()

    @property
    def devices(self) -> tuple[str, ...]:
        return (self.device,) if self.device else self.members

    def __str__(self) -> str:
        found = dict(self.attributes)
        if not self.device:
            shares = NEXTHOP_SHARE.iter_unpack(found[NHA_GROUP])
            return f"nexthop id {self.identity} group {'/'.join(str(identity) for identity, _ in shares)}"
        via = f" via {ipaddress.ip_address(found[NHA_GATEWAY])}" if NHA_GATEWAY in found else ""
        return f"nexthop id {self.identity}{via} dev {self.device}"

    def on(self, devices: Mapping[str, str]) -> Self:
        members = dict.fromkeys(devices.get(member, member) for member in self.members)
        return replace(self, device=devices.get(self.device, self.device), members=tuple(members))

    def pack(self, index: Callable[[str], int]) -> bytes:
        family, protocol, flags = self.header
        body = NEXTHOP.pack(family, 0, protocol, flags) + attribute(NHA_ID, U32.pack(self.identity))
        body += attribute(NHA_OIF, U32.pack(index(self.device))) if self.device else b""
        return body + b"".join(attribute(*each) for each in self.attributes)

    def pack_name(self) -> bytes:
        """What deletes it: the kernel takes nothing but the id."""
        return NEXTHOP.pack(0, 0, 0, 0) + attribute(NHA_ID, U32.pack(self.identity))


@dataclass(frozen=True, slots=True)
class IpNeighbor:
    """A permanent neighbor, or an address that is answered for (`proxy`)."""

    device: str
    address: bytes
    hardware_address: bytes = b""
    flags: int = 0

    @property
    def devices(self) -> tuple[str, ...]:
        return (self.device,)

    def __str__(self) -> str:
        kind = "proxy " if self.flags & NTF_PROXY else ""
        at = f" lladdr {self.hardware_address.hex(':')}" if self.hardware_address else ""
        return f"neighbor {kind}{ipaddress.ip_address(self.address)}{at} dev {self.device}"

    def on(self, devices: Mapping[str, str]) -> Self:
        return replace(self, device=devices.get(self.device, self.device))

    def pack(self, index: Callable[[str], int]) -> bytes:
        family = socket.AF_INET if len(self.address) == 4 else socket.AF_INET6
        body = NEIGHBOR.pack(family, index(self.device), NUD_PERMANENT, self.flags, 0) + attribute(
            NDA_DST, self.address
        )
        return body + (attribute(NDA_LLADDR, self.hardware_address) if self.hardware_address else b"")


@dataclass(frozen=True, slots=True)
class IpRule:
    """A routing rule that names a device (`iif`, `oif`)."""

    header: tuple[int, int, int, int, int, int, int]
    attributes: Attributes

    @property
    def devices(self) -> tuple[str, ...]:
        return tuple(text(value) for kind, value in self.attributes if kind in (FRA_IIFNAME, FRA_OIFNAME))

    def __str__(self) -> str:
        found = dict(self.attributes)
        words = [
            f"{word} {text(found[kind])}"
            for word, kind in (("iif", FRA_IIFNAME), ("oif", FRA_OIFNAME))
            if kind in found
        ]
        table = number(found.get(FRA_TABLE, b"")) or self.header[4]
        return f"rule {number(found.get(FRA_PRIORITY, b''))}: {' '.join(words)} lookup {table}"

    def on(self, devices: Mapping[str, str]) -> Self:
        names = (FRA_IIFNAME, FRA_OIFNAME)
        renamed = (
            (kind, devices.get(text(value), text(value)).encode() + b"\0") if kind in names else (kind, value)
            for kind, value in self.attributes
        )
        return replace(self, attributes=tuple(renamed))

    def pack(self, index: Callable[[str], int]) -> bytes:
        return RULE.pack(*self.header) + b"".join(attribute(*each) for each in self.attributes)


IpSetting = IpAddress | IpRoute | IpNexthop | IpNeighbor | IpRule
KINDS: dict[str, type[IpSetting]] = {
    kind.__name__: kind for kind in (IpAddress, IpRoute, IpNexthop, IpNeighbor, IpRule)
}
NEW: dict[type[IpSetting], tuple[int, int, int]] = {  # type of a message that adds, its flags, type of one that deletes
    IpAddress: (rtnetlink.NEWADDR, CREATE | EXCLUSIVE, rtnetlink.DELADDR),
    IpRoute: (rtnetlink.NEWROUTE, CREATE | APPEND, rtnetlink.DELROUTE),
    IpNexthop: (NEWNEXTHOP, CREATE | rtnetlink.REPLACE, DELNEXTHOP),
    IpNeighbor: (NEWNEIGHBOR, CREATE | rtnetlink.REPLACE, DELNEIGHBOR),
    IpRule: (NEWRULE, CREATE | EXCLUSIVE, DELRULE),
}


def add(kernel: RouteSocket, setting: IpSetting) -> None:
    """Make a setting; one that is there already is fine. OSError of the kernel."""
    kind, flags, _ = NEW[type(setting)]
    with contextlib.suppress(FileExistsError):
        kernel.request(kind, flags, setting.pack(lambda name: kernel.link(name).index))


def delete(kernel: RouteSocket, setting: IpSetting) -> None:
    """Remove a setting; one that is not there is fine. OSError of the kernel."""
    try:
        body = (
            setting.pack_name()
            if isinstance(setting, IpNexthop)
            else setting.pack(lambda name: kernel.link(name).index)
        )
        kernel.request(NEW[type(setting)][2], 0, body)
    except OSError as error:
        if error.errno not in (errno.EADDRNOTAVAIL, errno.ESRCH, errno.ENOENT, errno.ENODEV):
            raise


def owner_of(kernel: RouteSocket, device: str, address: bytes, seconds: float = 0.6) -> bytes | None:
    """The hardware address of another host that answers for an IPv4 address; None when none does in that time.

    As `arping -D`, but the kernel asks: it looks for a neighbor of that address, which is forgotten again. OSError.
    """
    header = NEIGHBOR.pack(socket.AF_INET, kernel.link(device).index, 0, NTF_USE, 0)
    name = header + attribute(NDA_DST, address)
    kernel.request(NEWNEIGHBOR, CREATE, name)
    until = time.monotonic() + seconds
    owner = None
    while owner is None and time.monotonic() < until:
        time.sleep(0.02)
        for answer in kernel.request(GETNEIGHBOR, DUMP, bytes((socket.AF_INET,)).ljust(NEIGHBOR.size, b"\0")):
            _, index, state, _, _ = NEIGHBOR.unpack_from(answer.body)
            found = attributes(answer.body, NEIGHBOR.size)
            if (index, found.get(NDA_DST)) == (kernel.link(device).index, address) and state & NUD_KNOWN:
                owner = found.get(NDA_LLADDR)
    with contextlib.suppress(OSError):
        kernel.request(DELNEIGHBOR, 0, name)
    return owner
