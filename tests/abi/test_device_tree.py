"""Paths below /sys/class/net and what is at them, for a host made up here."""

import pytest

from ibbond.abi.device_tree import FOREIGN, PROC, DeviceTree, Directory, File, Kind, Link, Place
from ibbond.abi.sysfs_text import BOND_FILES, MEMBER_FILES


class Made:
    """bond0 with ib0 and ib1; ib0 has a child; eth0 is not an InfiniBand device; bond1 is empty."""

    bonds = {"bond0": ("ib0", "ib1"), "bond1": ()}
    parents = {"ib0": "", "ib1": "", "ib0.8001": "ib0"}

    def devices(self) -> tuple[str, ...]:
        return (*self.parents, "eth0", *self.bonds)

    def has(self, device: str) -> bool:
        return device in self.devices()

    def members(self, device: str) -> tuple[str, ...] | None:
        return self.bonds.get(device)

    def master(self, device: str) -> str | None:
        return next((bond for bond, members in self.bonds.items() if device in members), None)

    def parent(self, device: str) -> str | None:
        return self.parents.get(device)

    def adapter(self, device: str) -> str | None:
        return "mlx4_0" if device in self.parents else None


TREE = DeviceTree(Made())


@pytest.mark.parametrize(
    ("path", "node"),
    [
        ("", Directory(shared=True)),
        ("bonding_masters", File(Kind.MASTERS, "", "bonding_masters", 0o644)),
        ("bond0", Directory(shared=True)),
        ("bond0/bonding", Directory()),
        ("bond0/bonding/slaves", File(Kind.BOND, "bond0", "slaves", 0o644)),
        ("bond0/bonding/mii_status", File(Kind.BOND, "bond0", "mii_status", 0o444)),
        ("bond0/bonding/link_events", None),
        ("bond0/bonding/none", None),
        ("bond0/proc_net_bonding", File(Kind.PROC, "bond0", PROC, 0o444)),
        ("ib0/proc_net_bonding", None),
        ("bond0/lower_ib1", Link("../ib1")),
        ("bond1/lower_ib1", None),
        ("bond0/lower_", FOREIGN),
        ("bond0/master", None),
        ("ib0/master", Link("../bond0")),
        ("ib0/upper_bond0", Link("../bond0")),
        ("ib0/upper_bond1", None),
        ("ib0/bonding", None),
        ("ib0/bonding_slave", Directory()),
        ("ib0/bonding_slave/state", File(Kind.MEMBER, "ib0", "state", 0o444)),
        ("bond0/bonding_slave", None),
        ("eth0/bonding_slave/state", None),
        ("ib0/create_child", File(Kind.IPOIB, "ib0", "create_child", 0o200)),
        ("ib0/device", Link("../../infiniband/mlx4_0/device")),
        ("eth0/device", FOREIGN),
        ("ib0/parent", None),
        ("ib0.8001/parent", File(Kind.IPOIB, "ib0.8001", "parent", 0o444)),
        ("ib0.8001/create_child", None),
        ("eth0/pkey", None),
        ("eth0/mtu", File(Kind.DEVICE, "eth0", "mtu", 0o644)),
        ("bond0/ifindex", File(Kind.DEVICE, "bond0", "ifindex", 0o444)),
        ("bond0/statistics", Directory()),
        ("bond0/statistics/tx_packets", File(Kind.STATISTIC, "bond0", "tx_packets", 0o444)),
        ("bond0/statistics/nothing", None),
        ("bond0/subsystem", Link("../../net")),
        ("bond0/tun_flags", None),
        ("bond0/queues", FOREIGN),
        ("bond0/queues/rx-0/rps_cpus", FOREIGN),
        ("lo", FOREIGN),
        ("lo/mtu", None),
        ("bonding_masters/x", None),
    ],
)
def test_what_is_at_a_path(path: str, node: Place | None) -> None:
    assert TREE.find(path) == node


@pytest.mark.parametrize(
    "path", ["", "bond0", "bond1", "ib0", "ib0.8001", "eth0", "bond0/bonding", "ib1/bonding_slave"]
)
def test_every_name_of_a_directory_is_found_in_it(path: str) -> None:
    names = TREE.names(path)
    assert len(set(names)) == len(names) > 0
    for name in names:
        assert TREE.find(f"{path}/{name}".lstrip("/")) not in (None, FOREIGN), name


def test_names_of_directories() -> None:
    assert set(TREE.names("bond0/bonding")) == set(BOND_FILES)
    assert set(TREE.names("ib1/bonding_slave")) == set(MEMBER_FILES)
    assert {"lower_ib0", "lower_ib1", "bonding", PROC} <= set(TREE.names("bond0"))
    assert "bonding_slave" not in TREE.names("bond0")
    assert TREE.names("ib1/bonding") == TREE.names("nothing") == TREE.names("lo") == ()
