"""A request that fails in the middle leaves the host as it was: driver or device refuse, or a device vanishes."""

import pytest

from tests.kernel.test_bond_commands import CREATE, everything
from tests.kernel.virtual_machine import Host, kernel_root

ASK = """
import signal, subprocess
from dataclasses import replace
from ibbond.backend import requests as ask
from ibbond.backend.apply import change
from ibbond.backend.kernel.bonds import KernelBackend
from ibbond.backend.plan import Plan, reconcile
from ibbond.backend.state import HostState, capture
from ibbond.errors import Refused
host = KernelBackend()
"""


@pytest.mark.smoke
def test_the_drivers_refusal_names_file_errno_and_log(host: Host) -> None:
    """Members leave, the mode changes, then the driver refuses InfiniBand and leaves an Ethernet bond of MTU 1500."""
    host.ok(*CREATE, "--set", "updelay=200")
    before = everything(host)
    reported = host.python(
        ASK + "before = capture(host, ['bond0'], [])\n"
        "bond = before.bonds['bond0']\n"
        "bad = {'bond0': replace(bond, options={**bond.options, 'mode': 'balance-rr'})}\n"
        "wanted = HostState(bad, ip=before.ip)\n"
        "try:\n"
        "    change(host, lambda host: Plan('test', tuple(reconcile(before, wanted)), before, wanted))\n"
        "except Refused as refused:\n"
        "    answer = str(refused)\n"
    )
    assert isinstance(reported, str)
    for part in (
        "/sys/class/net/bond0/bonding/slaves",
        "EOPNOTSUPP",
        "the kernel logged: bond0",
        "Everything was restored",
    ):
        assert part in reported, (part, reported)
    assert everything(host) == before
    assert host.read("bond0/bonding/active_slave") == "ib0\n"


def test_a_value_that_does_not_hold_is_an_error_and_put_back(host: Host) -> None:
    """The plan would refuse it; here the driver is left to round it, as one of tomorrow may with what is not known."""
    host.ok(*CREATE)
    before = everything(host)
    reported = host.python(
        ASK + "before = capture(host, ['bond0'], [])\n"
        "bond = before.bonds['bond0']\n"
        "wanted = HostState({'bond0': replace(bond, options={**bond.options, 'updelay': '250'})}, ip=before.ip)\n"
        "try:\n"
        "    change(host, lambda host: Plan('test', tuple(reconcile(before, wanted)), before, wanted))\n"
        "except Refused as refused:\n"
        "    answer = str(refused)\n"
    )
    assert isinstance(reported, str)
    for part in ("/sys/class/net/bond0/bonding/updelay", "'250'", "'200'", "not a multiple of miimon", "restored"):
        assert part in reported, (part, reported)
    assert everything(host) == before


def test_a_member_that_refuses_to_open(host: Host) -> None:
    host.sh("ip link set ib0 up; ip addr add 10.9.0.1/24 dev ib0; ip route add 10.8.0.0/16 via 10.9.0.2 metric 50")
    host.write("ib1/fail_open", "5")
    before = everything(host)
    result = host.ibbond(*CREATE)
    assert result.code == 2
    for part in ("'+ib1'", "/sys/class/net/bond0/bonding/slaves", "EIO", "Everything was restored"):
        assert part in result.err, (part, result.err)
    assert everything(host) == before


def test_a_member_that_refuses_the_mtu(host: Host) -> None:
    host.write("ib1/fail_mtu", "22")
    before = everything(host)
    result = host.ibbond(*CREATE, "--mtu", "1800")
    assert result.code == 2
    assert "restored" in result.err
    assert everything(host) == before


def test_what_cannot_be_put_back_is_said(host: Host) -> None:
    """A member that was fine before and does not open again: nothing can put that back."""
    host.ok(*CREATE)
    host.write("ib1/fail_open", "5")
    reported = host.python(
        ASK + "before = capture(host, ['bond0'], [])\n"
        "without = replace(before.bonds['bond0'], members=('ib0',), active='ib1')\n"  # it leaves, then is to be used
        "wanted = HostState({'bond0': without}, ip=before.ip)\n"
        "try:\n"
        "    change(host, lambda host: Plan('test', tuple(reconcile(before, wanted)), before, wanted))\n"
        "except Refused as refused:\n"
        "    answer = str(refused)\n"
    )
    assert isinstance(reported, str)
    assert "Not everything could be restored" in reported
    assert "+ib1" in reported
    assert host.read("bond0/bonding/slaves") == "ib0\n"
    assert host.read("bond0/bonding/active_slave") == "ib0\n"
    assert "10.0.0.1/24" in host.run("ip", "addr", "show", "bond0")


@pytest.mark.parametrize("request_words", ["create", "interrupt"])
def test_a_failure_before_any_step_leaves_what_was_there(host: Host, request_words: str) -> None:
    """Step by step: the request is broken off before step 1, 2, 3..., each time all is as before."""
    if request_words == "create":
        host.sh("ip link set ib1 up; ip addr add 10.9.0.1/24 dev ib1; ip route add 10.8.0.0/16 via 10.9.0.2 table 7")
        make = "ask.create(host, 'bond0', ['ib0', 'ib1'], {'mode': 'active-backup', 'miimon': '100'},"
        make += " addresses=['10.0.0.1/24'], mtu=2044)"
    else:
        host.sh("ip link add d0 type dummy; ip link add d1 type dummy")
        host.ok("bond", "create", "bond0", "d0", "d1", "--set", "primary=d0", "--address", "10.0.0.1/24")
        host.sh("ip route add 10.8.0.0/16 via 10.0.0.2; ip -6 addr add 2001:db8::1/64 dev bond0")
        make = "ask.set_options(host, 'bond0', {'fail_over_mac': 'follow', 'num_grat_arp': '7'}, interrupt=True)"
    seen = host.python(
        ASK
        + f"""
def names(plan):
    return [str(step) for step in reconcile(capture(host, ['bond0'], ['ib0', 'ib1']), plan.before)]

class Broken(Exception):
    pass

def make(host):
    return {make}

plan = make(host)
answer = []
for place, at in enumerate(plan.steps):
    def stop(step, at=at):
        if step == at:
            raise Broken
    try:
        change(host, make, watch=stop)
    except Broken:
        answer.append([place, str(at), names(plan)])
    except Refused as refused:
        answer.append([place, str(refused), names(plan)])
"""
    )
    assert isinstance(seen, list)
    assert len(seen) >= 6
    assert [each for each in seen if each[2]] == []


def test_a_device_that_vanishes_in_the_middle(host: Host) -> None:
    """Before every step of a creation, ib1 is unplugged: what is left is as it was, and ib1 is named as gone."""
    host.sh("ip link set ib0 up; ip addr add 10.9.0.1/24 dev ib0")
    address = host.read("ib1/address").strip()
    seen = host.python(
        ASK
        + f"""
def make(host):
    return ask.create(host, 'bond0', ['ib0', 'ib1'], {{'mode': 'active-backup', 'miimon': '100'}}, mtu=2044)

answer = []
before = capture(host, [], ['ib0'])
for at in make(host).steps:
    def unplug(step):
        if step == at:
            subprocess.run(['ip', 'link', 'del', 'ib1'], check=True)
    try:
        change(host, make, watch=unplug)
        outcome = 'done'
        change(host, lambda host: ask.delete(host, 'bond0'))
        subprocess.run('ip link set ib0 up; ip addr add 10.9.0.1/24 dev ib0', shell=True, check=True)
    except Refused as refused:
        outcome = str(refused)
    answer.append([str(at), outcome, capture(host, [], ['ib0']) == before, host.bonds()])
    subprocess.run(['ip', 'link', 'add', 'ib1', 'address', '{address}', 'group', '{host.group}', 'type', 'lookib'],
                   check=True)
"""
    )
    assert isinstance(seen, list)
    refused = [each for each in seen if each[1] != "done"]
    assert len(refused) >= 4
    for step, outcome, same, bonds in seen:
        assert same, (step, outcome)
        assert bonds == [], (step, outcome)
        assert outcome == "done" or "ib1 is no longer there" in outcome, (step, outcome)


def test_the_last_member_vanishes_and_takes_the_bond_along(host: Host) -> None:
    """The driver destroys an InfiniBand bond with its last device; the bond comes back with its address, without it."""
    host.ok("bond", "create", "bond0", "ib0", "--address", "10.0.0.1/24")
    reported = host.python(
        ASK + "unplug = lambda step: subprocess.run(['ip', 'link', 'del', 'ib0'], check=True)\n"
        "try:\n"
        "    change(host, lambda host: ask.add(host, 'bond0', ['ib1']), watch=unplug)\n"
        "except Refused as refused:\n"
        "    answer = str(refused)\n"
    )
    assert isinstance(reported, str)
    assert "ib0 is no longer there" in reported
    assert host.read("bond0/bonding/mode") == "active-backup 1\n"
    assert "10.0.0.1/24" in host.run("ip", "addr", "show", "bond0")


@pytest.mark.parametrize("number", [2, 15, 1])
def test_a_signal_puts_back_too(host: Host, number: int) -> None:
    """Ctrl-C, SIGTERM, SIGHUP in the middle of a request; it says which of the two it was."""
    before = everything(host)
    reported = host.python(
        ASK + "def stop(step):\n"
        "    if 'mtu' in str(step):\n"
        f"        os.kill(os.getpid(), {number})\n"
        "make = lambda host: ask.create(host, 'bond0', ['ib0', 'ib1'], {'mode': 'active-backup'}, mtu=2044)\n"
        "try:\n"
        "    change(host, make, watch=stop)\n"
        "except (KeyboardInterrupt, SystemExit) as end:\n"
        "    answer = end.__notes__\n"
    )
    assert reported == ["Everything was restored"]
    assert everything(host) == before


def test_kill_9_puts_back_too(host: Host) -> None:
    """A child that was forked before the first step does it, whatever the process was doing."""
    host.sh("ip link set ib0 up; ip addr add 10.9.0.1/24 dev ib0; ip route add 10.8.0.0/16 via 10.9.0.2 table 7")
    before = everything(host)
    reported = host.python(
        ASK + "def stop(step):\n"
        "    if 'mtu' in str(step):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "make = lambda host: ask.create(host, 'bond0', ['ib0', 'ib1'], {'mode': 'active-backup'})\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    change(host, make, watch=stop)\n"
        "answer = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])\n"
        "with host.alone():\n"  # which the other child holds until it has put back
        "    pass\n"
    )
    assert reported == -9
    assert everything(host) == before


def test_an_ordinary_user_is_asked_to_be_root(host: Host) -> None:
    before = everything(host)
    reported = host.python(
        ASK + "os.setuid(65534)\n"
        "try:\n"
        "    change(host, lambda host: ask.create(host, 'bond0', ['ib0'], {'mode': 'active-backup'}))\n"
        "except Refused as refused:\n"
        "    answer = str(refused)\n"
    )
    assert isinstance(reported, str)
    assert "Run as root" in reported
    assert "Nothing was changed" in reported
    assert everything(host) == before


def test_the_driver_is_loaded_when_it_is_not_there(host: Host) -> None:
    """The first step of a creation; /sbin/modprobe of the guest knows no modules, so another one stands before it."""
    root = kernel_root()
    module = next(iter((root / "tree/lib/modules").rglob("bonding.ko*")))
    busybox = root / "busybox"  # not every machine has kmod
    host.sh(
        f"mkdir -p /tmp/bin; printf '#!/bin/sh\\nexec {busybox} insmod {module} max_bonds=0\\n' > /tmp/bin/modprobe;"
        f"chmod +x /tmp/bin/modprobe; {busybox} rmmod bonding"
    )
    assert "driver is not loaded" in host.ibbond("bond", "list").err
    assert "driver is not loaded" in host.ibbond("bond", "add", "bond0", "ib0").err
    assert host.ibbond("check").code == 2
    before = ASK + "make = lambda host: ask.create(host, 'bond0', ['ib0'], {'mode': 'active-backup'})\n"
    reported = host.python(before + "answer = make(host).lines()[:2]")
    assert reported == [
        "load the bonding driver (modprobe bonding max_bonds=0)",
        "write +bond0 to /sys/class/net/bonding_masters",
    ]
    refused = host.python(
        before + "os.environ['PATH'] = '/nowhere'\n"
        "try:\n"
        "    change(host, make)\n"
        "except Refused as refused:\n"
        "    answer = str(refused)\n"
    )
    assert "cannot load the bonding driver" in str(refused)
    host.python(before + "os.environ['PATH'] = '/tmp/bin:' + os.environ['PATH']\nchange(host, make)")
    assert host.read("bonding_masters") == "bond0\n"
