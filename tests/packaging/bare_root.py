"""A Debian with nothing but its minimum, in a directory: what a new container or CI machine is before its first step.

Made once by debootstrap and kept in $IBBOND_ROOTS_DIR (default ~/.cache/ibbond/roots); tests work on copies. Commands
in a root have process and mount namespaces of their own, the machine's network and devices, and leave nothing.
"""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

MIRROR = "http://deb.debian.org/debian"
RELEASE = "bookworm"
ENTER = """
mount -t proc proc "$1/proc"; mount -t tmpfs tmpfs "$1/tmp"; mount -t tmpfs tmpfs "$1/run"
mount --rbind /dev "$1/dev"; mount -t sysfs sysfs "$1/sys" || mount --rbind /sys "$1/sys"
exec chroot "$1" /bin/bash -ec "$2"
"""
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")


def why_not() -> str | None:
    """Why no bare root can be had, or None."""
    if os.geteuid() != 0:
        return "debootstrap needs root"
    return None if shutil.which("debootstrap") else "debootstrap is not installed"


def base(release: str = RELEASE) -> Path:
    """The minimum; made where it is not there yet (a minute and 300 MB)."""
    cache = Path(os.environ.get("IBBOND_ROOTS_DIR") or Path.home() / ".cache/ibbond/roots")
    root = cache / f"minimum-{release}"
    if not (root / "complete").exists():
        shutil.rmtree(root, ignore_errors=True)
        cache.mkdir(parents=True, exist_ok=True)
        words = ["debootstrap", "--variant=minbase", release, str(root), MIRROR]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        (root / "complete").touch()
    return root


def copy_of_base(place: Path, release: str = RELEASE) -> Path:
    subprocess.run(["cp", "-a", "--reflink=auto", str(base(release)), str(place)], check=True)
    (place / "usr/sbin/policy-rc.d").write_text("#!/bin/sh\nexit 101\n")  # no service is started
    (place / "usr/sbin/policy-rc.d").chmod(0o755)
    shutil.copy("/etc/resolv.conf", place / "etc/resolv.conf")
    if AUTHORITIES.exists():  # those of this machine's network
        (place / "authorities.crt").write_bytes(AUTHORITIES.read_bytes())
    return place


def run_in(
    root: Path, script: str, environment: Mapping[str, str], *, check: bool = True, network: bool = True
) -> subprocess.CompletedProcess[str]:
    """A script of bash with this root, as root, with only this environment; the machine's network or none."""
    spaces = ["--mount", "--pid", *([] if network else ["--net"])]
    words = ["unshare", *spaces, "--fork", "--kill-child", "sh", "-ec", ENTER, "sh", str(root), script]
    surroundings = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "PIP_CERT": "/authorities.crt"}
    done = subprocess.run(
        words,
        env={**surroundings, **environment},
        capture_output=True,
        text=True,
        timeout=900,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert not check or done.returncode == 0, f"{script}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done
