"""How peers are notified of a failover: peer notifications, their number and spacing, and group reports.

Read first: `bond_should_notify_peers` and the use of `send_peer_notif` in the kernel's monitors, and the rows
`announcements_burnt` and `announcements_lost_in_outage` of `quirks`. In our way of counting n means n sent: each is
counted when it leaves, the first at once, and all wait while the bond has no carrier. Left out: the frames themselves.
"""

from ibbond.bonding.effects import NotifyPeers, ResendReports
from ibbond.bonding.state import JIFFY, BondTimer, State
from ibbond.machine import MS
from ibbond.netdev.device import NetdevEvent

DEFAULT_SPACING = 100 * MS  # where no monitor gives a rhythm
REPORT_SPACING = 200 * MS


def counts_as_kernel(state: State) -> bool:
    return state.rules.kernel("announcements_burnt")


def start(state: State) -> None:
    """Another member is active: begin to count again."""
    if not state.running:
        return
    state.announcements_left = state.values.num_peer_notif
    if counts_as_kernel(state):
        state.announcements_left *= max(1, state.values.peer_notif_delay)
    elif state.announcements_left:
        state.announce_at = state.now


def due(left: int, delay: int) -> bool:
    """The kernel's counter counts runs of the monitor; at each multiple of the delay one is due."""
    return left > 0 and left % max(1, delay) == 0


def is_due(state: State) -> bool:
    """`bond_should_notify_peers`: not before the stack has seen the active member's carrier."""
    if state.active_member is not None and state.active_member.device.link_watch_pending:
        return False
    return due(state.announcements_left, state.values.peer_notif_delay) and _can_send(state)


def at_change(state: State) -> None:
    """The kernel's rule, right after the change."""
    if counts_as_kernel(state) and state.running and is_due(state):
        state.announcements_left -= 1
        _send(state)


def after_mii_run(state: State, was_due: bool) -> None:
    """The kernel's rule, after a run of the MII monitor: one is counted whether it was sent or not."""
    if counts_as_kernel(state) and state.announcements_left:
        state.announcements_left -= 1
        if was_due:
            _send(state)


def after_arp_run(state: State, was_due: bool) -> None:
    """The kernel's rule, after a run of the ARP monitor."""
    if counts_as_kernel(state) and was_due:
        state.announcements_left -= 1
        _send(state)


def settle(state: State) -> None:
    """Our rule, after each event: send what is due as soon as it can leave."""
    at = state.announce_at
    if at is None or counts_as_kernel(state):
        return
    if not state.announcements_left:
        state.announce_at = None
    elif at <= state.now and _can_send(state):
        state.announcements_left -= 1
        state.announce_at = state.now + _spacing(state) if state.announcements_left else None
        _send(state)


def deadline(state: State) -> int | None:
    """When our rule wants to send next; None while nothing can leave."""
    return state.announce_at if state.announce_at is not None and _can_send(state) else None


def stop(state: State) -> None:
    """The bond goes down."""
    state.announcements_left = 0
    state.announce_at = None
    state.timers.stop(BondTimer.REPORTS)


def start_reports(state: State) -> None:
    state.reports_left = state.values.resend_igmp
    if state.timers.get(BondTimer.REPORTS) is None:
        state.timers.set(BondTimer.REPORTS, state.now + JIFFY)


def send_reports(state: State) -> None:
    """`bond_resend_igmp_join_requests_delayed`."""
    state.timers.stop(BondTimer.REPORTS)
    state.emit(ResendReports())
    state.device.notify(NetdevEvent.RESEND_IGMP)
    if state.reports_left > 1:
        state.reports_left -= 1
        state.timers.set(BondTimer.REPORTS, state.now + REPORT_SPACING)


def _can_send(state: State) -> bool:
    return state.running and state.device.carrier and state.active_member is not None


def _send(state: State) -> None:
    state.emit(NotifyPeers())
    state.device.notify(NetdevEvent.NOTIFY_PEERS)


def _spacing(state: State) -> int:
    values = state.values
    return (
        values.peer_notif_delay * values.miimon * MS or (values.miimon or values.arp_interval) * MS or DEFAULT_SPACING
    )
