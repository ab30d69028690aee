"""`ibbond map`: which bond member is which port of which adapter (`ops.rdma_map`)."""

from pathlib import Path

from click.testing import CliRunner

from ibbond.backend.kernel.bonds import KernelBackend
from ibbond.cli.map import show_map
from ibbond.ops.rdma_map import MapRow, gid_of, map_of_host
from tests.ops.host_tree import HostTree, two_ports


def rows(root: Path) -> list[MapRow]:
    return map_of_host(KernelBackend(root))


def test_bonds_come_first_and_then_other_infiniband_devices(tmp_path: Path) -> None:
    tree = two_ports(tmp_path)
    tree.ib("a0", 7, slot="0000:d1:00.0", port={"adapter": "mlx5_7"})
    tree.eth("eno1", 1)
    found = rows(tmp_path)
    assert [(row.bond, row.role, row.device, row.adapter, row.port) for row in found] == [
        ("bond0", "active", "ib0", "mlx5_0", 1),
        ("bond0", "backup", "ib1", "mlx5_1", 1),
        (None, None, "a0", "mlx5_7", 1),
    ]
    assert [row.gid for row in found[:2]] == ["fe80::2:c903:a1:1", "fe80::2:c903:a1:101"]


def test_what_a_copy_does_not_have_stays_unknown(tmp_path: Path) -> None:
    tree = HostTree(tmp_path)
    tree.ib("ib0", 1)
    tree.bond("bond0", "ib0")
    (row,) = rows(tmp_path)
    assert (row.device, row.adapter, row.port, row.state) == ("ib0", None, None, None)
    assert "bond0" in CliRunner().invoke(show_map, ["--root", str(tmp_path)]).output


def test_a_six_byte_address_has_no_gid() -> None:
    assert gid_of(bytes(6)) is None
