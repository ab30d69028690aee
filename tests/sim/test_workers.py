"""The same seeds have the same results, on any worker."""

import os
from pathlib import Path

import pytest

from ibbond.errors import Refused
from ibbond.sim.explore import explore
from ibbond.sim.sweep import Axis, sweep
from ibbond.sim.workers import workers

TEXT = (Path(__file__).parents[2] / "scenarios" / "two_hosts.toml").read_text()


def test_processes_find_what_this_process_finds() -> None:
    here = sorted((v.seed, v.trace) for v in explore(TEXT, "two_hosts", range(3), count=0))
    assert here == sorted((v.seed, v.trace) for v in explore(TEXT, "two_hosts", range(3), count=2))


def test_a_cluster_finds_what_processes_find() -> None:
    distributed = pytest.importorskip("distributed", reason="Dask distributed is an extra: pip install ibbond[sweep]")
    axes = [Axis.parse("miimon=10,100")]
    with workers(1) as pool:
        here = sorted(sweep(pool, TEXT, "two_hosts", axes, 2, profile="kernel-6.1"), key=str)
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        workers(on=cluster.scheduler_address) as pool,
    ):
        there = sorted(sweep(pool, TEXT, "two_hosts", axes, 2, profile="kernel-6.1"), key=str)
    assert here == there


def test_no_one_there_is_refused() -> None:
    with pytest.raises(Refused, match=r"cannot run on tcp:"), workers(on="tcp://127.0.0.1:9"):
        pass


def test_a_worker_that_is_killed_is_an_error_that_says_so() -> None:
    with pytest.raises(Refused, match="a worker process was killed"), workers(2) as pool:
        pool.submit(os._exit, 1).result()
