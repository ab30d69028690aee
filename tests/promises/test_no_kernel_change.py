"""Nothing in a kernel has to change: the driver is user space, and the checker knows the kernels of today."""

import subprocess
import sys
from pathlib import Path

from ibbond.bonding.quirks import QUIRKS

A_WORLD = """
import sys
sys.path.insert(0, sys.argv[1])
from tests.promises.story import bond, two_hosts
assert bond(two_hosts()).active == "ib0"
assert not [name for name in sys.modules if name.startswith("ibbond.host")]
"""


def test_the_driver_runs_without_any_kernel() -> None:
    """A whole world with its bonds is built and run in a process that imports nothing of the operating system's."""
    subprocess.run([sys.executable, "-c", A_WORLD, str(Path(__file__).parents[2])], check=True, timeout=300)


def test_known_defects_name_the_kernels_that_have_them() -> None:
    assert any(quirk.in_kernel((6, 1)) for quirk in QUIRKS.values())
