"""The MII monitor's table is complete, and its step does what the kernel's inspect does."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibbond.bonding.member import Link
from ibbond.bonding.miimon import MII_TABLE, step

DELAYS = {Link.UP: 3, Link.DOWN: 2}
NONE = {Link.UP: 0, Link.DOWN: 0}


def kernel_step(link: Link, up: bool, left: int, delay: dict[Link, int], hurry: bool) -> tuple[Link, int]:
    """`bond_miimon_inspect`, case by case as it stands in the specification."""
    if link is Link.UP:
        if up:
            return link, left
        link, left = Link.FAIL, delay[Link.UP]
    elif link is Link.DOWN:
        if not up:
            return link, left
        link, left = Link.BACK, delay[Link.DOWN]
    if link is Link.FAIL:
        if up:
            return Link.UP, left
        return (Link.DOWN, left) if left <= 0 else (link, left - 1)
    if not up:
        return Link.DOWN, left
    if hurry:
        left = 0
    return (Link.UP, left) if left <= 0 else (link, left - 1)


def test_every_case_is_in_the_table() -> None:
    assert set(MII_TABLE) == set(itertools.product(Link, (True, False)))


def test_once_the_delay_is_over_the_link_is_what_the_carrier_says() -> None:
    assert all(done is (Link.UP if carrier else Link.DOWN) for (_, carrier), (_, done) in MII_TABLE.items())


def test_nothing_happens_while_link_and_carrier_agree() -> None:
    assert step(Link.UP, True, 0, DELAYS) == (Link.UP, 0)
    assert step(Link.DOWN, False, 0, DELAYS) == (Link.DOWN, 0)


@pytest.mark.parametrize(
    ("link", "up", "left", "hurry"), list(itertools.product(Link, (True, False), range(4), (True, False)))
)
@pytest.mark.parametrize("delay", [DELAYS, NONE])
def test_step_is_the_kernels(link: Link, up: bool, left: int, hurry: bool, delay: dict[Link, int]) -> None:
    expected, ticks = kernel_step(link, up, left, delay, hurry)
    got, got_ticks = step(link, up, left, delay, hurry)
    assert got is expected
    if got in (Link.FAIL, Link.BACK):
        assert got_ticks == ticks


@given(st.lists(st.booleans(), max_size=40), st.integers(0, 5), st.integers(0, 5))
def test_a_link_is_never_up_without_carrier_for_longer_than_downdelay(carriers: list[bool], down: int, up: int) -> None:
    link, left, lost = Link.UP, 0, 0
    for carrier in carriers:
        link, left = step(link, carrier, left, {Link.UP: down, Link.DOWN: up})
        lost = 0 if carrier else lost + 1
        if lost > down:
            assert link is Link.DOWN
        if not carrier:
            assert link in (Link.FAIL, Link.DOWN)


@pytest.mark.parametrize("down", range(5))
def test_downdelay_counts_runs_after_the_run_that_saw_the_loss(down: int) -> None:
    link, left, runs = Link.UP, 0, 0
    while link is not Link.DOWN:
        link, left = step(link, False, left, {Link.UP: down, Link.DOWN: 0})
        runs += 1
    assert runs == down + 1
