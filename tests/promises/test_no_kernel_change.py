"""Nothing in a kernel has to change: the driver is user space, and the checker knows the kernels of today."""

import sys

from story import bond, two_hosts

from ibbond.bonding.quirks import QUIRKS


def test_the_driver_runs_without_any_kernel() -> None:
    """A whole world with its bonds is built and run in this process, with nothing of the operating system."""
    assert bond(two_hosts()).active == "ib0"
    assert not {name for name in sys.modules if name.startswith("ibbond.host")}


def test_known_defects_name_the_kernels_that_have_them() -> None:
    assert any(quirk.in_kernel((6, 1)) for quirk in QUIRKS.values())
