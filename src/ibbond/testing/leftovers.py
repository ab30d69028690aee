"""What labs of killed test processes left: found by their names, which have the process's number, and removed.

A lab ends with the process that started it. Something is left only where the lab itself was killed, too.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from functools import cache

from ibbond.errors import Refused
from ibbond.lab.launch import killed, take_down
from ibbond.lab.state import names

NAME = re.compile(r"py(\d+)_\d+\Z")
_numbers = itertools.count(1)


def new_name() -> str:
    """A name for a lab of this process that no lab of another one has."""
    return f"py{os.getpid()}_{next(_numbers)}"


@cache
def remove_leftovers() -> None:
    """Remove what labs of test processes left that have ended; once in a process."""
    for name in names():
        found = NAME.match(name)
        if found and not os.path.exists(f"/proc/{found[1]}") and killed(name):
            with contextlib.suppress(Refused):  # another process removes it
                take_down(name)
