"""The rates that `top` shows between two samples."""

from ibbond.machine import SECOND
from ibbond.ops.top import BondSample, CableSample, Counts, Failover, Sample, picture


def sample(seconds: int, active: str, ib0: Counts, ib1: Counts, packets: int) -> Sample:
    bond = BondSample(active, {"ib0": ("up", ib0), "ib1": ("up", ib1)}, Failover(SECOND, "none -> ib0"))
    return Sample(seconds * SECOND, {"h1/bond0": bond}, {"h1/ib0": CableSample(("h1/ib0", "s1/1"), "up", packets)})


def test_rates_are_per_second_and_the_active_member_is_marked() -> None:
    before = sample(2, "ib0", Counts(100, 200, 1000, 2000), Counts(), 50)
    after = sample(4, "ib0", Counts(110, 240, 1200, 2600), Counts(), 150)
    seen = picture(before, after)
    [bond] = seen.bonds
    first, second = bond.members
    assert (first.rx_packets, first.tx_packets, first.rx_bytes, first.tx_bytes) == (5, 20, 100, 300)
    assert (first.active, second.active) == (True, False)
    assert (bond.failover, bond.failover_age_ms) == ("none -> ib0", 3000)
    assert seen.cables[0].packets == 50


def test_a_counter_that_was_reset_counts_from_zero() -> None:
    before = sample(1, "ib0", Counts(rx_packets=1000), Counts(), 1000)
    after = sample(2, "ib0", Counts(rx_packets=10), Counts(), 7)
    seen = picture(before, after)
    assert seen.bonds[0].members[0].rx_packets == 10
    assert seen.cables[0].packets == 7


def test_a_member_that_is_new_has_no_rate_yet_where_its_bond_is_new() -> None:
    after = sample(2, "ib0", Counts(rx_packets=1000), Counts(), 10)
    assert picture(Sample(SECOND, {}), after).bonds[0].members[0].rx_packets == 0
