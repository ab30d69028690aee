"""TCP, UDP, IP multicast and ICMP survive fail-over and fail-back, again and again.

Here in the virtual world, where every lost probe counts; tests/live/test_demo.py does it with real programs.
"""

from ibbond.demo.measure import recording_from, summarize
from ibbond.sim.demo import record

ROUNDS = 2


def test_all_four_protocols_survive_every_move() -> None:
    summary = summarize(recording_from(record(rounds=ROUNDS)))
    assert summary.survived
    assert {row.protocol for row in summary.protocols} == {"icmp", "udp", "tcp", "multicast"}
    assert len(summary.recording.moves) == ROUNDS * 4
    for row in summary.protocols:
        failover, failback = row.failover.as_json(), row.failback.as_json()
        assert failback["lost_max"] == 0, f"{row.protocol} lost {failback} at a fail-back"
        limit = 250 if row.protocol == "tcp" else 12  # TCP's retransmission timeout is in its figure
        assert float(str(failover["outage_ms_max"])) <= limit, f"{row.protocol} was out for {failover}"
