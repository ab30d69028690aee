"""A wrong file and its right twin for each trap that files show: rule id, format, the wrong file, what makes it right.

The twin is the wrong text with each first text of `changes` replaced by the second. Files are named as their tools name
them; several are one host's.
"""

# ruff: noqa: E501

from dataclasses import dataclass

NM = "etc/NetworkManager/system-connections"
NETDEV = "[NetDev]\nName=bond0\nKind=bond\n[Bond]\nMode=active-backup\nMIIMonitorSec=100ms\n"
MEMBER = "[Match]\nName=ib0\n[Network]\nBond=bond0\n"
SD = "etc/systemd/network"
NETPLAN = """network:
  version: 2
  ethernets:
    ib0: {infiniband-mode: datagram}
  bonds:
    bond0:
      interfaces: [ib0]
      addresses: [10.0.0.1/24]
      parameters: {mode: active-backup, mii-monitor-interval: 100}
"""
PROFILE = "[connection]\nid=bond0\ntype=bond\ninterface-name=bond0\n[bond]\nmode=active-backup\nmiimon=100\n"
CHILD = "[connection]\nid=p\ntype=infiniband\ninterface-name=ib0.8001\nmaster=bond0\nslave-type=bond\n"
TOML = """version = 1
[bond.bond0]
members = ["ib0", "ib1"]
addresses = ["10.0.0.1/24"]
options = {mode = "active-backup", miimon = 100}
"""
INTERFACES = """auto bond0
iface bond0 inet static
    address 10.0.0.1/24
    bond-slaves ib0 ib1
    bond-mode active-backup
    bond-miimon 100
"""
CLOUD = """version: 1
config:
  - {type: infiniband, name: ib0}
  - {type: bond, name: bond0, bond_interfaces: [ib0], params: {bond-mode: active-backup, bond-miimon: 100}}
"""
NMSTATE = """interfaces:
  - {name: ib0, type: infiniband, state: up, infiniband: {mode: datagram}}
  - name: bond0
    type: bond
    state: up
    link-aggregation: {mode: active-backup, port: [ib0], options: {miimon: 100}}
"""


@dataclass(frozen=True)
class Case:
    files: dict[str, str]
    changes: tuple[tuple[str, str], ...]
    format: str = ""

    @property
    def right(self) -> dict[str, str]:
        """The twin; a change to nothing of a whole file drops it."""
        found = dict(self.files)
        for wrong, right in self.changes:
            assert any(wrong in text for text in found.values()), wrong
            found = {path: text.replace(wrong, right) for path, text in found.items()}
        return found


def networkd(**files: str) -> dict[str, str]:
    texts = {"bond0.netdev": NETDEV, "ib0.network": MEMBER} | files
    return {f"{SD}/{name.replace('_', '.')}": text for name, text in texts.items()}


CASES: dict[str, list[Case]] = {
    "transport-ignored": [
        Case(networkd(ib0_network=MEMBER + "[IPoIB]\nMode=connected\n"), (("[IPoIB]\nMode=connected\n", ""),)),
        Case({"etc/netplan/1.yaml": NETPLAN.replace("datagram", "connected")}, (("connected", "datagram"),)),
        Case(
            {"etc/netplan/1.yaml": NETPLAN.replace("datagram", "connected")},
            (("version: 2", "version: 2\n  renderer: NetworkManager"),),
        ),
    ],
    "pkey-guid-invented": [
        Case(
            networkd(
                child_netdev="[NetDev]\nName=ib0.8001\nKind=ipoib\n[IPoIB]\nPartitionKey=0x8001\n",
                ib0_network="[Match]\nName=ib0\n[Network]\nIPoIB=ib0.8001\n",
                child_network=MEMBER.replace("ib0", "ib0.8001"),
            ),
            (("Kind=ipoib\n", "Kind=ipoib\nMACAddress=none\n"),),
        )
    ],
    "pkey-name": [
        Case(
            {f"{NM}/b.nmconnection": PROFILE, f"{NM}/p.nmconnection": CHILD + "[infiniband]\np-key=1\nparent=ib0\n"},
            (("p-key=1\n", "p-key=0x8001\n"),),
        ),
        Case(
            {f"{NM}/b.nmconnection": PROFILE, f"{NM}/p.nmconnection": CHILD + "[infiniband]\np-key=1\nparent=ib0\n"},
            (("interface-name=ib0.8001\n", ""),),
        ),
    ],
    "pkey-impossible": [
        Case({"bonds.toml": TOML + '[device.ib0]\npkey = 0x8000\nparent = "ib4"\n'}, (("0x8000", "0x8002"),))
    ],
    "member-becomes-ethernet": [
        Case(
            {
                "etc/netplan/1.yaml": NETPLAN.replace("version: 2", "renderer: NetworkManager").replace(
                    "infiniband-mode: datagram", "dhcp4: false"
                )
            },
            (("dhcp4: false", "infiniband-mode: datagram"),),
        ),
        Case(
            {
                "etc/netplan/1.yaml": NETPLAN.replace("version: 2", "renderer: NetworkManager").replace(
                    "infiniband-mode: datagram", "dhcp4: false"
                )
            },
            (("dhcp4: false", f"match: {{macaddress: '{':'.join(['80'] * 20)}'}}"),),
        ),
    ],
    "member-dropped": [Case({"network-config.yaml": CLOUD}, (("infiniband", "physical"),))],
    "infiniband-incomplete": [Case({"bond.yml": NMSTATE}, (("mode: datagram}", "mode: datagram, pkey: '0xffff'}"),))],
    "mixed-members": [
        Case({"bonds.toml": TOML + "[device.ib1]\nethernet = true\n"}, (("ethernet = true", 'transport = "datagram"'),)),
        Case(
            {"bond.yml": NMSTATE.replace("mode: datagram}", "mode: datagram, pkey: '0xffff'}").replace("[ib0]", "[ib0, e]")
             .replace("  - name: bond0", "  - {name: e, type: ethernet, state: up}\n  - name: bond0")},
            (("[ib0, e]", "[ib0]"),),
        ),
    ],
    "member-of-two-bonds": [
        Case({"bonds.toml": TOML + TOML[12:].replace("bond0", "bond1")}, (('bond1]\nmembers = ["ib0", "ib1"]', 'bond1]\nmembers = ["ib2", "ib3"]'),))
    ],
    "primary-not-member": [
        Case({"etc/network/interfaces": INTERFACES + "    bond-primary ib7\n"}, (("primary ib7", "primary ib1"),))
    ],
    "mode-refused": [
        Case({"etc/network/interfaces": INTERFACES.replace("active-backup", "802.3ad")}, (("802.3ad", "1"),)),
        Case({"bonds.toml": TOML.replace('mode = "active-backup", ', "")}, (("miimon", 'mode = 1, miimon'),)),
    ],
    "fail-over-mac": [
        Case({f"{NM}/b.nmconnection": PROFILE + "fail_over_mac=follow\n", f"{NM}/p.nmconnection": CHILD.replace("ib0.8001", "ib0")}, (("follow", "active"),))
    ],
    "no-link-monitor": [
        Case(networkd(bond0_netdev=NETDEV.replace("MIIMonitorSec=100ms\n", "")), (("active-backup\n", "active-backup\nMIIMonitorSec=0.1\n"),)),
        Case({"etc/netplan/1.yaml": NETPLAN.replace(", mii-monitor-interval: 100", "")}, (("active-backup", "active-backup, mii-monitor-interval: 100"),)),
        Case({"etc/network/interfaces": INTERFACES.replace("    bond-miimon 100\n", "")}, (("active-backup\n", "active-backup\n    bond-miimon 100\n"),)),
        Case({"bond.yml": NMSTATE.replace("miimon: 100", "miimon: 0").replace("datagram}", "datagram, pkey: '0xffff'}")}, (("miimon: 0", "miimon: 100"),)),
    ],
    "no-arp-targets": [
        Case({"bonds.toml": TOML.replace("miimon = 100", "arp_interval = 200")}, (("200", '200, arp_ip_target = ["10.0.0.2"]'),))
    ],
    "both-monitors": [
        Case({f"{NM}/b.nmconnection": PROFILE + "arp_interval=100\narp_ip_target=10.0.0.2\n"}, (("miimon=100", "miimon=0"),)),
        Case({"etc/sysconfig/network/ifcfg-bond0": "STARTMODE=auto\nBONDING_MASTER=yes\nBONDING_SLAVE_0=ib0\n"
              "BONDING_MODULE_OPTS='mode=active-backup miimon=100 arp_interval=100 arp_ip_target=10.0.0.2'\n"}, (("miimon=100 ", ""),)),
    ],
    "bare-number-is-seconds": [Case(networkd(bond0_netdev=NETDEV.replace("100ms", "100")), (("100\n", "100ms\n"),))],
    "zero-not-written": [
        Case({"etc/netplan/1.yaml": NETPLAN.replace("100}", "100, gratuitous-arp: 0}")}, (("gratuitous-arp: 0", "gratuitous-arp: 3"),))
    ],
    "delay-rounded": [Case({"etc/network/interfaces": INTERFACES + "    bond-updelay 250\n"}, (("250", "300"),))],
    "option-not-read": [
        Case({"etc/network/interfaces": INTERFACES + "    bond-resend-igmp 3\n"}, (("bond-resend-igmp 3", "post-up echo 3 > /sys/class/net/bond0/bonding/resend_igmp"),)),
        Case({"etc/network/interfaces": INTERFACES + "    bond-fail-over-mac active\n"}, (("    bond-fail-over-mac active\n", ""),), "ifupdown2"),
    ],
    "option-unknown": [
        Case({"etc/netplan/1.yaml": NETPLAN.replace("100}", "100, fail-over-mac-policy: activ}")}, (("activ}", "active}"),)),
        Case({"etc/network/interfaces": INTERFACES + "    bond-primay ib0\n"}, (("primay", "primary"),)),
    ],
    "option-misplaced": [
        Case(networkd(bond0_network="[Match]\nName=bond0\n[Network]\nPrimarySlave=ib0\n"), (("PrimarySlave=ib0\n", "Address=10.0.0.1/24\n"),))
    ],
    "active-slave-is-primary": [Case({f"{NM}/b.nmconnection": PROFILE + "active_slave=ib0\n"}, (("active_slave", "primary"),))],
    "address-set": [
        Case(networkd(bond0_netdev=NETDEV.replace("Kind=bond", "Kind=bond\nMACAddress=02:00:00:00:00:01")), (("MACAddress=02:00:00:00:00:01\n", ""),)),
        Case({"etc/netplan/1.yaml": NETPLAN.replace("interfaces:", "macaddress: '02:00:00:00:00:01'\n      interfaces:")}, (("macaddress: '02:00:00:00:00:01'\n      ", ""),)),
    ],
    "mtu-impossible": [
        Case({"bonds.toml": TOML.replace("addresses", "mtu = 9000\naddresses") + '[device.ib0]\ntransport = "datagram"\n[device.ib1]\ntransport = "datagram"\n'}, (("mtu = 9000", "mtu = 4092"),)),
        Case({f"{NM}/b.nmconnection": PROFILE + "[ethernet]\nmtu=70000\n", f"{NM}/p.nmconnection": CHILD.replace("ib0.8001", "ib0")}, (("70000", "65520"),)),
    ],
    "gateway-off-link": [
        Case({f"{NM}/b.nmconnection": PROFILE + "[ipv4]\nmethod=manual\naddress1=10.0.0.1/24,10.9.0.254\n"}, (("10.9.0.254", "10.0.0.254"),))
    ],
    "address-malformed": [Case({"bonds.toml": TOML.replace("10.0.0.1/24", "10.0.0.1000/24")}, (("10.0.0.1000", "10.0.0.100"),))],
    "config-unreadable": [
        Case({"bonds.toml": TOML + "x = \n"}, (("x = \n", ""),)),
        Case({"etc/netplan/1.yaml": NETPLAN + "   half\n"}, (("   half\n", ""),)),
    ],
}  # fmt: skip
TRAPS = [
    kind
    for kind in CASES
    if kind not in ("fail-over-mac", "no-link-monitor", "no-arp-targets", "option-unknown", "option-misplaced")
]
