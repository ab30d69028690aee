"""Desired states that together have every field and option of the table that InfiniBand bonds can have."""

BASE = """version = 1
[bond.bond0]
members = ["ib0", "ib1"]
mtu = 2044
addresses = ["10.0.0.1/24", "2001:db8::1/64"]
dns = ["10.0.0.53"]
search = ["example.org"]
routes = [{to = "default", via = "10.0.0.254", metric = 7}, {to = "2001:db8:9::/48", via = "2001:db8::2"}]
"""
STATES = {
    "MII monitor": BASE
    + """[bond.bond0.options]
mode = "active-backup"
miimon = 100
updelay = 200
downdelay = 100
use_carrier = 1
primary = "ib1"
primary_reselect = "failure"
fail_over_mac = "active"
num_grat_arp = 3
peer_notif_delay = 100
resend_igmp = 3
all_slaves_active = 1
[device.ib0]
transport = "connected"
mtu = 2044
queue_id = 3
""",
    "ARP monitor": BASE
    + """[bond.bond0.options]
mode = "active-backup"
arp_interval = 200
arp_ip_target = ["10.0.0.2", "10.0.0.3"]
arp_validate = "all"
arp_all_targets = "all"
arp_missed_max = 3
num_grat_arp = 0
[device.ib1]
guid = "00:02:c9:03:00:a1:01:01"
""",
    "children": BASE.replace("ib0", "ib0.8001").replace("ib1", "ib1.8001")
    + """[bond.bond0.options]
mode = "active-backup"
miimon = 100
[device."ib0.8001"]
pkey = 0x8001
parent = "ib0"
transport = "connected"
[device."ib1.8001"]
pkey = 0x8001
parent = "ib1"
""",
    "plain": """version = 1
[bond.bond0]
members = ["ib0", "ib1"]
dhcp = ["ipv4"]
start = false
options = {mode = "active-backup", miimon = 100}
""",
}
