"""How we refuse: a request that cannot be honoured, and bytes that cannot be read.

`Refused` is for people and for sysfs writers (it carries the errno they must see); `Malformed` is for bytes from
outside, which are counted and dropped. A broken promise of our own is an `assert`, in production too.
"""

import errno
from collections.abc import Callable


class Refused(Exception):
    """A request that cannot be honoured; nothing has changed.

    `what` was asked, `why` it cannot be, how to `fix` it; `code` is the errno that a writer of a sysfs file gets.
    """

    def __init__(self, what: str, *, why: str, fix: str, code: int = errno.EINVAL) -> None:
        super().__init__(f"{what}: {why}. {fix}.")
        self.what = what
        self.why = why
        self.fix = fix
        self.code = code

    def __reduce__(self) -> tuple[Callable[..., "Refused"], tuple[str, str, str, int]]:
        """Refusals cross process borders: exploring and sweeping run in workers."""
        return rebuild, (self.what, self.why, self.fix, self.code)


def rebuild(what: str, why: str, fix: str, code: int) -> Refused:
    """A refusal that was pickled."""
    return Refused(what, why=why, fix=fix, code=code)


class Malformed(ValueError):
    """Bytes that do not follow the format their reader was promised."""
