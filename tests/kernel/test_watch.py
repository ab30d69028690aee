"""`ibbond watch` on the real driver: each change once, from the kernel's messages, soon after them."""

import json
import time

import pytest

from tests.kernel.virtual_machine import Host

CREATE = ("bond", "create", "bond0", "ib0", "ib1", "--address", "10.0.0.1/24")


def changes(host: Host, number: int) -> list[dict[str, object]]:
    return [json.loads(line) for line in host.output(number).splitlines()]


def until(host: Host, number: int, what: str, where: str, seconds: float = 60, new: object = None) -> dict[str, object]:
    """The first change of that kind, to that value where one is given, once it has been printed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for change in changes(host, number):
            if change["what"] == what and change["where"] == where and new in (None, change.get("new")):
                return change
        time.sleep(0.2)
    raise AssertionError(f"no {what} of {where} in {changes(host, number)}")


@pytest.mark.smoke
def test_a_failover_is_reported_as_it_happens(host: Host) -> None:
    host.ok(*CREATE)
    watch = host.start("watch", "--json")
    host.output_with(watch, "watching")
    address = host.read("ib1/address").strip()
    host.carrier("ib0", False)
    active = until(host, watch, "active", "bond0")
    assert (active["old"], active["new"]) == ("ib0", "ib1")
    assert until(host, watch, "address", "bond0")["new"] == address, "20 bytes, none cut"
    assert until(host, watch, "carrier", "ib0")["new"] is False
    assert until(host, watch, "failures", "ib0")["new"] == 1
    assert until(host, watch, "link", "ib0")["new"] == "down"
    assert until(host, watch, "bonding_failover", "bond0")
    assert until(host, watch, "notify_peers", "bond0")
    host.carrier("ib0", True)
    end = time.monotonic() + 60
    while not any(c["what"] == "link" and c["new"] == "up" for c in changes(host, watch)):
        assert time.monotonic() < end
        time.sleep(0.2)
    host.run("ip", "addr", "add", "10.0.0.9/24", "dev", "bond0")
    until(host, watch, "ip_address", "bond0", new="10.0.0.9/24")  # the link-local one may come before, and late
    host.write("bond0/bonding/num_grat_arp", "7")
    assert until(host, watch, "num_grat_arp", "bond0")["new"] == 7
    result = host.stop(watch)
    assert result.code == 130
    assert "Traceback" not in result.err


def test_bonds_and_members_come_and_go(host: Host) -> None:
    watch = host.start("watch")
    host.output_with(watch, "watching")
    host.ok(*CREATE)
    host.output_with(watch, "bond0  created")
    host.output_with(watch, "ib1  joined  bond bond0")
    host.ok("bond", "remove", "bond0", "ib1")
    host.output_with(watch, "ib1  left  bond bond0")
    host.run("ip", "link", "set", "bond0", "mtu", "1800")
    host.output_with(watch, "bond0  mtu  2044 -> 1800")
    host.ok("bond", "delete", "bond0")
    text = host.output_with(watch, "bond0  deleted")
    assert text.count("bond0  created") == 1
    host.stop(watch)


def test_lost_messages_are_made_good(host: Host) -> None:
    """Thousands of changes in one burst overflow the socket; what is true afterwards is notified all the same."""
    host.ok(*CREATE)
    watch = host.start("watch", "--json")
    host.output_with(watch, "watching")
    host.sh(
        "i=0; while [ $i -lt 150 ]; do echo $((i % 9)) > /sys/class/net/bond0/bonding/num_grat_arp; i=$((i+1)); done"
    )
    host.write("bond0/bonding/num_grat_arp", "77")
    assert '"new": 77' in host.output_with(watch, '"new": 77')
    host.stop(watch)
