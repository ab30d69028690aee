"""A lab as a Python value: `with Lab() as lab:` starts hosts, switches and bonds, and ends all of it with the block.

    from ibbond import Lab

    def test_a_cut_cable_is_survived():
        with Lab() as lab:
            lab["h1"].run(["ping", "-c1", "10.0.0.2"])
            lab.cut("h1/ib0")
            lab.wait_active("h1/bond0", "ib1", within=1.0)
            lab["h1"].run(["ping", "-c1", "10.0.0.2"])

Names are those of the command line: a device is HOST/DEVICE, a cable is named by either end. Every method raises
`Refused` for a request that cannot be honored; nothing has changed then. If the process is killed, the lab ends, too.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Self

from ibbond.backend.control_socket import DEFAULT_LAB, Control, LabBackend
from ibbond.demo.probe import Measurement, probing
from ibbond.errors import Refused
from ibbond.host.input_file import read_input_text
from ibbond.lab import exec as lab_exec
from ibbond.lab import prefork
from ibbond.lab.capturing import Captured, RunningCapture
from ibbond.lab.launch import running_lab
from ibbond.lab.state import LabConfig
from ibbond.testing.event_log import Event, EventLog
from ibbond.testing.leftovers import new_name, remove_leftovers
from ibbond.topology.builder import TopologyBuilder
from ibbond.topology.default import TWO_HOSTS

LAST_EVENTS = 10
MAX_NOTE = 4000  # characters of what a failed program printed


class Lab:
    """One lab. It is started by `with` (or `start`) and ended by the end of the block (or `stop`).

    `topology` is a path, the text of a topology file, or a `TopologyBuilder`; without one, the lab is the default:
    hosts h1 and h2 with ib0 and ib1 in bond0 (10.0.0.1, 10.0.0.2, fd00::1, fd00::2), switches s1 and s2. `name` is
    chosen unless given, so that labs of parallel tests do not meet. `profile` names the bonding driver to emulate,
    `manager` the subnet manager ("builtin" or "opensm").
    """

    def __init__(
        self,
        topology: str | os.PathLike[str] | TopologyBuilder | None = None,
        *,
        name: str | None = None,
        profile: str = "default",
        manager: str = "builtin",
    ) -> None:
        self.name = name or new_name()
        text, source = read_topology(topology)
        self._config = LabConfig(self.name, text, source, profile=profile, leased=True, manager=manager)
        self._attached = False
        self._running = ExitStack()
        self._control: Control | None = None
        self._log: EventLog | None = None
        self._captures: list[LabCapture] = []

    @classmethod
    def attach(cls, name: str = DEFAULT_LAB) -> Self:
        """A lab that is running already, started by `ibbond lab up --name NAME`::

            with Lab.attach("demo") as lab:
                lab["h1"].run("ping -c1 10.0.0.2")

        It continues when the block ends. `start` raises `Refused` where no lab of this name is running.
        """
        lab = cls(name=name)
        lab._attached = True
        return lab

    def start(self) -> Self:
        """Start the lab; returns when every port is active and every bond is up. `Refused` says why it cannot."""
        if self._control is not None:
            raise Refused(f"cannot start lab {self.name}", why="it is already running", fix="Use it, or stop it first")
        with ExitStack() as starting:
            if self._attached:
                control = starting.enter_context(Control.of(self.name))
                self._log = EventLog(self.name)
                starting.callback(self._log.hang_up)
            else:
                remove_leftovers()
                _, control = starting.enter_context(running_lab(self._config, prefork.spawn))
                self._log = EventLog(self.name)
            self._control = control
            self._running = starting.pop_all()
        return self

    def stop(self) -> None:
        """End the lab: its hosts, the programs in them, and every device. Stopping it twice is allowed.

        A lab that was attached to continues; captures that were started here end.
        """
        for capture in self._captures if self._control is not None else ():
            with suppress(Refused):
                capture.end()
        self._control = None
        self._running.close()
        if self._log is not None:
            self._log.join()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    # ---- hosts

    def __getitem__(self, host: str) -> LabHost:
        """The host of this name."""
        self.ask("host", host=host)
        return LabHost(self, host)

    @property
    def hosts(self) -> list[LabHost]:
        """All hosts, in the order of the topology."""
        hosts = self.status()["hosts"]
        assert isinstance(hosts, dict)
        return [LabHost(self, name) for name in hosts]

    # ---- faults

    def cut(self, *cables: str) -> None:
        """Unplug cables, all at the same moment."""
        self.ask("cut", cables=list(cables))

    def mend(self, *cables: str) -> None:
        """Plug cables in again."""
        self.ask("mend", cables=list(cables))

    def lose(self, *cables: str, percent: float) -> None:
        """Have cables lose this share of their packets from now on; 0 ends it."""
        self.ask("lose", cables=list(cables), percent=percent)

    def kill(self, *nodes: str) -> None:
        """Switch off switches, adapters (by the host's name) or the subnet manager ("sm")."""
        self.ask("kill", nodes=list(nodes))

    def revive(self, *nodes: str) -> None:
        """Switch nodes on again; a switch comes back with empty tables."""
        self.ask("revive", nodes=list(nodes))

    # ---- what passes

    def capture(self, device: str, path: str | os.PathLike[str]) -> LabCapture:
        """Write what passes HOST/DEVICE or SWITCH/PORT to a file for tshark or Wireshark, from now on.

        It ends with `with`, by its method `end`, or with the lab. An IPoIB device or a switch port shows the InfiniBand
        packets of its port, management included (ERF); a bond shows its IPoIB frames.
        """
        self._connection()
        capture = LabCapture(RunningCapture(self.name, device, path))
        self._captures.append(capture)
        return capture

    @contextmanager
    def probe(self, one: str, two: str, *, settle: float = 1.0) -> Iterator[Probe]:
        """Measure in this block what UDP, multicast, ICMP and TCP lose between two hosts.

        A probe leaves each millisecond (ICMP: ten), both ways. After the block it continues for `settle` seconds, in
        which late losses show; then `Probe.result` has the measurement. `Refused` where the hosts cannot talk::

            with lab.probe("h1", "h2") as probe:
                lab.cut("h1/ib0")
            assert probe.result["udp"].outage_ms < 5
        """
        self._connection()
        probe = Probe()
        with Control.of(self.name) as control, probing(control, (one, two)) as running:
            yield probe
            time.sleep(settle)
            probe.measured = running.end()

    # ---- state and events

    def status(self) -> dict[str, Any]:
        """What `ibbond lab status --json` prints."""
        status = self.ask("status")
        assert isinstance(status, dict)
        return status

    def active(self, bond: str) -> str | None:
        """The active member of HOST/BOND, or None while no member carries traffic."""
        host, _, device = bond.partition("/")
        return self.backend(host).snapshot(device).active

    def backend(self, host: str) -> LabBackend:
        """The bonding files and requests of a host (see `ibbond.backend.contract`)."""
        return LabBackend(self._connection(), host)

    @property
    def events(self) -> tuple[Event, ...]:
        """Everything that has happened, in order: ports, carriers, failovers, announcements, faults."""
        return self._events().events

    def wait(self, condition: Callable[[], object], *, within: float) -> None:
        """Wait until a condition holds, checked on every event of the lab; `TimeoutError` after `within` seconds."""
        if not self._events().wait(condition, within):
            raise TimeoutError(f"the condition did not hold within {within:g} s; {self.last_events()}")

    def wait_active(self, bond: str, member: str, *, within: float) -> None:
        """Wait until HOST/BOND uses this member; `TimeoutError` says which one it uses instead."""
        if not self._events().wait(lambda: self.active(bond) == member, within):
            found = f"the active member of {bond} is {self.active(bond)}, not {member}"
            raise TimeoutError(f"{found}, after {within:g} s; {self.last_events()}")

    def last_events(self) -> str:
        """The last events as text, for messages."""
        return "the last events are:\n" + "\n".join(f"  {event}" for event in self.events[-LAST_EVENTS:])

    # ---- the connection

    def ask(self, do: str, **words: object) -> object:
        """Send a request to the lab."""
        return self._connection().ask(do, **words)

    def _connection(self) -> Control:
        if self._control is None:
            what = f"lab {self.name} is not running"
            raise Refused(what, why="it was not started, or it has ended", fix="Use it in a `with` block")
        return self._control

    def _events(self) -> EventLog:
        if self._log is None:
            raise Refused(f"lab {self.name} has no events", why="it was never started", fix="Use it in a `with` block")
        return self._log


class LabHost:
    """One host of a running lab."""

    def __init__(self, lab: Lab, name: str) -> None:
        self._lab = lab
        self.name = name

    def run(
        self,
        command: str | Sequence[str],
        *,
        check: bool = True,
        timeout: float | None = None,
        input: str | None = None,  # noqa: A002 - as subprocess.run calls it
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in the host to its end; stdout and stderr are captured as text.

        A command that is one string is a line for the shell, as in `exec` of topology files. Paths, `cwd` included, are
        those that the host sees: below /sys/class/net, for example, are its own devices.
        With `check`, a program that fails raises `subprocess.CalledProcessError`. After `timeout` seconds the program
        is killed and `subprocess.TimeoutExpired` is raised. `env` adds to the environment.
        """
        piped = subprocess.PIPE if input is not None else subprocess.DEVNULL
        process = self.popen(command, stdin=piped, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=cwd, env=env)
        with process:
            try:
                out, err = process.communicate(input, timeout)
            except BaseException:
                process.kill()
                raise
        done = subprocess.CompletedProcess(process.args, process.returncode, out, err)
        if check and done.returncode != 0:
            failure = subprocess.CalledProcessError(done.returncode, done.args, out, err)
            failure.add_note(f"in {self.name} it printed:\n{out}{err}"[-MAX_NOTE:])  # pytest and tracebacks show notes
            raise failure
        return done

    def popen(
        self,
        command: str | Sequence[str],
        *,
        stdin: int | IO[Any] | None = subprocess.DEVNULL,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        process_group: int | None = None,
    ) -> subprocess.Popen[str]:
        """Start a program in the host. It is ended with the lab at the latest.

        A command that is one string is a line for the shell; the other arguments are those of subprocess.
        """
        words = ["/bin/sh", "-c", command] if isinstance(command, str) else command
        with Control.of(self._lab.name) as control:
            way, place = lab_exec.handle_and_directory(control, self.name, words[0])
        if env:
            way = way._replace(environment={**way.environment, **env})
        try:
            return way.popen(  # type: ignore[return-value]
                words,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                cwd=cwd or place,
                text=True,
                process_group=process_group,
            )
        except OSError as error:
            raise lab_exec.cannot_run(words[0], self.name, error) from None
        finally:
            way.close()

    def __repr__(self) -> str:
        return f"<host {self.name} of lab {self._lab.name}>"


class LabCapture:
    """A capture; `result` is what it has written, once it has ended."""

    def __init__(self, running: RunningCapture) -> None:
        self._running = running
        self.path = running.file
        self.result: Captured | None = None

    def end(self) -> Captured:
        """End it; the file is complete. Ending it twice is allowed."""
        if self.result is None:
            self.result = self._running.end()
        return self.result

    def __enter__(self) -> LabCapture:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


class Probe:
    """What `Lab.probe` has measured."""

    measured: Measurement | None = None

    @property
    def result(self) -> Measurement:
        """The measurement; `Refused` as long as the block runs."""
        if self.measured is None:
            raise Refused("the probe has no result", why="it is still measuring", fix="Read it after the `with` block")
        return self.measured


def read_topology(topology: str | os.PathLike[str] | TopologyBuilder | None) -> tuple[str, str]:
    """The text of a topology, and what to call it."""
    if topology is None:
        return TWO_HOSTS, "the default topology"
    if isinstance(topology, TopologyBuilder):
        return topology.text(), "a built topology"
    if isinstance(topology, str) and ("\n" in topology or "=" in topology):
        return topology, "a topology in Python"
    path = Path(topology)
    return read_input_text(path, "Give the path of a topology file (docs/topology.md)"), str(path)
