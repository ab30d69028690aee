"""Where the `ibbond` command begins: Ctrl-C is answered from the first moment, while the commands are still loading.

In a lab's hosts it stands in for InfiniBand tools, by links of their names (`lab.exec`).
"""

import os
import sys


def main() -> None:
    """Run the command line; 130 when interrupted."""
    try:
        from ibbond.cli.main import main as command_line

        folder, name = os.path.split(sys.argv[0])
        if os.path.basename(folder) == "stand-ins":
            command_line(["lab", "exec", os.environ.get("IBBOND_HOST", ""), "--", name, *sys.argv[1:]])
        command_line()
    except KeyboardInterrupt:
        sys.stderr.write("ibbond: interrupted\n")
        sys.exit(130)
