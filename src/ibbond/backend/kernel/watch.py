"""Changes of this host's bonds as the kernel reports them over rtnetlink.

The active member, carriers, counters, addresses.

Read first: abi/netlink_attributes.py. `LinkTable` compares each message with what was known and names the differences;
`watch` waits on the socket and never polls. When the kernel had to drop messages, everything is read again and the
differences come out of that. Left out: devices that are neither a bond nor a member of one.
"""

from __future__ import annotations

import errno
import ipaddress
import select
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from ibbond.abi.bond_attributes import read_bond
from ibbond.abi.netlink_attributes import LINK, LinkInfo
from ibbond.bonding.options import OPTIONS
from ibbond.host import rtnetlink

Change = dict[str, object]

LINK_FIELDS = {"up": "up", "carrier": "carrier", "mtu": "mtu"}
MEMBER_FIELDS = {"link": "link", "state": "state", "link_failure_count": "failures", "queue_id": "queue_id"}


class LinkTable:
    """The links of one host, by ifindex. `update` and `remove` say what a message changed; no I/O, no clock."""

    def __init__(self) -> None:
        self._links: dict[int, LinkInfo] = {}

    def update(self, link: LinkInfo) -> list[Change]:
        """A new or changed link. Differences in the order: what it is, what it does, who is active, events."""
        old = self._links.get(link.index)
        self._links[link.index] = link
        if link.kind != "bond" and link.member is None and (old is None or old.member is None):
            return []
        changes: list[Change] = []
        if old is None or old.name != link.name:
            changes.append(self._change("created" if old is None else "renamed", link, old and old.name, link.name))
        changes += self._membership(old, link)
        if old is not None:
            for attribute, what in LINK_FIELDS.items():
                self._compare(changes, what, link, getattr(old, attribute), getattr(link, attribute))
            self._compare(changes, "address", link, old.address.hex(":"), link.address.hex(":"))
            if old.carrier_changes != link.carrier_changes:
                self._compare(changes, "carrier_changes", link, old.carrier_changes, link.carrier_changes)
            if old.member is not None and link.member is not None:
                for attribute, what in MEMBER_FIELDS.items():
                    self._compare(changes, what, link, getattr(old.member, attribute), getattr(link.member, attribute))
            changes += self._options(old, link)
        if link.event is not None and link.kind == "bond":
            changes.append({"what": link.event, "where": link.name})
        return changes

    def remove(self, index: int) -> list[Change]:
        """A link that is gone."""
        old = self._links.pop(index, None)
        if old is None or (old.kind != "bond" and old.member is None):
            return []
        return [{"what": "deleted", "where": old.name}]

    def resynchronize(self, links: list[LinkInfo]) -> list[Change]:
        """Everything there is; what is not in it is gone."""
        present = {link.index for link in links}
        changes = [change for index in list(self._links) if index not in present for change in self.remove(index)]
        return changes + [change for link in links for change in self.update(link)]

    def bonded(self, index: int) -> str | None:
        """The name of a bond or of a member; None for all other devices."""
        link = self._links.get(index)
        return link.name if link is not None and (link.kind == "bond" or link.member is not None) else None

    def _membership(self, old: LinkInfo | None, link: LinkInfo) -> list[Change]:
        was = old.master if old is not None and old.member is not None else 0
        now = link.master if link.member is not None else 0
        if was == now:
            return []
        changes: list[Change] = []
        if was:
            changes.append({"what": "left", "where": link.name, "bond": self._name(was)})
        if now:
            changes.append({"what": "joined", "where": link.name, "bond": self._name(now)})
        return changes

    def _options(self, old: LinkInfo, link: LinkInfo) -> list[Change]:
        if link.kind != "bond" or old.bond == link.bond:
            return []
        before, after = read_bond(old.bond), read_bond(link.bond)
        changes: list[Change] = []
        for option in OPTIONS:
            if option in ("active_slave", "primary"):
                was, now = (self._name(int(str(values.get(option, 0)))) for values in (before, after))
                self._compare(changes, "active" if option == "active_slave" else option, link, was, now)
            elif option in before or option in after:
                self._compare(changes, option, link, _shown(option, before), _shown(option, after))
        return changes

    def _name(self, index: int) -> str | None:
        if not index:
            return None
        return self._links[index].name if index in self._links else f"interface {index}"

    def _compare(self, changes: list[Change], what: str, link: LinkInfo, old: object, new: object) -> None:
        if old != new:
            changes.append(self._change(what, link, old, new))

    @staticmethod
    def _change(what: str, link: LinkInfo, old: object, new: object) -> Change:
        return {"what": what, "where": link.name, "old": old, "new": new}


class Listener(Protocol):
    """Where messages come from: a `RouteListener`, or what a test has in its place."""

    def fileno(self) -> int: ...

    def receive(self) -> list[rtnetlink.Message]: ...


def watch() -> Iterator[Change]:
    """Every change from now on, as it happens: `{"t_ms", "what", "where", "old", "new"}`; never ends by itself.

    `t_ms` counts from the first call. The first item is `{"what": "watching"}`: from then on nothing is missed.
    """
    listener = rtnetlink.RouteListener()  # before the first look, so that nothing falls between
    requests = rtnetlink.RouteSocket()
    try:
        yield from follow(listener, lambda: _all_links(requests))
    finally:
        listener.close()
        requests.close()


def follow(listener: Listener, look: Callable[[], list[LinkInfo]]) -> Iterator[Change]:
    """The changes that a listener receives; `look` reads everything, at the start and after lost messages."""
    start = time.monotonic_ns()
    table = LinkTable()
    table.resynchronize(look())
    yield {"t_ms": 0.0, "what": "watching", "where": ""}
    poll = select.poll()
    poll.register(listener.fileno(), select.POLLIN)
    while True:
        poll.poll()
        try:
            changes = [change for message in listener.receive() for change in _changes(table, message)]
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            changes = table.resynchronize(look())
        at = round((time.monotonic_ns() - start) / 1e6, 1)
        for change in changes:
            yield {"t_ms": at, **change}


def _all_links(requests: rtnetlink.RouteSocket) -> list[LinkInfo]:
    body = LINK.pack(0, 0, 0, 0, 0)
    links = [LinkInfo.parse(answer.body) for answer in requests.request(rtnetlink.GETLINK, rtnetlink.DUMP, body)]
    return sorted(links, key=lambda link: link.kind != "bond")  # members name their bond


def _changes(table: LinkTable, message: rtnetlink.Message) -> list[Change]:
    match message.type:
        case rtnetlink.NEWLINK:
            return table.update(LinkInfo.parse(message.body))
        case rtnetlink.DELLINK:
            return table.remove(LinkInfo.parse(message.body).index)
        case rtnetlink.NEWADDR | rtnetlink.DELADDR:
            address = rtnetlink.Address.parse(message.body)
            name = table.bonded(address.index)
            if name is None:
                return []
            text = f"{ipaddress.ip_address(address.address)}/{address.prefix}"
            added = message.type == rtnetlink.NEWADDR
            return [
                {"what": "ip_address", "where": name, "old": None if added else text, "new": text if added else None}
            ]
    return []


def _shown(option: str, values: dict[str, object]) -> object:
    """An option's value as its file would show it."""
    value = values.get(option)
    if isinstance(value, int) and OPTIONS[option].shows_word:
        return OPTIONS[option].word_of(value)
    if isinstance(value, tuple):
        return [str(ipaddress.ip_address(target)) for target in value]
    return value.hex(":") if isinstance(value, bytes) else value
