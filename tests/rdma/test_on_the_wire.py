"""What a session puts on the wire, as tshark reads it: the CM's messages in their order, RDMA after them."""

import shutil
import subprocess
from pathlib import Path

import pytest

from ibbond.demo import rdma_session
from ibbond.machine import MS
from ibbond.sim.story import Story
from ibbond.sim.world import World
from ibbond.stack.events import FrameCaptured, NetworkEffect, NetworkEvent
from ibbond.topology.default import TWO_HOSTS
from ibbond.topology.load import parse
from ibbond.wire import pcap

TSHARK = shutil.which("tshark")


class CapturePoint:
    """Remembers frames."""

    def __init__(self) -> None:
        self.frames: list[tuple[int, bytes]] = []

    def on_effect(self, now: int, effect: NetworkEffect) -> None:
        if isinstance(effect, FrameCaptured):
            self.frames.append((now, effect.frame))

    def deadline(self) -> int | None:
        return None

    def tick(self, now: int) -> list[NetworkEvent]:
        return []


@pytest.mark.skipif(TSHARK is None, reason="tshark is not installed")
def test_tshark_reads_the_handshake_and_the_rdma_of_a_session(tmp_path: Path) -> None:
    assert TSHARK is not None
    world = World(Story("wire", parse(TWO_HOSTS, name="wire"), pairs=(("h1", "h2"),)), checked=False)
    world.begin()
    world.run_until(1000 * MS)
    tap = CapturePoint()
    world.programs.append(tap)
    world.network.subnet.mirror("h1/1", True)
    rdma_session._begin(world, "h1", "h2", True)
    world.run_until(1020 * MS)
    path = tmp_path / "session.pcap"
    records = b"".join(pcap.erf_record(at, frame) for at, frame in tap.frames)
    path.write_bytes(pcap.FileHeader(pcap.LINKTYPE_ERF).pack() + records)
    fields = ("infiniband.bth.opcode", "infiniband.mad.attributeid", "infiniband.mad.mgmtclass")
    command = [TSHARK, "-n", "-r", str(path), "-T", "fields", "-E", "separator=|"]
    command += [part for field in fields for part in ("-e", field)]
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    rows = [line.split("|") for line in run.stdout.splitlines()]
    handshake = [int(attribute, 0) for _, attribute, kind in rows if kind and int(kind, 0) == 7]
    assert handshake == [0x10, 0x13, 0x14], "REQ, REP, RTU"
    opcodes = [int(opcode, 0) for opcode, _, _ in rows if opcode]
    for opcode in (0x04, 0x0C, 0x10, 0x11):  # SEND only, READ request, READ response only, acknowledge
        assert opcode in opcodes
