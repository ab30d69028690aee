"""`ibbond addr explain`: what the 20 bytes of an IPoIB address say."""

from __future__ import annotations

import click

from ibbond.cli.output import json_option, print_json
from ibbond.cli.usage import Group
from ibbond.errors import Malformed, Refused
from ibbond.wire.hwaddr import explain_text


@click.group(cls=Group)
def addr() -> None:
    """Explain 20-byte IPoIB addresses as `ip link` shows them."""


@addr.command()
@click.argument("address")
@json_option
def explain(address: str, as_json: bool) -> None:
    """Print the parts of ADDRESS: flags, queue pair number, GID, and what is derived from the GUID.

    ADDRESS may also be the GUID or GID of a port, in any form that tools print.
    """
    try:
        facts = dict(explain_text(address))
    except Malformed as error:
        raise Refused(
            f"cannot read {address!r}",
            why=str(error),
            fix="Copy one from ip link: 20 bytes as two-digit hex numbers with colons; or a GUID or GID from ibstat",
        ) from None
    if as_json:
        print_json(facts)
    else:
        width = max(map(len, facts))
        for name, text in facts.items():
            click.echo(f"{name:<{width}}  {text}")
