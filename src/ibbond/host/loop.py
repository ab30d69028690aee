"""The live driver: one thread, one epoll set, all hosts of a lab and its subnet.

Read first: docs/architecture.md; `stack.network` for what is driven. The loop hands facts to the network, executes
its effects in their order, and waits until the next deadline. It has no opinion. Other threads (FUSE, control socket)
reach the network only by `ask`: one has the turn at a time, and the loop gives it away while it waits. "On the loop's
thread" means: by the thread that holds the loop lock. Left out: who starts it, and what a lab is.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar, assert_never

from ibbond.errors import Refused
from ibbond.fabric.events import MadArrived
from ibbond.host.busy_polling import Pressure, Waiter
from ibbond.host.guard import PAUSE_NS, Entry, Faults
from ibbond.host.lateness import Lateness
from ibbond.host.live_host import LiveHost
from ibbond.host.namespace import NetNamespace
from ibbond.host.priority import avoid_pauses
from ibbond.host.pump import Drops, Pump
from ibbond.host.read_scheduler import ReadScheduler
from ibbond.host.timer import Timer
from ibbond.host.tun import NO_OFFLOAD
from ibbond.machine import MS, SECOND, EventQueue, earliest
from ibbond.netdev.device import Device
from ibbond.rdma_cm.events import RdmaEvent
from ibbond.stack.events import (
    AddressChange,
    AttributeChanged,
    CreateBond,
    DeleteBond,
    Deliver,
    DeviceAppeared,
    DeviceChanged,
    DeviceVanished,
    FrameCaptured,
    HostEvent,
    NetworkEffect,
    NetworkEvent,
    OnHost,
    SetAdmin,
    SetDeviceMtu,
    TraceEvent,
    Transmit,
)
from ibbond.stack.flows import CapturePoint, Flow
from ibbond.stack.network import Network
from ibbond.wire.group_reports import is_report

Result = TypeVar("Result")
Listener = Callable[[int, NetworkEffect], None]
Drop = Callable[[], object]

GROUPS_EVERY = 2 * SECOND  # joins and leaves that no message reported
FLUSH_EVERY = 200 * MS  # flows hand their counts to the counters
RESTORE_AFTER = 1 * SECOND  # a device of a host that could not be given back, or its kernel's state not be read


class LiveLoop:
    """Drives a network whose hosts are the namespaces of `spaces`, by host name.

    `listeners` are called with every effect but packets, with its time, on the loop's thread; `on_idle` is called when
    all that happened together has been dealt with. What fails on the way is in `faults` (see `host.guard`).
    """

    def __init__(self, network: Network, spaces: Mapping[str, NetNamespace], *, persist: bool = False) -> None:
        self.network = network
        self.faults = Faults()
        self.lateness = Lateness()
        self._due: int | None = None  # when the timer was to ring
        self.listeners: list[Listener] = []
        self.on_idle: list[Callable[[], object]] = []
        self.hosts: dict[str, LiveHost] = {}
        self.recorder: Callable[[CapturePoint, memoryview], None] | None = (
            None  # for what flows carry past capture points
        )
        self.drops = Drops()  # of packets on the slow path; those of the fast path are in the pumps
        self.pumps: dict[tuple[str, str], Pump] = {}
        self._spaces = spaces
        self._persist = persist
        self._fds: dict[tuple[str, str], int] = {}
        self._epoll = select.epoll()
        self._pressure = Pressure()
        self._waiter = Waiter(self._epoll, self._pressure)
        self._handlers: dict[int, Callable[[], object]] = {}
        self._watchers: dict[int, Callable[[int], object]] = {}
        self._entries: dict[int, tuple[Entry, Drop | None]] = {}  # of the same descriptors
        self._timer = Timer()
        self._agenda = EventQueue()
        self._posted: deque[Callable[[], None]] = deque()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._moved = True  # the network handled something: its deadline may have changed
        self._turn = threading.Lock()
        self._turn.acquire()  # until `run` waits
        self._stopping = self._running = False
        self._fatal: BaseException | None = None
        self._looks = ReadScheduler(self._look, self.now, self.call_at)
        self.add_reader(self._timer.fileno(), self._on_timer, Entry.TIMER)
        self.add_reader(self._bell, self._answer, Entry.CONTROL)

    def open(self) -> None:
        """Make the TUNs of all hosts, start the network, read what the kernels say. Undone when it fails."""
        try:
            for name, space in self._spaces.items():
                self.hosts[name] = live = LiveHost(name, space, self.network.hosts[name].namespace)
                spoke, again = (functools.partial(call, live) for call in (self._kernel_spoke, self._read_again))
                self.add_reader(live.listener.fileno(), spoke, Entry.NETLINK, again)
                for device in self.network.hosts[name].namespace:
                    self._open_device(live, device)
            self._execute(self.network.start(self.now()))
            for name, live in self.hosts.items():
                for device in self.network.hosts[name].namespace:
                    live.show(device)  # only now: a device that a killed lab left up is not cycled
                self._tell(live, live.everything())
        except BaseException:
            self.close()
            raise
        self.call_at(self.now() + GROUPS_EVERY, self._read_groups)
        self.call_at(self.now() + FLUSH_EVERY, self._flush_again)

    def run(self) -> None:
        """Move packets and time until `stop`; raises what was given to `fail`."""
        avoid_pauses()
        handlers, watchers, wait = self._handlers, self._watchers, self._waiter.wait
        turn = self._turn
        self._running, late = True, self.lateness
        while not self._stopping:
            if self._moved:
                self._rest()
            turn.release()
            ready = wait()
            turn.acquire()
            if late.since is not None:
                late.waited(self._waiter.took, self.now())
            for fd, events in ready:
                handler = handlers.get(fd)
                try:
                    if handler is not None:
                        handler()
                    elif (watcher := watchers.get(fd)) is not None:  # else removed by a handler before it
                        watcher(events)
                except Exception as error:
                    self._failed(fd, error)
                if self._posted:  # by a thread that waits: not to come after all that is ready
                    self._moved = True
                    self.answer()
        if self._fatal is not None:
            raise self._fatal

    def stop(self) -> None:
        """End `run` soon; from any thread or signal handler."""
        self._stopping = True
        os.eventfd_write(self._bell, 1)

    def fail(self, error: BaseException) -> None:
        """End `run` soon with this exception; from any thread."""
        self._fatal = self._fatal or error
        self.stop()

    def close(self) -> None:
        """Close every descriptor; TUNs that do not persist disappear. The namespaces stay with their owner."""
        self.flush_counters()
        for live in self.hosts.values():
            live.close()
        self.hosts.clear()
        self.pumps.clear()
        self._fds.clear()
        self._handlers.clear()
        self._watchers.clear()
        self._entries.clear()
        self._timer.close()
        self._pressure.close()
        os.close(self._bell)
        self._epoll.close()
        self.answer()

    def now(self) -> int:
        return time.monotonic_ns()

    def handle(self, event: NetworkEvent) -> None:
        """Hand the network an event and execute what follows. Only on the loop's thread; may raise `Refused`."""
        match event:
            case OnHost(host, CreateBond(name)) if host in self.hosts:
                self.hosts[host].check_name(name)
        self._moved = True
        self._execute(self.network.handle(self.now(), event))

    def resume_work(self) -> None:
        """Execute what follows from what only the subnet handled. Only on the loop's thread."""
        self._moved = True
        self._execute(self.network.resume_work(self.now()))

    def ring(self, doorbell: Callable[[int], object]) -> None:
        """Make a call that may give the subnet work, and execute what follows. Only on the loop's thread."""
        doorbell(self.now())
        self.resume_if_pending()

    def resume_if_pending(self) -> None:
        """Execute what follows from calls to the subnet, if anything does; time may go on to another deadline."""
        if self.network.subnet.has_pending:
            self.resume_work()
        elif self.network.report_subnet():
            self._moved = True

    def ask(self, call: Callable[[], Result], timeout: float = 10.0) -> Result:
        """Make this call between two of the loop's, and wait for its result (seconds; TimeoutError); not on its thread.

        If the loop is idle, the calling thread makes the call itself, which saves a wake-up that takes longer than most
        calls. Else the loop's thread makes it.
        """
        if not self._turn.acquire(blocking=False):
            return self._post_and_wait(call, timeout)
        try:
            result = call()
        finally:
            try:
                self._tick()  # what the call made due at once
                self._rest()
            finally:
                self._turn.release()
        return result

    def _post_and_wait(self, call: Callable[[], Result], timeout: float) -> Result:
        results: list[Result] = []
        problems: list[BaseException] = []
        done = threading.Lock()  # quicker than a future, and every read of the sysfs view comes by here
        done.acquire()

        def answer() -> None:
            try:
                results.append(call())
            except BaseException as problem:
                problems.append(problem)
            done.release()

        self._posted.append(answer)
        os.eventfd_write(self._bell, 1)
        if not done.acquire(timeout=timeout):
            raise Refused(
                "the lab is too busy to answer",
                why=f"its loop did not take the request within {timeout:g} s",
                fix="Try again in a moment",
                code=errno.EAGAIN,
            )
        if problems:
            raise problems[0]
        return results[0]

    def refresh(self, host: str) -> None:
        """Take note of what the host's kernel has to say now, not a moment later; on the loop's thread."""
        self.hosts[host].listen()
        self._looks.look_now(host)

    def answer(self) -> None:
        """Make the posted calls, for callers that still wait after `run` has ended."""
        while self._posted:
            self._posted.popleft()()

    def call_at(self, at: int, call: Callable[[], object]) -> None:
        """Make a call at a monotonic nanosecond; on the loop's thread only. Equal times keep the order of asking."""
        self._agenda.call_at(at, call)
        self._moved = True

    def add_reader(self, fd: int, handler: Callable[[], object], entry: Entry, drop: Drop | None = None) -> None:
        """Call `handler` on the loop's thread whenever `fd` is readable (level-triggered).

        `entry` says what comes in there; when the handler fails `drop` is called, which lets go of the client.
        """
        self._handlers[fd] = handler
        self._entries[fd] = entry, drop
        self._epoll.register(fd, select.EPOLLIN)

    def add_watcher(
        self, fd: int, events: int, watcher: Callable[[int], object], entry: Entry, drop: Drop | None = None
    ) -> None:
        """Call `watcher` with what epoll says of `fd`, for these events and hang-ups; `remove_reader` ends it."""
        self._watchers[fd] = watcher
        self._entries[fd] = entry, drop
        self._epoll.register(fd, events)

    def remove_reader(self, fd: int) -> None:
        if self._handlers.pop(fd, None) is not None or self._watchers.pop(fd, None) is not None:
            del self._entries[fd]
            try:
                self._epoll.unregister(fd)
            except OSError as problem:
                if problem.errno not in (errno.EBADF, errno.ENOENT):  # already closed, or at rest
                    raise

    def rest_reader(self, fd: int, pause: int = PAUSE_NS) -> None:
        """Do not look at a descriptor for so many nanoseconds."""
        handler = self._handlers[fd]
        with contextlib.suppress(OSError):  # at rest already
            self._epoll.unregister(fd)

        def look_again() -> None:
            if self._handlers.get(fd) is handler:  # else closed meanwhile, and the number perhaps another's
                with contextlib.suppress(FileExistsError):
                    self._epoll.register(fd, select.EPOLLIN)

        self.call_at(self.now() + pause, look_again)

    def _failed(self, fd: int, error: Exception) -> None:
        """A handler has failed (`host.guard`)."""
        self._moved = True
        entry, drop = self._entries.get(fd, (Entry.TIMER, None))
        self.faults.note(entry, error)
        if drop is not None:
            self.faults.guard(entry, drop)
        if drop is None and fd in self._handlers and fd not in (self._timer.fileno(), self._bell):
            self.rest_reader(fd)

    def dropped(self) -> Drops:
        """Packets that the receiving kernels did not take, on both paths, since the start."""
        total = Drops()
        for drops in (self.drops, *(pump.drops for pump in self.pumps.values())):
            total.add(drops)
        return total

    def flush_counters(self) -> None:
        """Bring all counters up to date that the fast path has gathered."""
        self.network.flush_counters(self.now())

    def _rest(self) -> None:
        """All current events are handled: set the timer to the next deadline of the network and the queue."""
        self._moved = False
        for call in self.on_idle:
            self.faults.guard(Entry.LISTENER, call)
        try:
            self._due = earliest(self.network.deadline(), self._agenda.deadline())
            self._timer.set(self._due)
        except Exception as error:  # no further wake-up would come
            self.fail(error)

    def _on_timer(self) -> None:
        self._timer.rang()
        self._tick()

    def _tick(self) -> None:
        self._moved = True
        now = self.now()
        if self._due is not None:
            self.lateness.ran(self._due, now)
            self._due = None
        calls = functools.partial(self._agenda.run, now)
        while not self.faults.guard(Entry.TIMER, calls):
            pass  # the one that failed is out, the others are still due
        self.faults.guard(Entry.TIMER, self._tick_network)

    def _tick_network(self) -> None:
        now, deadline = self.now(), self.network.deadline()
        if deadline is not None and deadline <= now:
            self._execute(self.network.tick(now))

    def _answer(self) -> None:
        os.eventfd_read(self._bell)
        self._moved = True
        self.answer()

    def _execute(self, effects: Iterable[NetworkEffect]) -> None:
        """Carry out all of them, whatever becomes of each; then raise the first refusal."""
        refusal: Refused | None = None
        for effect in effects:
            if isinstance(effect, Deliver):
                self._deliver(effect)
                continue
            try:
                self._carry_out(effect)
            except Refused as problem:
                refusal = refusal or problem
                continue
            except Exception as error:
                if not self._running:
                    raise
                self.faults.note(Entry.DEVICE, error)
            now = self.now()
            for listener in self.listeners:
                try:
                    listener(now, effect)
                except Exception as error:
                    self.faults.note(Entry.LISTENER, error)
        if refusal is not None:
            raise refusal

    def _carry_out(self, effect: NetworkEffect) -> None:
        match effect:
            case DeviceChanged(host, name):
                self._show(host, name)
            case DeviceAppeared(host, name):
                self._appeared(host, name)
            case DeviceVanished(host, name):
                self._close_device(host, name)
            case AttributeChanged() | AddressChange() | TraceEvent() | FrameCaptured() | MadArrived() | RdmaEvent():
                pass  # for the listeners
            case Deliver():
                self._deliver(effect)
            case _:
                assert_never(effect)

    def _deliver(self, effect: Deliver) -> None:
        fd = self._fds.get((effect.host, effect.device))
        if fd is None:
            self.drops.gone += 1
            return
        try:
            os.writev(fd, (effect.offload or NO_OFFLOAD, effect.packet))
        except OSError as problem:
            self.drops.count(problem)

    def _show(self, host: str, name: str) -> None:
        live, device = self.hosts.get(host), self.network.hosts[host].namespace.get(name)
        if live is not None and device is not None:
            live.show(device)

    def _appeared(self, host: str, name: str) -> None:
        live, device = self.hosts.get(host), self.network.hosts[host].namespace.get(name)
        if live is not None and device is not None and name not in live.tuns:
            try:
                self._open_device(live, device)
            except Refused:
                if name in self.network.hosts[host].registry.bonds:  # a bond without a device is none
                    self._execute(self.network.handle(self.now(), OnHost(host, DeleteBond(name))))
                raise
            live.show(device)

    def _open_device(self, live: LiveHost, device: Device) -> None:
        tun = live.open_device(device, persist=self._persist)
        if device.driver.kind == "ethernet":
            return  # it leads nowhere: what the kernel sends there stays in its queue
        key = live.name, device.name
        self._fds[key] = tun.fd
        self.pumps[key] = pump = Pump(
            tun.fd,
            self.network.generation,
            find=functools.partial(self._flow, live.name, device),
            descriptor=self._fds.get,
            slow=functools.partial(self._slow, live, device.name),
            record=self._record,
        )
        self.add_reader(tun.fd, pump.drain, Entry.PACKET)

    def _close_device(self, host: str, name: str) -> None:
        fd = self._fds.pop((host, name), None)
        if fd is not None:
            self.network.generation.bump()  # flows must not write to a descriptor of this number from now on
            self.drops.add(self.pumps.pop((host, name)).drops)
            self.remove_reader(fd)
        self.hosts[host].close_device(name)

    def _flow(self, host: str, device: Device, packet: bytes) -> Flow | None:
        """A flow that takes whatever the device lets pass; where the way is narrower, packets go one by one."""
        flow = self.network.flow_for(self.now(), host, device.name, packet)
        return flow if flow is not None and flow.mtu >= device.mtu else None

    def _record(self, capture_point: CapturePoint, packet: memoryview) -> None:
        if self.recorder is not None:
            self.recorder(capture_point, packet)

    def _slow(self, live: LiveHost, device: str, packet: bytes, offload: bytes) -> None:
        if is_report(packet):
            live.groups_changed()
            self._looks.ask(live.name)
        self.handle(OnHost(live.name, Transmit(device, packet, offload)))

    def _kernel_spoke(self, live: LiveHost) -> None:
        live.listen()
        self._looks.ask(live.name)

    def _look(self, host: str) -> None:
        """Hand the network what has changed in this host's kernel, and undo what users may not do."""
        live = self.hosts[host]
        look, again = (functools.partial(call, live) for call in (self._look_at, self._read_again))
        self.faults.guard(Entry.NETLINK, look, again)  # whatever led to it, a packet or a message

    def _look_at(self, live: LiveHost) -> None:
        self._tell(live, live.changes())
        self._put_right(live)

    def _read_again(self, live: LiveHost) -> None:
        """What the kernel said was not dealt with to its end: look at everything, a little later."""

        def read() -> None:
            if self.hosts.get(live.name) is live:
                self._tell(live, live.everything())
                self._put_right(live)

        self.call_at(self.now() + RESTORE_AFTER, read)

    def _put_right(self, live: LiveHost) -> None:
        """What users of the host did to its devices and may not."""
        undone, live.undone = live.undone, []
        for text in undone:
            self._note(live, f"warning: {text}")
        deleted, live.deleted = live.deleted, []
        for name in deleted:
            if name in live.tuns:  # the network did not let go of it
                self._close_device(live.name, name)
                self._restore(live, name)

    def _tell(self, live: LiveHost, events: Iterable[HostEvent]) -> None:
        """Hand the kernel's events to the network. What it refuses is undone in the kernel."""
        for event in events:
            try:
                self.handle(OnHost(live.name, event))
            except Refused as refusal:
                self._note(live, f"warning: undone: {refusal}")
                if isinstance(event, SetAdmin | SetDeviceMtu):
                    device = self.network.hosts[live.name].namespace.get(event.device)
                    if device is not None:
                        live.show(device)

    def _restore(self, live: LiveHost, name: str, *, again: bool = False) -> None:
        """A user deleted the TUN of a device that the model still has: hardware cannot be deleted, so make it again.

        Where that is refused, because the host has another device of that name now, it is tried again and again.
        """
        device = self.network.hosts[live.name].namespace.get(name)
        if device is None or name in live.tuns or self.hosts.get(live.name) is not live:
            return
        try:
            self._open_device(live, device)
        except Refused as refusal:
            if not again:
                self._note(
                    live, f"warning: {name} was deleted in the namespace and cannot be created again yet: {refusal}"
                )
            self.call_at(self.now() + RESTORE_AFTER, functools.partial(self._restore, live, name, again=True))
            return
        self._note(live, f"warning: {name} was deleted and exists again: hardware cannot be deleted")
        live.show(device)

    def _note(self, live: LiveHost, text: str) -> None:
        self._execute([TraceEvent("log", live.name, text)])

    def _read_groups(self) -> None:
        self.call_at(self.now() + GROUPS_EVERY, self._read_groups)
        for live in self.hosts.values():
            self.faults.guard(Entry.NETLINK, functools.partial(self._read_groups_of, live))

    def _read_groups_of(self, live: LiveHost) -> None:
        live.groups_changed()
        self._looks.ask(live.name)

    def _flush_again(self) -> None:
        self.call_at(self.now() + FLUSH_EVERY, self._flush_again)
        self.flush_counters()
