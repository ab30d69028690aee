"""What is known of a host besides its cables: its name, its IPoIB devices by port GUID, its bonds.

A value for `topology.imported`, which gives the ports of a fabric these names. Where it is known from is the caller's
affair (`ops.known_hosts` reads bundles of `ibbond collect`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class KnownBond:
    """A bond as a topology file writes it: `options` are texts, or lists of texts."""

    name: str
    members: tuple[str, ...]
    addresses: tuple[str, ...] = ()
    options: Mapping[str, str | list[str]] = field(default_factory=dict)
    mtu: int | None = None


@dataclass(frozen=True, slots=True)
class KnownHost:
    """A host. `ports` maps device names to port GUIDs, `addresses` devices in no bond to what they have."""

    name: str
    source: str
    ports: Mapping[str, int]
    bonds: tuple[KnownBond, ...] = ()
    addresses: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    connected: bool = False
