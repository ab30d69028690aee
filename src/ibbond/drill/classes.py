"""The classes of drills as a table: what each does, what it tests and what it does not, and which phases it shows.

Read first: `drill.phases`. A new class is a new row here and a row of commands in each world that can do it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from ibbond.drill.phases import Phase

ANSWER = (Phase.ACTIVE, Phase.ADDRESS, Phase.ANNOUNCEMENT, Phase.NEIGHBOR, Phase.FIRST_PACKET)
DETECTION = (Phase.PORT, Phase.CARRIER, Phase.VERDICT)


class Traffic(enum.Enum):
    """What the fault means for the traffic over the bond."""

    STOPS = "stops until the bond has moved it"
    MOVES = "is moved by request"
    SUFFERS = "loses a share of its packets; nothing moves"
    GOES_ON = "goes on"


@dataclass(frozen=True, slots=True)
class DrillClass:
    """One way to make a bond fail. `tests` and `spares` are sentences of the report."""

    name: str
    title: str
    tests: str
    spares: str
    traffic: Traffic
    detection: tuple[Phase, ...] = ()  # what shows it to the bond
    silent: bool = False  # the carrier stays: only an ARP monitor sees it
    is_gentle: bool = True  # part of a drill without --class

    def failure_phases(self, *, is_noticed: bool = True) -> tuple[Phase, ...]:
        """The phases that the failure must show; `is_noticed` is False where no monitor of the bond can see it."""
        if self.traffic in (Traffic.SUFFERS, Traffic.GOES_ON):
            return (Phase.CAUSE,)
        if not is_noticed:
            return (Phase.CAUSE, Phase.FIRST_PACKET)
        return (Phase.CAUSE, *self.detection, *ANSWER)

    def reversion_phases(self, *, returns: bool, is_noticed: bool = True) -> tuple[Phase, ...]:
        """The phases of the undo; `returns` says that traffic goes back to the member that had it before."""
        if self.traffic is Traffic.MOVES:
            return (Phase.CAUSE, *ANSWER, Phase.REDUNDANCY)
        detection = self.detection if is_noticed else ()
        return (Phase.CAUSE, *detection, *(ANSWER if returns else ()), Phase.REDUNDANCY)


RDMA_LIVES = "RDMA sessions: the port stays Active"
CLASSES = {
    row.name: row
    for row in (
        DrillClass(
            "planned-switch",
            "the bond is switched to another member",
            "the switch itself: address, announcement, the peers' neighbor entries",
            "failure detection: no monitor is involved",
            Traffic.MOVES,
        ),
        DrillClass(
            "admin-down",
            "the active member is set down (ip link set down)",
            "the link monitor of the bond and the IP layer; P_Key children go down with it",
            f"{RDMA_LIVES}; a pulled cable would end them",
            Traffic.STOPS,
            (Phase.CARRIER, Phase.VERDICT),
        ),
        DrillClass(
            "port-disabled",
            "the port of the active member is disabled by an SMP to itself",
            "loss of the link at the adapter: IPoIB and RDMA, as with a pulled cable",
            "detection by the far end: the adapter notices first",
            Traffic.STOPS,
            DETECTION,
        ),
        DrillClass(
            "far-end-disabled",
            "the switch's end of the active cable is disabled through another port",
            "loss of the link at the far end, the closest to a pulled cable",
            "nothing",
            Traffic.STOPS,
            DETECTION,
        ),
        DrillClass(
            "cut",
            "the cable of the active member is pulled",
            "loss of the link at both ends",
            "nothing",
            Traffic.STOPS,
            DETECTION,
        ),
        DrillClass(
            "switch-death",
            "the switch of the active member dies",
            "loss of the link of all hosts on that switch at once, and rerouting",
            "nothing",
            Traffic.STOPS,
            DETECTION,
        ),
        DrillClass(
            "adapter-removed",
            "the adapter of the active member is removed",
            "removal of the device by its driver; the bond has one member less until it is added again",
            "members on other adapters",
            Traffic.STOPS,
            DETECTION,
        ),
        DrillClass(
            "pkey-taken",
            "the subnet manager removes the P_Key from the active member's port",
            "the P_Key event of the port and the loss of the partition",
            "the physical link, and other partitions of the port",
            Traffic.STOPS,
            DETECTION,
        ),
        DrillClass(
            "silent-death",
            "all packets of the active member are dropped while its carrier stays on",
            "detection of a dead path behind a live link: the ARP monitor can, miimon cannot",
            "every link event",
            Traffic.STOPS,
            (Phase.VERDICT,),
            silent=True,
        ),
        DrillClass(
            "loss",
            "the cable of the active member loses a fifth of its packets",
            "the cost of a bad cable, which no monitor of the bond detects",
            "the link",
            Traffic.SUFFERS,
        ),
        DrillClass(
            "manager-away",
            "the subnet manager stops answering",
            "whether traffic and neighbors depend on it",
            "existing paths, groups and ports",
            Traffic.GOES_ON,
        ),
    )
}
REVERSION = "reversion"


def reversion_name(name: str) -> str:
    """What a class's reversion is called in reports."""
    return f"{name} {REVERSION}"
