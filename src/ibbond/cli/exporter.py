"""`ibbond exporter`: the state of bonds for Prometheus, over HTTP or as a file for node_exporter. Changes nothing.

Read first: ops/metrics.py for what is exported, docs/monitoring.md for what to do with it. Each scrape is one snapshot.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ibbond.cli import completers
from ibbond.cli.output import done, json_option, name_option
from ibbond.errors import Refused

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Metric

    from ibbond.backend.contract import Backend
    from ibbond.backend.kernel.bonds import KernelBackend
    from ibbond.ops.facts import DeviceFacts
    from ibbond.ops.metrics import Seen
    from ibbond.ops.read_facts import Neighbors, Ports

LISTEN = "127.0.0.1:9786"
NEIGHBORS_KEPT_S = 300.0  # cables are seldom moved, and a question to a switch takes long
WATCH_AGAIN_S = 5.0
READABLE = "1 if the bonds could be read; if 0, there is nothing else."


@click.command()
@name_option
@click.argument("bonds", nargs=-1, metavar="[BOND]...", shell_complete=completers.bonds)
@click.option(
    "--listen", metavar="ADDRESS:PORT", default=LISTEN, show_default=True, help="Where to answer HTTP requests."
)
@click.option(
    "--textfile",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write one snapshot to this file and exit; for node_exporter's textfile collector.",
)
@click.option(
    "--root", type=click.Path(path_type=Path), help="With --textfile: a saved copy, as ibbond check reads it."
)
@click.option("--expect", metavar="A,B", default="", help="The members that each bond should have.")
@json_option
def exporter(
    lab_name: str,
    bonds: tuple[str, ...],
    listen: str,
    textfile: Path | None,
    root: Path | None,
    expect: str,
    as_json: bool,
) -> None:
    """Export the state of bonds to Prometheus: members, failovers and why, ports, errors, and findings of check.

    Without BOND, all bonds of the current host. A BOND that is named and does not exist is exported as missing.
    Needs no privileges; what it cannot read it names in ibbond_exporter_unknown. Listens on loopback by default,
    until it is ended with SIGTERM or Ctrl-C.
    """
    from ibbond.cli.check import where

    members = [name for name in expect.split(",") if name]
    if root is not None:
        if textfile is None:
            raise Refused("--root needs --textfile", why="a saved copy does not change", fix="Add --textfile FILE")
        from ibbond.cli.bond import saved_host

        with saved_host(root) as kernel:
            write(Source(kernel, "", list(bonds), members), textfile, as_json)
        return
    from ibbond.cli.addr import backend_of

    host, names = where(bonds, lab_name)
    source = Source(backend_of(host, lab_name), lab_name, names, members)
    if textfile is not None:
        write(source, textfile, as_json)
    else:
        serve(source, listen, as_json)


class Source:
    """A host that is looked at again and again."""

    def __init__(self, backend: Backend, lab: str, named: list[str], expect: list[str]) -> None:
        from ibbond.ops.failovers import History

        self._backend, self._lab, self._named, self._expect = backend, lab, named, expect
        self._record = History()
        self._watching = False
        self._neighbors: Neighbors = {}
        self._neighbors_until = 0.0
        self._lock = threading.Lock()

    def collect(self) -> Iterator[Metric]:
        """What prometheus_client asks at each scrape; two scrapes at once are answered one after the other."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        from ibbond.ops.metrics import METRICS

        with self._lock:
            try:
                seen: Seen | None = self._seen()
            except Refused as refused:
                click.echo(f"ibbond: {refused}", err=True)
                seen = None
            yield GaugeMetricFamily("ibbond_exporter_readable", READABLE, value=float(seen is not None))
            for row in METRICS:
                kind = CounterMetricFamily if row.kind == "counter" else GaugeMetricFamily
                family = kind(row.name, row.meaning, labels=row.labels)
                for labels, value in dict(row.samples(seen) if seen is not None else ()).items():
                    family.add_metric(labels, value)
                yield family

    def watch(self) -> None:
        """Count failovers for as long as the process runs; after an error, from a new connection."""
        while True:
            with contextlib.suppress(Refused, OSError):
                changes = self._backend.reconnect().watch()
                self._watching = True
                for change in changes:
                    with self._lock:
                        self._record.add(time.time(), change)
            self._watching = False
            time.sleep(WATCH_AGAIN_S)

    def _seen(self) -> Seen:
        from ibbond.backend.kernel.bonds import KernelBackend
        from ibbond.cli.check import chosen, expecting, of_lab_host
        from ibbond.ops.metrics import Seen
        from ibbond.ops.read_facts import kernel_facts

        counters: dict[str, dict[str, int]] = {}
        if isinstance(self._backend, KernelBackend):
            bonds = chosen(self._backend, self._named)
            facts = kernel_facts(self._backend, bonds, ask=self._ask, settle=False)
            counters = {name: port_counters(self._backend, device) for name, device in facts.devices.items()}
        else:
            there = self._backend.read("bonding_masters").split()
            names = [name for name in self._named if name in there] if self._named else there
            facts = of_lab_host(self._backend, names, self._lab, settle=False)
        return Seen(expecting(facts, self._expect), self._record.bonds, counters, tuple(self._named), self._watching)

    def _ask(self, ports: Ports) -> Neighbors:
        """The neighbors of ports, asked again after a while or when the ports are others."""
        from ibbond.ops.read_facts import ask_neighbors

        now = time.monotonic()
        if now >= self._neighbors_until or not set(ports) <= set(self._neighbors):
            self._neighbors = dict.fromkeys(ports) | ask_neighbors(ports)
            self._neighbors_until = now + NEIGHBORS_KEPT_S
        return self._neighbors


def port_counters(kernel: KernelBackend, device: DeviceFacts) -> dict[str, int]:
    """The error counters of the port below a device, by their names in sysfs; those that can be read."""
    from ibbond.ops.metrics import COUNTERS

    port = device.port
    if port is None or port.adapter is None:
        return {}
    base = f"sys/class/infiniband/{port.adapter}/ports/{port.number}/counters"
    found = {counter: kernel.files.number(f"{base}/{counter}") for counter in COUNTERS}
    return {counter: value for counter, value in found.items() if value is not None}


def registry(source: Source) -> CollectorRegistry:
    """A registry that asks the source at each scrape."""
    from prometheus_client import CollectorRegistry
    from prometheus_client.registry import Collector

    class Bonds(Collector):
        def collect(self) -> Iterable[Metric]:
            return source.collect()

    made = CollectorRegistry(auto_describe=False)
    made.register(Bonds())
    return made


def write(source: Source, path: Path, as_json: bool) -> None:
    """One snapshot, complete or not at all."""
    from prometheus_client import write_to_textfile

    write_to_textfile(str(path), registry(source))
    done(as_json, f"wrote {path}", {"output": str(path)})


def serve(source: Source, listen: str, as_json: bool) -> None:
    """Answer requests until a signal ends the process."""
    from prometheus_client import ProcessCollector, start_http_server

    address, colon, port = listen.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise Refused(f"cannot listen on {listen}", why="it is not ADDRESS:PORT", fix=f"For example: --listen {LISTEN}")
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    threading.Thread(target=source.watch, daemon=True, name="watch").start()
    try:
        made = registry(source)
        ProcessCollector(registry=made)  # its own memory, descriptors and time
        server, _ = start_http_server(int(port), addr=address.strip("[]"), registry=made)
    except OSError as error:
        raise Refused(
            f"cannot listen on {listen}", why=error.strerror or str(error), fix="Choose another with --listen"
        ) from None
    url = f"http://{address}:{server.server_port}/metrics"
    done(as_json, f"bonds at {url}", {"url": url})
    sys.stdout.flush()
    ended.wait()
    server.shutdown()
