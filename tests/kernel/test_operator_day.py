"""What an operator does on a host that is in use: its addresses and routes, two commands at once, bad requests."""

import json

import pytest

from tests.kernel.test_bond_commands import everything
from tests.kernel.test_putting_back import ASK
from tests.kernel.virtual_machine import Host, VirtualMachine

IN_USE = """
ip link set ib0 up
ip addr add 10.0.0.1/24 brd + dev ib0
ip addr add 10.0.0.9/24 dev ib0 label ib0:vip valid_lft 900 preferred_lft 600
ip -6 addr add 2001:db8::1/64 dev ib0
ip route add default via 10.0.0.2 dev ib0 metric 7
ip route add 10.77.0.0/16 via 10.0.0.2 dev ib0 src 10.0.0.9 mtu 1400 table 50
ip -6 route add 2001:db8:9::/48 via 2001:db8::2 dev ib0
ip nexthop add id 7 via 10.0.0.2 dev ib0
ip nexthop add id 8 group 7
ip route add 10.78.0.0/16 nhid 8
ip -6 addr add fe80::77/64 dev ib0 nodad
ip rule add iif ib0 lookup 50 priority 100
ip neigh add 10.0.0.66 lladdr 80:00:00:66:fe:80:00:00:00:00:00:00:00:02:c9:03:00:10:00:66 dev ib0
"""
CREATE = ("bond", "create", "bond0", "ib0", "ib1")


def settings(host: Host) -> list[str]:
    """What users set, in words, without the device's name."""
    source = (
        "from ibbond.backend.kernel.bonds import KernelBackend\n"
        "answer = [str(each) for each in KernelBackend().ip_settings() if 'lo' not in each.devices]"
    )
    found = host.python(source)
    assert isinstance(found, list)
    return sorted(found)


@pytest.fixture
def peer(host: Host, machine: VirtualMachine) -> Host:
    """Another host on the same hub, with 10.0.0.2."""
    other = machine.host()
    other.add_port("ib0", hub=host.group, node=1)
    other.sh("ip link set ib0 up; ip addr add 10.0.0.2/24 dev ib0; ip route add default via 10.0.0.1")
    return other


def reaches(host: Host, address: str, count: int = 5) -> bool:
    return " 0% packet loss" in host.try_run("ping", "-n", "-c", str(count), "-i", "0.2", "-W", "2", address).out


@pytest.mark.smoke
def test_a_host_in_use_keeps_its_traffic(host: Host, peer: Host) -> None:
    """The most ordinary request: ib0 has the address that the bond is to have, and the default route."""
    host.sh(IN_USE + "ip addr add 192.0.2.7/32 dev lo")
    before = settings(host)
    assert reaches(host, "10.0.0.2")
    plan = host.ok(*CREATE, "--address", "10.0.0.1/24", "--dry-run").splitlines()
    for line in (
        "delete address 10.0.0.1/24 dev ib0  [interrupts: ib0 carries traffic of 10.0.0.1/24, which bond0 gets]",
        "add address 10.0.0.1/24 dev bond0",
        "add route default via 10.0.0.2 dev bond0 metric 7",
        "add nexthop id 7 via 10.0.0.2 dev bond0",
        "add route 10.78.0.0/16 nhid 8",
        "add address fe80::77/64 dev bond0",
        "add rule 100: iif bond0 lookup 50",
    ):
        assert line in plan, (line, plan)
    assert settings(host) == before, "a dry run changes nothing"
    said = host.ok(*CREATE, "--address", "10.0.0.1/24", "--json")
    assert json.loads(said)["lost"] == []
    assert settings(host) == sorted(line.replace("ib0", "bond0") for line in before)
    assert "ib0" not in host.run("ip", "-o", "addr", "show", "scope", "global")
    shown = json.loads(host.run("ip", "-j", "addr", "show", "bond0"))[0]["addr_info"]
    lifetimes = {each["local"]: each["valid_life_time"] for each in shown}
    assert 600 < lifetimes["10.0.0.9"] <= 900
    assert reaches(host, "10.0.0.2")
    assert reaches(peer, "192.0.2.7"), "answers go by the default route"
    host.ok("bond", "switch", "bond0", "ib1")
    assert reaches(peer, "10.0.0.1")
    assert "nothing to do" in host.ok(*CREATE, "--address", "10.0.0.1/24")


def test_an_address_that_another_host_has_is_refused(host: Host, peer: Host) -> None:
    before = settings(host)
    result = host.ibbond(*CREATE, "--address", "10.0.0.2/24")
    assert result.code == 2
    assert f"another host has 10.0.0.2: it answers from {peer.read('ib0/address').strip()}" in result.err
    assert "Everything was restored" in result.err
    assert settings(host) == before
    assert host.read("bonding_masters") == ""
    host.ok(*CREATE, "--address", "10.0.0.3/24", "--address", "2001:db8::3/64")
    assert reaches(host, "10.0.0.2")


def test_without_an_address_the_bond_gets_what_members_had(host: Host, peer: Host) -> None:
    host.sh(IN_USE)
    host.ok(*CREATE)
    assert reaches(host, "10.0.0.2")


def test_a_member_that_joins_later_brings_its_own(host: Host) -> None:
    host.ok("bond", "create", "bond0", "ib0", "--address", "10.0.0.1/24")
    host.sh("ip link set ib1 up; ip addr add 10.3.0.1/24 dev ib1; ip route add 10.4.0.0/16 via 10.3.0.2")
    host.ok("bond", "add", "bond0", "ib1")
    assert settings(host) == [
        "address 10.0.0.1/24 dev bond0",
        "address 10.3.0.1/24 dev bond0",
        "route 10.4.0.0/16 via 10.3.0.2 dev bond0",
    ]


def test_a_failure_gives_everything_back(host: Host) -> None:
    """All kinds of settings, when the second member refuses to open."""
    host.sh(IN_USE)
    before = settings(host)
    host.write("ib1/fail_open", "5")
    result = host.ibbond(*CREATE, "--address", "10.0.0.1/24")
    assert "Everything was restored" in result.err
    assert settings(host) == before
    assert host.read("bonding_masters") == ""
    assert int(host.read("ib0/flags"), 16) & 1


def test_what_is_lost_is_said_before(host: Host) -> None:
    host.sh(IN_USE)
    host.ok(*CREATE)
    lines = host.ok("bond", "delete", "bond0", "--dry-run").splitlines()
    assert "lost: route default via 10.0.0.2 dev bond0 metric 7" in lines
    assert "lost: address 2001:db8::1/64 dev bond0" in lines


def test_a_primary_that_is_not_a_member_does_not_stay_in_the_driver(host: Host) -> None:
    host.add_port("ib2", port=3)
    host.ok(*CREATE)
    for value in ("ib2", "ghost0"):
        result = host.ibbond("bond", "set", "bond0", "primary", value)
        assert (result.code, f"{value} is not a member" in result.err) == (2, True)
    assert "ib2 is not a member" in host.ibbond("bond", "create", "bond1", "--set", "primary=ib2", "--dry-run").err
    reported = host.python(  # should one be written all the same, it goes again
        ASK + "before = capture(host, ['bond0'], [])\n"
        "bond = before.bonds['bond0']\n"
        "wanted = HostState({'bond0': replace(bond, options={**bond.options, 'primary': 'ib2'})}, ip=before.ip)\n"
        "try:\n"
        "    change(host, lambda host: Plan('test', tuple(reconcile(before, wanted)), before, wanted))\n"
        "except Refused as refused:\n"
        "    answer = str(refused)\n"
    )
    assert "did not keep it" in str(reported)
    host.ok("bond", "add", "bond0", "ib2")
    assert host.read("bond0/bonding/primary") == ""
    assert "nothing to do" in host.ok("bond", "set", "bond0", "primary", "none")


def test_a_primary_that_the_driver_remembers_is_said(host: Host) -> None:
    host.add_port("ib2", port=3)
    host.ok(*CREATE, "--set", "primary=ib0")
    assert "note: the driver keeps ib0 as the primary" in host.ok("bond", "remove", "bond0", "ib0", "--dry-run")
    host.ok("bond", "remove", "bond0", "ib0")
    assert "note: ib0 is the primary: the driver had remembered that" in host.ok("bond", "add", "bond0", "ib0")


def test_requests_that_can_never_hold_are_refused_before(host: Host) -> None:
    host.ok(*CREATE)
    before = everything(host)
    for words, reported in (
        (("fail_over_mac", "none", "--interrupt"), "none is not possible"),
        (("updelay", "250"), "the driver would make it 200"),
        (("miimon", "0", "updelay", "100"), "which is off"),
        (("miimon", "50", "updelay"), "no value for updelay"),
        (("mtu", "2044"), "ip link set bond0 mtu"),
        (("queue_id", "ib0:1,ib1:1"), "two members cannot share a queue"),
    ):
        result = host.ibbond("bond", "set", "bond0", *words)
        assert (result.code, reported in result.err) == (2, True), (words, result.err)
    assert everything(host) == before
    host.add_port("ib2", port=3)
    assert "none is not possible" in host.ibbond("bond", "create", "bond1", "ib2", "--set", "fail_over_mac=none").err


def test_several_options_at_once_and_steps_that_are_counted(host: Host) -> None:
    host.ok(*CREATE)
    assert "done, 2 steps" in host.ok("bond", "set", "bond0", "miimon", "50", "updelay=500")
    # The delay, which the driver counts in runs of its monitor, is written again and stays.
    assert "done, 2 steps" in host.ok("bond", "set", "bond0", "miimon", "100")
    assert host.read("bond0/bonding/updelay") == "500\n"
    # Setting the other monitor switches this one off: three steps are planned, one is done by the driver.
    said = host.ok("bond", "set", "bond0", "arp_ip_target=10.0.0.2", "arp_interval=1000")
    plan = json.loads(host.ok("bond", "set", "bond0", "miimon=100", "arp_ip_target=none", "--dry-run", "--json"))
    assert "each read back" in said
    assert len(plan["steps"]) == 3
    assert "done, 2 steps" in host.ok("bond", "set", "bond0", "miimon=100", "arp_ip_target=none")
    assert host.read("bond0/bonding/arp_ip_target") == ""


AT_ONCE = """
import contextlib, io
from ibbond.cli.main import run

def both(*commands):
    children = []
    for words in commands:
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            error = io.StringIO()
            with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()):
                code = run(words.split())
            os.write(writer, error.getvalue().encode())
            os._exit(code)
        os.close(writer)
        children.append((pid, reader))
    return [(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), os.read(reader, 9999).decode())
            for pid, reader in children]
"""


def test_two_that_create_one_bond(host: Host) -> None:
    for name, port in (("ib2", 3), ("ib3", 4)):
        host.add_port(name, port=port)
    ends = host.python(AT_ONCE + "answer = both('bond create bond0 ib0 ib1', 'bond create bond0 ib2 ib3')")
    assert isinstance(ends, list)
    assert sorted(code for code, _ in ends) == [0, 2], ends
    assert "it already exists with other members" in "".join(error for _, error in ends)
    assert host.read("bond0/bonding/slaves") in ("ib0 ib1\n", "ib2 ib3\n")


def test_one_that_switches_and_one_that_removes(host: Host) -> None:
    """The one that comes second sees what the first has done; neither undoes the other's work."""
    host.ok(*CREATE)
    ends = host.python(AT_ONCE + "answer = both('bond switch bond0 ib1', 'bond remove bond0 ib1')")
    assert isinstance(ends, list)
    (switched, error), (removed, _) = ends
    assert removed == 0
    assert switched == 0 or "ib1 is not a member" in error, ends
    assert host.read("bond0/bonding/slaves") == "ib0\n"
