"""Users of RDMA CM lose their connection at a failover, resolve the same IP again, reconnect over the new member."""

import pytest

from ibbond.lab.rdma_session import simulate
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
