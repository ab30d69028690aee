"""`ibbond-extcap`: devices and switch ports of running labs as interfaces of Wireshark and tshark.

Read first: extcap(4), doc/README.extcap of Wireshark. Wireshark runs this program from its extcap directory: once to
list interfaces, once for each interface to learn its link type, and once for each capture, with a pipe for the packets.
Left out: capture filters, options of interfaces.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click

from ibbond import __version__
from ibbond.cli.output import as_dict
from ibbond.cli.signals import signals_end_it
from ibbond.cli.usage import refusal
from ibbond.errors import Refused

READER_SECONDS = 30.0  # until Wireshark has opened its end of the pipe
PIPE_BYTES = 1 << 20  # what may wait in the pipe, instead of Linux's 64 KiB


class Interface(NamedTuple):
    """One interface as Wireshark shows it; its name is LAB:HOST/DEVICE or LAB:SWITCH/PORT."""

    name: str
    display: str
    is_bond: bool


@click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.option("--extcap-interfaces", "listing", is_flag=True, help="List the interfaces.")
@click.option("--extcap-dlts", "link_types", is_flag=True, help="Name the link type of an interface.")
@click.option("--extcap-config", "configuration", is_flag=True, help="List the options of an interface: none.")
@click.option("--capture", is_flag=True, help="Write packets to --fifo until that is closed.")
@click.option("--extcap-interface", "interface", default="", metavar="LAB:HOST/DEVICE", help="Which interface.")
@click.option("--extcap-capture-filter", "packet_filter", default="", help="Not supported: use a display filter.")
@click.option("--fifo", type=click.Path(path_type=Path), help="The pipe that Wireshark reads.")
def extcap(
    listing: bool,
    link_types: bool,
    configuration: bool,
    capture: bool,
    interface: str,
    packet_filter: str,
    fifo: Path | None,
) -> None:
    """Show running labs to Wireshark and tshark, which run this program themselves.

    Link it into Wireshark's personal extcap directory (Help, About, Folders names it); then `tshark -D` lists devices,
    bonds and switch ports of every lab of yours that runs.
    """
    if listing:
        list_interfaces()
    elif link_types:
        print_link_type(interface)
    elif configuration:
        pass
    elif capture and fifo is not None:
        if packet_filter:
            raise Refused("cannot filter while capturing", why="labs capture whole ports", fix="Use a display filter")
        with signals_end_it(""), contextlib.suppress(KeyboardInterrupt, SystemExit):
            stream(interface, fifo)
    else:
        raise Refused(
            "nothing to do",
            why="this is a program for Wireshark and tshark to run",
            fix="Link it into Wireshark's personal extcap directory, then: tshark -D",
        )


def list_interfaces() -> None:
    click.echo(f"extcap {{version={__version__}}}{{display=ibbond labs}}")
    for interface in interfaces():
        click.echo(f"interface {{value={interface.name}}}{{display={interface.display}}}")


def interfaces() -> Iterator[Interface]:
    """The devices, bonds and switch ports of the labs of this user that answer."""
    from ibbond.backend.control_socket import Control
    from ibbond.lab.state import names

    for lab in names():
        with contextlib.suppress(Refused), Control.of(lab) as control:
            yield from interfaces_of(lab, as_dict(control.ask("status")))


def interfaces_of(lab: str, status: dict[str, object]) -> Iterator[Interface]:
    ends: dict[str, None] = {}
    for host, facts in as_dict(status["hosts"]).items():
        for bond in as_dict(as_dict(facts)["bonds"]):
            yield Interface(f"{lab}:{host}/{bond}", f"ibbond {lab}: bond {host}/{bond} (IPoIB)", True)
    cables = status["cables"]
    assert isinstance(cables, list)
    for cable in cables:
        ends.update(dict.fromkeys(cable["ends"]))
    for end in ends:
        yield Interface(f"{lab}:{end}", f"ibbond {lab}: port {end} (InfiniBand)", False)


def print_link_type(name: str) -> None:
    from ibbond.wire.pcap import LINKTYPE_ERF, LINKTYPE_IPOIB

    found = next((each for each in interfaces() if each.name == name), None)
    if found is None:
        raise no_interface(name)
    number, words = (LINKTYPE_IPOIB, "IPoIB") if found.is_bond else (LINKTYPE_ERF, "InfiniBand (ERF)")
    click.echo(f"dlt {{number={number}}}{{name={words}}}{{display={words}}}")


def stream(name: str, fifo: Path) -> None:
    """Capture to the pipe until its reader closes it, the lab ends, or a signal comes."""
    from ibbond.lab.capturing import RunningCapture

    lab, colon, device = name.partition(":")
    if not colon:
        raise no_interface(name)
    pipe = open_for_reader(fifo)
    try:
        with contextlib.suppress(OSError):  # an ordinary user's pipes may have come to their limit
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        running = RunningCapture(lab, device, fifo)
        try:
            reader = select.poll()
            reader.register(pipe, 0)  # POLLERR: the reader has closed it
            reader.register(running.fileno(), select.POLLIN)  # the lab has ended
            reader.poll()
        finally:
            with contextlib.suppress(Refused):
                running.end()
    finally:
        os.close(pipe)


def open_for_reader(fifo: Path) -> int:
    """The writing end of a pipe, once there is a reader."""
    until = time.monotonic() + READER_SECONDS
    while True:
        try:
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno != errno.ENXIO or time.monotonic() > until:
                fix = "Start the capture from Wireshark or tshark"
                raise Refused(f"cannot write {fifo}", why=error.strerror or str(error), fix=fix) from None
        time.sleep(0.01)


def no_interface(name: str) -> Refused:
    fix = "Start a lab (ibbond lab up), and refresh the interfaces"
    return Refused(f"no interface {name}", why="no running lab of yours has it", fix=fix)


def main() -> None:
    """Run as Wireshark runs it: what is wrong goes to standard error, which it shows."""
    try:
        extcap.main(prog_name="ibbond-extcap", standalone_mode=False)
    except Refused as request:
        print(f"ibbond-extcap: {request}", file=sys.stderr)
        sys.exit(2)
    except click.ClickException as error:
        print(f"ibbond-extcap: {refusal(error)}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
