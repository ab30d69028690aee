"""A saved copy of a host with two ports of two adapters, in /sys as a kernel lays it out, links and all."""

from pathlib import Path

from ibbond.backend.kernel.bonds import KernelBackend
from ibbond.ops.check import check
from ibbond.ops.read_facts import kernel_facts

OPTIONS = {
    "mode": "active-backup 1",
    "miimon": "100",
    "num_grat_arp": "3",
    "num_unsol_na": "3",
    "fail_over_mac": "active 1",
    "arp_interval": "0",
    "arp_ip_target": None,
    "arp_validate": "none 0",
    "arp_all_targets": "any 0",
    "updelay": "0",
    "downdelay": "0",
    "primary": None,
    "primary_reselect": "always 0",
    "resend_igmp": "1",
    "mii_status": "up",
    "slaves": "ib0 ib1",
    "active_slave": "ib0",
    "queue_id": "ib0:0 ib1:0",
    "xmit_hash_policy": "layer2 0",
}
BROADCAST = "00:ff:ff:ff:ff:12:40:1b:ff:ff:00:00:00:00:00:00:ff:ff:ff:ff"
SMPQUERY = """# Node info: DR path slid 65535; dlid 65535; 0,1
BaseVers:........................1
ClassVers:.......................1
NodeType:........................Switch
NumPorts:........................36
SystemGuid:......................0x0002c90300{0:06x}
Guid:............................0x0002c90300{0:06x}
PortGuid:........................0x0002c90300{0:06x}
"""


def put(root: Path, path: str, text: str | None) -> None:
    place = root / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("" if text is None else f"{text}\n")


def saved_host(root: Path, *, slots: tuple[str, str] = ("0000:03:00.0", "0000:81:00.0"), switches: int = 2) -> Path:
    """A host with two ports of two adapters in /sys as a kernel lays it out, symbolic links and all."""
    put(root, "proc/sys/kernel/osrelease", "6.1.0-56-amd64")
    put(root, "sys/class/net/bonding_masters", "bond0")
    put(root, "ibbond/addresses", "bond0 10.0.0.1/24\nbond0 fe80::202:c903:10:1/64")
    for option, text in OPTIONS.items():
        put(root, f"sys/devices/virtual/net/bond0/bonding/{option}", text)
    address = "80:00:02:08:fe:80:00:00:00:00:00:00:00:02:c9:03:00:10:00:0{}"
    device = {"type": "32", "flags": "0x1003", "mtu": "2044", "carrier": "1", "ifindex": "5", "broadcast": BROADCAST}
    for file, text in {**device, "address": address.format(1)}.items():
        put(root, f"sys/devices/virtual/net/bond0/{file}", text)
    (root / "sys/class/net/bond0").symlink_to("../../devices/virtual/net/bond0")
    for number, slot in enumerate(slots):
        name, below = f"ib{number}", f"sys/devices/pci0000:00/{slot}"
        facts = {"address": address.format(number + 1), "pkey": "0xffff", "mode": "datagram", "dev_port": "0"}
        for file, text in {**device, **facts}.items():
            put(root, f"{below}/net/{name}/{file}", text)
        member = {
            "state": "active" if number == 0 else "backup",
            "mii_status": "up",
            "link_failure_count": "0",
            "perm_hwaddr": address.format(number + 1),
            "queue_id": "0",
        }
        for file, text in member.items():
            put(root, f"{below}/net/{name}/bonding_slave/{file}", text)
        put(root, f"{below}/infiniband/mlx5_{number}/ports/1/state", "4: ACTIVE")
        put(root, f"{below}/infiniband/mlx5_{number}/ports/1/sm_lid", "0x1")
        put(root, f"ibbond/neighbors/mlx5_{number}-1", SMPQUERY.format(0x200000 + 16 * min(number, switches - 1)))
        (root / f"{below}/net/{name}/device").symlink_to("../..")
        (root / f"sys/class/net/{name}").symlink_to(f"../../devices/pci0000:00/{slot}/net/{name}")
    return root


def rules(root: Path) -> set[str]:
    host = KernelBackend(root)
    return {each.rule.id for each in check(kernel_facts(host, host.bonds())) if each.severity.value != "note"}
