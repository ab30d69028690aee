"""A saved copy of a host, opened: a directory, or a bundle of ops/collect.py, unpacked while it is read.

Read first: ops/collect.py for what is in one. A bundle comes from elsewhere: nothing in it may reach outside.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from ibbond.errors import Refused


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Path]:
    """The root of a saved copy: a directory as it is, a bundle unpacked for the time of the call. Refused, code 2."""
    if path.is_dir():
        yield path
        return
    import tarfile
    import tempfile

    with tempfile.TemporaryDirectory(prefix="ibbond-bundle-") as directory:
        try:
            with tarfile.open(path) as tar:
                tar.extractall(directory, filter="data")  # nothing outside, no devices, no set-id bits
        except (OSError, tarfile.TarError) as error:
            raise Refused(
                f"cannot read {path}",
                why=_reason(error),
                fix="Name a directory, or a file that ibbond collect wrote",
                code=2,
            ) from None
        yield Path(directory)


def _reason(error: Exception) -> str:
    """Why it cannot be unpacked, in one line."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return "it is no archive" if type(error).__name__ == "ReadError" else str(error).splitlines()[0]
