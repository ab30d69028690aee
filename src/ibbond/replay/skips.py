"""The cases, steps and observations that our driver cannot have, each with its reason; nothing else is skipped.

Read first: tests/golden/kernel-6.1/README.md, "What counts as passed". A skip needs a device type or an observation
that cannot exist here; what we merely do otherwise is a failure.
"""

_LACP_CLOCK = (
    "802.3ad with members on a bond that is up: on the recording machine a run of its 100 ms clock fell between two"
    " steps that take no virtual time, so the aggregator and its carrier were there already"
)
SKIPS: dict[str, str] = {
    "enslave/ether/infiniband-tun-down/802.3ad/bond-up": _LACP_CLOCK,
    "enslave/ether/ether-down/802.3ad/bond-up": _LACP_CLOCK,  # of 6.12; the recording of 6.1 passes
}
"""Name of a case -> why it is skipped where it fails."""
