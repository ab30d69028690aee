"""What the kernel's driver is known to do badly, row by row, and the profiles that reproduce it.

A row says what the kernel does, since and until which version, what this driver does instead, and why. A profile names
the rows that it reproduces: `default` none, `kernel-6.1` and `kernel-6.12` those that version has, `linux-2.6.19` also
the four that the patches of 2007 repaired (each of the four can be left out of another profile too:
`Rules.of(..., without=...)`).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from ibbond.bonding.option import Version
from ibbond.errors import Refused

LATEST: Version = (7, 3)


def has_defect(version: Version, since: Version, until: Version | None, cured: tuple[Version, ...]) -> bool:
    """Whether a release has what came with `since` and went with `until`, and in a stable line with one of `cured`.

    Of a version without a third number, whether the newest release of its line has it.
    """
    if any(release[:2] == version[:2] and (len(version) < 3 or release <= version) for release in cured):
        return False
    return since <= version and (until is None or version < until)


@dataclass(frozen=True, slots=True)
class Quirk:
    """One known defect; `until` is the first version without it, None while it is still there.

    `cured` has the first stable releases that are known to have the cure too, one of each line that has it.
    """

    name: str
    kernel: str
    ours: str
    why: str
    since: Version = (2, 6)
    until: Version | None = None
    cured: tuple[Version, ...] = ()

    def in_kernel(self, version: Version) -> bool:
        """Whether that kernel has it; of a version without a third number, whether the newest stable release has."""
        return has_defect(version, self.since, self.until, self.cured)


_PATCHES = (
    Quirk(
        "dev_setup",
        kernel="the bond stays an Ethernet device whatever its members are: type 1, 6-byte address and broadcast",
        ours="the bond takes type, address length and broadcast address of its first member; mixed types are refused",
        why="multicast and broadcast addresses built by Ethernet's rules are meaningless on IPoIB",
        until=(2, 6, 24),
    ),
    Quirk(
        "set_mac_address",
        kernel="every member must accept the bond's address; a device that cannot is refused",
        ours="the bond takes the active member's address and announces it (fail_over_mac active)",
        why="an IPoIB address consists of a queue pair number and a port GID; it cannot be moved to another port",
        until=(2, 6, 24),
    ),
    Quirk(
        "allow_not_up_enslave",
        kernel=(
            "members can join only while the bond is up, when it has already joined its groups as an Ethernet device"
        ),
        ours="members can join a bond that is down or up, and a change of type maps all joined groups again",
        why="224.0.0.1 stays joined under an address that IPoIB devices cannot use, so its packets never arrive",
        until=(2, 6, 24),
    ),
    Quirk(
        "ipoib_neighbour",
        kernel=(
            "IPoIB keeps its path to a peer in the stack's neighbor entry, even if another device created that entry"
        ),
        ours="each member has its own paths, the bond has its own neighbor entries, and a failover drops stale ones",
        why="after a failover packets leave by the path of the dead member",
        until=(2, 6, 24),
    ),
)

_DEFECTS = (
    Quirk(
        "polled_links",
        kernel="a carrier change is seen at the next miimon, and never with miimon 0",
        ours="link_events is on: carrier changes are handled at once, and delays count from the event",
        why="up to miimon milliseconds of traffic are lost at every cut",
    ),
    Quirk(
        "announcements_burnt",
        kernel="the monitor run that fails over counts one announcement as sent, so num_grat_arp 2 sends one",
        ours="an announcement counts once it has been sent",
        why="if that frame is lost, the peer keeps the old address until its neighbor entry times out",
        until=(7, 0),
    ),
    Quirk(
        "announcements_lost_in_outage",
        kernel="after a total outage the announcement falls into the time before the bond's carrier is back",
        ours="announcements wait for the carrier",
        why="peers keep the dead member's address; with the default of one announcement, permanently",
    ),
    Quirk(
        "break_before_make",
        kernel="a planned switch drops the old member before the new one has joined any group",
        ours="the new member is prepared first (groups, paths), then the switch is made; 100 ms at most",
        why="on InfiniBand a join needs a response of the subnet administrator; multicast is lost until it arrives",
    ),
    Quirk(
        "neighbors_flushed",
        kernel="the new address of a failover empties the bond's whole ARP and ND cache",
        ours="entries stay in use; the first packet to each neighbor also solicits it, which carries the new address",
        why="the neighbors have not moved, and packets to all of them wait for answers",
    ),
    Quirk(
        "cold_standby",
        kernel="backups are in none of the bond's groups and know no paths; both are asked for after the failover",
        ours="backups have joined the bond's groups and know the paths to its neighbors before they are needed",
        why="until the subnet administrator has answered, multicast is lost and packets wait",
    ),
    Quirk(
        "late_answers",
        kernel="ARP and ND that wait for a path at the old member leave after the failover, with the old address",
        ours="they are dropped at the failover",
        why="neighbors use the address they received last, and send to the old member until they resolve again",
    ),
    Quirk(
        "no_handover",
        kernel="frames that are on their way to the old member at a switch are dropped on arrival",
        ours="the old member still receives unicast frames for handover_ms",
        why="a planned switch can be lossless",
    ),
    Quirk(
        "arp_of_ethernet_only",
        kernel="ARP validation accepts hardware type 1 only, so it never succeeds on IPoIB",
        ours="the hardware type must be the bond's own",
        why="arp_validate makes IPoIB members flap or never come up",
    ),
    Quirk(
        "ages_in_jiffies",
        kernel="the ARP monitor compares ages in ticks of the kernel's clock, half of an interval rounded down",
        ours="it compares them to the nanosecond",
        why="nothing is gained by rounding; at 250 Hz an age of two and a half intervals is up to 6 ms shorter",
    ),
    Quirk(
        "own_probes_count",
        kernel=(
            "a backup that receives the active member's own broadcast probes is considered up, whether they are "
            "answered or not"
        ),
        ours="such a probe counts for a backup once a target has answered the member that sent it",
        why="behind a dead uplink two members alternate forever, and members with a path to the target are not tried",
    ),
    Quirk(
        "equal_priority_moves",
        kernel="without a primary any re-run of the choice goes back to the first member that is up",
        ours="the active member stays while none has a higher priority",
        why="adding a third member moves the traffic of the other two",
        since=(6, 0),
    ),
    Quirk(
        "cleared_active_drops",
        kernel="clearing active_slave first leaves the bond without a member, even if the same one is chosen again",
        ours="a member that is still the best stays; another one is prepared and switched to",
        why="groups are left and joined again, and a failover is announced that did not happen",
    ),
    Quirk(
        "carrier_lost_in_downdelay",
        kernel="the bond loses its carrier as soon as its last member starts its downdelay",
        ours="a member that still carries the traffic keeps the carrier on",
        why="downdelay exists to bridge short losses",
    ),
    Quirk(
        "refusal_undresses_bond",
        kernel="a refused first member of another type leaves the bond down, of Ethernet type, or with a new address",
        ours="everything that can be known is checked before anything is changed",
        why="a refused request must change nothing",
    ),
    Quirk(
        "promiscuity_forgotten",
        kernel="a bond that returns to Ethernet loses PROMISC and ALLMULTI, though their users are still counted",
        ours="they stay",
        why="a capture on the bond stops seeing packets",
    ),
    Quirk(
        "mtu_limit_lost",
        kernel="a bond that returns to Ethernet has a maximum MTU of 1500 instead of 65535",
        ours="the maximum stays 65535",
        why="jumbo frames are refused afterwards",
    ),
    Quirk(
        "last_member_takes_bond",
        kernel="when the last InfiniBand device of a bond is unregistered, the bond is destroyed with it",
        ours="the bond stays, without members",
        why="a restart of the InfiniBand services loses the bond and its addresses",
        since=(2, 6, 24),
    ),
    Quirk(
        "random_address_of_six",
        kernel=(
            "a bond that lost its last member gets six random octets and keeps 14 octets of the old member's address"
        ),
        ours="the other 14 are zero",
        why="the port GID of a device that no longer exists must not be announced",
    ),
    Quirk(
        "member_address_ignored",
        kernel="a new address of the active member is not taken over with fail_over_mac active",
        ours="the bond follows it and announces it",
        why="a queue pair gets a new number when the member's driver restarts it",
    ),
    Quirk(
        "unlike_members_accepted",
        kernel="a member of another P_Key or scope is accepted; its group addresses carry the wrong P_Key",
        ours="a member whose broadcast address is not the bond's is refused",
        why="after a failover to it neither groups nor peers can be reached",
    ),
    Quirk(
        "follow_gives_duplicates",
        kernel="with fail_over_mac follow a later member that has the bond's own address keeps it",
        ours="it gets a made-up one",
        why="two members with one address confuse every switch",
        until=(7, 0),
        cured=((6, 12, 117),),  # recorded there; an earlier release of that line may have it
    ),
    Quirk(
        "first_run_locked_out",
        kernel="a monitor run that a request queues finds the lock still held by that request and retries 4 ms later",
        ours="it runs right after the request",
        why="nothing is gained by waiting",
    ),
    Quirk(
        "pending_run_kept",
        kernel="a shorter monitor interval takes effect only after the run that is already waiting",
        ours="the monitor runs at once",
        why="an operator who asks for 50 ms waits up to the old interval",
    ),
)

QUIRKS: dict[str, Quirk] = {quirk.name: quirk for quirk in (*_PATCHES, *_DEFECTS)}
PATCHES = frozenset(quirk.name for quirk in _PATCHES)


@dataclass(frozen=True, slots=True)
class Profile:
    """A named choice: which options exist (`kernel`), which defects are there, which defaults differ."""

    name: str
    kernel: Version
    defects: frozenset[str]
    defaults: Mapping[str, int] = field(default_factory=dict)


_KERNEL_DEFAULTS = {"link_events": 0, "handover_ms": 0}
_OF_6_1 = frozenset(quirk.name for quirk in _DEFECTS if quirk.in_kernel((6, 1, 192)))
_OF_6_12 = frozenset(quirk.name for quirk in _DEFECTS if quirk.in_kernel((6, 12, 117)))

PROFILES: dict[str, Profile] = {
    "default": Profile("default", LATEST, frozenset()),
    "kernel-6.1": Profile("kernel-6.1", (6, 1), _OF_6_1, _KERNEL_DEFAULTS),
    "kernel-6.12": Profile("kernel-6.12", (6, 12), _OF_6_12, _KERNEL_DEFAULTS),
    # 2.6.19 as far as the four patches go; for all else the behavior (and the options) of 6.1.
    "linux-2.6.19": Profile("linux-2.6.19", (6, 1), _OF_6_1 | PATCHES, _KERNEL_DEFAULTS),
}


def nearest_profile(version: Version) -> Profile:
    """The recorded kernel that is nearest to this one: the newest that is not newer, else the oldest."""
    recorded = sorted((p for p in PROFILES.values() if p.name.startswith("kernel-")), key=lambda p: p.kernel)
    return next((profile for profile in reversed(recorded) if profile.kernel <= version), recorded[0])


@dataclass(frozen=True, slots=True)
class Rules:
    """The profile that a bond follows: `rules.kernel("row")` asks whether the kernel's behavior applies."""

    profile: Profile
    defects: frozenset[str]

    @classmethod
    def of(cls, profile: str = "default", without: Collection[str] = ()) -> "Rules":
        """A profile, without some of the four patches. Refuses unknown names."""
        if profile not in PROFILES:
            raise Refused(
                f"cannot use profile {profile}",
                why="no profile has that name",
                fix=f"Use one of {', '.join(PROFILES)}",
            )
        if unknown := sorted(set(without) - PATCHES):
            raise Refused(
                f"cannot leave out {', '.join(unknown)}",
                why="it is not one of the patches of 2007",
                fix=f"Use one of {', '.join(sorted(PATCHES))}",
            )
        chosen = PROFILES[profile]
        return cls(chosen, chosen.defects | frozenset(without))

    def kernel(self, quirk: str) -> bool:
        assert quirk in QUIRKS, quirk
        return quirk in self.defects

    def default(self, option: str, table_value: int) -> int:
        return self.profile.defaults.get(option, table_value)
