"""A request that fails in the middle leaves the host as it was: driver or device refuse, or a device vanishes."""

import pytest

from tests.kernel.test_bond_commands import CREATE, everything
from tests.kernel.virtual_machine import Host, kernel_root

ASK = """
import subprocess
from dataclasses import replace
from ibbond.backend.kernel import requests as ask
from ibbond.backend.kernel.bonds import KernelBackend
from ibbond.backend.kernel.plan import Plan, reconcile
from ibbond.backend.kernel.state import HostState
from ibbond.errors import Refused
host = KernelBackend()
"""


@pytest.mark.smoke
def test_the_drivers_refusal_names_file_errno_and_log(host: Host) -> None:
    """Members leave, the mode changes, then the driver refuses InfiniBand and leaves an Ethernet bond of MTU 1500."""
    host.ok(*CREATE, "--set", "updelay=200")
    before = everything(host)
    told = host.python(
        ASK + "before = host.capture(['bond0'], [])\n"
        "bond = before.bonds['bond0']\n"
        "wanted = HostState({'bond0': replace(bond, options={**bond.options, 'mode': 'balance-rr'})})\n"
        "try:\n"
        "    host.apply(Plan('test', tuple(reconcile(before, wanted)), before, wanted))\n"
        "except Refused as refused:\n"
        "    answer = str(refused)\n"
    )
    assert isinstance(told, str)
    for part in ("/sys/class/net/bond0/bonding/slaves", "EOPNOTSUPP", "the kernel logged: bond0", "put back as it was"):
        assert part in told, (part, told)
    assert everything(host) == before
    assert host.read("bond0/bonding/active_slave") == "ib0\n"


def test_a_member_that_refuses_to_open(host: Host) -> None:
    host.sh("ip link set ib0 up; ip addr add 10.9.0.1/24 dev ib0; ip route add 10.8.0.0/16 via 10.9.0.2 metric 50")
    host.write("ib1/fail_open", "5")
    before = everything(host)
    result = host.ibbond(*CREATE)
    assert result.code == 2
    for part in ("'+ib1'", "/sys/class/net/bond0/bonding/slaves", "EIO", "Everything was put back as it was"):
        assert part in result.err, (part, result.err)
    assert everything(host) == before


def test_a_member_that_refuses_the_mtu(host: Host) -> None:
    host.write("ib1/fail_mtu", "22")
    before = everything(host)
    result = host.ibbond(*CREATE, "--mtu", "1800")
    assert result.code == 2
    assert "put back" in result.err
    assert everything(host) == before


def test_what_cannot_be_put_back_is_said(host: Host) -> None:
    """A member that was fine before and does not open again: nobody can put that back."""
    host.ok(*CREATE)
    host.write("ib1/fail_open", "5")
    result = host.ibbond("bond", "set", "bond0", "fail_over_mac", "follow", "--interrupt")
    assert result.code == 2
    assert "could not all be put back" in result.err
    assert "+ib1" in result.err
    assert host.read("bond0/bonding/slaves") == "ib0\n"
    assert host.read("bond0/bonding/active_slave") == "ib0\n"
    assert "10.0.0.1/24" in host.run("ip", "addr", "show", "bond0")


@pytest.mark.parametrize("request_words", ["create", "interrupt"])
def test_a_failure_before_any_step_leaves_what_was_there(host: Host, request_words: str) -> None:
    """Step by step: the request is broken off before step 1, 2, 3..., each time all is as before."""
    if request_words == "create":
        host.sh("ip link set ib1 up; ip addr add 10.9.0.1/24 dev ib1")
        plan = "ask.create(host, 'bond0', ['ib0', 'ib1'], {'mode': 'active-backup', 'miimon': '100'},"
        plan += " addresses=['10.0.0.1/24'], mtu=2044)"
    else:
        host.ok(*CREATE)
        host.sh("ip route add 10.8.0.0/16 via 10.0.0.2; ip -6 addr add 2001:db8::1/64 dev bond0")
        plan = "ask.set_options(host, 'bond0', {'fail_over_mac': 'follow', 'num_grat_arp': '7'}, interrupt=True)"
    seen = host.python(
        ASK
        + f"""
def names(plan):
    return [str(step) for step in reconcile(host.capture(['bond0'], ['ib0', 'ib1']), plan.before)]

class Broken(Exception):
    pass

plan = {plan}
answer = []
for place, at in enumerate(plan.steps):
    def stop(step, at=at):
        if step == at:
            raise Broken
    try:
        host.apply({plan}, stop)
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
def plan():
    return ask.create(host, 'bond0', ['ib0', 'ib1'], {{'mode': 'active-backup', 'miimon': '100'}}, mtu=2044)

answer = []
before = host.capture([], ['ib0'])
for place in range(len(plan().steps)):
    wanted = plan()
    at = wanted.steps[place]
    def unplug(step):
        if step is at:
            subprocess.run(['ip', 'link', 'del', 'ib1'], check=True)
    try:
        host.apply(wanted, unplug)
        outcome = 'done'
        host.apply(ask.delete(host, 'bond0'))
        host.set_admin('ib0', True)
    except Refused as refused:
        outcome = str(refused)
    answer.append([str(at), outcome, host.capture([], ['ib0']) == before, host.bonds()])
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
    told = host.python(
        ASK + "plan = ask.add(host, 'bond0', ['ib1'])\n"
        "try:\n"
        "    host.apply(plan, lambda step: subprocess.run(['ip', 'link', 'del', 'ib0'], check=True))\n"
        "except Refused as refused:\n"
        "    answer = str(refused)\n"
    )
    assert isinstance(told, str)
    assert "ib0 is no longer there" in told
    assert host.read("bond0/bonding/mode") == "active-backup 1\n"
    assert "10.0.0.1/24" in host.run("ip", "addr", "show", "bond0")


@pytest.mark.parametrize("number", [2, 15, 1])
def test_a_signal_puts_back_too(host: Host, number: int) -> None:
    """Ctrl-C, SIGTERM, SIGHUP in the middle of a request."""
    before = everything(host)
    told = host.python(
        ASK + "def stop(step):\n"
        "    if 'mtu' in str(step):\n"
        f"        os.kill(os.getpid(), {number})\n"
        "try:\n"
        "    host.apply(ask.create(host, 'bond0', ['ib0', 'ib1'], {'mode': 'active-backup'}, mtu=2044), stop)\n"
        "except (KeyboardInterrupt, SystemExit) as end:\n"
        "    answer = 'ended'\n"
    )
    assert told == "ended"
    assert everything(host) == before


def test_an_ordinary_user_is_told_to_be_root(host: Host) -> None:
    before = everything(host)
    told = host.python(
        ASK + "os.setuid(65534)\n"
        "try:\n"
        "    host.apply(ask.create(host, 'bond0', ['ib0'], {'mode': 'active-backup'}))\n"
        "except Refused as refused:\n"
        "    answer = str(refused)\n"
    )
    assert isinstance(told, str)
    assert "Run as root" in told
    assert "Nothing was changed" in told
    assert everything(host) == before


def test_the_driver_is_loaded_when_it_is_not_there(host: Host) -> None:
    """The first step of a creation; /sbin/modprobe of the guest knows no modules, so one of ours stands before it."""
    tree = kernel_root() / "tree/lib/modules"
    module = next(iter(tree.rglob("bonding.ko*")))
    host.sh(
        f"mkdir -p /tmp/bin; printf '#!/bin/sh\\nexec insmod {module} max_bonds=0\\n' > /tmp/bin/modprobe;"
        "chmod +x /tmp/bin/modprobe; rmmod bonding"
    )
    assert "driver is not loaded" in host.ibbond("bond", "list").err
    assert "driver is not loaded" in host.ibbond("bond", "add", "bond0", "ib0").err
    assert host.ibbond("check").code == 2
    before = ASK + "plan = ask.create(host, 'bond0', ['ib0'], {'mode': 'active-backup'})\n"
    told = host.python(before + "answer = plan.lines()[:2]")
    assert told == [
        "load the bonding driver (modprobe bonding max_bonds=0)",
        "write +bond0 to /sys/class/net/bonding_masters",
    ]
    refused = host.python(
        before + "os.environ['PATH'] = '/nowhere'\n"
        "try:\n"
        "    host.apply(plan)\n"
        "except Refused as refused:\n"
        "    answer = str(refused)\n"
    )
    assert "cannot load the bonding driver" in str(refused)
    host.python(before + "os.environ['PATH'] = '/tmp/bin:' + os.environ['PATH']\nhost.apply(plan)")
    assert host.read("bonding_masters") == "bond0\n"
