"""Where the `ibbond` command begins: Ctrl-C is answered from the first moment, while the commands are still loading."""

import sys


def main() -> None:
    """Run the command line; 130 when interrupted."""
    try:
        from ibbond.cli.main import main as command_line

        command_line()
    except KeyboardInterrupt:
        sys.stderr.write("ibbond: interrupted\n")
        sys.exit(130)
