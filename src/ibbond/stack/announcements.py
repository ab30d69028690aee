"""How a bond announces a failover: gratuitous ARP, unsolicited advertisements, group reports.

Read first: of Linux `inetdev_send_gratuitous_arp`, `ndisc_send_unsol_na`, `ip_mc_rejoin_groups`. When
and how often is the bond's business (`bonding/announcements`); here are the messages of one time.
"""

from __future__ import annotations

from collections.abc import Iterable

from ibbond.netdev.device import Device
from ibbond.stack.outgoing import Outgoing
from ibbond.wire import arp, nd
from ibbond.wire.group_address import map_group
from ibbond.wire.group_reports import ALL_REPORTS_V4, ALL_REPORTS_V6, membership
from ibbond.wire.ipoib import ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6


def gratuitous_arps(device: Device, addresses: Iterable[bytes]) -> list[Outgoing]:
    """One broadcast ARP request per IPv4 address, for that address (gratuitous ARP)."""
    return [
        Outgoing(
            device.broadcast,
            ETHERTYPE_ARP,
            arp.request(device.address, address, address, hardware_type=device.type).pack(),
        )
        for address in addresses
        if len(address) == 4
    ]


def unsolicited_advertisements(device: Device, addresses: Iterable[bytes], *, router: bool) -> list[Outgoing]:
    """One advertisement per IPv6 address, to all nodes, with override set."""
    all_hosts = map_group(nd.ALL_NODES, device.type, device.broadcast)
    return [
        Outgoing(
            all_hosts,
            ETHERTYPE_IPV6,
            nd.NeighborAdvertisement(
                address, nd.ALL_NODES, address, device.address, router=router, override=True
            ).pack(),
        )
        for address in addresses
        if len(address) == 16
    ]


def reports(device: Device, groups: Iterable[bytes], source_v4: bytes, source_v6: bytes) -> list[Outgoing]:
    """One IGMPv3 and one MLDv2 report that repeat the memberships; none for a family without groups."""
    groups = tuple(groups)
    families = (
        (4, source_v4, ALL_REPORTS_V4, ETHERTYPE_IPV4),
        (16, source_v6, ALL_REPORTS_V6, ETHERTYPE_IPV6),
    )
    reported = []
    for width, source, all_hosts, ethertype in families:
        own = tuple(group for group in groups if len(group) == width)
        if own:
            link = map_group(all_hosts, device.type, device.broadcast)
            reported.append(Outgoing(link, ethertype, membership(source, own).pack()))
    return reported
