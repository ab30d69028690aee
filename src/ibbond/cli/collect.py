"""`ibbond collect`: a support bundle of this host, which `ibbond check --root` reads elsewhere.

Read first: ops/collect.py for what is in it and what is left out.
"""

from __future__ import annotations

import time
from pathlib import Path

import click

from ibbond.cli.output import done, json_option


@click.command()
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Archive (.tar.gz) or new directory to write (default: ibbond-HOST-TIME.tar.gz).",
)
@json_option
def collect(output: Path | None, as_json: bool) -> None:
    """Save what `ibbond check` needs to know of this host: bonds, addresses, routes, neighbors, ports, the kernel log.

    Configuration files that can define bonds are included, without the lines that hold keys and passwords.
    """
    import os

    from ibbond.backend.kernel.bonds import KernelBackend
    from ibbond.ops.collect import collect as gather
    from ibbond.ops.collect import write_directory, write_tar

    bundle = gather(KernelBackend())
    if output is None:
        output = Path(f"ibbond-{os.uname().nodename}-{time.strftime('%Y%m%d-%H%M%S')}.tar.gz")
    is_file = output.name.endswith((".tar.gz", ".tgz"))
    (write_tar if is_file else write_directory)(bundle, output)
    facts = {"output": str(output), "files": len(bundle.files)}
    done(as_json, f"wrote {output}, {len(bundle.files)} files; read it with: ibbond check --root {output}", facts)
