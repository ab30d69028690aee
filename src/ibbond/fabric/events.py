"""What goes into the subnet machine and what comes out of it.

Ports are named `NODE/NUMBER` (`h1/1`, `s1/7`); a cable is named by either of its ends.
"""

from dataclasses import dataclass

from ibbond.verbs.reliable_verbs import Completion, Receive, Work
from ibbond.verbs.verbs import Datagram, ManagementDatagram, PortEventKind, SubnetLog


@dataclass(frozen=True, slots=True)
class Cut:
    """The cable at this port is pulled: both ports leave Active in one step, what is in flight is lost."""

    port: str


@dataclass(frozen=True, slots=True)
class Mend:
    """The cable is plugged again: both ports train to Init, the subnet manager does the rest."""

    port: str


@dataclass(frozen=True, slots=True)
class MakeLossy:
    """From now on the cable loses this share of its packets (0..1) by the subnet's seeded draw."""

    port: str
    loss: float


@dataclass(frozen=True, slots=True)
class KillSwitch:
    """A switch dies: all its links go down and nothing answers there."""

    node: str


@dataclass(frozen=True, slots=True)
class ReviveSwitch:
    """The switch is back with empty tables, its links train to Init."""

    node: str


@dataclass(frozen=True, slots=True)
class KillAdapter:
    """A host channel adapter is pulled out of its slot: DEVICE_FATAL at each port, then all its links go down."""

    node: str


@dataclass(frozen=True, slots=True)
class ReviveAdapter:
    """It is plugged in again: its links train to Init. Its GUIDs and the queue pairs of drivers are as before."""

    node: str


@dataclass(frozen=True, slots=True)
class KillSubnetManager:
    """The built-in subnet manager and administrator stop answering."""


@dataclass(frozen=True, slots=True)
class ReviveSubnetManager:
    """They start again, sweep, and ask every port to register again (ClientReregister)."""


@dataclass(frozen=True, slots=True)
class SetPkeys:
    """The subnet manager writes this P_Key table to the port (index 0 first), by SMP."""

    port: str
    pkeys: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ChangeLid:
    """The subnet manager gives the port another LID, by SMP."""

    port: str
    lid: int


@dataclass(frozen=True, slots=True)
class Reregister:
    """The subnet manager sets ClientReregister on the port, by SMP."""

    port: str


@dataclass(frozen=True, slots=True)
class SendDatagram:
    """The HCA port emits a UD packet."""

    port: str
    datagram: Datagram


@dataclass(frozen=True, slots=True)
class SendMad:
    """A program at the port sends a MAD (QP0 by direction of the class, else QP1)."""

    port: str
    mad: ManagementDatagram


@dataclass(frozen=True, slots=True)
class SetIsSm:
    """An external subnet manager (OpenSM) starts or stops at the port: CapabilityMask.IsSM."""

    port: str
    on: bool


@dataclass(frozen=True, slots=True)
class Post:
    """A program posts work to a reliable queue pair of the port's adapter."""

    port: str
    qpn: int
    request: Work | Receive


@dataclass(frozen=True, slots=True)
class FailQueuePair:
    """A program moves a reliable queue pair to the error state: what was posted is flushed."""

    port: str
    qpn: int


SubnetEvent = (
    Cut
    | Mend
    | MakeLossy
    | KillSwitch
    | ReviveSwitch
    | KillAdapter
    | ReviveAdapter
    | KillSubnetManager
    | ReviveSubnetManager
    | SetPkeys
    | ChangeLid
    | Reregister
    | SendDatagram
    | SendMad
    | SetIsSm
    | Post
    | FailQueuePair
)


@dataclass(frozen=True, slots=True)
class PortEvent:
    """Effect: the HCA raises an asynchronous event; the port's facts are read from `Subnet.port`."""

    port: str
    kind: PortEventKind


@dataclass(frozen=True, slots=True)
class DatagramArrived:
    """Effect: a UD packet passed P_Key, Q_Key and queue-pair checks at the port, and is for queue pair `qpn`."""

    port: str
    datagram: Datagram
    qpn: int = 0


@dataclass(frozen=True, slots=True)
class MadArrived:
    """Effect: a MAD for software at the port: at QP1 an SA answer, a Report, a CM message; at QP0 an SMP.

    An SMP comes as to a subnet manager that is not built in: answers to what it sent, traps, SMInfo requests.
    """

    port: str
    mad: ManagementDatagram


@dataclass(frozen=True, slots=True)
class Captured:
    """Effect: a frame from LRH to VCRC passed a captured port, out of it (`sent`) or into it."""

    port: str
    frame: bytes
    sent: bool


@dataclass(frozen=True, slots=True)
class WorkDone:
    """Effect: a work request of a reliable queue pair has completed."""

    port: str
    qpn: int
    completion: Completion


@dataclass(frozen=True, slots=True)
class MessageArrived:
    """Effect: a message has come to a reliable queue pair of a driver; acknowledged already."""

    port: str
    qpn: int
    payload: bytes
    offload: bytes = b""


SubnetEffect = PortEvent | DatagramArrived | MadArrived | SubnetLog | Captured | WorkDone | MessageArrived
