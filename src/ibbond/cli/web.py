"""`ibbond lab web`: a running lab as a page in the browser. The service is in `web`, an extra that may be missing."""

from __future__ import annotations

import contextlib
import secrets
import sys

import click

from ibbond.cli.numbers import Number
from ibbond.cli.output import done, json_option, name_option
from ibbond.errors import Refused

TOKEN_BYTES = 24


@click.command()
@name_option
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="TCP port on 127.0.0.1 (default: a free one).")
@click.option("--every", type=Number(0.2, 60), default=1.0, show_default=True, help="Seconds between updates of rates.")
@json_option
def web(lab_name: str, port: int, every: float, as_json: bool) -> None:
    """Show the lab in a browser: topology, live traffic, bonds and events; a click cuts a cable, or mends it.

    Prints the URL and serves it until Ctrl-C, on 127.0.0.1 only. Anyone who has the URL can cut cables. Needs
    the extra ibbond[web].
    """
    from ibbond.backend.control_socket import Control

    try:
        from ibbond.web.lab_watch import LabWatch
        from ibbond.web.service import ADDRESS, listen, server
    except ModuleNotFoundError as missing:
        fix = "Install the extra: pip install 'ibbond[web]'"
        raise Refused("cannot show the lab in a browser", why=f"{missing.name} is not installed", fix=fix) from None
    with Control.of(lab_name) as control:
        control.ask("late")  # refused where no lab answers
    token = secrets.token_urlsafe(TOKEN_BYTES)
    with listen(port) as listener:
        taken: int = listener.getsockname()[1]
        url = f"http://{ADDRESS}:{taken}/{token}/"
        done(as_json, f"open {url}\nCtrl-C ends it", {"url": url})
        sys.stdout.flush()
        with contextlib.suppress(KeyboardInterrupt):
            server(LabWatch(lab_name, every), token, taken).run(sockets=[listener])
