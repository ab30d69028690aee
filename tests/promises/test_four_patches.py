"""Each of the four changes of 2007 is a row of one table, in the profile of the kernel before them."""

import pytest

from ibbond.bonding.quirks import PROFILES, QUIRKS
from tests.promises.story import arrived

PATCHES = ("dev_setup", "set_mac_address", "allow_not_up_enslave", "ipoib_neighbour")


@pytest.mark.parametrize("patch", PATCHES)
def test_a_row_says_what_why_and_instead(patch: str) -> None:
    row = QUIRKS[patch]
    assert row.kernel
    assert row.ours
    assert row.why


def test_the_old_profile_has_them_all() -> None:
    assert set(PATCHES) <= PROFILES["linux-2.6.19"].defects
    assert not set(PATCHES) & PROFILES["default"].defects


@pytest.mark.parametrize("patch", PATCHES)
def test_something_breaks_without_it(patch: str) -> None:
    assert not arrived(patch) or min(arrived(patch).values()) < 0.9
