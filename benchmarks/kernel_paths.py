"""The paths of `./bench --kernel`: inside the guest, the kernel's own bonding driver beside plain veth and a lab.

    python -m benchmarks.kernel_paths PATH TOOL CYCLES PACE     in the guest: measures one path once, prints JSON

Read first: docs/benchmarks.md, Documentation/networking/bonding.rst, tests/kernel/lookib (the IPoIB look-alike). Left
out: booting the guest and what becomes of the figures (`kernel`).
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial

from benchmarks import measures
from benchmarks.measures import USUAL, Pace
from benchmarks.paths import MTU, Built, Ways, by_netlink, ip, ours, spaces, veth, wired
from ibbond.host.namespace import NetNamespace
from ibbond.host.priority import raise_priority

MIIMON_MS = (1, 10, 100)
PACES = {  # by QEMU's accelerator; an interpreter is emulated at a thirtieth of its speed
    "tcg": Pace(gap_us=5000, settle_s=1.0, plugged_s=2.0, start_s=1.5, steady_rate=1000),
    "kvm": USUAL,
}
ROUND_TRIPS = 300
TCP_S = 2
FLOOD_S = 1.0
HUB = 4242  # the look-alike's hub: all devices of one number reach each other


@contextlib.contextmanager
def bond_over_veth(mark: str, miimon: int) -> Iterator[Built]:
    """The kernel's bond of two veth devices, a bridge, a plain veth device: as the peers of `./bench`."""
    with wired(mark) as (a, b, switch):
        bond(a, ("l0", "l1"), miimon, "10.1.0.1/24")
        yield Built(a, b, "10.1.0.1", "10.1.0.2", breaks={"cut": by_netlink(switch, "p0")})


@contextlib.contextmanager
def bond_over_ipoib(mark: str, miimon: int) -> Iterator[Built]:
    """The kernel's bond of two IPoIB look-alikes at both hosts, as in a lab of ibbond."""
    with spaces(mark, "a", "b") as (a, b):
        for number, space in enumerate((a, b), 1):
            for port in (1, 2):
                gid = f"fe:80:00:00:00:00:00:00:00:02:c9:03:00:{number:02x}:00:{port:02x}"
                address = f"80:00:02:{0x08 + port:02x}:{gid}"
                ip(space, f"link add ib{port - 1} address {address} group {HUB} type lookib")
            bond(space, ("ib0", "ib1"), miimon, f"10.1.0.{number}/24")
        carrier = a.run_in_mounts(lambda: os.open("/sys/class/net/ib0/carrier", os.O_WRONLY))
        try:
            ways = Ways(partial(set_carrier, carrier, b"0"), partial(set_carrier, carrier, b"1"))
            yield Built(a, b, "10.1.0.1", "10.1.0.2", breaks={"cut": ways, "link down": by_netlink(a, "ib0")})
        finally:
            os.close(carrier)


def bond(space: NetNamespace, members: tuple[str, ...], miimon: int, address: str) -> None:
    words = f"mode active-backup miimon {miimon} num_grat_arp 3"
    ip(space, f"link add bond0 type bond {words}")
    ip(space, "link set bond0 up")
    for member in members:
        ip(space, f"link set {member} down")
        ip(space, f"link set {member} master bond0")
    ip(space, f"link set bond0 type bond primary {members[0]}")
    ip(space, f"link set bond0 mtu {MTU}")
    ip(space, f"addr add {address} dev bond0")


def set_carrier(file: int, word: bytes) -> int:
    began = time.monotonic_ns()
    os.pwrite(file, word, 0)
    return began


PATHS: dict[str, Callable[[str], contextlib.AbstractContextManager[Built]]] = {
    "veth": veth,
    **{f"bonding-veth-miimon{each}": partial(bond_over_veth, miimon=each) for each in MIIMON_MS},
    **{f"bonding-ipoib-miimon{each}": partial(bond_over_ipoib, miimon=each) for each in MIIMON_MS},
    "ours": ours,
}


def measured(name: str, tool: str, cycles: int, pace: Pace) -> dict[str, list[float]]:
    """One path, built again: figures, one value for each time."""
    with PATHS[name](f"bench{os.getpid()}") as path:
        measures.warm(path)
        figures = {
            **measures.tcp(path, TCP_S, 1, pace),
            **measures.tcp(path, TCP_S, 8, pace),
            **measures.packets(path, tool, FLOOD_S, pace),
            **measures.round_trips(path, tool, ROUND_TRIPS, pace),
            **measures.cost(path, tool, FLOOD_S, pace),
        }
        found = {figure: [value] for figure, value in figures.items()}
        for kind, ways in path.breaks.items():
            found |= measures.breaks(path, tool, ways, cycles, kind, pace)
    return found


if __name__ == "__main__":
    raise_priority()
    print(json.dumps(measured(sys.argv[1], sys.argv[2], int(sys.argv[3]), PACES[sys.argv[4]])))
