"""The unnamed companion patch: without it IPoIB keeps paths on the stack's neighbors, which outlive the device."""

from tests.promises.story import arrived


def test_with_the_patch_left_out_traffic_stays_on_the_dead_path() -> None:
    shares = arrived("ipoib_neighbour")
    assert shares["udp"] < 0.9
    assert shares["icmp"] < 0.9
    assert shares["multicast"] > 0.99, "groups have no neighbor"
