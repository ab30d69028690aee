"""`ibbond lab graph`: a running lab as a picture."""

from __future__ import annotations

import click

from ibbond.cli.output import as_dict, json_option, name_option, print_json


@click.command()
@name_option
@click.option(
    "--format",
    "form",
    type=click.Choice(["svg", "mermaid", "dot"]),
    default="svg",
    show_default=True,
    help="Output format.",
)
@json_option
def graph(lab_name: str, form: str, as_json: bool) -> None:
    """Draw the lab in its current state: ibbond lab graph > lab.svg

    Cut cables are red, active members thick.
    """
    from ibbond.backend.control_socket import Control
    from ibbond.lab.graph import FORMATS

    with Control.of(lab_name) as control:
        text = FORMATS[form](as_dict(control.ask("status")))
    if as_json:
        print_json({"format": form, "text": text})
    else:
        click.echo(text, nl=False)
