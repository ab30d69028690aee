"""Running programs as an ordinary user, who finds the interpreter also where root alone may read it."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

NOBODY = 65534
AS_NOBODY = f"""
prefix=$1; shift
case $prefix in /root/*)
    mount --bind "$prefix" /mnt; mount -t tmpfs -o mode=755 none /root
    mkdir -p "$prefix"; mount --bind /mnt "$prefix"
esac
if [ -c /dev/net/tun ] && [ "$(stat -c %a /dev/net/tun)" = 600 ]; then  # most distributions let everyone open it
    mount -t tmpfs none /srv && mknod -m 666 /srv/tun c 10 200 && mount --bind /srv/tun /dev/net/tun
fi
exec setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups "$@"
"""


def run_unprivileged(
    words: Sequence[str], home: Path, *, timeout: float = 60, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command as nobody; `home` is a directory of that user, where labs keep their files, too."""
    return subprocess.run(
        ["unshare", "-m", "sh", "-c", AS_NOBODY, "sh", sys.base_prefix, *words],
        text=True,
        capture_output=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
        env={
            **os.environ,
            "XDG_RUNTIME_DIR": str(home),
            "HOME": str(home),
            "PYTHONDONTWRITEBYTECODE": "1",
            **environment,
        },
        check=False,
    )
