"""A short word for a large topology: `[fat_tree]` becomes the switches, links and hosts that it stands for.

Two levels: every leaf is linked to every spine; host k has its first port at leaf k and its second at the next leaf,
so that one dead leaf costs no host. Hosts are `h1` ... with `bond0` 10.0.0.0/16 and fd00::/64.
"""

from ibbond.errors import Refused
from ibbond.topology.model import DATAGRAM_MTU
from ibbond.topology.reader import Reader


def expand(top: Reader) -> dict[str, object]:
    """The document with `fat_tree` replaced; what the file says besides (partitions, mtu) stays."""
    table = Reader(top.table["fat_tree"], "fat_tree")
    hosts = table.take("hosts", int, 16)
    leaves = table.take("leaves", int, 4)
    spines = table.take("spines", int, 2)
    members = table.take("members", int, 2)
    options = table.take("options", dict, {})
    table.done()
    for key in ("switches", "links", "hosts"):
        if key in top.table:
            raise Refused(
                f"the topology has fat_tree and {key}", why="fat_tree defines them itself", fix="Remove one of them"
            )
    if not (2 <= hosts <= 4000 and 2 <= leaves <= 200 and 1 <= spines <= 100 and 1 <= members <= leaves):
        raise Refused(
            f"fat_tree has hosts = {hosts}, leaves = {leaves}, spines = {spines}, members = {members}",
            why="it takes 2 to 4000 hosts, 2 to 200 leaves, 1 to 100 spines, 1 member to as many as there are leaves",
            fix="Change these numbers",
        )
    plugs = max(-(-hosts * members // leaves) + members, 1) + spines
    if plugs > 254:
        raise Refused(
            f"fat_tree has {hosts} hosts on {leaves} leaves",
            why=f"each leaf would need {plugs} ports and a switch has at most 254",
            fix="Use more leaves",
        )
    mtu = top.table.get("mtu", DATAGRAM_MTU)
    document = {key: value for key, value in top.table.items() if key != "fat_tree"}
    document["switches"] = {f"leaf{i}": {"ports": plugs} for i in range(1, leaves + 1)} | {
        f"spine{i}": {"ports": leaves} for i in range(1, spines + 1)
    }
    document["links"] = [
        {"between": [f"leaf{leaf}", f"spine{spine}"]} for leaf in range(1, leaves + 1) for spine in range(1, spines + 1)
    ]
    document["hosts"] = {
        f"h{k}": {
            "ports": {f"ib{m}": f"leaf{(k - 1 + m) % leaves + 1}" for m in range(members)},
            "bonds": {
                "bond0": {
                    "members": [f"ib{m}" for m in range(members)],
                    "addresses": [f"10.0.{k // 250}.{k % 250 + 1}/16", f"fd00::{k:x}/64"],
                    "mtu": mtu,
                    "options": options,
                }
            },
        }
        for k in range(1, hosts + 1)
    }
    return document
