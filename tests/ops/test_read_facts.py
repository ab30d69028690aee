"""Facts from a saved copy: adapters, ports, partitions, switches behind cables; bundles, good and hostile."""

import contextlib
import io
import os
import tarfile
from pathlib import Path

import pytest

from ibbond.backend.kernel.bonds import KernelBackend
from ibbond.errors import Refused
from ibbond.ops.collect import Bundle, collect, write_directory, write_tar
from ibbond.ops.read_facts import kernel_facts, neighbor_of
from ibbond.ops.saved import opened
from tests.ops.saved_copy import BROADCAST, SMPQUERY, put, rules, saved_host


def test_a_good_copy_is_clean_and_read_whole(tmp_path: Path) -> None:
    root = saved_host(tmp_path)
    facts = kernel_facts(KernelBackend(root), ["bond0"]).bonds[0]
    port = facts.members[1].device.port
    assert port is not None
    assert (port.adapter, port.card, port.number, port.state, port.sm_lid) == ("mlx5_1", "0000:81:00", 1, "ACTIVE", 1)
    assert port.neighbor == "0x0002c90300200010"
    assert facts.device.addresses == ("10.0.0.1/24", "fe80::202:c903:10:1/64")
    assert rules(root) == set()


def test_two_functions_of_one_card_are_one_adapter(tmp_path: Path) -> None:
    assert rules(saved_host(tmp_path, slots=("0000:03:00.0", "0000:03:00.1"))) == {"one-adapter"}


def test_the_image_guid_tells_cards_apart_better_than_slots(tmp_path: Path) -> None:
    root = saved_host(tmp_path)
    for number, slot in enumerate(("0000:03:00.0", "0000:81:00.0")):
        below = f"sys/devices/pci0000:00/{slot}/infiniband/mlx5_{number}"
        put(root, f"{below}/sys_image_guid", "0002:c903:0010:0003")
    assert rules(root) == {"one-adapter"}


def test_a_virtual_function_is_its_card(tmp_path: Path) -> None:
    root = saved_host(tmp_path)
    other = root / "sys/devices/pci0000:00/0000:81:00.0/physfn"
    other.symlink_to("../0000:03:00.0")
    assert rules(root) == {"same-port"}
    for device in ("sys/class/net/ib1", "sys/class/net/ib0"):
        put(root, f"{device}/dev_port", "1" if device.endswith("1") else "0")
    put(root, "sys/class/net/ib1/device/infiniband/mlx5_1/ports/2/state", "4: ACTIVE")
    assert rules(root) == {"one-adapter"}


def test_two_cables_to_one_switch(tmp_path: Path) -> None:
    assert rules(saved_host(tmp_path, switches=1)) == {"one-switch"}


def test_an_adapter_at_the_other_end_is_no_switch() -> None:
    assert neighbor_of(SMPQUERY.format(1).replace("Switch", "Channel Adapter")) is None
    assert neighbor_of("ibwarn: something went wrong") is None
    assert neighbor_of(SMPQUERY.format(1)) == "0x0002c90300000001"


def test_ports_and_subnet_managers(tmp_path: Path) -> None:
    root = saved_host(tmp_path)
    base = "sys/devices/pci0000:00/0000:81:00.0/infiniband/mlx5_1/ports/1"
    put(root, f"{base}/state", "2: INIT")
    put(root, f"{base}/sm_lid", "0x9")
    assert rules(root) == {"port-not-active", "subnet-differs"}


def test_the_partition_is_read_from_the_broadcast_address_where_there_is_no_pkey_file(tmp_path: Path) -> None:
    root = saved_host(tmp_path)
    below = root / "sys/devices/pci0000:00/0000:81:00.0/net/ib1"
    (below / "pkey").unlink()
    (below / "broadcast").write_text(BROADCAST.replace("1b:ff:ff", "1b:80:01") + "\n")
    assert rules(root) == {"pkey-differs"}


def test_a_copy_with_holes_and_nonsense_is_refused_or_read(tmp_path: Path) -> None:
    """Every file in turn missing, empty, or nonsense: findings or `Refused`, nothing else."""
    root = saved_host(tmp_path)
    files = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    for path in files:
        kept = path.read_bytes()
        for content in (b"", b"\xff\xfe nonsense\n", None):
            if content is None:
                path.unlink()
            else:
                path.write_bytes(content)
            with contextlib.suppress(Refused):
                rules(root)
            path.write_bytes(kept)


def test_a_bundle_of_a_copy_says_the_same(tmp_path: Path) -> None:
    """`collect` of a copy stands for `collect` of a live host: links stay links, secrets stay away."""
    root = saved_host(tmp_path / "host", switches=1)
    put(root, "etc/NetworkManager/system-connections/x.nmconnection", "[wifi-security]\npsk=hunter2\n")
    bundle = collect(KernelBackend(root))
    assert b"hunter2" not in b"".join(bundle.files.values())
    bundle.files |= {
        f"ibbond/neighbors/mlx5_{n}-1": (root / f"ibbond/neighbors/mlx5_{n}-1").read_bytes() for n in (0, 1)
    }
    write_tar(bundle, tmp_path / "bundle.tar.gz")
    write_directory(bundle, tmp_path / "bundle")
    assert os.stat(tmp_path / "bundle.tar.gz").st_mode & 0o777 == 0o600
    with opened(tmp_path / "bundle.tar.gz") as copy:
        assert rules(copy) == rules(root) == {"one-switch"}
    with opened(tmp_path / "bundle") as copy:
        assert rules(copy) == {"one-switch"}
    with pytest.raises(Refused, match="cannot write"):
        write_directory(bundle, tmp_path / "bundle")
    with pytest.raises(Refused, match="cannot write"):
        write_tar(bundle, tmp_path / "nowhere" / "bundle.tar.gz")


def test_a_hostile_bundle_writes_nothing_outside(tmp_path: Path) -> None:
    for name, link in (("../escaped", ""), ("/tmp/ibbond-escaped", ""), ("sys", "/etc")):
        path = tmp_path / "bad.tar.gz"
        with tarfile.open(path, "w:gz") as tar:
            info = tarfile.TarInfo(name)
            if link:
                info.type, info.linkname = tarfile.SYMTYPE, link
                tar.addfile(info)
            else:
                info.size = 1
                tar.addfile(info, io.BytesIO(b"x"))
        with contextlib.suppress(Refused), opened(path) as copy:
            assert not (copy.parent / "escaped").exists()
        assert not Path("/tmp/ibbond-escaped").exists()


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    for path in (tmp_path / "text", tmp_path / "nothing"):
        with pytest.raises(Refused, match="cannot read"), opened(path):
            pass


def test_an_empty_bundle_has_no_bonding_driver(tmp_path: Path) -> None:
    write_directory(Bundle(files={"proc/version": b"x"}), tmp_path / "empty")
    with pytest.raises(Refused, match="not loaded"):
        KernelBackend(tmp_path / "empty").read("bonding_masters")
