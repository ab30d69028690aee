"""The built-in subnet manager: sweeps the subnet, gives LIDs, writes routes, brings ports up, answers traps.

Read first: InfiniBand Architecture volume 1, chapter 14; its states are the table in `manager_states`, the sweep itself
is in `sweep`, questions to the administrator in `subnet_administrator`, watching the master in `standby`. It knows the
subnet only through MADs at its own port, as OpenSM does. Left out: LMC above zero, quality of service, partition
enforcement in switches.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

from ibbond.errors import Malformed
from ibbond.machine import SECOND, earliest
from ibbond.manager.directory import Directory
from ibbond.manager.groups import Groups
from ibbond.manager.manager_states import MANAGER_TABLE, SM_INFO_STATE, ManagerInput, ManagerReaction, ManagerState
from ibbond.manager.reliable_answers import ReliableAnswers
from ibbond.manager.smp_client import TRANSACTION_BASE, SmpClient, Task, directed
from ibbond.manager.standby import StandbyWatch, Verdict
from ibbond.manager.subnet_administrator import Answer, SubnetAdministrator
from ibbond.manager.subnet_config import SubnetConfig
from ibbond.manager.sweep import Sweeper
from ibbond.verbs.timing import Timing
from ibbond.verbs.verbs import GSI_QPN, ManagementDatagram, SubnetLog
from ibbond.wire.mad import RESPONSE, ManagementClass, Method, Notice, Status, gid_details
from ibbond.wire.sa import SA_DATA_BYTES, SINGLE, RmppType, SaAttribute, SaMad
from ibbond.wire.smp import SmControl, SmInfo, Smp, SmpAttribute, SmState

MAX_BACK_OFF = 256
COMPETITION_NS = SECOND  # after which another manager that wrote here has found out that it must yield
TRAP_GID_IN_SERVICE, TRAP_GID_OUT_OF_SERVICE = 64, 65
TRAP_GROUP_CREATED, TRAP_GROUP_DELETED = 66, 67

SmEffect = ManagementDatagram | SubnetLog


class SubnetManager:
    """One manager at one port (`guid`), master or standby. Methods return what it sends and says, in order.

    `rank` orders the standbys: the lowest takes over first.
    """

    def __init__(self, guid: int, timing: Timing, config: SubnetConfig, rank: int = 0) -> None:
        self.guid = guid
        self.config = config
        self.state = ManagerState.NOT_ACTIVE
        self.groups = Groups()
        for partition in config.partitions:
            if partition.ipoib:
                self.groups.add_broadcast(partition)
        self.directory = Directory()
        self.administrator = SubnetAdministrator(self.directory, self.groups)
        self.sweeper = Sweeper(guid, config, self.groups, self.directory)
        self.sweeps = 0
        self._timing = timing
        self._watch = StandbyWatch(timing, rank)
        self._poll = 0  # the transaction of the last question to the master
        self._tables = ReliableAnswers()
        self._conversation = SmpClient(timing.smp_timeout_ns, timing.smp_tries, timing.smps_at_once)
        self._jobs: deque[Callable[[], Task]] = deque()
        self._requests: deque[tuple[int, ManagementDatagram, SaMad]] = deque()
        self._begun = (0, 0)  # the moment at which jobs were begun last, and how many
        self._resume_at: int | None = None  # when the next ones may be begun
        self._out: list[SmEffect] = []
        self._sweep_at: int | None = None
        self._light_at: int | None = None
        self._back_off = 1  # how many SMP timeouts to wait before a sweep that found silence is done again
        self._yielding = False
        self._competition_until: int | None = None  # until then sweeps trust nothing: another manager has written here
        self._activity = 0
        self._transaction = TRANSACTION_BASE | 1 << 40
        self._now = 0

    @property
    def alive(self) -> bool:
        """Whether the software runs (SMInfo state other than NOT_ACTIVE)."""
        return self.state is not ManagerState.NOT_ACTIVE

    @property
    def is_master(self) -> bool:
        """Whether it manages the subnet (SMInfo state MASTER, IBTA 14.4.1)."""
        return self.state is ManagerState.MASTER

    def deadline(self) -> int | None:
        return earliest(
            self._sweep_at,
            self._light_at,
            self._resume_at,
            self._watch.deadline(),
            self._conversation.deadline(),
            self._requests[0][0] if self._requests else None,
        )

    def start(self, now: int) -> list[SmEffect]:
        """Become master, knowing nothing of members and services: sweep, and have every port register again."""
        self._now = now
        self._on(ManagerInput.START)
        return self._work()

    def stand_by(self, now: int) -> list[SmEffect]:
        """Watch a master that is elsewhere."""
        self._now = now
        self._on(ManagerInput.STAND_BY)
        return self._work()

    def stop(self) -> None:
        """The manager's process dies; the subnet keeps its configuration."""
        self._on(ManagerInput.STOP)

    def _on(self, event: ManagerInput) -> ManagerReaction:
        """Do what the table says, and say what that was."""
        reaction, self.state = MANAGER_TABLE[self.state, event]
        match reaction:
            case ManagerReaction.BEGIN:
                self._forget_work()
                self.administrator.clear()
                self.sweeper.resync()
                self._jobs.append(self._sweep)
                self._out = self._work()
            case ManagerReaction.WATCH:
                self._forget_work()
                self._watch.begin(self._now)
            case ManagerReaction.END:
                self._forget_work()
            case ManagerReaction.ASK_AT_ONCE:
                self._watch.hurry(self._now)
            case ManagerReaction.COMPETE:
                self._competition_until = self._now + COMPETITION_NS
                self._schedule_sweep()
            case ManagerReaction.SWEEP | ManagerReaction.REPRESS:
                self._schedule_sweep()
            case ManagerReaction.IGNORE:
                pass
        return reaction

    def _forget_work(self) -> None:
        self._watch.end()
        self._conversation.stop()
        self._jobs.clear()
        self._requests.clear()
        self._sweep_at = self._light_at = self._resume_at = None

    def handle(self, now: int, mad: ManagementDatagram) -> list[SmEffect]:
        """A MAD came to QP0 or QP1 of the manager's port; what cannot be read is dropped."""
        if not self.alive:
            return []
        self._now = now
        try:
            if mad.mad[1] == ManagementClass.SUBNET_ADMINISTRATION:
                self._administration(mad)
            else:
                self._management(mad, Smp.parse(mad.mad))
        except Malformed as why:
            self._out.append(SubnetLog(f"dropped a malformed MAD: {why}", "subnet manager"))
        return self._work()

    def tick(self, now: int, own_lid: int, master_lid: int) -> list[SmEffect]:
        """Time has come; the LIDs are what PortInfo of the manager's own port says."""
        self._now = now
        self._watch_master(own_lid, master_lid)
        self._send_smps(self._conversation.tick(now))
        while self._requests and self._requests[0][0] <= now:
            _, mad, request = self._requests.popleft()
            self._jobs.append(partial(self._serve, mad, request))
        if self._sweep_at is not None and now >= self._sweep_at:
            self._sweep_at = None
            self._jobs.append(self._sweep)
        if self._resume_at is not None and now >= self._resume_at:
            self._resume_at = None
        if self._light_at is not None and now >= self._light_at:
            self._light_at = now + self._timing.light_sweep_ns
            self._jobs.append(self._light_sweep)
        return self._work()

    def changed_nearby(self, now: int) -> list[SmEffect]:
        """A link of the manager's own node changed: a master sweeps, a standby asks whether its master lives."""
        self._now = now
        self._on(ManagerInput.LINK_CHANGED)
        return self._work()

    def lost_mastership(self, now: int) -> None:
        """Another manager wrote its LID to our port: look at everything, and find out who has to yield."""
        self._now = now
        self._on(ManagerInput.OVERRULED)

    def sweep_now(self, now: int) -> list[SmEffect]:
        """The operator changed the configuration."""
        self._now = now
        self._jobs.append(self._sweep)
        return self._work()

    def reregister(self, now: int, guid: int) -> list[SmEffect]:
        """Set ClientReregister on one port."""
        self._now = now
        self._jobs.append(partial(self.sweeper.reregister, guid))
        return self._work()

    def owns(self, transaction: int) -> bool:
        """An answer with this transaction id is for the manager, not for other software at its port."""
        return transaction >= TRANSACTION_BASE

    def _work(self) -> list[SmEffect]:
        """Begin the next jobs until one has to wait, and hand out what was said meanwhile."""
        while self._jobs and not self._conversation.busy and self._may_begin():
            self._send_smps(self._conversation.start(self._now, self._jobs.popleft()()))
        if self._yielding:
            self._yielding = False
            self._on(ManagerInput.BETTER_MASTER)
        out, self._out = self._out, []
        return out

    def _may_begin(self) -> bool:
        """So many jobs at one moment: the next ones must not keep a loop that has packets to move meanwhile."""
        limit, (moment, begun) = self._timing.jobs_at_once, self._begun
        if not limit:
            return True
        begun = begun if moment == self._now else 0
        if begun >= limit:
            self._resume_at = self._now + max(1, self._timing.agent_ns)
            return False
        self._begun, self._resume_at = (self._now, begun + 1), None
        return True

    def _send_smps(self, mads: Iterable[bytes]) -> None:
        self._out += [directed(mad) for mad in mads]

    def _management(self, mad: ManagementDatagram, smp: Smp) -> None:
        if smp.transaction_id == self._poll and smp.method == Method.GET_RESP and not smp.status:
            if SmInfo.parse(smp.data).state == SmState.MASTER:
                self._watch.answered(self._now)
        elif smp.returning or smp.method == Method.GET_RESP:
            self._send_smps(self._conversation.receive(self._now, smp))
        elif smp.method == Method.TRAP:
            if self._on(ManagerInput.TRAP) is ManagerReaction.REPRESS:
                self._repress(mad, smp)
        elif smp.attribute == SmpAttribute.SM_INFO and smp.method in (Method.GET, Method.SET):
            self._asked_of_itself(mad, smp)

    def _asked_of_itself(self, mad: ManagementDatagram, smp: Smp) -> None:
        """SMInfo: another manager wants to know who this is, or yields to it."""
        status = Status.OK
        if smp.method == Method.SET and smp.modifier != SmControl.HANDOVER:
            status = Status.BAD_VALUE  # only managers that came from elsewhere disable each other
        elif smp.method == Method.SET:
            self._on(ManagerInput.HANDOVER)
        self._activity += 1
        data = SmInfo(self.guid, self._activity, self.config.priority, SM_INFO_STATE[self.state]).pack()
        self._reply(mad, smp.answer(data, status).pack())

    def _watch_master(self, own_lid: int, master_lid: int) -> None:
        verdict = self._watch.tick(self._now)
        if verdict is Verdict.TAKE_OVER:
            self._out.append(SubnetLog("subnet manager took over", "subnet manager"))
            self._on(ManagerInput.MASTER_SILENT)
        elif verdict is Verdict.ASK and own_lid and master_lid not in (0, own_lid):
            self._transaction += 1
            self._poll = self._transaction
            question = Smp(Method.GET, SmpAttribute.SM_INFO, transaction_id=self._poll)
            self._out.append(ManagementDatagram(own_lid, master_lid, 0, 0, question.pack()))

    def _repress(self, mad: ManagementDatagram, smp: Smp) -> None:
        notice = Notice.parse(smp.data)
        self._out.append(SubnetLog(f"trap {notice.trap} from LID {notice.issuer_lid}", "subnet manager"))
        self._reply(mad, replace(smp, method=Method.TRAP_REPRESS).pack())

    def _reply(self, to: ManagementDatagram, mad: bytes) -> None:
        self._out.append(ManagementDatagram(to.destination_lid, to.source_lid, to.destination_qpn, to.source_qpn, mad))

    def _schedule_sweep(self, delay: int | None = None) -> None:
        at = self._now + (self._timing.sweep_hold_off_ns if delay is None else delay)
        self._sweep_at = at if self._sweep_at is None else min(at, self._sweep_at)

    def _sweep_again(self) -> None:
        """A node did not answer: sweep again, with back-off."""
        self._schedule_sweep(self._timing.sweep_hold_off_ns + self._back_off * self._timing.smp_timeout_ns)

    def _sweep(self) -> Task:
        sent, began = self._conversation.smps_sent, self._now
        if self._competition_until is not None:
            self.sweeper.invalidate()
            if began >= self._competition_until:
                self._competition_until = None
        change = yield from self.sweeper.sweep()
        self.sweeps += 1
        if change.better_master:
            self._out.append(SubnetLog(f"yields to the subnet manager {change.better_master:016x}", "subnet manager"))
            self._yielding = True
            return
        for end in change.gone:
            self.administrator.port_gone(end.guid)
            self._notify(TRAP_GID_OUT_OF_SERVICE, end.gid)
        for group in change.groups_ended:
            self._notify(TRAP_GROUP_DELETED, group.mgid)
        for end in change.arrived:
            self._notify(TRAP_GID_IN_SERVICE, end.gid)
        smps = self._conversation.smps_sent - sent
        nodes, took = len(self.directory.map.nodes), (self._now - began) / 1e6
        self._out.append(
            SubnetLog(f"sweep: {nodes} nodes, {len(self.directory.ends)} end ports, {smps} SMPs, {took:.3f} ms", "sm")
        )
        self._back_off = min(self._back_off * 2, MAX_BACK_OFF) if change.again else 1
        if change.again:
            self._sweep_again()
        if change.competing_master:  # until it has found this one, and yields
            self._competition_until = self._now + COMPETITION_NS
        if self._competition_until is not None:  # the other one may still be writing
            self._schedule_sweep(max(self._timing.sweep_hold_off_ns, self._competition_until - self._now))
        if self._timing.light_sweep_ns:
            self._light_at = self._now + self._timing.light_sweep_ns

    def _light_sweep(self) -> Task:
        changed = yield from self.sweeper.look()
        if changed:
            self._jobs.append(self._sweep)

    def _administration(self, mad: ManagementDatagram) -> None:
        request = SaMad.parse(mad.mad)
        if request.rmpp.type in (RmppType.ACK, RmppType.STOP, RmppType.ABORT):
            self._out += self._tables.control(mad, request)
        elif request.method & RESPONSE or not self.is_master:
            return  # a subscriber's ReportResp; and a standby has nothing to say
        elif self._timing.sa_ns:
            self._requests.append((self._now + self._timing.sa_ns, mad, request))
        else:
            self._jobs.append(partial(self._serve, mad, request))

    def _serve(self, mad: ManagementDatagram, request: SaMad) -> Task:
        """Answer one request; a join is answered when the tables are written, so that it is true."""
        answer = self.administrator.answer(self._now, request, mad.source_lid)
        if answer.groups:
            yield from self.sweeper.write_groups(answer.groups)
            if self.sweeper.failed:
                self._sweep_again()
        self._send_answer(mad, request, answer)
        for mgid in answer.created:
            self._notify(TRAP_GROUP_CREATED, mgid)
        for mgid in answer.deleted:
            self._notify(TRAP_GROUP_DELETED, mgid)

    def _send_answer(self, mad: ManagementDatagram, request: SaMad, answer: Answer) -> None:
        record_bytes = (len(answer.records[0]) + 7) // 8 * 8 if answer.records else 0
        data = b"".join(record.ljust(record_bytes, b"\0") for record in answer.records)
        reply = replace(
            request,
            method=answer.method,
            status=answer.status,
            data=request.data if answer.status else data[:SA_DATA_BYTES],
            record_bytes=record_bytes,
            rmpp=SINGLE,
        )
        if answer.method == Method.GET_TABLE_RESP and not answer.status:
            to = ManagementDatagram(mad.destination_lid, mad.source_lid, mad.destination_qpn, mad.source_qpn, b"")
            self._out += self._tables.begin(self._now, to, reply, data)
        else:
            self._reply(mad, reply.pack())

    def _notify(self, trap: int, gid: bytes) -> None:
        """Report a trap to those who subscribed to it."""
        own = self.directory.ends.get(self.guid)
        if own is None:
            return
        notice = Notice(trap, own.lid, gid_details(gid), kind=4, issuer_gid=own.gid)
        for subscriber in self.administrator.subscribers:
            if subscriber.trap in (trap, 0xFFFF):
                self._transaction += 1
                report = SaMad(Method.REPORT, SaAttribute.NOTICE, data=notice.pack(), transaction_id=self._transaction)
                to = ManagementDatagram(own.lid, subscriber.lid, GSI_QPN, subscriber.qpn, report.pack())
                self._out.append(to)
