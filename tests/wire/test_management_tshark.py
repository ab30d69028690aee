"""Our management packets as tshark reads them: field by field, not only without complaint."""

import shutil
import subprocess
from pathlib import Path

import pytest

from ibbond.wire import cm, pcap, perf, smp
from ibbond.wire.ib import UdPacket
from ibbond.wire.mad import Method, Notice, link_state_details
from ibbond.wire.port_info import PortInfo

TSHARK = shutil.which("tshark")
pytestmark = pytest.mark.skipif(TSHARK is None, reason="tshark is not installed")

NOW = 1_700_000_000_000_000_000
GID = bytes.fromhex("fe800000000000000002c90300100001")


def decode(path: Path, mad: bytes, *fields: str, virtual_lane: int = 0) -> list[str]:
    assert TSHARK is not None
    frame = UdPacket(5, 6, 1, 1, 0x80010000, 0xFFFF, mad, virtual_lane=virtual_lane).pack()
    path.write_bytes(pcap.FileHeader(pcap.LINKTYPE_ERF).pack() + pcap.erf_record(NOW, frame))
    arguments = [part for field in fields for part in ("-e", f"infiniband.{field}")]
    command = [TSHARK, "-n", "-r", str(path), "-T", "fields", "-E", "separator=|", *arguments]
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return run.stdout.rstrip("\n").split("|")


def numbers(texts: list[str]) -> list[int]:
    return [int(text, 0) for text in texts]


def test_port_info_by_directed_route(tmp_path: Path) -> None:
    info = PortInfo(
        gid_prefix=0xFE80 << 48, lid=5, sm_lid=1, state=4, physical_state=5, neighbor_mtu=4, client_reregister=True,
        subnet_timeout=18, width_active=2, speed_active=4, operational_vls=1, guid_cap=8, p_key_violations=3,
    )  # fmt: skip
    request = smp.Smp(
        Method.GET_RESP, smp.SmpAttribute.PORT_INFO, 3, info.pack(), 77, directed=True, returning=True, hop_pointer=1,
        hop_count=2, initial_path=smp.directed_path((1, 7)),
    )  # fmt: skip
    names = ["smpdirected.hoppointer", "smpdirected.hopcount", "mad.transactionid"]
    names += [f"portinfo.{name}" for name in ("lid", "mastersmlid", "portstate", "portphysicalstate", "neighbormtu")]
    names += [f"portinfo.{name}" for name in ("clientreregister", "subnettimeout", "linkwidthactive", "guidcap")]
    names += ["portinfo.linkspeedactive", "portinfo.operationalvls", "portinfo.p_keyviolations"]
    seen = decode(tmp_path / "smp.pcap", request.pack(), *names, virtual_lane=15)
    assert numbers(seen) == [1, 2, 77, 5, 1, 4, 5, 4, 1, 18, 2, 8, 4, 1, 3]


def test_trap_of_a_switch(tmp_path: Path) -> None:
    notice = Notice(128, 7, link_state_details(7), producer=2).pack()[: Notice.TRAP_BYTES]
    trap = smp.Smp(Method.TRAP, smp.SmpAttribute.NOTICE, data=notice)
    names = ("notice.trapnumberdeviceid", "notice.producertypevendorid", "notice.issuerlid", "trap.lidaddr")
    assert numbers(decode(tmp_path / "trap.pcap", trap.pack(), *names, virtual_lane=15)) == [128, 2, 7, 7]


def test_port_counters(tmp_path: Path) -> None:
    counters = perf.PortCountersAttribute(
        2, symbol_errors=3, link_downed=1, transmit_discards=4, transmit_words=99, receive_packets=7, vl15_dropped=6
    )
    mad = perf.PerfMad(Method.GET_RESP, perf.PerfAttribute.PORT_COUNTERS, counters.pack())
    names = ("portselect", "symbolerrorcounter", "linkdownedcounter", "portxmitdiscards", "portxmitdata", "portrcvpkts")
    seen = decode(tmp_path / "perf.pcap", mad.pack(), *[f"portcounters.{name}" for name in (*names, "vl15dropped")])
    assert numbers(seen) == [2, 3, 1, 4, 99, 7, 6]


def test_request_for_communication(tmp_path: Path) -> None:
    path = cm.CmPath(5, 6, GID, GID, rate=7, hop_limit=64, subnet_local=True, ack_timeout=14, sl=2)
    req = cm.CmMad(4, cm.Req(0x11, 0x1060CBC, 0x0002C90300100000, 0x48, 0x123456, path, retry_count=7))
    names: tuple[str, ...] = (
        "serviceid",
        "localqpn",
        "startpsn",
        "pppmtu",
        "pkey",
        "retrcount",
        "maxcmretr",
        "localresptout",
    )
    names += ("prim_locallid", "prim_remotelid", "prim_hoplim", "prim_localacktout", "prim_sl")
    names += ("prim_localgid",)
    seen = decode(tmp_path / "req.pcap", req.pack(), *[f"cm.req.{name}" for name in names])
    assert seen.pop() == "fe80::2:c903:10:1"
    assert numbers(seen) == [0x1060CBC, 0x48, 0x123456, 4, 0xFFFF, 7, 15, 20, 5, 6, 64, 14, 2]
