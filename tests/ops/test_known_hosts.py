"""Bundles of hosts give the ports of a fabric their devices, bonds, options and addresses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ibbond.backend.kernel.bonds import KernelBackend
from ibbond.cli.main import run
from ibbond.errors import Refused
from ibbond.ops.collect import collect, write_tar
from ibbond.ops.known_hosts import known_hosts
from ibbond.topology.imported import import_fabric
from ibbond.topology.load import parse
from ibbond.topology.model import Topology
from tests.ops.host_tree import HostTree

PORTS = {"node1": (1, 2), "node2": (3, 4), "node3": (5, 6)}
STORY = '[story]\nlength_ms = 7000\nprobe_ms = 100\n[story.random_faults]\ncount = 1\nkinds = ["cut"]\n'


def fabric() -> str:
    """Three hosts with a port at each of two switches; the port GUIDs are those of `HostTree.ib`."""
    hosts = [(host, f"H-{number}", ports) for number, (host, ports) in enumerate(PORTS.items(), 1)]
    lines = []
    for at in (0, 1):
        lines += [f'Switch\t8 "S-{at + 1}"\t\t# "leaf-{at + 1}"']
        lines += [f'[{n}]\t"{key}"[{at + 1}]' for n, (_, key, _) in enumerate(hosts, 1)]
        lines += [f'[{n}]\t"S-{2 - at}"[{n}]' for n in (7, 8)]
    for n, (host, key, ports) in enumerate(hosts, 1):
        lines += [f'Ca\t2 "{key}"\t\t# "{host} mlx5_0"']
        lines += [f'[{at + 1}](2c90300a1{ports[at]:02x}01)\t"S-{at + 1}"[{n}]' for at in (0, 1)]
    return "\n".join(lines) + "\n"


def bundle(folder: Path, host: str, ports: tuple[int, int], **options: object) -> Path:
    """What `ibbond collect` writes on a host whose devices are the ports of these numbers."""
    tree = HostTree(folder / f"{host}-root")
    for name, number in zip(("ibs1", "ibs2"), ports, strict=True):
        tree.ib(name, number)
    tree.eth("eno1", 1)
    tree.bond("bond7", "ibs1", "ibs2", **{"addresses": ("10.3.0.7/24",)} | options)  # type: ignore[arg-type]
    taken = collect(KernelBackend(tree.root))
    taken.files["ibbond/bundle"] = f"format 2\nhost {host}.example.org\n".encode()
    write_tar(taken, folder / f"{host}.tar.gz")
    return folder / f"{host}.tar.gz"


def imported(*bundles: Path, text: str = "") -> Topology:
    found = import_fabric(text or fabric(), "fabric.txt", known_hosts(bundles))
    return parse(found.text)


def test_a_known_host_has_its_own_devices_bond_and_options(tmp_path: Path) -> None:
    one = bundle(tmp_path, "db7", PORTS["node2"], primary="ibs2", miimon=50, updelay=200)
    topology = imported(one)
    assert [host.name for host in topology.hosts] == ["node1", "db7", "node3"]
    host = topology.host("db7")
    assert {device.name: device.port for device in host.devices} == {"ibs1": "db7/1", "ibs2": "db7/2"}
    (bond,) = host.bonds
    assert (bond.name, bond.members, [str(each) for each in bond.addresses]) == (
        "bond7",
        ("ibs1", "ibs2"),
        ["10.3.0.7/24"],
    )
    assert dict(bond.options) | {"primary": "ibs2", "miimon": "50", "updelay": "200"} == dict(bond.options)
    assert topology.host("node1").bonds[0].name == "bond0"


def test_addresses_that_a_host_has_are_not_given_to_another(tmp_path: Path) -> None:
    tree = HostTree(tmp_path / "root")
    tree.ib("ib0", 3)
    tree.ib("ib1", 4)
    tree.bond("bond0", "ib0", "ib1", addresses=("10.0.0.1/16", "fd00::1/64"))
    topology = imported(tree.root)
    addresses = [str(address) for host in topology.hosts for _, address in host.addresses()]
    assert addresses == ["10.0.0.2/16", "fd00::2/64", "10.0.0.1/16", "fd00::1/64", "10.0.0.3/16", "fd00::3/64"]


def test_a_member_without_a_cable_is_named(tmp_path: Path) -> None:
    one = bundle(tmp_path, "db7", (3, 9), primary="ibs2")
    found = import_fabric(fabric(), "fabric.txt", known_hosts([one]))
    assert found.notes == ["db7/bond7 is without ibs2, which no cable leads to"]
    host = parse(found.text).host("db7")
    assert host.bonds[0].members == ("ibs1",)
    assert [device.name for device in host.devices] == ["ibs1", "ib0"]


def test_a_directory_of_bundles_is_all_of_them(tmp_path: Path) -> None:
    for number, ports in enumerate(PORTS.values(), 1):
        bundle(tmp_path, f"db{number}", ports)
    folder = tmp_path / "bundles"
    folder.mkdir()
    for archive in tmp_path.glob("*.tar.gz"):
        archive.rename(folder / archive.name)
    assert [host.name for host in known_hosts([folder])] == ["db1", "db2", "db3"]


def test_bundles_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"db9.* is not in fabric.txt: none of its ports"):
        imported(bundle(tmp_path, "db9", (8, 9)))
    one, two = bundle(tmp_path, "db1", PORTS["node1"]), bundle(tmp_path, "db2", PORTS["node1"])
    with pytest.raises(Refused, match="have ports of the same adapter"):
        imported(one, two)
    with pytest.raises(Refused, match="there is no such file"):
        known_hosts([tmp_path / "none"])


def test_a_story_runs_in_an_imported_fabric(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = bundle(tmp_path, "db7", PORTS["node2"], addresses=("10.0.7.7/16",))
    (tmp_path / "fabric.txt").write_text(fabric())
    (tmp_path / "story.toml").write_text(STORY)
    words = [str(tmp_path / "story.toml"), "--from", str(tmp_path / "fabric.txt"), "--bundle", str(one)]
    with pytest.raises(SystemExit, match="0"):
        run(["sim", "run", *words])
    text = capsys.readouterr().out
    assert "db7/bond7" in text
    assert "every promise kept" in text
    assert run(["fabric", "whatif", words[2], "--bundle", str(one), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["hosts"] == 3


@pytest.mark.parametrize("command", ["lab topology", "lab up", "sim run two_hosts"])
def test_a_bundle_needs_a_fabric(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command.split(), "--bundle", "x"]) == 2
    assert "cannot use --bundle without --from" in capsys.readouterr().err


def test_bad_fabrics_and_stories_exit_with_2(tmp_path: Path) -> None:
    (tmp_path / "fabric.txt").write_text(fabric()[:-9])
    done = subprocess.run(
        [sys.executable, "-m", "ibbond", "sim", "run", "two_hosts", "--from", str(tmp_path / "fabric.txt")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "fabric.txt, line" in done.stderr
