"""The process that is a lab: hosts, their devices, the subnet between them, until it is taken down.

Read first: `lab.launch`, which starts it and waits for its word; `host.loop`, which it runs; `lab.control.requests`,
which it answers. The order of things at the start is such that whatever ends it in the middle leaves nothing: the lock
first, then the namespaces, then devices, addresses, the socket, and at last the word that it is ready.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import random
import secrets
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType

from ibbond.backend.control_server import ControlServer, encode
from ibbond.bonding.events import SetOption
from ibbond.errors import Refused
from ibbond.host import capabilities, descriptors, namespace
from ibbond.host.capture import Captures
from ibbond.host.listener_keeper import Keeper
from ibbond.host.loop import LiveLoop
from ibbond.host.named_namespaces import named_hosts, namespace_name
from ibbond.host.namespace import NetNamespace
from ibbond.host.priority import raise_priority
from ibbond.host.privilege import gain_privileges
from ibbond.lab.control.requests import Requests
from ibbond.lab.journal import Journal
from ibbond.lab.launch import clean
from ibbond.lab.saved_state import SavedState, capture_state, restored
from ibbond.lab.state import NOT_OURS, Files, LabConfig, Note
from ibbond.lab.views import Views
from ibbond.machine import MS, SECOND
from ibbond.stack.build import build
from ibbond.stack.events import AttributeChanged, DeviceAppeared, DeviceVanished, NetworkEffect, OnHost, ToBond
from ibbond.stack.network import Network
from ibbond.tools.infiniband_tools import SOCKET_BASE, OpenSm, attach_manager, partitions
from ibbond.tools.rdma_programs import RdmaPrograms
from ibbond.tools.rdma_server import RdmaServer
from ibbond.tools.umad import UmadServer
from ibbond.topology.load import parse
from ibbond.topology.model import Topology
from ibbond.verbs.timing import Timing

LOOKING_EVERY = 2 * MS
READY_TIMEOUT = 15 * SECOND
SAVE_AFTER = 200 * MS
BROKEN_READY_TIMEOUT = 3 * SECOND  # where a patch is left out, a bond may never come up


def main() -> None:
    """Read the configuration from standard input, run the lab, answer on the descriptor in the first argument."""
    telling = int(sys.argv[1])
    config = read_config(sys.stdin.buffer.read())
    try:
        with LabDaemon(config) as lab:
            lab.run(lambda status: report_ready(telling, {"ok": status}))
        if lab.ready_ms is None:
            why = "it was taken down while it started"
            raise Refused(f"lab {config.name} did not start", why=why, fix="Start it again", code=errno.ECANCELED)
    except Refused as refusal:
        print(f"refused: {refusal}", flush=True)
        words = {"what": refusal.what, "why": refusal.why, "fix": refusal.fix, "code": refusal.code}
        report_ready(telling, {"refused": words})
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        traceback.print_exc()
        report_ready(telling, {"failed": f"{type(error).__name__}: {error}"})
        sys.exit(1)


def read_config(raw: bytes) -> LabConfig:
    fields = json.loads(raw)
    fields["without"] = tuple(fields["without"])
    return LabConfig(**fields)


def report_ready(telling: int, answer: dict[str, object]) -> None:
    """One line to the process that started the lab, which may have exited."""
    with contextlib.suppress(OSError):
        os.write(telling, encode(answer))
        os.close(telling)


class LabDaemon:
    """A running lab. Leaving the block leaves nothing of it."""

    def __init__(self, config: LabConfig) -> None:
        self.began = time.monotonic_ns()
        self.files = Files(config.name)
        self.config = config
        self.spaces: dict[str, NetNamespace] = {}
        self.user_space = -1  # descriptor of the user namespace of an ordinary user's lab
        self.ready_ms: float | None = None
        self.opensm: OpenSm | None = None
        self._opened = self._ending = False
        self._remembering = False
        self._found = False  # what a killed lab left, and nothing is done with it yet
        self._closing = contextlib.ExitStack()

    def __enter__(self) -> LabDaemon:
        with self._closing:
            self._open()
            self._opened = True
            self._closing = self._closing.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending = True  # signals have nothing more to say
        self._closing.__exit__(kind, error, trace)

    def run(self, ready: Callable[[dict[str, object]], None]) -> None:
        """Be the lab until it is taken down; `ready` is called once, with the status, when packets flow."""
        self.loop.call_at(self.loop.now(), lambda: self._look(ready))
        if self.opensm is not None:
            self._start_manager(self.opensm)
        try:
            self.loop.run()
        except Refused as refusal:  # belongs to the client; that it got here is a bug
            raise RuntimeError("the lab could not start") from refusal

    def _start_manager(self, manager: OpenSm) -> None:
        """Called when startup has nothing else left to do, so that every MAD is answered immediately."""
        if self.views.opening:
            self.loop.call_at(self.loop.now() + LOOKING_EVERY, lambda: self._start_manager(manager))
        else:
            manager.start()

    def _manager_ended(self, code: int) -> None:
        why = f"by signal {-code}" if code < 0 else f"with status {code}"
        self.journal.note(self.loop.now(), "died", "sm", f"OpenSM ended {why}; start it with: ibbond lab revive sm")

    def _open(self) -> None:
        heed_signals(self._end)
        self._lock = self.files.hold()
        self._closing.callback(os.close, self._lock)
        note = self.files.read_note()
        self._found = note is not None
        self._closing.push(self._remove_files)
        if self.config.resume:
            self.config = resumed_config(self.config, note)
        else:
            clean(self.files)  # before a user namespace is entered, from which those of another one cannot be seen
        self._found = False
        if gain_privileges():
            self.user_space = os.open("/proc/self/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        capabilities.drop()  # while there is one thread, and before anything of a host is read
        with contextlib.suppress(FileNotFoundError):
            self.files.socket.unlink()
        self.topology = parse(self.config.text, name=self.config.source, others=NOT_OURS)
        self._limit = descriptors.raise_limit(len(self.topology.hosts))
        self._hosts_file = hosts_file(self.topology)
        self.saved = (self.files.read_state() if self.config.resume else None) or SavedState()
        if self.saved.hosts:
            self.topology = restored(self.topology, self.saved)
        built_in = self.config.manager != "opensm"
        self.network: Network = build(
            self.topology,
            random=random.Random(),
            timing=Timing.live(built_in_manager=built_in),
            profile=self.config.profile,
            without=self.config.without,
            built_in_manager=built_in,
            draw_key=functools.partial(secrets.randbits, 32),
        )
        if not built_in:
            attach_manager(self.network.subnet, self.topology)
        self._open_spaces()
        self._note()
        self._open_loop()

    def _remove_files(self, kind: type[BaseException] | None, *_: object) -> None:
        """Leave nothing on disk, except the log after an internal error, and files of others after a refusal."""
        if self._found:
            return
        wrong = kind is not None and not issubclass(kind, Refused | KeyboardInterrupt | SystemExit)
        self.files.remove(self._lock, keep_log=wrong)

    def _open_spaces(self) -> None:
        adopted = named_hosts(self.config.name) if self.config.resume else []
        for host in self.topology.hosts:
            known = namespace_name(self.config.name, host.name) in adopted
            obtain = namespace.take_over if known else namespace.make
            space = obtain(self.config.name, host.name, self._hosts_file, host.files)
            self._closing.callback(space.remove)
            self.spaces[host.name] = space

    def _note(self) -> None:
        inodes = {host: os.fstat(space.net).st_ino for host, space in self.spaces.items()}
        self.files.write_note(Note(os.getpid(), self.config, inodes))

    def _open_loop(self) -> None:
        self.loop = LiveLoop(self.network, self.spaces, persist=True)
        self.captures = Captures(self.loop)
        self.requests = Requests(self)
        self.server = ControlServer(self.files.socket, self.requests.handlers(), self.loop.faults)
        self.journal = Journal(self.began, self.topology.end_for_people, self.server.enqueue)
        self.loop.on_idle.append(self.server.ring)
        self.loop.listeners.append(self.journal.on_effect)
        self.loop.open()
        self._closing.callback(self.loop.close)
        self._closing.callback(self.server.close, self.loop.answer)  # before the loop, which its requests need
        self._open_tools()
        self.loop.listeners.append(self._on_signal)
        self.requests.cut_again(self.saved.cut)
        self._open_views()
        for host in self.topology.hosts:
            self.loop.hosts[host.name].configure(host)
        if self.config.resume:
            self.rdma.take_over()
        self.server.start()
        self.priority = raise_priority()

    def _open_tools(self) -> None:
        """InfiniBand tools are answered in every host; OpenSM is one of them."""
        ports = {
            host.name: [f"{hca.name}/{number}" for hca in host.hcas for number in range(1, hca.ports + 1)]
            for host in self.topology.hosts
            if host.hcas
        }
        spaces = {name: space for name, space in self.spaces.items() if name in ports}
        manager_host = next(iter(spaces)) if self.config.manager == "opensm" else None
        self.tools = UmadServer(self.loop, SOCKET_BASE, spaces, ports, manager_host)
        self._closing.callback(self.tools.close)
        self._closing.callback(RdmaServer(self.loop, self.spaces).close)
        adapters = {
            host.name: [self.network.subnet.adapter(hca.name) for hca in host.hcas] for host in self.topology.hosts
        }
        self.rdma = RdmaPrograms(self.loop, self.spaces, adapters, self.files.rdma, Keeper(self.files.keeper))
        self._closing.callback(self.rdma.close)
        if manager_host is not None:
            description = partitions(self.topology, self.network.subnet, {})
            home = self.files.tools / "opensm"
            self.opensm = OpenSm(
                self.loop, self.tools, self.spaces[manager_host], home, description, self._manager_ended, self._limit
            )
            self._closing.callback(self.opensm.close)

    def _open_views(self) -> None:
        self.views = Views(self.loop)
        self._closing.callback(self.views.close)
        self.views.open(self.spaces, self.requests.backend, self.rdma.adapters())
        self.loop.listeners.append(self.views.on_effect)

    def _look(self, ready: Callable[[dict[str, object]], None]) -> None:
        """Look again and again whether the lab is ready, but not forever. What fails until then ends the start."""
        try:
            self._look_once(ready)
        except Exception as error:
            self.loop.fail(error)

    def _look_once(self, ready: Callable[[dict[str, object]], None]) -> None:
        now = self.loop.now()
        waiting = self.waiting_for()
        timeout = BROKEN_READY_TIMEOUT if self.config.without or self.config.profile != "default" else READY_TIMEOUT
        if (waiting or self.views.opening) and now - self.began < timeout:
            self.loop.call_at(now + LOOKING_EVERY, lambda: self._look(ready))
            return
        self.loop.lateness.clear()  # the start has kept it busy itself
        self.ready_ms = round((now - self.began) / MS, 1)
        self._activate_again()
        self.save_soon()
        self.journal.note(now, "ready", self.config.name, f"not up: {', '.join(waiting)}" if waiting else "")
        ready(self.requests.shown.status())

    def _on_signal(self, _at: int, effect: NetworkEffect) -> None:
        """Whatever changes what must be remembered has it written down, a little later and together."""
        if isinstance(effect, AttributeChanged | DeviceAppeared | DeviceVanished):
            self.save_soon()

    def save_soon(self) -> None:
        """On the loop's thread."""
        if not self._remembering:
            self._remembering = True
            self.loop.call_at(self.loop.now() + SAVE_AFTER, self._save_state)

    def _save_state(self) -> None:
        self._remembering = False
        self.files.write_state(capture_state(self.network, self.requests.cut))

    def _activate_again(self) -> None:
        """After resuming, members are what they were, and traffic returns to those that carried it."""
        for host, saved in self.saved.hosts.items():
            for bond in saved.bonds:
                members = self.network.hosts[host].bond(bond.name).members
                for name, failures, priority in bond.counted:
                    if name in members:
                        members[name].failures, members[name].priority = failures, priority
                options = [("queue_id", queue) for queue in bond.queues]
                options += [("active_slave", bond.active)] if bond.active is not None else []
                for option, text in options:
                    with contextlib.suppress(Refused):
                        self.loop.handle(OnHost(host, ToBond(bond.name, SetOption(option, f"{text}\n"))))

    def waiting_for(self) -> list[str]:
        """The bonds and devices that have no carrier although they should have one."""
        found = []
        for host in self.topology.hosts:
            namespace = self.network.hosts[host.name].namespace
            plugged = [device.name for device in host.devices if device.port not in self.requests.cut]
            wanted = [bond.name for bond in host.bonds if bond.up and set(bond.members) & set(plugged)]
            wanted += [device.name for device in host.devices if device.up and device.name in plugged]
            for name in wanted:
                device = namespace.get(name)
                if device is None or not device.usable:
                    found.append(f"{host.name}/{name}")
        return found

    def _end(self) -> None:
        """A signal asks for the end: of the loop where it runs, else of the start; only once."""
        if self._ending:
            return
        if self._opened:
            self.loop.stop()
        else:
            self._ending = True
            raise KeyboardInterrupt

    def end_soon(self) -> None:
        """Take the lab down; from any thread."""
        if not self._ending:
            self.loop.stop()


def hosts_file(topology: Topology) -> str:
    """/etc/hosts of every host: the machine's, and the addresses of the lab's hosts (hosts(5))."""
    lines = [f"{address.ip} {host.name}" for host in topology.hosts for _, address in host.addresses()]
    try:
        machine = Path("/etc/hosts").read_text(errors="surrogateescape").rstrip("\n").splitlines()
    except OSError:
        machine = ["127.0.0.1 localhost", "::1 localhost"]
    return "\n".join([*lines, *machine, ""])


def heed_signals(end: Callable[[], None]) -> None:
    """SIGTERM and SIGINT end the lab properly, at any time; a lost terminal does not."""

    def on_effect(_number: int, _frame: FrameType | None) -> None:
        end()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_effect)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)


def resumed_config(config: LabConfig, note: Note | None) -> LabConfig:
    """The configuration of the lab that was killed; `Refused` if nothing is left of it."""
    if note is None or not named_hosts(config.name):
        raise Refused(
            f"cannot resume lab {config.name}",
            why="nothing of it remains" if note is None else "an ordinary user's hosts end with their lab",
            fix="Start it without --resume",
        )
    return LabConfig(
        config.name,
        note.config.text,
        note.config.source,
        resume=True,
        profile=note.config.profile,
        without=note.config.without,
        leased=config.leased,
        manager=note.config.manager,
    )


if __name__ == "__main__":
    main()
