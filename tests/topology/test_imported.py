"""Fabrics that ibnetdiscover and OpenSM wrote down, as topologies; bad files are refused with the line."""

import gc
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ibbond.errors import Refused
from ibbond.topology.imported import import_fabric
from ibbond.topology.load import parse
from ibbond.topology.model import Topology

LEAVES = """\
#
# Topology file: generated on Mon Nov  2 09:00:00 2026
#
vendid=0x2c9
devid=0xcb20
sysimgguid=0x7cfe900300a1b2c0
switchguid=0x7cfe900300a1b2c0(7cfe900300a1b2c0)
Switch\t36 "S-7cfe900300a1b2c0"\t\t# "MF0;leaf-1:MSB7700/U1" enhanced port 0 lid 3 lmc 0
[1]\t"H-0002c903000e0b70"[1](2c903000e0b71) \t\t# "node1 HCA-1" lid 7 4xEDR
[2]\t"H-0002c903000e0b80"[2](2c903000e0b82) \t\t# "node2 HCA-1" lid 8 4xEDR
[36]\t"S-7cfe900300a1b300"[35]\t\t# "MF0;leaf-2:MSB7700/U1" lid 4 4xEDR

switchguid=0x7cfe900300a1b300(7cfe900300a1b300)
Switch\t36 "S-7cfe900300a1b300"\t\t# "MF0;leaf-2:MSB7700/U1" enhanced port 0 lid 4 lmc 0
[1][ext 17]\t"H-0002c903000e0b70"[2](2c903000e0b72) \t\t# "node1 HCA-1" lid 9 4xEDR
[2]\t"H-0002c903000e0b90"[1](2c903000e0b91) \t\t# "node2 HCA-2" lid 10 4xEDR
[35]\t"S-7cfe900300a1b2c0"[36]\t\t# "MF0;leaf-1:MSB7700/U1" lid 3 4xEDR

caguid=0x2c903000e0b70
Ca\t2 "H-0002c903000e0b70"\t\t# "node1 HCA-1"
[1](2c903000e0b71) \t"S-7cfe900300a1b2c0"[1]\t\t# lid 7 lmc 0 "MF0;leaf-1:MSB7700/U1" lid 3 4xEDR
[2](2c903000e0b72) \t"S-7cfe900300a1b300"[1]\t\t# lid 9 lmc 0 "MF0;leaf-2:MSB7700/U1" lid 4 4xEDR

caguid=0x2c903000e0b80
Ca\t2 "H-0002c903000e0b80"\t\t# "node2 HCA-1"
[2](2c903000e0b82) \t"S-7cfe900300a1b2c0"[2]\t\t# lid 8 lmc 0 "MF0;leaf-1:MSB7700/U1" lid 3 4xEDR

caguid=0x2c903000e0b90
Ca\t1 "H-0002c903000e0b90"\t\t# "node2 HCA-2"
[1](2c903000e0b91) \t"S-7cfe900300a1b300"[2]\t\t# lid 10 lmc 0 "MF0;leaf-2:MSB7700/U1" lid 4 4xEDR
"""

IBSIM = """\
Switch 8 "sw1"
[1] "node1"[1]
[2] "node2"[1]
Hca 2 "node1"
[1] "sw1"[1]
Hca 2 "node2"
[1] "sw1"[2]
"""

CA = (
    "{{ CA{} Ports:{} SystemGUID:0002c903000e0b{n}3 NodeGUID:0002c903000e0b{n}0 PortGUID:0002c903000e0b{n}1 "
    "VenID:0002C9 DevID:1003 Rev:00000001 {{{} HCA-1}} LID:0007 PN:01 }}"
)
ENDS = (CA.format("", "02", "node1", n=7), CA.format("-SM", "01", "node2", n=8))
LEAF = (
    "{{ SW Ports:24 SystemGUID:7cfe900300a1b2c0 NodeGUID:7cfe900300a1b2c0 PortGUID:7cfe900300a1b2c0 "
    "VenID:0002C9 DevID:CB20 Rev:000000A0 {{leaf-1}} LID:0003 PN:{} }}"
)
PAIRS = [*zip(ENDS, ("1F", "20"), strict=True)]
LINES = [f"{end} {LEAF.format(at)}" for end, at in PAIRS] + [f"{LEAF.format(at)} {end}" for end, at in PAIRS]
OPENSM = "".join(f"{line} PHY=4x LOG=ACT SPD=25\n" for line in LINES)


def imported(text: str) -> Topology:
    return parse(import_fabric(text, "fabric.txt").text)


def test_adapters_of_one_host_make_one_bond() -> None:
    topology = imported(LEAVES)
    assert [host.name for host in topology.hosts] == ["node1", "node2"]
    assert [switch.name for switch in topology.switches] == ["leaf-1", "leaf-2"]
    node1, node2 = topology.hosts
    assert [device.port for device in node1.devices] == ["node1/1", "node1/2"]
    assert [device.port for device in node2.devices] == ["node2/2", "node2-2/1"]
    assert [host.bonds[0].members for host in topology.hosts] == [("ib0", "ib1")] * 2
    assert [(hca.ports, hca.identity.guid) for hca in node2.hcas] == [(2, 0x2C903000E0B80), (1, 0x2C903000E0B90)]
    assert node2.hcas[0].identity.port_guids == ((2, 0x2C903000E0B82),)
    assert topology.switches[0].identity.description == "MF0;leaf-1:MSB7700/U1"


def test_every_cable_keeps_its_ports() -> None:
    cables = {frozenset((cable.a, cable.b)) for cable in imported(LEAVES).cables}
    assert cables == {
        frozenset(pair)
        for pair in (
            ("node1/1", "leaf-1/1"),
            ("node2/2", "leaf-1/2"),
            ("leaf-1/36", "leaf-2/35"),
            ("node1/2", "leaf-2/1"),
            ("node2-2/1", "leaf-2/2"),
        )
    }


def test_the_net_files_of_ibsim_are_the_same_format() -> None:
    topology = imported(IBSIM)
    assert [host.name for host in topology.hosts] == ["node1", "node2"]
    assert [switch.name for switch in topology.switches] == ["sw1"]
    assert [hca.identity.description for host in topology.hosts for hca in host.hcas] == ["node1", "node2"]
    assert not topology.hosts[0].bonds
    assert str(topology.hosts[1].device("ib0").addresses[0]) == "10.0.0.2/16"  # type: ignore[union-attr]


def test_opensm_writes_ports_in_hexadecimal() -> None:
    topology = imported(OPENSM)
    assert topology.switches[0].ports == 0x24
    assert [cable.b for cable in topology.cables] == ["leaf-1/31", "leaf-1/32"]


BAD = {
    "neither": ("hello\n", "fabric.txt: its format is not that of ibnetdiscover or opensm-subnet.lst"),
    "truncated": (LEAVES[: LEAVES.index('"S-7cfe900300a1b300"[2]')], "line 30: it reads"),
    "GUID twice": (LEAVES.replace("caguid=0x2c903000e0b80", "caguid=0x2c903000e0b70"), "line 25: it gives H-"),
    "cable to nowhere": (IBSIM.replace('[2] "node2"[1]', '[2] "node3"[1]'), "line 3: it has a cable to node3"),
    "ends disagree": (
        IBSIM.replace('[1] "sw1"[2]', '[1] "sw1"[1]'),
        "line 3: it cables sw1 port 2 to node2 port 1: line 7",
    ),
    "node twice": (IBSIM + 'Switch 8 "sw1"\n', "line 8: it defines sw1 again: line 1"),
    "port too high": (
        IBSIM.replace('[1] "node1"[1]', '[9] "node1"[1]').replace('"sw1"[1]', '"sw1"[9]'),
        "port 9 of sw1",
    ),
    "port of no node": ('[1] "sw1"[2]\n' + IBSIM, "line 1: it describes a port: no node line stands before it"),
    "back to back": ('Ca 1 "a"\n[1] "b"[1]\nCa 1 "b"\n[1] "a"[1]\n', "line 2: it cables two adapters back to back"),
    "port GUID twice": (LEAVES.replace("2c903000e0b82", "2c903000e0b72"), "line 26: it gives port 2 of H-"),
    "one end of a cable": (LEAVES[: LEAVES.rindex("[1](")], "line 16: it cables S-7cfe900300a1b300 port 2 to H-"),
    "one end in OpenSM's file": (OPENSM[: OPENSM.rindex("{ SW")], "line 2: it cables 0002c903000e0b80 port 1"),
    "half a line of OpenSM": (OPENSM.replace("PN:1F }", "PN:"), "line 1: it reads"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_with_the_line(case: str) -> None:
    text, message = BAD[case]
    with pytest.raises(Refused) as refusal:
        imported(text)
    assert message in str(refusal.value)


@pytest.mark.parametrize("text", [LEAVES, OPENSM], ids=["ibnetdiscover", "opensm"])
def test_wherever_a_file_is_truncated_it_is_refused(text: str) -> None:
    """Until the last cable is whole: what stands behind it in its line is not read."""
    for end in range(text.rindex("PN:") if text is OPENSM else text.rindex("[1](")):
        with pytest.raises(Refused):
            imported(text[:end])


def big(leaves: int, hosts_per_leaf: int) -> str:
    lines = ['Switch 254 "spine"\n' + "".join(f'[{i}] "leaf{i}"[100]\n' for i in range(1, leaves + 1))]
    for i in range(1, leaves + 1):
        ports = "".join(f'[{k}] "n{i}x{k}"[1]\n' for k in range(1, hosts_per_leaf + 1))
        lines.append(f'Switch 100 "leaf{i}"\n{ports}[100] "spine"[{i}]\n')
        lines += [f'Ca 1 "n{i}x{k}"\n[1] "leaf{i}"[{k}]\n' for k in range(1, hosts_per_leaf + 1)]
    return "".join(lines)


def test_the_time_grows_with_the_nodes_and_not_with_their_square() -> None:
    def seconds(text: str) -> float:
        """The least CPU time of three runs, without garbage collection, whose cost depends on the other tests."""
        times = []
        gc.disable()
        try:
            for _ in range(3):
                begin = time.process_time()
                imported(text)
                times.append(time.process_time() - begin)
        finally:
            gc.enable()
        return min(times)

    assert seconds(big(40, 99)) < 8 * seconds(big(10, 50)) * 3  # 7.8 times the nodes


def test_nearly_as_many_nodes_as_the_limit_load_within_a_minute_and_2_gib(tmp_path: Path) -> None:
    file = tmp_path / "fabric.txt"
    file.write_text(big(101, 97))  # 9,899 nodes
    command = f"ulimit -v {2 << 20}; exec {sys.executable} -m ibbond lab topology --from {file}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("[hosts.n101x97.ports]") == 1


def test_more_nodes_than_the_limit_are_refused() -> None:
    with pytest.raises(Refused, match="takes up to 10000"):
        imported(big(102, 99))
