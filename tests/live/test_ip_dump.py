"""Addresses and routes of a namespace: rtnetlink and ip(8) say the same, in the same order."""

import json
import subprocess
import sys

import pytest

from ibbond.host.tun import available

pytestmark = [pytest.mark.live, pytest.mark.skipif(bool(available()), reason=str(available()))]
MAKE = """
ip link set lo up
for d in d0 d1; do ip tuntap add $d mode tap; ip link set $d up; done
ip addr add 10.0.0.1/24 dev d0; ip addr add 10.0.0.3/24 dev d1; ip addr add 2001:db8::1/64 dev d0 nodad
ip route add 10.77.0.0/16 via 10.0.0.2 dev d0 onlink
ip route add default via 10.0.0.9 dev d1 table 100 metric 5
ip route add default nexthop via 10.0.0.7 dev d0 weight 2 nexthop via 10.0.0.8 dev d1
ip route add blackhole 10.9.0.0/16; ip route add 10.88.0.0/16 via inet6 2001:db8::3 dev d0
ip -6 route add default via 2001:db8::9 dev d0
ip -6 route add 2001:db8:5::/48 nexthop via 2001:db8::7 nexthop via 2001:db8::8
"""
COMPARE = """
import json, subprocess
from ibbond.abi.ip_text import parse_addresses, parse_routes
from ibbond.host import ip_dump
from ibbond.host.rtnetlink import RouteSocket
said = lambda *words: subprocess.run(["ip", *words], capture_output=True, text=True, check=True).stdout
socket = RouteSocket()
key = lambda address: (address.device, address.text)
pairs = {
    "routes": (ip_dump.routes(socket), parse_routes(said("-4", "route", "show", "table", "all") +
                                                    said("-6", "route", "show", "table", "all"))),
    "addresses": (sorted(ip_dump.addresses(socket), key=key), sorted(parse_addresses(said("-o", "addr")), key=key)),
}
assert pairs["routes"][0] == pairs["routes"][1], pairs["routes"]
assert pairs["addresses"][0] == pairs["addresses"][1], pairs["addresses"]
print(json.dumps({name: len(pair[0]) for name, pair in pairs.items()}))
"""


def test_netlink_and_ip_agree() -> None:
    script = f'{MAKE}\nexec "$0" -c "$1"'
    done = subprocess.run(
        ["unshare", "-n", "sh", "-ec", script, sys.executable, COMPARE], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert min(json.loads(done.stdout).values()) >= 5
