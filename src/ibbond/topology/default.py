"""The default topology: two switches, two hosts with two ports each, one bond per host.

It is text, not values, so that it is also the example to start an own file from (`ibbond lab topology > mine.toml`).
"""

TWO_HOSTS = """\
# Two hosts, two ports each, two switches joined by two links; docs/topology.md explains every word.
mtu = 2044                                  # what the subnet carries: 2044, or 4092

[switches]
s1 = {}
s2 = {}

[[links]]
between = ["s1", "s2"]
count = 2

[hosts.h1]
ports = { ib0 = "s1", ib1 = "s2" }
ethernet = ["eth0"]                         # no part of the bond: there to show that bonding refuses it

[hosts.h1.bonds.bond0]
members = ["ib0", "ib1"]
addresses = ["10.0.0.1/24", "fd00::1/64"]
mtu = 2044
options = { mode = "active-backup", miimon = 100, num_grat_arp = 3 }

[hosts.h2]
ports = { ib0 = "s1", ib1 = "s2" }
ethernet = ["eth0"]

[hosts.h2.bonds.bond0]
members = ["ib0", "ib1"]
addresses = ["10.0.0.2/24", "fd00::2/64"]
mtu = 2044
options = { mode = "active-backup", miimon = 100, num_grat_arp = 3 }
"""
