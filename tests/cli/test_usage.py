"""Usage errors and help, in the words of the rest of ibbond."""

import click
import pytest

from ibbond.cli.main import ibbond, run
from ibbond.cli.usage import Group

USAGE_ERRORS = {
    ("lob", "up"): "unknown command 'lob': 'ibbond' has no command of that name. Did you mean lab? ",
    ("lab", "upp"): "unknown command 'upp': 'ibbond lab' has no command of that name. Did you mean up? ",
    (
        "lab",
        "up",
        "--nam",
        "x",
    ): "unknown option --nam: 'ibbond lab up' has no option of that name. Did you mean --name",
    (
        "lab",
        "cut",
    ): "missing argument CABLE...: 'ibbond lab cut' needs it. The usage is 'ibbond lab cut [OPTIONS] CABLE...'.",
    ("demo", "--rounds", "0"): "invalid value for --rounds: 0 is not in the range 1<=x<=1000. ",
    ("lab", "up", "--name"): "cannot read the command line: option '--name' requires an argument. Add --help",
    ("lab", "status", "x", "y"): "cannot run 'ibbond lab status': got unexpected extra arguments (x y). The usage is ",
}


@pytest.mark.parametrize("words", USAGE_ERRORS, ids=" ".join)
def test_a_usage_error_says_what_why_and_what_to_type(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(list(words)) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"ibbond: {USAGE_ERRORS[words]}")
    assert printed.err.count("\n") == 1


def groups(command: click.Command) -> list[click.Group]:
    if not isinstance(command, click.Group):
        return []
    context = click.Context(command)
    inner = [command.get_command(context, name) for name in command.list_commands(context)]
    return [command, *(group for each in inner if each is not None for group in groups(each))]


@pytest.mark.parametrize("group", groups(ibbond), ids=lambda group: group.name)
def test_help_shows_whole_sentences_at_80_columns(group: click.Group) -> None:
    assert isinstance(group, Group)
    context = click.Context(group, terminal_width=80)
    text = group.get_help(context)
    assert "..." not in text.split("Commands:")[1]
    assert max(map(len, text.splitlines())) <= 80
