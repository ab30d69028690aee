"""A topology written in Python: hosts, switches, links and bonds as calls; the result is the text of a topology file.

Read first: docs/topology.md, whose words the arguments have. What the calls say is checked when the text is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import tomli_w

OptionValue = str | int | bool | list[str]


class TopologyBuilder:
    """`TopologyBuilder().switch("s1").host("h1", ports={"ib0": "s1", "ib1": "s1"}, addresses=["10.0.0.1/24"])`."""

    def __init__(self, *, mtu: int = 2044) -> None:
        self._document: dict[str, object] = {"mtu": mtu}
        self._switches: dict[str, object] = {}
        self._links: list[object] = []
        self._hosts: dict[str, object] = {}

    def switch(self, name: str, *, ports: int = 36) -> Self:
        """A switch with this many ports."""
        self._switches[name] = {"ports": ports}
        return self

    def link(self, a: str, b: str, *, count: int = 1) -> Self:
        """Cables between two switches, or between two ports (`s1/7`)."""
        self._links.append({"between": [a, b], "count": count})
        return self

    def host(
        self,
        name: str,
        *,
        ports: Mapping[str, str],
        addresses: Sequence[str] = (),
        bond: str = "bond0",
        members: Sequence[str] | None = None,
        options: Mapping[str, OptionValue] | None = None,
        mtu: int | None = None,
        files: Mapping[str, str | Mapping[str, str | int]] | None = None,
        exec: Sequence[str | Sequence[str]] = (),  # noqa: A002 - the word of topology files
    ) -> Self:
        """A host: `ports` maps IPoIB devices to switches. Without `members`, all of them are members of its bond.

        `members=()` makes no bond; the addresses are then those of the first device. `files` maps paths that only this
        host sees to their texts (or to `{"text": ..., "mode": 0o755}`); `exec` are commands for when the lab is up.
        """
        taken = list(ports) if members is None else list(members)
        host: dict[str, object] = {"ports": dict(ports)}
        if taken:
            table: dict[str, object] = {"members": taken, "addresses": list(addresses), "options": dict(options or {})}
            host["bonds"] = {bond: table | ({"mtu": mtu} if mtu is not None else {})}
        elif addresses:
            host["devices"] = {next(iter(ports)): {"addresses": list(addresses)}}
        if files:
            host["files"] = {path: file if isinstance(file, str) else dict(file) for path, file in files.items()}
        if exec:
            host["exec"] = [command if isinstance(command, str) else list(command) for command in exec]
        self._hosts[name] = host
        return self

    def text(self) -> str:
        """The topology file."""
        document = self._document | {"switches": self._switches, "links": self._links, "hosts": self._hosts}
        return tomli_w.dumps(document)
