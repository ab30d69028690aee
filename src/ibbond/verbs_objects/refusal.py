"""How objects of verbs refuse: by the errno that the program's call fails with."""

from __future__ import annotations

import errno
import os
from typing import NoReturn


def refuse(number: int = errno.EINVAL) -> NoReturn:
    raise OSError(number, os.strerror(number))
