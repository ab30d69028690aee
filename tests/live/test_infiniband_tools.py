"""Real InfiniBand tools, unmodified, in lab hosts; and OpenSM as the manager that our own is held against."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ibbond.lab.state import Files

IBBOND = str(Path(sys.executable).with_name("ibbond"))
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
needs_tools = pytest.mark.skipif(
    shutil.which("saquery", path=PATH) is None or not list(Path("/usr/lib").glob("*/umad2sim/libumad2sim.so")),
    reason="infiniband-diags and libumad2sim0 are not installed",
)
needs_opensm = pytest.mark.skipif(shutil.which("opensm", path=PATH) is None, reason="opensm is not installed")
pytestmark = needs_tools


def ibbond(*words: str, timeout: float = 60) -> str:
    done = subprocess.run([IBBOND, *words], capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, f"ibbond {' '.join(words)}: {done.stdout}{done.stderr}"
    return done.stdout


def table(name: str, which: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(ibbond("fabric", which, "--name", name, "--json"))[which]
    return rows


@pytest.fixture(scope="module", params=["builtin", pytest.param("opensm", marks=needs_opensm)])
def managed(request: pytest.FixtureRequest) -> Iterator[str]:
    name = f"tools{os.getpid() % 100000}"
    ibbond("lab", "up", "--name", name, "--sm", request.param)
    yield name
    ibbond("lab", "down", "--name", name)


def tool(name: str, command: str) -> str:
    return ibbond("lab", "exec", "--name", name, "h1", "--", *command.split())


def test_every_tool_answers(managed: str) -> None:
    assert "Node GUID: 0x0002c90300100000" in tool(managed, "ibstat")
    assert "SMINFO_MASTER" in tool(managed, "sminfo")
    assert tool(managed, "ibhosts").count('"h') == 2
    assert tool(managed, "ibswitches").count('"s') == 2
    found = tool(managed, "ibnetdiscover")
    assert all(f'"{node}"' in found for node in ("s1", "s2", "h1", "h2"))
    assert "Active/  LinkUp" in tool(managed, "iblinkinfo")
    assert "ff12:401b:ffff::ffff:ffff" in tool(managed, "saquery -g")
    assert "dgid" in tool(managed, "saquery -p")
    assert "MGID" in tool(managed, "saquery -m")
    lid = next(row["lid"] for row in table(managed, "show") if row["port"] == "s1/0")
    assert "NodeType:........................Switch" in tool(managed, f"smpquery nodeinfo {lid}")
    assert "PortXmitData" in tool(managed, "perfquery")
    assert "'h2'" in tool(managed, f"ibroute {lid}")
    assert "LinkState:.......................Active" in tool(managed, f"ibportstate {lid} 1")
    beyond = tool(managed, f"ibportstate {lid} 3")  # by LID to s1, by a directed route from there
    assert "Peer PortInfo" in beyond
    assert tool(managed, f"smpquery -c nodedesc {lid} 0,3").rstrip().endswith(".s2")
    # It fails where it finds errors, and packets sent before a manager had written its tables were truly discarded.
    asked = [IBBOND, "lab", "exec", "--name", managed, "h1", "--", "ibqueryerrors"]
    summary = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=False).stdout
    assert "nodes checked" in summary


def test_each_host_sees_its_own_adapter(managed: str) -> None:
    done = ibbond("lab", "exec", "--name", managed, "h2", "--", "ibstat")
    assert "Node GUID: 0x0002c90300100010" in done


def test_every_pair_is_traced(managed: str) -> None:
    """`ibtracert` finds a way between all ports, by the tables that the manager wrote."""
    lids = [row["lid"] for row in table(managed, "show") if row["port"].startswith("h")]
    for one in lids:
        for two in lids:
            if one != two:
                assert f"lid {two}-{two}" in tool(managed, f"ibtracert {one} {two}")


def test_groups_have_the_same_members_under_either_manager(managed: str) -> None:
    by_mgid = {mgid: sorted(row["members"]) for row in table(managed, "groups") for mgid in row["mgids"]}
    everyone = ["h1/ib0", "h1/ib1", "h2/ib0", "h2/ib1"]
    for mgid in ("ff12:401b:ffff::ffff:ffff", "ff12:401b:ffff::1", "ff12:601b:ffff::1"):
        assert by_mgid[mgid] == everyone


def test_traffic_fails_over_and_the_manager_learns_of_it(managed: str) -> None:
    ibbond("lab", "cut", "--name", managed, "h1/ib0")
    ibbond("lab", "exec", "--name", managed, "h1", "--", "ping", "-c", "3", "-i", "0.2", "-W", "2", "10.0.0.2")
    found = tool(managed, "ibnetdiscover")  # tools are at the first port that is active
    assert all(f'"{node}"' in found for node in ("s1", "s2", "h1", "h2"))
    assert "Port 2:" in tool(managed, "ibstat")
    ibbond("lab", "mend", "--name", managed, "h1/ib0")
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        state = next(row["state"] for row in table(managed, "show") if row["port"] == "h1/ib0")
        if state == "active":
            return
        time.sleep(0.1)
    pytest.fail("no one made the mended port Active again")


def test_a_tool_that_is_killed_leaves_room_for_the_next(managed: str) -> None:
    for _ in range(12):
        process = subprocess.Popen(
            [IBBOND, "lab", "exec", "--name", managed, "h1", "--", "ibnetdiscover"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(0.15)
        process.kill()
        process.wait()
    assert "SMINFO_MASTER" in tool(managed, "sminfo")


@needs_opensm
def test_opensm_gives_a_port_other_keys_and_registers_it_again() -> None:
    """By its partition file, as an operator would; what only it may do is refused."""
    name = f"osk{os.getpid() % 100000}"
    ibbond("lab", "up", "--name", name, "--sm", "opensm")
    try:
        guid = tool(name, "ibstat -p").split()[0]

        def keys() -> list[str]:
            return tool(name, f"smpquery pkeys -G {guid}").split()[1:5]

        def wait_for(*wanted: str) -> None:
            until = time.monotonic() + 10
            while sorted(keys()) != sorted(wanted) and time.monotonic() < until:
                time.sleep(0.05)
            assert sorted(keys()) == sorted(wanted)

        wait_for("0xffff", *["0x0000"] * 3)
        ibbond("lab", "set-pkeys", "--name", name, "h1/ib0", "0x8001", "0x7002")
        wait_for("0x7fff", "0x8001", "0x7002", "0x0000")
        ibbond("lab", "set-pkeys", "--name", name, "h1/ib0", "0xffff")
        wait_for("0xffff", *["0x0000"] * 3)
        ibbond("lab", "reregister", "--name", name, "h1/ib0")
        events = ibbond("lab", "events", "--name", name, "--no-follow")
        assert events.count("client_reregister") >= 1
        refused = subprocess.run(
            [IBBOND, "lab", "change-lid", "--name", name, "h1/ib0", "77"], capture_output=True, text=True, check=False
        )
        assert refused.returncode == 2
        assert "numbers ports itself" in refused.stderr
    finally:
        ibbond("lab", "down", "--name", name)


@needs_opensm
def test_opensm_dies_and_comes_back() -> None:
    name = f"osm{os.getpid() % 100000}"
    ibbond("lab", "up", "--name", name, "--sm", "opensm")
    try:
        ibbond("lab", "exec", "--name", name, "h1", "--", "ping", "-c", "2", "-i", "0.2", "10.0.0.2")
        picture = Files(name).tools / "opensm" / "sys"  # what the library draws of /sys is in the host's memory
        assert "sys-" in ibbond("lab", "exec", "--name", name, "h1", "--", "ls", str(picture))
        assert not list(picture.iterdir())
        ibbond("lab", "kill", "--name", name, "sm")  # who knows the way needs no manager
        time.sleep(1)  # a tool that comes finds out that OpenSM is gone
        assert "Node GUID" in tool(name, "ibstat")
        ibbond("lab", "exec", "--name", name, "h1", "--", "ping", "-c", "2", "-i", "0.2", "10.0.0.2")
        ibbond("lab", "revive", "--name", name, "sm")
        ibbond("lab", "exec", "--name", name, "h1", "--", "ping", "-c", "2", "-i", "0.2", "10.0.0.2")
    finally:
        ibbond("lab", "down", "--name", name)


@needs_opensm
def test_opensm_gives_a_port_another_lid_while_it_is_away() -> None:
    """By its file of LIDs: h1 has a path to the old one, and traffic goes back to that port."""
    name = f"osl{os.getpid() % 100000}"
    ibbond("lab", "up", "--name", name, "--sm", "opensm")
    try:
        ping = ("lab", "exec", "--name", name, "h1", "--", "ping", "-n", "-i", "0.2", "-W", "2", "10.0.0.2")
        ibbond(*ping, "-c", "3")
        port = next(row for row in table(name, "show") if row["port"] == "h2/ib0")
        file = Files(name).tools / "opensm" / "guid2lid"
        ibbond("lab", "cut", "--name", name, "h2/ib0")
        ibbond(*ping, "-c", "3")  # by h2's other port
        ibbond("lab", "kill", "--name", name, "sm")
        lines = file.read_text().splitlines()
        own = [line for line in lines if line.startswith(port["guid"])]
        assert len(own) == 1, lines
        file.write_text(
            "\n".join(line if line not in own else f"{own[0].split()[0]} 0x012c 0x012c" for line in lines) + "\n"
        )
        ibbond("lab", "revive", "--name", name, "sm")
        ibbond("lab", "mend", "--name", name, "h2/ib0")
        deadline = time.monotonic() + 30
        while (found := next(row for row in table(name, "show") if row["port"] == "h2/ib0"))["state"] != "active":
            assert time.monotonic() < deadline, found
            time.sleep(0.1)
        assert found["lid"] == 300 != port["lid"]
        ibbond("bond", "switch", "--name", name, "h2/bond0", "ib0")
        said = ibbond(*ping, "-c", "10")
        assert " 0% packet loss" in said
    finally:
        ibbond("lab", "down", "--name", name)
