"""A capture of a running lab, seen from outside: the file is opened here, with the rights of this process.

Read first: `host.capture`, which writes it; fuse(4), proc_pid_fdinfo(5). The lab writes on the thread that carries all
traffic, so a file for which a program answers (FUSE) is refused: that program could hold up the lab. A capture ends by
`end`, or with the process that began it.
"""

from __future__ import annotations

import os
import select
import stat
from pathlib import Path
from typing import NamedTuple

from ibbond.backend.control_socket import Control
from ibbond.errors import Refused
from ibbond.host.output_file import open_output

OWN_OUTPUT = ("/dev/std", "/dev/fd/", "/proc/")


class Captured(NamedTuple):
    """What a capture has written, and how many frames it had no room for."""

    packets: int
    missed: int


class RunningCapture:
    """What passes HOST/DEVICE or SWITCH/PORT of a lab goes to a file (or a pipe made by mkfifo) until `end`.

    `Refused` where the device or the file cannot be used; a file that was made for it is removed then.
    """

    def __init__(self, lab: str, device: str, file: str | os.PathLike[str]) -> None:
        self.device = device
        self.file = Path(file).absolute()
        self._control = Control.of(lab)
        try:
            self._id = self._begin()
        except BaseException:
            self._control.close()
            raise

    def _begin(self) -> str:
        place = str(self.file)
        if place.startswith(OWN_OUTPUT):
            why = "this command prints its result there"
            raise Refused(f"cannot capture to {place}", why=why, fix="Name a file, or a pipe made by mkfifo")
        is_new = not os.path.lexists(place)
        descriptor = open_output(self.file, flags=os.O_NONBLOCK, mode=0o644)
        try:
            _check(descriptor, place)
            answer = self._control.ask_with_descriptor(descriptor, "capture", device=self.device, file=place)
            assert isinstance(answer, dict)
            return str(answer["capture"])
        except BaseException:
            if is_new:
                os.unlink(place)
            raise
        finally:
            os.close(descriptor)

    def wait(self, seconds: float | None) -> bool:
        """Wait this long, without `seconds` forever; True at once when the lab ends meanwhile."""
        ended, _, _ = select.select([self._control], [], [], seconds)  # the lab sends nothing unasked until it ends
        return bool(ended)

    def fileno(self) -> int:
        """Readable when the lab has ended."""
        return self._control.fileno()

    def end(self) -> Captured:
        """End the capture; the file is complete. `Refused` when not everything could be written."""
        try:
            facts = self._control.ask("capture_end", capture=self._id, file=str(self.file))
            assert isinstance(facts, dict)
            return Captured(facts["packets"], facts["missed"])
        finally:
            self._control.close()


def _check(descriptor: int, place: str) -> None:
    """`Refused` for what the lab must not write to."""
    what, fix = f"cannot capture to {place}", "Name a file on a local file system, or a pipe made by mkfifo"
    kind = file_system(descriptor)
    if kind == "fuseblk" or kind.partition(".")[0] == "fuse":
        raise Refused(
            what, why=f"a program serves its file system ({kind}), and could hold up the lab", fix=fix, code=2
        )
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISFIFO(mode):
        raise Refused(what, why="it is neither a regular file nor a pipe", fix=fix, code=2)


def file_system(descriptor: int) -> str:
    """The type of the file system of an open file, such as ext4, without asking it; empty for a pipe."""
    facts = Path(f"/proc/self/fdinfo/{descriptor}").read_text()
    mount = next((line.split()[1] for line in facts.splitlines() if line.startswith("mnt_id:")), "")
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        fields = line.split()
        if fields[0] == mount:
            return fields[fields.index("-") + 1]
    return ""
