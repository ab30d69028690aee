"""Archives that are damaged, hostile or too large are refused, and what was unpacked of them is deleted."""

import contextlib
import gzip
import io
import lzma
import os
import random
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import pytest

from ibbond.errors import Refused
from ibbond.ops import saved
from ibbond.ops.saved import opened

IBBOND = str(Path(sys.executable).parent / "ibbond")


def archive(files: dict[str, bytes], **pax: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.pax_headers = len(content), pax
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


BUNDLE = archive({f"sys/class/net/bond{n}/mtu": random.Random(n).randbytes(2500).hex().encode() for n in range(20)})
PACKED = gzip.compress(BUNDLE, mtime=0)
LONG = tarfile.TarInfo("x")
LONG.type, LONG.size = tarfile.GNUTYPE_LONGNAME, 1
HEADERS = (LONG.tobuf(tarfile.GNU_FORMAT) + bytes(512)) * 2000
BAD = {
    "gzip, cut": PACKED[: len(PACKED) // 2],
    "gzip, bent": PACKED[:20000] + b"\xff" * 2000 + PACKED[22000:],
    "gzip, checksum": PACKED[:-8] + bytes(8),
    "xz, cut": lzma.compress(BUNDLE)[:20000],
    "xz, bent": lzma.compress(BUNDLE)[:20000] + b"\xff" * 2000 + lzma.compress(BUNDLE)[22000:],
    "NUL in a name": archive({"sys/x": b"x"}, path="sys/\0y"),
    "headers of headers": HEADERS,
}


@pytest.fixture
def unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary directories are made."""
    directory = tmp_path / "temporary"
    directory.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    return directory


@pytest.mark.parametrize("name", BAD)
def test_a_damaged_archive_is_refused(name: str, tmp_path: Path, unpacked: Path) -> None:
    path = tmp_path / "bad.tar"
    path.write_bytes(BAD[name])
    with pytest.raises(Refused, match="cannot read") as refused, opened(path):
        pass
    assert refused.value.code == 2
    assert not list(unpacked.iterdir())


def test_an_archive_bent_anywhere_is_refused_or_read(tmp_path: Path, unpacked: Path) -> None:
    path, chance = tmp_path / "bad.tar", random.Random(1)
    for whole in (BUNDLE[:8192], PACKED, lzma.compress(BUNDLE[:20480])):
        for _ in range(20):
            at = chance.randrange(len(whole))
            path.write_bytes(whole[:at] + chance.randbytes(chance.randrange(1, 40)) + whole[at + 20 :])
            with contextlib.suppress(Refused), opened(path):
                pass
    assert not list(unpacked.iterdir())


def test_all_files_together_have_a_limit(tmp_path: Path, unpacked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.tar.gz"
    path.write_bytes(PACKED)
    with opened(path):
        pass
    monkeypatch.setattr(saved, "MAX_BYTES", 1 << 14)
    with pytest.raises(Refused, match="more than 0 MiB"), opened(path):
        pass
    assert not list(unpacked.iterdir())


@pytest.mark.parametrize("words", [("check",), ("bond", "list")], ids=str)
def test_a_signal_during_unpacking_leaves_nothing(words: tuple[str, ...], tmp_path: Path) -> None:
    """So many files that the command is surely unpacking when the signal arrives."""
    path, directory = tmp_path / "bundle.tar", tmp_path / "temporary"
    directory.mkdir()
    path.write_bytes(archive({f"sys/class/net/{n}": b"x" for n in range(20_000)}))
    command = subprocess.Popen(
        [IBBOND, *words, "--root", str(path)],
        env={**os.environ, "TMPDIR": str(directory)},
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 30
    while not list(directory.glob("ibbond-bundle-*/sys/class/net/*")) and time.monotonic() < until:
        time.sleep(0.01)
    assert command.poll() is None
    command.send_signal(signal.SIGTERM)
    _, errors = command.communicate(timeout=30)
    assert (command.returncode, errors) == (143, "ibbond: ended by SIGTERM; the unpacked files were removed\n")
    assert not list(directory.iterdir())
