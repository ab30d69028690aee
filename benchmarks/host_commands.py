"""What commands on a host cost: wall and CPU time and memory of whole processes, on a saved host with four bonds.

    python -m benchmarks.host_commands [RUNS]

`ibbond bond show` has no --root; its functions are run on the same copy by a program of two lines. Prints medians.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.ops.saved_copy import put, saved_host

IBBOND = str(Path(sys.executable).parent / "ibbond")
SHOW = """
import sys
import ibbond.cli.main
from ibbond.backend.kernel.bonds import KernelBackend
from ibbond.cli.bond import describe, facts_of
host = KernelBackend(sys.argv[1])
print("\\n".join(describe(facts_of(host, bond)) for bond in host.bonds()))
"""


def main(runs: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        root = four_bonds(Path(directory))
        commands = {
            "python alone": [sys.executable, "-c", "pass"],
            "import of the command line": [sys.executable, "-c", "import ibbond.cli.main"],
            "ibbond check, 4 bonds": [IBBOND, "check", "--root", str(root)],
            "bond show, 4 bonds": [sys.executable, "-c", SHOW, str(root)],
        }
        for name, command in commands.items():
            found = [measure(command) for _ in range(runs)]
            wall, cpu, memory = (statistics.median(column) for column in zip(*found, strict=True))
            print(f"{name:28} wall {wall * 1000:5.0f} ms  CPU {cpu * 1000:5.0f} ms  memory {memory / 1024:4.1f} MB")


def measure(command: list[str]) -> tuple[float, float, int]:
    begin = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, _, used = os.wait4(child.pid, 0)
    return time.perf_counter() - begin, used.ru_utime + used.ru_stime, used.ru_maxrss


def four_bonds(directory: Path) -> Path:
    root = saved_host(directory / "host")
    devices = root / "sys/devices/virtual/net"
    for name in ("bond1", "bond2", "bond3"):
        shutil.copytree(devices / "bond0", devices / name)
        (root / "sys/class/net" / name).symlink_to(f"../../devices/virtual/net/{name}")
    put(root, "sys/class/net/bonding_masters", "bond0 bond1 bond2 bond3")
    return root


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
