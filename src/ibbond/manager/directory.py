"""The end ports that the subnet manager has brought up, as the subnet administrator looks them up."""

from __future__ import annotations

from dataclasses import dataclass, field

from ibbond.manager.discovery import PortKey, SubnetMap
from ibbond.wire.pkey import pkeys_match


@dataclass(frozen=True, slots=True)
class EndPort:
    """An end port with a LID; `home` is the switch and port that it hangs at, None on a cable without switches."""

    guid: int
    gid: bytes
    lid: int
    key: PortKey
    pkeys: tuple[int, ...]
    mtu: int  # code
    home: PortKey | None

    def shared_pkeys(self, other: EndPort) -> list[int]:
        """The keys by which these two may talk, as this port's path to the other has them (full form wins)."""
        mine = [key for key in self.pkeys if key & 0x7FFF]
        theirs = [key for key in other.pkeys if key & 0x7FFF]
        return [a for a in mine if any(pkeys_match(a, b) for b in theirs)]

    def has_pkey(self, pkey: int) -> bool:
        return any(not (own ^ pkey) & 0x7FFF for own in self.pkeys if own & 0x7FFF)


@dataclass(slots=True)
class Directory:
    """By port GUID in the order of discovery, and by LID; `map` is what the last sweep found."""

    ends: dict[int, EndPort] = field(default_factory=dict)
    by_lid: dict[int, EndPort] = field(default_factory=dict)
    map: SubnetMap = field(default_factory=SubnetMap)

    def by_gid(self, gid: bytes) -> EndPort | None:
        end = self.ends.get(int.from_bytes(gid[8:], "big"))
        return end if end is not None and end.gid == gid else None

    def node_lid(self, guid: int, port: int) -> int:
        """The LID by which this port of a node is reached: of a switch always port 0's."""
        node = self.map.nodes[guid]
        number = 0 if node.is_switch else port
        seen = node.ports.get(number)
        end = self.ends.get(seen.guid) if seen is not None else None
        return end.lid if end is not None else 0
