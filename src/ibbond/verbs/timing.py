"""How long things take in the subnet.

All times are nanoseconds. With `Timing()` nothing takes time; `Timing.live()` is a lab's, whose packets must not wait
for a whole sweep; `Timing.simulated()` is what a scenario starts from.
"""

from dataclasses import dataclass
from typing import Self

from ibbond.machine import MS, SECOND, US


@dataclass(frozen=True, slots=True)
class Timing:
    """Delays of packets and agents, and the subnet manager's own clocks."""

    hop_ns: int = 0  # one cable with the port behind it
    agent_ns: int = 0  # an agent of a node thinks about an SMP or a performance query
    sa_ns: int = 0  # the subnet administrator thinks about a request
    sweep_hold_off_ns: int = 1 * MS  # from a trap to the sweep, so that one cut is one sweep
    light_sweep_ns: int = 10 * SECOND  # how often switches are asked whether something changed; 0 is never
    smp_timeout_ns: int = 20 * MS  # an SMP without an answer is sent again
    smp_tries: int = 4
    jobs_at_once: int = 0  # how many requests and sweeps a subnet manager begins at one moment; 0 is no limit
    smps_at_once: int = 0  # how many SMPs of a subnet manager are on the wire together; 0 is no limit
    standby_poll_ns: int = 250 * MS  # how often a standby subnet manager asks the master whether it lives
    standby_misses: int = 3  # this many silent polls in a row, and it takes over

    @classmethod
    def live(cls, *, built_in_manager: bool = True) -> Self:
        """A manager outside asks from its own process, by few SMPs at a time: its answers go at once."""
        return cls(agent_ns=5 * US, jobs_at_once=8, smps_at_once=4) if built_in_manager else cls()

    @classmethod
    def simulated(cls) -> Self:
        return cls(hop_ns=US, agent_ns=US, sa_ns=MS, smps_at_once=16)
