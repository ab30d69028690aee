"""`ibbond completion SHELL`: the script by which a shell completes ibbond; what it offers is in `cli.completers`."""

from __future__ import annotations

import click

from ibbond.cli.output import done, json_option

COMPLETE = "_IBBOND_COMPLETE"
SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@json_option
def completion(shell: str, as_json: bool) -> None:
    """Print the shell script that completes ibbond's commands, options and names.

    \b
    eval "$(ibbond completion bash)"    in ~/.bashrc
    eval "$(ibbond completion zsh)"     in ~/.zshrc, after compinit
    ibbond completion fish | source     in ~/.config/fish/config.fish
    """
    from click.shell_completion import get_completion_class

    from ibbond.cli.main import ibbond

    maker = get_completion_class(shell)
    assert maker is not None
    script = maker(ibbond, {}, "ibbond", COMPLETE)
    text = script.source_template % script.source_vars()
    done(as_json, text, {"shell": shell, "script": text})
