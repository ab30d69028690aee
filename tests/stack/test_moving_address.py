"""An address that moves between hosts: a third one reaches it within a moment, however the move is made known."""

from collections.abc import Callable

import pytest

from ibbond.fabric.events import KillAdapter, ReviveAdapter
from ibbond.stack.events import AddressesAre
from ibbond.wire import arp, nd
from ibbond.wire.hwaddr import address_text
from tests.stack.small_world import SmallWorld, ip, ping, world_of

THREE = """
[switches]
s1 = {}
s2 = {}
[[links]]
between = ["s1", "s2"]
"""
for number in (1, 2, 3):
    THREE += f"""
[hosts.h{number}]
ports = {{ ib0 = "s1", ib1 = "s2" }}
bonds.bond0 = {{ members = ["ib0", "ib1"], addresses = ["10.0.0.{number}/24", "fd00::{number}/64"] }}
"""
MOVING = {"10.0.0.100": 24, "fd00::100": 64}


def own(number: int, *moving: str) -> AddressesAre:
    """The addresses of a host, those that move included."""
    addresses = {f"10.0.0.{number}": 24, f"fd00::{number}": 64, **{each: MOVING[each] for each in moving}}
    return AddressesAre("bond0", tuple((ip(text), prefix) for text, prefix in addresses.items()))


@pytest.fixture
def world() -> SmallWorld:
    return world_of(THREE)


def arrives(world: SmallWorld, address: str, at: str) -> bool:
    source = "10.0.0.3" if "." in address else "fd00::3"
    for host in ("h1", "h2"):
        world.got(host)
    world.send("h3", ping(source, address))
    world.run(ms=10)
    return bool(world.got(at)) and not world.got("h1" if at == "h2" else "h2")


def by_netlink(_world: SmallWorld, _address: str) -> None: ...


def by_a_program(world: SmallWorld, address: str) -> None:
    """What keepalived and IPaddr2 send; here the announcement of the stack is suppressed by a bond that lost it."""
    if "." in address:
        gratuitous = arp.request(world.network.hosts["h2"].bond("bond0").device.address, ip(address), ip(address))
        world.send("h2", gratuitous.pack())
    else:
        advertised = nd.NeighborAdvertisement(ip(address), nd.ALL_NODES, ip(address), override=True)
        world.send("h2", advertised.pack())


@pytest.mark.parametrize("announce", [by_netlink, by_a_program])
@pytest.mark.parametrize("address", MOVING)
def test_it_is_reached_at_once(
    world: SmallWorld, address: str, announce: Callable[[SmallWorld, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    world.on("h1", own(1, address))
    world.run(ms=100)
    assert arrives(world, address, at="h1")
    if announce is by_a_program:  # alone: what the stack itself says is lost
        monkeypatch.setattr("ibbond.stack.local_addresses.LocalAddresses.take_due", lambda self, now: [])
        monkeypatch.setattr("ibbond.stack.local_addresses.LocalAddresses.deadline", lambda self: None)
    world.on("h1", own(1))
    world.on("h2", own(2, address))
    announce(world, address)
    world.run(ms=10)
    assert arrives(world, address, at="h2")


def test_the_time_line_tells_of_it(world: SmallWorld) -> None:
    world.run(ms=3000)  # the addresses of the start are announced
    world.effects.clear()
    world.on("h2", own(2, "10.0.0.100"))
    where = address_text(world.network.hosts["h2"].bond("bond0").device.address)
    assert [(line.where, line.detail) for line in world.happened("announce")] == [
        ("h2/bond0", f"10.0.0.100 at {where} through ib0")
    ]


def test_an_address_at_two_hosts_is_reported_by_the_one_that_receives_the_other(world: SmallWorld) -> None:
    world.on("h1", own(1, "10.0.0.100"))
    world.on("h2", own(2, "10.0.0.100"))
    world.run(ms=5000)
    assert {line.where for line in world.happened("duplicate")} == {"h1/bond0", "h2/bond0"}
    assert len(world.happened("duplicate")) == 2


def test_duplicate_detection_finds_the_owner(world: SmallWorld) -> None:
    """As the kernel of h1 does it: its solicitation gets the owner's advertisement, without a link-layer address."""
    world.got("h1")
    wanted = ip("fd00::3")
    world.send("h1", nd.NeighborSolicitation(nd.UNSPECIFIED, nd.solicited_node(wanted), wanted).pack())
    world.run(ms=10)
    [answer] = [nd.parse(packet) for packet in world.got("h1") if nd.is_message(packet)]
    assert answer == nd.NeighborAdvertisement(wanted, nd.ALL_NODES, wanted, override=True)
    [line] = world.happened("duplicate")
    where = address_text(world.network.hosts["h3"].bond("bond0").device.address)
    assert (line.where, line.detail) == (
        "h1/bond0",
        f"fd00::3 is in use at {where}: it stays on the device as dadfailed and is not used",
    )


def test_an_address_that_is_free_gives_no_answer_and_no_report(world: SmallWorld) -> None:
    world.got("h1")
    wanted = ip("fd00::77")
    world.send("h1", nd.NeighborSolicitation(nd.UNSPECIFIED, nd.solicited_node(wanted), wanted).pack())
    world.run(ms=3000)
    assert not [packet for packet in world.got("h1") if nd.is_message(packet)]
    assert not world.happened("duplicate")


def test_an_adapter_with_another_guid_has_the_address(world: SmallWorld) -> None:
    """A host's adapter is replaced: h2 stands for what h1 is then, other GUIDs and queue pairs under h1's addresses."""
    both = ("10.0.0.100", "fd00::100")
    world.fabric(KillAdapter("h2"))
    world.on("h1", own(1, *both))
    world.on("h2", own(2, *both))  # configured, and without a carrier
    world.run(ms=3000)
    assert not world.happened("duplicate")
    for address in both:
        assert arrives(world, address, at="h1")
    world.fabric(KillAdapter("h1"))
    world.run(ms=500)
    world.fabric(ReviveAdapter("h2"))
    world.run(ms=900)
    for address in both:
        assert arrives(world, address, at="h2")
