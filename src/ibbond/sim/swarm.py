"""A story drawn whole from one seed: topology, hosts, bond options, and which kinds of fault are on.

Read first: "Swarm Testing", Groce and others 2012: many configurations that each leave features out find more than one
that has everything. `document` is a scenario file (docs/simulator.md); the same seed then draws the faults in it.

The story differs from the fixed ones in scenarios/ only by what is drawn; the promises are the same.
"""

from random import Random
from typing import Any

from ibbond.sim.faults import KINDS

Document = dict[str, Any]

LENGTH_MS, SETTLE_MS, PROBE_MS = 8000, 3000, 40
BETWEEN_MS = [1200, 3800]
MAX_HOSTS, MAX_MEMBERS, MAX_FAULTS = 4, 3, 6
MODES = ("", "", "connected", "datagram-only")  # of a host; "" is the default
MONITORS = ("mii", "mii", "mii", "arp")


def document(seed: int) -> Document:
    """The scenario of this seed, as the parsed TOML of its file."""
    random = Random(f"swarm {seed}")
    leaves, links = fabric(random)
    names = [f"h{number}" for number in range(1, random.randint(2, MAX_HOSTS) + 1)]
    hosts = {name: host(random, number, leaves, names) for number, name in enumerate(names, 1)}
    switches: Document = {name: {} for name in dict.fromkeys([*leaves, *(end_node(link) for link in links)])}
    return {"switches": switches, "links": links, "hosts": hosts, "story": story(random, seed)}


def end_node(link: Document) -> str:
    name: str = link["between"][1].partition("/")[0]
    return name


def fabric(random: Random) -> tuple[list[str], list[Document]]:
    """The switches that hosts are at, and the links between switches: one switch, two, a ring of three, or a spine."""
    shape = random.choice(("one", "two", "two", "ring", "spine"))
    if shape == "one":
        return ["s1"], []
    if shape == "two":
        return ["s1", "s2"], [{"between": ["s1", "s2"], "count": random.randint(1, 2)}]
    if shape == "ring":
        pairs = (("s1", "s2"), ("s2", "s3"), ("s1", "s3"))
        return ["s1", "s2", "s3"], [{"between": list(pair)} for pair in pairs]
    return ["leaf1", "leaf2"], [{"between": ["leaf1", "spine"]}, {"between": ["leaf2", "spine"]}]


def host(random: Random, number: int, leaves: list[str], names: list[str]) -> Document:
    """One bond with an IPv4 and perhaps an IPv6 address; its members are spread over the switches."""
    members = [f"ib{index}" for index in range(random.randint(2, MAX_MEMBERS))]
    at = random.randrange(len(leaves))
    addresses = [f"10.0.0.{number}/24", f"fd00::{number}/64"][: random.randint(1, 2)]
    table: Document = {
        "ports": {member: leaves[(at + index) % len(leaves)] for index, member in enumerate(members)},
        "bonds": {
            "bond0": {"members": members, "addresses": addresses, "options": options(random, number, members, names)}
        },
    }
    mode = random.choice(MODES)
    return table | ({"mode": mode} if mode else {})


def options(random: Random, number: int, members: list[str], names: list[str]) -> Document:
    """Some options of the bond; what is not drawn keeps its default."""
    drawn: Document = {}
    if random.choice(MONITORS) == "arp":
        others = [index for index in range(1, len(names) + 1) if index != number]
        targets = [f"10.0.0.{index}" for index in random.sample(others, random.randint(1, len(others)))]
        drawn |= {"miimon": 0, "arp_interval": random.choice((50, 100)), "arp_ip_target": targets}
    else:
        miimon = random.choice((10, 50, 100))
        drawn |= {"miimon": miimon}
        for delay in ("updelay", "downdelay"):
            if random.random() < 0.3:
                drawn[delay] = miimon * random.randint(1, 3)
    if random.random() < 0.4:
        drawn["primary"] = random.choice(members)
        drawn["primary_reselect"] = random.choice(("always", "better", "failure"))
    if random.random() < 0.3:
        drawn["num_grat_arp"] = random.randint(1, 4)
    if random.random() < 0.3:
        drawn["resend_igmp"] = random.randint(1, 4)
    return drawn


def story(random: Random, seed: int) -> Document:
    kinds = random.sample(sorted(KINDS), random.randint(1, len(KINDS)))
    return {
        "title": f"swarm {seed}",
        "length_ms": LENGTH_MS,
        "settle_ms": SETTLE_MS,
        "probe_ms": PROBE_MS,
        "flows": random.random() < 0.3,
        "random_faults": {
            "count": random.randint(1, MAX_FAULTS),
            "kinds": kinds,
            "between_ms": BETWEEN_MS,
            "for_ms": [20, random.choice((200, 900))],
        },
    }
