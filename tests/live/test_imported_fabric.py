"""A lab from a file that ibnetdiscover wrote: the real ibnetdiscover in that lab prints the same fabric."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ibbond.lab.state import Files

FABRIC = """\
switchguid=0x7cfe900300a1b2c0(7cfe900300a1b2c0)
Switch\t36 "S-7cfe900300a1b2c0"\t\t# "MF0;leaf-1:MSB7700/U1" base port 0 lid 3 lmc 0
[7]\t"H-0002c903000e0b70"[1](2c903000e0b71) \t\t# "node1 HCA-1" lid 7 4xQDR
[36]\t"S-7cfe900300a1b300"[35]\t\t# "MF0;leaf-2:MSB7700/U1" lid 4 4xQDR
switchguid=0x7cfe900300a1b300(7cfe900300a1b300)
Switch\t36 "S-7cfe900300a1b300"\t\t# "MF0;leaf-2:MSB7700/U1" base port 0 lid 4 lmc 0
[8]\t"H-0002c903000e0b70"[2](2c903000e0c00) \t\t# "node1 HCA-1" lid 9 4xQDR
[9]\t"H-0002c903000e0b90"[1](2c903000e0b91) \t\t# "node2 HCA-1" lid 10 4xQDR
[35]\t"S-7cfe900300a1b2c0"[36]\t\t# "MF0;leaf-1:MSB7700/U1" lid 3 4xQDR
caguid=0x2c903000e0b70
Ca\t2 "H-0002c903000e0b70"\t\t# "node1 HCA-1"
[1](2c903000e0b71) \t"S-7cfe900300a1b2c0"[7]\t\t# lid 7 lmc 0 "MF0;leaf-1:MSB7700/U1" lid 3 4xQDR
[2](2c903000e0c00) \t"S-7cfe900300a1b300"[8]\t\t# lid 9 lmc 0 "MF0;leaf-2:MSB7700/U1" lid 4 4xQDR
caguid=0x2c903000e0b90
Ca\t2 "H-0002c903000e0b90"\t\t# "node2 HCA-1"
[1](2c903000e0b91) \t"S-7cfe900300a1b300"[9]\t\t# lid 10 lmc 0 "MF0;leaf-2:MSB7700/U1" lid 4 4xQDR
"""
NOT_COMPARED = ("#", "vendid", "devid", "sysimgguid")


def facts(text: str) -> set[str]:
    """Every line about nodes and cables, without the numbers that the subnet manager of this lab has chosen."""
    lines = [line for line in text.splitlines() if line and not line.startswith(NOT_COMPARED)]
    return {" ".join(re.sub(r"lid \d+|lmc \d+", "", line).split()) for line in lines}


def ibbond(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "ibbond", *words], capture_output=True, text=True, timeout=60)


needs_tools = pytest.mark.skipif(not shutil.which("ibnetdiscover"), reason="infiniband-diags is not installed")


@needs_tools
def test_ibnetdiscover_prints_the_fabric_that_was_imported(lab: str, tmp_path: Path) -> None:
    file = tmp_path / "fabric.txt"
    file.write_text(FABRIC)
    up = ibbond("lab", "up", "--name", lab, "--from", str(file))
    assert up.returncode == 0, up.stderr
    try:
        found = ibbond("lab", "exec", "--name", lab, "node1", "--", "ibnetdiscover")
        assert found.returncode == 0, found.stderr
        assert facts(found.stdout) == facts(FABRIC)
        ping = ibbond("lab", "exec", "--name", lab, "node1", "--", "ping", "-c1", "-w5", "10.0.0.2")
        assert ping.returncode == 0, ping.stdout
    finally:
        ibbond("lab", "down", "--name", lab)


@needs_tools
@pytest.mark.skipif(not shutil.which("opensm"), reason="OpenSM is not installed")
def test_a_lab_rebuilt_from_what_real_tools_wrote_about_it_is_the_same(lab: str, tmp_path: Path) -> None:
    files = {"ibnetdiscover": tmp_path / "fabric.txt", "OpenSM": tmp_path / "opensm-subnet.lst"}
    assert ibbond("lab", "up", "--name", lab, "--sm", "opensm").returncode == 0
    try:
        files["ibnetdiscover"].write_text(discovered(lab))
        written = Files(lab).tools / "opensm" / "opensm-subnet.lst"
        files["OpenSM"].write_text(written.read_text())
    finally:
        ibbond("lab", "down", "--name", lab)
    for file in files.values():
        up = ibbond("lab", "up", "--name", lab, "--from", str(file))
        assert up.returncode == 0, up.stderr
        try:
            assert facts(discovered(lab)) == facts(files["ibnetdiscover"].read_text())
        finally:
            ibbond("lab", "down", "--name", lab)


def discovered(lab: str) -> str:
    found = ibbond("lab", "exec", "--name", lab, "h1", "--", "ibnetdiscover")
    assert found.returncode == 0, found.stderr
    return found.stdout
