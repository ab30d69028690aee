"""Which ids an ordinary user's lab has, and that newuidmap gives them."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from ibbond.host.privilege import subordinate_ids

NOBODY = 65534


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("nobody:100000:65536\n", (100000, 65536)),
        ("65534:200000:1000\n", (200000, 1000)),
        ("root:1:2\n# comment\nnobody:300000:5\nnobody:400000:5\n", (300000, 5)),
        ("nobodyelse:100000:65536\n", None),
        ("nobody:100000\nnobody:x:y\nnobody:1:0\n", None),
        ("", None),
    ],
)
def test_the_first_range_of_a_user_counts(tmp_path: Path, text: str, wanted: tuple[int, int] | None) -> None:
    file = tmp_path / "subuid"
    file.write_text(text)
    assert subordinate_ids(file, NOBODY) == wanted


def test_without_the_file_there_are_none(tmp_path: Path) -> None:
    assert subordinate_ids(tmp_path / "subuid", NOBODY) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a user subordinate ids")
@pytest.mark.skipif(shutil.which("newuidmap") is None, reason="newuidmap (package uidmap) is not installed")
@pytest.mark.parametrize("with_ids", [True, False])
def test_an_ordinary_users_namespace_has_other_users(tmp_path: Path, with_ids: bool) -> None:
    """In a mount namespace of the test, whose /etc/subuid is not the machine's."""
    file = tmp_path / "ids"
    file.write_text("nobody:100000:65536\n" if with_ids else "")
    script = """
        import ctypes, os, sys
        from ibbond.host.privilege import become_root
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE, as a program that began as this user is
        become_root()
        print(*open("/proc/self/uid_map").read().split(), "|", *open("/proc/self/gid_map").read().split())
        os.setgroups([33]) if sys.argv[1] == "True" else None
        os.setresuid(33, 33, 33) if sys.argv[1] == "True" else None
        print(os.getuid())
    """
    mounts = f"mount --make-rprivate / && mount --bind {file} /etc/subuid && mount --bind {file} /etc/subgid"
    command = ["unshare", "--mount", "sh", "-c", f'{mounts} && exec "$@"', "sh", sys.executable, "-c"]
    for path in ("/etc/subuid", "/etc/subgid"):
        if not Path(path).exists():
            pytest.skip(f"no {path} to mount over")
    done = subprocess.run([*command, textwrap.dedent(script), str(with_ids)], text=True, capture_output=True)
    if "cannot become root" in done.stderr or "unshare" in done.stderr:
        pytest.skip("user namespaces are not allowed here")
    wanted = "0 65534 1 1 100000 65536" if with_ids else "0 65534 1"
    assert done.stdout == f"{wanted} | {wanted}\n{33 if with_ids else 0}\n", done.stderr
