"""The two exceptions: a request that cannot be carried out, and bytes that cannot be read.

`Refused` is for people and for writers of sysfs files (it carries the errno that they get); `Malformed` is for bytes
from outside, which are counted and dropped. A violated invariant of ibbond itself is an `assert`, in production too.
"""

import errno
from collections.abc import Callable


class Refused(Exception):
    """A request that cannot be carried out; nothing has changed.

    `what` failed, `why`, and how to `fix` it: three texts without a full stop, which together make the message.
    `code` is the errno that a writer of a sysfs file gets.
    """

    def __init__(self, what: str, *, why: str, fix: str, code: int = errno.EINVAL) -> None:
        super().__init__(f"{what}: {why}. {fix}" + ("" if fix.endswith(("?", ".")) else "."))
        self.what = what
        self.why = why
        self.fix = fix
        self.code = code

    def __reduce__(self) -> tuple[Callable[..., "Refused"], tuple[str, str, str, int]]:
        """Pickled between processes: exploring and sweeping run in workers."""
        return rebuild, (self.what, self.why, self.fix, self.code)


def rebuild(what: str, why: str, fix: str, code: int) -> Refused:
    """Unpickle a refusal."""
    return Refused(what, why=why, fix=fix, code=code)


class Malformed(ValueError):
    """Bytes that do not follow their format: too short, or a field with a value that it cannot have."""
