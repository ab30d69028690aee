"""The cases, steps and observations that our driver cannot have, each with its reason; nothing else is skipped.

Read first: tests/golden/kernel-6.1/README.md, "What counts as passed". A skip needs a device type or an observation
that cannot exist here; what we merely do otherwise is a failure.
"""

SKIPS: dict[str, str] = {}
"""Name of a case -> why it is skipped."""
