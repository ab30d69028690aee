"""What a running lab is asked over its socket, and the answers: the vocabulary of `backend.control_socket`.

Requests come in the control thread; whatever touches the network is done on the loop's thread. A request that is
refused has changed nothing. Left out: what the lab shows of itself (`status`), and the words on the wire.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from ibbond.backend.control_server import Feed, Handler, Lease, TakesDescriptor, WithDescriptors
from ibbond.backend.emulated import EmulatedBackend
from ibbond.errors import Refused
from ibbond.fabric.events import (
    ChangeLid,
    Cut,
    KillAdapter,
    KillSubnetManager,
    KillSwitch,
    MakeLossy,
    Mend,
    Reregister,
    ReviveAdapter,
    ReviveSubnetManager,
    ReviveSwitch,
    SetPkeys,
    SubnetEvent,
)
from ibbond.fabric.managers import check_table
from ibbond.host.capture import Capture
from ibbond.host.ip_settings import KINDS, IpSetting
from ibbond.host.rtnetlink import RouteSocket
from ibbond.lab.control.status import MANAGER, LabStatus
from ibbond.lab.control.subnet_tables import TABLES, Row
from ibbond.lab.journal import Item
from ibbond.ops.read_network import IpFacts, of_this_namespace
from ibbond.stack.events import HostEvent, OnHost, OnSubnet
from ibbond.tools.infiniband_tools import partitions
from ibbond.topology.reader import unknown

if TYPE_CHECKING:
    from ibbond.lab.daemon import LabDaemon

T = TypeVar("T")
VIEWS_EVERY = 0.002  # seconds


class _NodeChange(NamedTuple):
    """What `kill` or `revive` means for each kind of node."""

    switch: Callable[[str], SubnetEvent]
    adapter: Callable[[str], SubnetEvent]
    manager: SubnetEvent


KILLS = _NodeChange(KillSwitch, KillAdapter, KillSubnetManager())
REVIVALS = _NodeChange(ReviveSwitch, ReviveAdapter, ReviveSubnetManager())


class Requests:
    """The handlers of one lab, and the surroundings of its backends (`backend.emulated.World`)."""

    def __init__(self, lab: LabDaemon) -> None:
        self._lab = lab
        self.cut: dict[str, None] = {}
        self.shown = LabStatus(lab, self.cut)
        self._pkeys: dict[str, tuple[int, ...]] = {}  # of ports whose tables OpenSM was asked to change
        self._captures: dict[str, tuple[Capture, int]] = {}  # by the file's device and inode
        self._backends: dict[str, EmulatedBackend] = {}

    def handlers(self) -> dict[str, Handler]:
        return {
            "status": lambda: self.run(self.shown.status),
            "sample": lambda: self.run(self.shown.sample),
            "host": lambda host: self.backend(host).where,
            "host_handle": self.host_handle,
            "cut": lambda cables: self.run(lambda: self.cables("cut", Cut, cables)),
            "mend": lambda cables: self.run(lambda: self.cables("mend", Mend, cables)),
            "pull": self.pull,
            "lose": lambda cables, percent: self.run(lambda: self.lose(cables, percent)),
            "kill": lambda nodes: self.run(lambda: self.nodes("kill", KILLS, nodes)),
            "revive": lambda nodes: self.run(lambda: self.nodes("revive", REVIVALS, nodes)),
            "pkeys": lambda port, pkeys: self.run(lambda: self.set_pkeys(port, tuple(pkeys))),
            "lid": lambda port, lid: self.run(lambda: self.manage("lid", port, ChangeLid, lid)),
            "reregister": lambda port: self.run(lambda: self.manage("reregister", port, Reregister)),
            "neighbors": lambda host="": self.run(lambda: self.shown.neighbors(host)),
            "ip": self.ip,
            "subnet": lambda table: self.run(lambda: self.subnet(table)),
            "capture": TakesDescriptor(self.capture),
            "capture_end": self.capture_end,
            "events": self.events,
            "past_events": lambda: self.run(lambda: list(self._lab.journal.items)),
            "late": lambda: self.run(self.shown.late),
            "lease": self.lease,
            "down": self.down,
            "read": lambda host, path: self.backend(host).read(path),
            "write": lambda host, path, text: self.backend(host).write(path, text),
            "entries": lambda host, path: self.backend(host).entries(path),
            "set_admin": lambda host, device, up: self.backend(host).set_admin(device, up),
            "addresses": lambda host, device: self.backend(host).addresses(device),
            "version": lambda host: self.backend(host).version,
            "bonds": lambda host: self.backend(host).bonds(),
            "options": lambda host, bond: self.backend(host).options(bond),
            "master": lambda host, device: self.backend(host).master(device),
            "ip_settings": lambda host: [(type(each).__name__, each) for each in self.backend(host).ip_settings()],
            "add_ip": lambda host, kind, setting: self.backend(host).add_ip(ip_setting(kind, setting)),
            "delete_ip": lambda host, kind, setting: self.backend(host).delete_ip(ip_setting(kind, setting)),
            "snapshot": lambda host, bond: self.backend(host).snapshot(bond),
            "proc": lambda host, bond: self.backend(host).proc(bond),
            "log": lambda host: self.backend(host).log(),
            "stamped_log": self.stamped_log,
        }

    def backend(self, host: str) -> EmulatedBackend:
        """The bonds of a host; `Refused` when there is no such host."""
        if host not in self._backends:
            self._lab.topology.host(host)
            self._backends[host] = EmulatedBackend(self._lab.network.hosts[host], self)
        return self._backends[host]

    # Surroundings of backends

    def run(self, call: Callable[[], T]) -> T:
        return self._lab.loop.ask(call)

    def handle(self, host: str, event: HostEvent) -> None:
        self._lab.loop.handle(OnHost(host, event))

    def refresh(self, host: str) -> None:
        self._lab.loop.refresh(host)

    def flush_counters(self) -> None:
        self._lab.loop.flush_counters()

    def addresses(self, host: str, device: str) -> list[str]:
        return self.shown.addresses(host, device)

    def route_socket(self, host: str) -> RouteSocket:
        return self._lab.spaces[host].run_in(RouteSocket)

    def log(self, host: str) -> list[str]:
        return [line for _, line in self.stamped_log(host)]

    def stamped_log(self, host: str) -> list[tuple[int, str]]:
        """The driver's last lines with the monotonic nanosecond of each."""
        return self.run(lambda: list(self._lab.journal.logs.get(host, ())))

    def watch(self, host: str) -> Iterator[dict[str, object]]:
        queue: SimpleQueue[Item] = SimpleQueue()
        readers = self._lab.journal.readers
        readers.append(queue.put)
        try:
            while True:
                item = queue.get()
                if str(item["where"]).partition("/")[0] == host:
                    yield item
        finally:
            readers.remove(queue.put)

    # Requests

    def subnet(self, table: str) -> list[Row]:
        """A table of `lab.control.subnet_tables`."""
        if table not in TABLES:
            raise unknown(f"no table {table} of the subnet", table, TABLES)
        self._lab.loop.flush_counters()
        return TABLES[table](self._lab.network.subnet, self._lab.topology.end_for_people)

    def ip(self, host: str) -> IpFacts:
        """What the host's own kernel has of addresses and routes, for `ibbond check`."""
        self._lab.topology.host(host)
        devices = self.run(lambda: [device.name for device in self._lab.network.hosts[host].namespace])
        return self._lab.spaces[host].run_in(lambda: of_this_namespace(devices))

    def host_handle(self, host: str) -> WithDescriptors:
        """The way into a host: its namespaces as descriptors."""
        self._lab.topology.host(host)
        space = self._lab.spaces[host]
        found = space.namespaces._asdict()
        if self._lab.user_space >= 0:
            found["user"] = self._lab.user_space
        while self._lab.views.opening:  # both mount below /sys/class
            time.sleep(VIEWS_EVERY)
        rdma = self._lab.rdma.enter(host)
        if rdma is not None:
            found["rdma"] = rdma
        return WithDescriptors({"descriptors": list(found)}, list(found.values()), owned=(rdma,) if rdma else ())

    def cables(self, what: str, change: Callable[[str], SubnetEvent], names: list[str]) -> dict[str, object]:
        """Cut or mend cables, all at one moment. None is touched when one of the names is wrong."""
        topology = self._lab.topology
        ports = {topology.cable_at(topology.port_of(name)).a: name for name in names}
        for port, name in ports.items():
            if (port in self.cut) == (what == "cut"):
                raise Refused(
                    f"cannot {what} {name}",
                    why="that cable is already cut" if what == "cut" else "that cable is not cut",
                    fix="See the cables with: ibbond lab status",
                )
        at = self._lab.loop.now()
        for name in ports.values():
            self._lab.journal.note(at, what, name)
        for port in ports:
            if what == "cut":
                self.cut[port] = None
            else:
                del self.cut[port]
            self._lab.loop.handle(OnSubnet(change(port)))
        self._lab.save_soon()
        return {what: names, "at_ns": at}

    def pull(self, cable: str) -> Lease:
        """Cut a cable; it is mended, unless it has been by then, when the connection that asks closes."""
        cut = self.run(lambda: self.cables("cut", Cut, [cable]))
        return Lease(lambda: self.run(lambda: self.cables("mend", Mend, [cable])), cut)

    def cut_again(self, ports: Iterable[str]) -> None:
        """Cables that were out when the lab was killed are out."""
        for port in ports:
            self.cut[port] = None
            self._lab.loop.handle(OnSubnet(Cut(port)))

    def lose(self, names: list[str], percent: float) -> dict[str, object]:
        """Have cables lose a share of their packets from now on; 0 heals them."""
        ports = [self._lab.topology.port_of(name) for name in names]
        for name, port in zip(names, ports, strict=True):
            self._lab.loop.handle(OnSubnet(MakeLossy(port, percent / 100)))
            self._lab.journal.note(self._lab.loop.now(), "lossy", name, f"{percent:g} %")
        return {"lossy": names, "percent": percent}

    def nodes(self, what: str, change: _NodeChange, names: list[str]) -> dict[str, object]:
        """Kill or revive switches, hosts' adapters (`h1`, `h1-2`), or the subnet manager by the name `sm`."""
        topology = self._lab.topology
        events = {switch.name: change.switch(switch.name) for switch in topology.switches}
        events |= {hca.name: change.adapter(hca.name) for host in topology.hosts for hca in host.hcas}
        events[MANAGER] = change.manager
        for name in (names := list(dict.fromkeys(names))):
            if name not in events:
                raise unknown(f"cannot {what} {name}", name, events)
            if self.shown.lives(name) == (what == "revive"):
                why = "it lives" if what == "revive" else "it is already dead"
                raise Refused(f"cannot {what} {name}", why=why, fix="See the events with: ibbond lab events")
        at = self._lab.loop.now()
        for name in names:
            self._lab.journal.note(at, what, name)
            if name == MANAGER and self._lab.opensm is not None:
                self._lab.opensm.kill() if what == "kill" else self._lab.opensm.start()
                continue
            self._lab.loop.handle(OnSubnet(events[name]))
        return {what: names, "at_ns": at}

    def set_pkeys(self, name: str, pkeys: tuple[int, ...]) -> dict[str, object]:
        """The built-in manager writes the table; OpenSM gets another partition file."""
        opensm = self._lab.opensm
        if opensm is None:
            return self.manage("pkeys", name, SetPkeys, pkeys)
        port, subnet = self._lab.topology.port_of(name), self._lab.network.subnet
        if not opensm.alive:
            what = f"cannot set the P_Keys of {name}"
            raise Refused(what, why="OpenSM is dead", fix="Revive it: ibbond lab revive sm")
        check_table(subnet.port(port), pkeys)
        self._pkeys[port] = pkeys
        opensm.partition(partitions(self._lab.topology, subnet, self._pkeys))
        return {"pkeys": name}

    def manage(self, what: str, name: str, change: Callable[..., SubnetEvent], *values: object) -> dict[str, object]:
        """Something that the subnet manager does to one port."""
        port = self._lab.topology.port_of(name)
        self._lab.loop.handle(OnSubnet(change(port, *values)))
        return {what: name}

    def capture(self, descriptor: int, device: str, file: str) -> Lease:
        """Begin to write a capture to the file that came along; it ends by `capture_end`, or with the connection.

        The client has opened it with its own rights; `file` is its name for messages.
        """
        if descriptor < 0:
            why = "the request carries no open file"
            raise Refused(f"cannot capture to {file}", why=why, fix="Use ibbond lab capture")
        try:
            facts = os.fstat(descriptor)
            key = f"{facts.st_dev}:{facts.st_ino}"
            if key in self._captures:
                raise Refused(f"cannot capture to {file}", why="another capture writes to it", fix="Name another file")
            os.set_blocking(descriptor, False)  # a pipe must not hold up the lab
            self._captures[key] = self.run(lambda: self._start_capture(device, descriptor)), descriptor
        except BaseException:
            os.close(descriptor)
            raise
        return Lease(lambda: self._stop_capture(key, file), {"device": device, "capture": key})

    def _start_capture(self, device: str, descriptor: int) -> Capture:
        """A bond is captured as its IPoIB frames; whatever has a port, as what passes that port."""
        host, _, name = device.partition("/")
        if host in self._lab.network.hosts and name in self._lab.network.hosts[host].registry.bonds:
            return self._lab.captures.start_device(host, name, descriptor)
        return self._lab.captures.start_port(self._lab.topology.port_of(device), descriptor)

    def capture_end(self, capture: str, file: str) -> dict[str, object]:
        ended = self._stop_capture(capture, file)
        if ended is None:
            raise Refused(f"no capture writes to {file}", why="it has ended", fix="Start one")
        return {"packets": ended.frames, "missed": ended.missed}

    def _stop_capture(self, key: str, file: str) -> Capture | None:
        """End a capture; None when it has ended before."""
        found = self._captures.pop(key, None)
        if found is None:
            return None
        capture, descriptor = found
        self._lab.captures.stop(capture)
        os.close(descriptor)
        if capture.problem is not None:
            raise Refused(
                f"the capture {file} is not complete",
                why="its reader did not keep up"
                if isinstance(capture.problem, BlockingIOError)
                else capture.problem.strerror or str(capture.problem),
                fix="Make room for it, or name another file",
            )
        return capture

    def events(self, past: bool = True) -> Feed:
        return Feed(self.run(lambda: list(self._lab.journal.items)) if past else [])

    def lease(self) -> Lease:
        """Tie the lab to the connection that asks."""
        if not self._lab.config.leased:
            raise Refused(
                "this lab has no lease",
                why="it runs until it is taken down",
                fix="Take it down with: ibbond lab down",
            )
        return Lease(self._lab.end_soon)

    def down(self) -> dict[str, object]:
        self._lab.end_soon()
        return {"pid": os.getpid()}


def ip_setting(kind: str, setting: object) -> IpSetting:
    """A setting as received over the socket."""
    import msgspec

    try:
        return msgspec.convert(setting, KINDS[kind])
    except (KeyError, msgspec.ValidationError) as error:
        raise Refused("cannot read an IP setting", why=str(error), fix="Use an ibbond of the lab's version") from None
