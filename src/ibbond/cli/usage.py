"""How the command line words help and usage errors; click parses, this speaks as the rest of ibbond does.

A usage error says what is wrong, why, and what to type instead, with the nearest name where there is one. The help of a
group lists each command with the whole first paragraph of its text, wrapped at the terminal's width.
"""

from __future__ import annotations

from difflib import get_close_matches

import click

from ibbond.errors import Refused


class Group(click.Group):
    """A group whose help shows whole sentences."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        names = self.list_commands(ctx)
        commands = [(name, self.get_command(ctx, name)) for name in names]
        rows = [(name, summary(command)) for name, command in commands if command is not None and not command.hidden]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)


def summary(command: click.Command) -> str:
    """The first paragraph of a command's help, without the example that may follow a colon."""
    text = " ".join((command.help or "").strip().split("\n\n")[0].split())
    sentence, example, _ = text.partition(": ibbond ")
    return f"{sentence}." if example else text


def refusal(error: click.ClickException) -> Refused:
    """The refusal that says what click found wrong with a command line."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    command = context.command_path if context else "ibbond"
    usage = f"The usage is '{command} {' '.join(context.command.collect_usage_pieces(context))}'" if context else ""
    help_line = f"{command} --help lists what it takes" if context else "Add --help to the command to see what it takes"
    match error:
        case click.exceptions.NoSuchCommand():
            return Refused(
                f"unknown command {error.command_name!r}",
                why=f"'{command}' has no command of that name",
                fix=f"{did_you_mean(commands_like(error.command_name, context))}{command} --help lists the commands",
            )
        case click.NoSuchOption():
            return Refused(
                f"unknown option {error.option_name}",
                why=f"'{command}' has no option of that name",
                fix=f"{did_you_mean(error.possibilities)}{help_line}",
            )
        case click.MissingParameter():
            kind = error.param.param_type_name if error.param else "argument"
            return Refused(f"missing {kind} {parameter(error)}", why=f"'{command}' needs it", fix=usage or help_line)
        case click.BadParameter():
            return Refused(f"invalid value for {parameter(error)}", why=sentence(error.message), fix=help_line)
        case click.FileError():
            return Refused(f"cannot open {error.ui_filename}", why=sentence(error.message), fix="Check its name")
        case _:
            return Refused(
                f"cannot run '{command}'" if context else "cannot read the command line",
                why=sentence(error.format_message()),
                fix=usage or help_line,
            )


def parameter(error: click.BadParameter) -> str:
    """The parameter as it is typed: --name, or CABLE for an argument."""
    if error.param is None:
        return str(error.param_hint or "a parameter")
    if isinstance(error.param, click.Option):
        return max(error.param.opts, key=len)
    return error.param.make_metavar(click.Context(click.Command(None))).strip("[]")


def commands_like(name: str, context: click.Context | None) -> list[str]:
    group = context.command if context else None
    return get_close_matches(name, group.list_commands(context)) if context and isinstance(group, click.Group) else []


def did_you_mean(names: list[str] | None) -> str:
    return f"Did you mean {' or '.join(names)}? " if names else ""


def sentence(text: str) -> str:
    """Click's sentence without its capital letter and full stop."""
    text = text.strip().rstrip(".")
    return text[:1].lower() + text[1:] if text[1:2].islower() else text
