"""Noticing that the loop ran late (`host.lateness`)."""

from ibbond.host.lateness import LATE_NS, SLEPT_NS, Lateness
from ibbond.machine import MS


def test_a_span_lasts_until_the_loop_has_caught_up() -> None:
    late = Lateness()
    late.ran(100 * MS, 100 * MS + LATE_NS - 1)
    assert (late.worst_ns, late.since) == (0, None)
    late.ran(200 * MS, 500 * MS)
    late.ran(250 * MS, 501 * MS)
    late.waited(SLEPT_NS - 1, 502 * MS)
    assert not late.spans
    late.waited(SLEPT_NS, 510 * MS)
    assert (late.worst_ns, list(late.spans), late.since) == (300 * MS, [(200 * MS, 510 * MS)], None)
    late.clear()
    assert (late.worst_ns, list(late.spans)) == (0, [])
