"""`ibbond map`: bond, member, RDMA adapter, port and GID. `ops.rdma_map` does the work."""

from __future__ import annotations

from pathlib import Path

import click

from ibbond.cli import completers
from ibbond.cli.addr import inside_host
from ibbond.cli.output import as_dict, device, json_option, name_option, print_json, state, table
from ibbond.errors import Refused

HEADS = ("BOND", "DEVICE", "ROLE", "ADAPTER", "PORT", "STATE", "GID")


@click.command("map")
@name_option
@click.argument("host", required=False, default="", shell_complete=completers.hosts)
@click.option("--root", type=click.Path(path_type=Path), help="A saved copy of a host: a directory or an archive.")
@json_option
def show_map(lab_name: str, host: str, root: Path | None, as_json: bool) -> None:
    """Print which bond uses which port of which RDMA adapter.

    For this host, for HOST of a lab or all hosts of the lab named by --name or IBBOND_LAB, or for a saved copy. RDMA
    programs name an adapter and a port (mlx5_0, port 1); this shows which bond member that is, and its GID.
    """
    from ibbond.ops.rdma_map import map_of_host, map_of_lab

    if root is not None:
        if host or lab_name:
            raise Refused("cannot use --root with a lab", why="a saved copy is one host", fix="Omit one of them")
        from ibbond.cli.bond import saved_host

        with saved_host(root) as kernel:
            rows = map_of_host(kernel)
    elif lab_name or host or inside_host():
        from ibbond.backend.control_socket import Control

        chosen = host or ("" if lab_name else inside_host())
        with Control.of(lab_name) as control:
            if chosen:
                control.ask("host", host=chosen)
            hosts = as_dict(as_dict(control.ask("status"))["hosts"])
        rows = map_of_lab({name: facts for name, facts in hosts.items() if not chosen or name == chosen})
    else:
        from ibbond.backend.kernel.bonds import KernelBackend

        rows = map_of_host(KernelBackend())
    if as_json:
        print_json({"map": [row.as_json() for row in rows]})
        return
    cells = [
        (
            (f"{row.host}/" if row.host else "") + row.bond if row.bond else "-",
            device(f"{row.host}/{row.device}" if row.host else row.device),
            state(row.role) if row.role else "-",
            row.adapter or "-",
            str(row.port) if row.port else "-",
            state(row.state) if row.state else "-",
            row.gid or "-",
        )
        for row in rows
    ]
    click.echo(table(cells, HEADS) if cells else "no InfiniBand devices")
