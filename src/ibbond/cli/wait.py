"""`ibbond wait BOND`: end when a bond can be used, for services that must start after it. Exit 0 ready, 1 timed out.

Read first: docs/configuration.md, section "At boot". Left out: making the bond (cli/apply.py).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from ibbond.cli import completers
from ibbond.cli.output import json_option, name_option, print_json

if TYPE_CHECKING:
    from ibbond.backend.contract import Backend

TIMED_OUT = 1
POLL_SECONDS = 0.1


@click.command()
@name_option
@click.argument("bond", metavar="BOND", shell_complete=completers.bonds)
@click.option("--active", is_flag=True, help="Wait for an active member, too.")
@click.option("--address", is_flag=True, help="Wait for an IP address that is not link-local, too.")
@click.option(
    "--timeout",
    type=click.FloatRange(0, 86400),
    default=90.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait at most.",
)
@json_option
def wait(lab_name: str, bond: str, active: bool, address: bool, timeout: float, as_json: bool) -> int:
    """Wait until BOND exists and is up: ibbond wait bond0 --active --address"""
    from ibbond.cli.bond import target

    name, host = target(bond, lab_name)
    begin = time.monotonic()
    while missing := missing_of(host, name.device, active, address):
        if time.monotonic() - begin >= timeout:
            break
        time.sleep(min(POLL_SECONDS, max(timeout, 0.01)))
    waited = round(time.monotonic() - begin, 1)
    if as_json:
        print_json({"name": str(name), "ready": not missing, "missing": missing or None, "waited_s": waited})
    elif missing:
        click.echo(f"{name} is not ready after {timeout:g} s: {missing}", err=True)
    return TIMED_OUT if missing else 0


def missing_of(host: Backend, bond: str, active: bool, address: bool) -> str:
    """What is not there yet; empty when all is."""
    from ibbond.backend.contract import number, text

    if bond not in host.bonds():
        return "there is no such bond"
    if not (number(host, f"{bond}/flags") or 0) & 1:
        return "it is down"
    if active and not text(host, f"{bond}/bonding/active_slave"):
        return "it has no active member"
    if address and all(each.lower().startswith("fe80:") for each in host.addresses(bond)):
        return "it has no IP address"
    return ""
