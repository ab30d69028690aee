"""All hosts of a world and the subnet between them, as one machine: the live loop and the simulator drive this object.

Read first: docs/architecture.md, walks 1 and 2. An event goes to a host or to the subnet; what that causes goes to and
fro between hosts and subnet in one queue until it is quiet, and what is left for the world outside is returned:
packets first, notifications after. Delays, where there are any, are inside the machines (`verbs.timing`). Left out:
executing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from ibbond.errors import Refused
from ibbond.fabric.events import (
    Captured,
    DatagramArrived,
    FailQueuePair,
    KillAdapter,
    KillSwitch,
    MadArrived,
    MessageArrived,
    PortEvent,
    Post,
    SendDatagram,
    SendMad,
    WorkDone,
)
from ibbond.fabric.subnet import Subnet
from ibbond.machine import SECOND, Deadlines
from ibbond.stack.events import Deliver, FrameCaptured, NetworkEffect, NetworkEvent, OnHost, OnSubnet, TraceEvent
from ibbond.stack.flows import Flow, Flows
from ibbond.stack.host_stack import HostStack
from ibbond.stack.outbox import HostEffect
from ibbond.topology.model import listed
from ibbond.verbs.generation import Generation
from ibbond.verbs.verbs import SubnetLog

_SUBNET = ""  # the subnet's key in the deadline queue; hosts have names
RETRY_NS = SECOND  # before a machine whose tick has failed is ticked again

_Work = HostEffect | PortEvent | DatagramArrived | MadArrived | SubnetLog | Captured | WorkDone | MessageArrived


class Network:
    """Hosts by name, their subnet, and the generation counter that they share.

    What a machine raises comes out of the call that led to it. The rest of the pending work is not lost with it: it
    is due at once, and the next call resumes it.
    """

    def __init__(self, subnet: Subnet, generation: Generation) -> None:
        self.subnet = subnet
        self.generation = generation
        self.hosts: dict[str, HostStack] = {}
        self.on_send: Callable[[SendDatagram], None] | None = None  # sees each datagram that a host gives to the subnet
        self.outside: dict[str, int] = {}  # ports at which programs of others take MADs: how many
        self._at_port: dict[str, HostStack] = {}
        self._agenda: Deadlines[str] = Deadlines()
        self._flows = Flows(self.subnet, self.hosts, self._at_port)
        self._started = False
        self._late: list[NetworkEffect] = []  # of a request that was refused or failed
        self._left: deque[_Work] = deque()  # of a call that failed
        self._now = 0

    def add(self, host: HostStack) -> None:
        """Add a host; its ports must be in the subnet already."""
        self.hosts[host.name] = host
        for port in host.ports:
            self._at_port[port] = host

    def start(self, now: int) -> list[NetworkEffect]:
        """Power on: the first sweep, then every host's devices and bonds. Once."""
        assert not self._started, "a network starts once"
        self._started = True
        work: list[_Work] = list(self.subnet.start(now))
        effects = self._run(now, work, [_SUBNET])
        for host in self.hosts.values():
            effects += self._run(now, host.start(now), [host.name])
        return effects

    def handle(self, now: int, event: NetworkEvent) -> list[NetworkEffect]:
        """A fact or a request. A refusal or a failure leaves what happened on the way to the next call's effects."""
        match event:
            case OnHost(name, inner):
                host = self.host(name)
                try:
                    effects = host.handle(now, inner)
                except Exception:
                    self._late = self._run(now, host.take_effects(), [name])
                    raise
                return self._run(now, effects, [name])
            case OnSubnet(change):
                if isinstance(change, KillSwitch | KillAdapter):
                    self._flush_flows()  # what dies forgets what it has counted, and that is not all yet
                try:
                    work = self.subnet.handle(now, change)
                except Exception:
                    self._agenda.report(_SUBNET, self.subnet.deadline())
                    raise
                return self._run(now, work, [_SUBNET])

    def tick(self, now: int) -> list[NetworkEffect]:
        effects = self._run(now, (), []) if self._left else self._take_late()
        due = deque(self._agenda.due(now))
        while due:
            key = due.popleft()
            try:
                work: Iterable[_Work] = self.subnet.tick(now) if key == _SUBNET else self.hosts[key].tick(now)
                effects += self._run(now, work, [key])
            except BaseException:
                self._late = effects + self._late
                for other in due:
                    self._agenda.report(other, now)
                if key not in self._agenda:
                    self._agenda.report(key, now + RETRY_NS)  # at once it would fail again, and again
                raise
        return effects

    def resume_work(self, now: int) -> list[NetworkEffect]:
        """What follows from what only the subnet handled (`Subnet.answer`)."""
        return self._run(now, self.subnet.tick(now), [_SUBNET])

    def report_subnet(self) -> bool:
        """The subnet was changed other than by events; whether its deadline has changed."""
        return self._agenda.report(_SUBNET, self.subnet.deadline())

    def deadline(self) -> int | None:
        return self._now if self._late or self._left else self._agenda.earliest()

    def host(self, name: str) -> HostStack:
        """The host of this name; `Refused` names the ones that there are."""
        if name not in self.hosts:
            raise Refused(f"no host {name}", why=f"there are {listed(self.hosts)}", fix="Choose one of these")
        return self.hosts[name]

    def record_flows(self) -> None:
        """From now on the user of flows mirrors packets to capture points (`Flow.capture_point`)."""
        self._flows.recorded = True
        self.generation.bump()

    def flow_for(self, now: int, host: str, device: str, packet: bytes) -> Flow | None:
        """What the fast path may remember about packets like this one (same device, same destination), if anything."""
        return self._flows.find(now, host, device, packet, self.generation.value)

    def flush_counters(self, now: int = 0) -> None:
        """Bring every counter up to date with what flows carried and members counted.

        `now` says when flows were last in use; without it the time of the host's last event counts.
        """
        for host in self.hosts.values():
            host.now = max(host.now, now)
        self._flush_flows()
        for host in self.hosts.values():
            host.flush_statistics()

    def _flush_flows(self) -> None:
        self._flows.flush_counters()
        self.subnet.flush_counters()

    def _run(self, now: int, effects: Iterable[_Work], touched: list[str]) -> list[NetworkEffect]:
        """Carry effects between hosts and subnet until it is quiet; what is left is for the world outside."""
        self._now = now
        work, self._left = self._left, deque()
        work.extend(effects)
        packets: list[NetworkEffect] = []
        notifications: list[NetworkEffect] = self._take_late()
        keys = dict.fromkeys(touched)
        try:
            while work:
                self._carry(now, work, packets, notifications, keys)
        except BaseException:
            self._left, self._late = work, packets + notifications
            raise
        finally:
            for key in keys:
                machine = self.subnet if key == _SUBNET else self.hosts[key]
                self._agenda.report(key, machine.deadline())
        return packets + notifications

    def _carry(
        self,
        now: int,
        work: deque[_Work],
        packets: list[NetworkEffect],
        notifications: list[NetworkEffect],
        keys: dict[str, None],
    ) -> None:
        """One step of `_run`: the first of `work`; whose deadlines it may have changed is added to `keys`."""
        match item := work.popleft():
            case SendDatagram() | SendMad() | Post() | FailQueuePair():
                if self.on_send is not None and isinstance(item, SendDatagram):
                    self.on_send(item)
                keys[_SUBNET] = None
                work.extend(self.subnet.handle(now, item))
            case Deliver():
                packets.append(item)
            case DatagramArrived(port, datagram, qpn):
                host = self._at_port.get(port)
                if host is not None:
                    keys[host.name] = None
                    work.extend(host.receive(now, port, qpn, datagram))
            case MessageArrived(port, qpn, payload, offload):
                host = self._at_port.get(port)
                if host is not None:
                    keys[host.name] = None
                    work.extend(host.receive_message(now, port, qpn, payload, offload))
            case MadArrived(port, mad):
                if port in self.outside:
                    notifications.append(item)
                host = self._at_port.get(port)
                if host is not None:
                    keys[host.name] = None
                    work.extend(host.mad_arrived(now, port, mad.mad))
            case WorkDone(port, qpn, completion):
                host = self._at_port.get(port)
                if host is not None:
                    keys[host.name] = None
                    work.extend(host.work_done(now, port, qpn, completion))
            case PortEvent(port, kind):
                notifications.append(TraceEvent("port", port, kind.name.lower()))
                host = self._at_port.get(port)
                if host is not None:
                    keys[host.name] = None
                    work.extend(host.port_raised(now, port, kind))
            case SubnetLog(what, where):
                notifications.append(TraceEvent("subnet", where, what))
            case Captured(port, frame, sent):
                notifications.append(FrameCaptured(port, frame, sent))
            case _:
                notifications.append(item)

    def _take_late(self) -> list[NetworkEffect]:
        late, self._late = self._late, []
        return late
