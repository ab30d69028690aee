"""All hosts of a world and the subnet between them, as one machine: the live loop and the simulator drive this object.

Read first: docs/architecture.md, walks 1 and 2. An event goes to a host or to the subnet; what that causes goes to and
fro between hosts and subnet in one queue until it is quiet, and what is left for the world outside is returned:
packets first, news after. Delays, where there are any, are inside the machines (`verbs.timing`). Left out: executing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

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
from ibbond.stack.agenda import Agenda
from ibbond.stack.events import Deliver, FrameCaptured, Happened, NetworkEffect, NetworkEvent, OnHost, OnSubnet
from ibbond.stack.flows import Flow, Flows
from ibbond.stack.host_stack import HostStack
from ibbond.stack.outbox import HostEffect
from ibbond.topology.model import listed
from ibbond.verbs.generation import Generation
from ibbond.verbs.verbs import SubnetLog

_SUBNET = ""  # the subnet's key in the agenda; hosts have names

_Work = HostEffect | PortEvent | DatagramArrived | MadArrived | SubnetLog | Captured | WorkDone | MessageArrived


class Network:
    """Hosts by name, their subnet, and the generation counter that they share."""

    def __init__(self, subnet: Subnet, generation: Generation) -> None:
        self.subnet = subnet
        self.generation = generation
        self.hosts: dict[str, HostStack] = {}
        self.outside: dict[str, int] = {}  # ports at which programs of others take MADs: how many
        self._at_port: dict[str, HostStack] = {}
        self._agenda: Agenda[str] = Agenda()
        self._flows = Flows(self.subnet, self.hosts, self._at_port)
        self._started = False
        self._late: list[NetworkEffect] = []  # of a refused request
        self._now = 0

    def add(self, host: HostStack) -> None:
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
        """A fact or a request. `Refused` leaves what happened on the way to the next call's effects."""
        match event:
            case OnHost(name, inner):
                host = self.host(name)
                try:
                    effects = host.handle(now, inner)
                except Refused:
                    self._late += self._run(now, host.take_effects(), [name])
                    raise
                return self._run(now, effects, [name])
            case OnSubnet(change):
                if isinstance(change, KillSwitch | KillAdapter):
                    self._flows.settle()  # what dies forgets what it has counted, and that is not all yet
                return self._run(now, self.subnet.handle(now, change), [_SUBNET])

    def tick(self, now: int) -> list[NetworkEffect]:
        effects = self._take_late()
        for key in self._agenda.due(now):
            work: Iterable[_Work] = self.subnet.tick(now) if key == _SUBNET else self.hosts[key].tick(now)
            effects += self._run(now, work, [key])
        return effects

    def carry_on(self, now: int) -> list[NetworkEffect]:
        """What follows from what was told to the subnet alone (`Subnet.answer`)."""
        return self._run(now, self.subnet.tick(now), [_SUBNET])

    def deadline(self) -> int | None:
        return self._now if self._late else self._agenda.earliest()

    def host(self, name: str) -> HostStack:
        """The host of this name; `Refused` names the ones that there are."""
        if name not in self.hosts:
            raise Refused(f"no host {name}", why=f"there are {listed(self.hosts)}", fix="Name one of these")
        return self.hosts[name]

    def record_flows(self) -> None:
        """From now on whoever uses flows shows taps what they carry (`Flow.tap`)."""
        self._flows.recorded = True
        self.generation.bump()

    def flow_for(self, now: int, host: str, device: str, packet: bytes) -> Flow | None:
        """What the fast path may remember about packets like this one (same device, same destination), if anything."""
        return self._flows.find(now, host, device, packet, self.generation.value)

    def settle(self, now: int = 0) -> None:
        """Bring every counter up to date with what flows carried and members counted.

        `now` says when flows were last in use; without it the time of the host's last event counts.
        """
        for host in self.hosts.values():
            host.now = max(host.now, now)
        self._flows.settle()
        for host in self.hosts.values():
            host.settle_statistics()

    def _run(self, now: int, effects: Iterable[_Work], touched: list[str]) -> list[NetworkEffect]:
        """Carry effects between hosts and subnet until it is quiet; what is left is for the world outside."""
        self._now = now
        work: deque[_Work] = deque(effects)
        packets: list[NetworkEffect] = []
        news: list[NetworkEffect] = self._take_late()
        keys = dict.fromkeys(touched)
        while work:
            item = work.popleft()
            match item:
                case SendDatagram() | SendMad() | Post() | FailQueuePair():
                    work.extend(self.subnet.handle(now, item))
                    keys[_SUBNET] = None
                case Deliver():
                    packets.append(item)
                case DatagramArrived(port, datagram, qpn):
                    host = self._at_port.get(port)
                    if host is not None:
                        work.extend(host.receive(now, port, qpn, datagram))
                        keys[host.name] = None
                case MessageArrived(port, qpn, payload, offload):
                    host = self._at_port.get(port)
                    if host is not None:
                        work.extend(host.receive_message(now, port, qpn, payload, offload))
                        keys[host.name] = None
                case MadArrived(port, mad):
                    if port in self.outside:
                        news.append(item)
                    host = self._at_port.get(port)
                    if host is not None:
                        work.extend(host.mad_arrived(now, port, mad.mad))
                        keys[host.name] = None
                case WorkDone(port, qpn, completion):
                    host = self._at_port.get(port)
                    if host is not None:
                        work.extend(host.work_done(now, port, qpn, completion))
                        keys[host.name] = None
                case PortEvent(port, kind):
                    news.append(Happened("port", port, kind.name.lower()))
                    host = self._at_port.get(port)
                    if host is not None:
                        work.extend(host.port_raised(now, port, kind))
                        keys[host.name] = None
                case SubnetLog(what, where):
                    news.append(Happened("subnet", where, what))
                case Captured(port, frame, sent):
                    news.append(FrameCaptured(port, frame, sent))
                case _:
                    news.append(item)
        for key in keys:
            machine = self.subnet if key == _SUBNET else self.hosts[key]
            self._agenda.report(key, machine.deadline())
        return packets + news

    def _take_late(self) -> list[NetworkEffect]:
        late, self._late = self._late, []
        return late
