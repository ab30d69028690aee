"""A running lab as a sample for `ops.top`: who is active, what members and cables have carried.

Read first: `ops.top`; `lab.control.sample` for what the lab answers.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from ibbond.backend.control_socket import Control
from ibbond.ops.top import BondSample, CableSample, Counts, Failover, Sample


def lab_sample(control: Control, hosts: Sequence[str] = ()) -> Sample:
    """A look at a lab; of its cables those that end at the chosen hosts, or all."""
    return sample_of(asked(control), hosts)


def asked(control: Control) -> Mapping[str, Any]:
    """The lab's answer, for `sample_of`."""
    answer = control.ask("sample")
    assert isinstance(answer, dict)
    return answer


def sample_of(answer: Mapping[str, Any], hosts: Sequence[str] = ()) -> Sample:
    """The sample in an answer that came just now."""
    bonds = {
        name: _bond_sample(bond)
        for name, bond in answer["bonds"].items()
        if not hosts or name.partition("/")[0] in hosts
    }
    cables = {
        cable["name"]: CableSample(tuple(cable["ends"]), cable["state"], cable["packets"])
        for cable in answer["cables"]
        if not hosts or {end.partition("/")[0] for end in cable["ends"]} & set(hosts)
    }
    late = [(since, until) for since, until in answer["late"]["spans"]]
    return Sample(time.monotonic_ns(), bonds, cables, late)


def _bond_sample(bond: Mapping[str, Any]) -> BondSample:
    members = {name: (facts["state"], Counts(**facts["statistics"])) for name, facts in bond["members"].items()}
    last = bond["last_failover"]
    return BondSample(bond["active"], members, Failover(last["at_ns"], last["detail"]) if last else None)
