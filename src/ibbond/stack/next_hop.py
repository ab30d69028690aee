"""Where a packet goes next: the neighbor whose link-layer address it needs, from the host's own routing table.

Read first: `fib_table_lookup` (longest prefix, then metric) and `ip_route_output_key` of Linux. The kernel has already
chosen the device, and chose it by the same table; what is asked here is only the next address on that device. Left
out: policy rules, several tables, multipath, source routing.
"""

from __future__ import annotations

from collections.abc import Iterable

from ibbond.stack.events import RouteEntry

LIMITED_BROADCAST = b"\xff\xff\xff\xff"
IPV6_LINK_LOCAL = 0xFE80 >> 6  # the first ten bits

# prefix length -> network (an int of that many bits) -> (metric, gateway)
_Table = dict[int, dict[int, tuple[int, bytes]]]


class NextHops:
    """The routes and on-link prefixes of one host; addresses are 4 or 16 bytes."""

    def __init__(self) -> None:
        self._routes: tuple[RouteEntry, ...] = ()
        self._prefixes: dict[str, tuple[tuple[bytes, int], ...]] = {}
        self._tables: dict[tuple[str, int], _Table] = {}
        self._broadcasts: dict[str, frozenset[bytes]] = {}

    def set_routes(self, routes: Iterable[RouteEntry]) -> bool:
        """Replace the routing table; whether it changed."""
        routes = tuple(routes)
        changed = routes != self._routes
        if changed:
            self._routes = routes
            self._rebuild()
        return changed

    def set_addresses(self, device: str, addresses: Iterable[tuple[bytes, int]]) -> bool:
        """Replace the (address, prefix length) pairs of a device; whether they changed."""
        addresses = tuple(addresses)
        changed = addresses != self._prefixes.get(device, ())
        if changed:
            self._prefixes[device] = addresses
            self._broadcasts[device] = frozenset(_broadcasts(addresses))
            self._rebuild()
        return changed

    def forget(self, device: str) -> None:
        """The device is gone, its addresses and routes with it."""
        self._prefixes.pop(device, None)
        self._broadcasts.pop(device, None)
        self._routes = tuple(route for route in self._routes if route.device != device)
        self._rebuild()

    def gateway_for(self, device: str, destination: bytes) -> bytes:
        """The address of the neighbor that takes a unicast packet; the destination itself when it is on link.

        A gateway may be of the other family (an IPv4 route by an IPv6 neighbor). Without any route the kernel still
        sent the packet to this device, so the destination is taken to be on link, as Linux does for bound sockets.
        """
        width = 8 * len(destination)
        value = int.from_bytes(destination)
        if width == 128 and value >> 118 == IPV6_LINK_LOCAL:
            return destination
        table = self._tables.get((device, width), {})
        for prefix in table:  # longest first
            found = table[prefix].get(value >> (width - prefix))
            if found is not None:
                return found[1] or destination
        return destination

    def device_for(self, destination: bytes) -> str | None:
        """The device by which a packet leaves: the longest prefix, then the lowest metric; None without a route."""
        width, value = 8 * len(destination), int.from_bytes(destination)
        best: tuple[int, int, str] | None = None
        for (device, bits), table in self._tables.items():
            for prefix, networks in table.items() if bits == width else ():
                found = networks.get(value >> (width - prefix))
                if found is not None and (best is None or (-prefix, found[0]) < best[:2]):
                    best = (-prefix, found[0], device)
        return best[2] if best is not None else None

    def is_broadcast(self, device: str, destination: bytes) -> bool:
        """255.255.255.255, or the broadcast address of one of the device's IPv4 prefixes."""
        return destination == LIMITED_BROADCAST or destination in self._broadcasts.get(device, ())

    def _rebuild(self) -> None:
        tables: dict[tuple[str, int], _Table] = {}
        for route in self._routes:
            network = _network(route.destination, route.prefix)
            table = tables.setdefault((route.device, 8 * len(route.destination)), {}).setdefault(route.prefix, {})
            if network not in table or route.metric < table[network][0]:
                table[network] = (route.metric, route.gateway)
        for device, addresses in self._prefixes.items():
            for address, prefix in addresses:
                table = tables.setdefault((device, 8 * len(address)), {}).setdefault(prefix, {})
                table.setdefault(_network(address, prefix), (0, b""))
        self._tables = {key: dict(sorted(table.items(), reverse=True)) for key, table in tables.items()}


def _network(address: bytes, prefix: int) -> int:
    return int.from_bytes(address) >> (8 * len(address) - prefix)


def _broadcasts(addresses: tuple[tuple[bytes, int], ...]) -> Iterable[bytes]:
    for address, prefix in addresses:
        if len(address) == 4 and prefix <= 30:
            yield (int.from_bytes(address) | (1 << (32 - prefix)) - 1).to_bytes(4)
