"""Users of RDMA CM lose their connection at a failover, resolve the same IP again, reconnect over the new member."""

import pytest

from ibbond.demo.measure import recording_from, summarize
from ibbond.demo.rdma_session import Beside, simulate
from ibbond.sim.demo import record
from ibbond.topology.default import TWO_HOSTS


@pytest.mark.parametrize("heed", [True, False])
def test_a_block_session_comes_back_with_every_write_done_once(heed: bool) -> None:
    report = simulate(TWO_HOSTS, "h1", "h2", failovers=2, heed_address_change=heed)
    assert report["verified"]
    assert (report["writes_lost"], report["writes_doubled"], report["refused"]) == (0, 0, [])
    assert int(str(report["writes"])) > 800
    failovers = report["failovers"]
    assert isinstance(failovers, list)
    ours, theirs = failovers
    assert ours["addr_change_ms"] is not None, "our bond failed over: ADDR_CHANGE"
    assert theirs["addr_change_ms"] is None, "the peer's failover changes none of our addresses"
    assert ours["sign"] == ("ADDR_CHANGE" if heed else "RETRY_EXCEEDED")
    for failover in failovers:
        assert failover["failover_ms"] <= failover["error_seen_ms"] <= failover["resolved_ms"]
        assert failover["resolved_ms"] <= failover["reconnected_ms"] <= failover["first_io_ms"]
        assert failover["reconnected_ms"] - failover["failover_ms"] < 100


def test_beside_the_other_traffic_it_survives_every_move() -> None:
    summary = summarize(recording_from(record(rounds=1, beside=Beside())))
    facts = summary.as_json(None)
    session = facts["rdma"]
    assert summary.survived
    assert isinstance(session, dict)
    assert (session["writes_lost"], session["writes_doubled"], session["verified"]) == (0, 0, True)
    assert [row["what"] for row in session["failovers"]].count("failback") == 2
    assert session["failover"]["outage_ms_max"] < 100
    assert "rdma" not in summarize(recording_from(record(rounds=1))).as_json(None)
