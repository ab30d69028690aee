"""`ibbond apply` on the real driver: from nothing to the desired state, again, changed, killed, undone, unconfirmed."""

import json
import os
import time

import pytest

from tests.kernel.virtual_machine import Host

STATE = """version = 1
[bond.bond0]
members = ["ib0", "ib1"]
mtu = 2044
addresses = ["10.0.0.1/24", "2001:db8::1/64"]
routes = [
  {to = "default", via = "10.0.0.254", metric = 7},
  {to = "10.77.0.0/16", via = "10.0.0.253"},
  {to = "2001:db8:9::/48", via = "2001:db8::2"},
]
[bond.bond0.options]
mode = "active-backup"
miimon = 100
updelay = 200
num_grat_arp = 3
primary = "ib1"
primary_reselect = "failure"
resend_igmp = 2
arp_all_targets = "all"
[device.ib1]
transport = "connected"
queue_id = 3
"""


def put(host: Host, text: str, name: str = "bonds.toml") -> str:
    """A file of the guest, one for each host."""
    path = f"/tmp/{host.name}-{name}"
    host.python(f"open({path!r}, 'w').write({text!r})")
    return path


def everything(host: Host) -> str:
    return host.sh(
        "ip -o addr show scope global | sed 's/ tentative//'; ip route; ip -6 route show proto static;"
        " ip -o link | sed 's/ qdisc .*//';"
        " cat /sys/class/net/bonding_masters; cat /sys/class/net/ib*/mode"
    )


@pytest.fixture(autouse=True)
def journal_of_its_own(host: Host) -> None:
    """The guest's hosts share /run."""
    host.sh("for again in 1 2 3 4 5; do rm -rf /run/ibbond && exit; sleep 1; done; exit 1")  # a keeper may still write


@pytest.mark.smoke
def test_from_nothing_to_the_state_and_no_further(host: Host) -> None:
    file = put(host, STATE)
    plan = host.ok("apply", file, "--dry-run")
    assert "write connected to /sys/class/net/ib1/mode" in plan
    assert "bond0" not in host.read("bonding_masters")
    assert "done" in host.ok("apply", file)
    for path, value in {
        "bonding/slaves": "ib0 ib1",
        "bonding/updelay": "200",
        "bonding/primary": "ib1",
        "bonding/resend_igmp": "2",
        "bonding/arp_all_targets": "all 1",
        "bonding/queue_id": "ib0:0 ib1:3",
        "mtu": "2044",
    }.items():
        assert host.read(f"bond0/{path}").strip() == value
    assert host.read("ib1/mode").strip() == "connected"
    routes = host.run("ip", "route") + host.run("ip", "-6", "route")
    assert "default via 10.0.0.254 dev bond0 proto static metric 7" in routes
    assert "2001:db8:9::/48 via 2001:db8::2 dev bond0" in routes
    assert "nothing to do" in host.ok("apply", file)
    exported = host.ok("config", "export")
    assert "nothing to do" in host.ok("apply", put(host, exported, "exported.toml"))
    assert host.ibbond("config", "diff", file).code == 0, host.ok("config", "diff", file)


def test_a_change_and_what_needs_an_interruption(host: Host) -> None:
    host.ok("apply", put(host, STATE))
    fewer = STATE.replace('["ib0", "ib1"]', '["ib0"]').replace('primary = "ib1"\n', "").replace("queue_id = 3", "")
    result = json.loads(host.ok("apply", put(host, fewer), "--json"))
    assert result["changed"]
    assert host.read("bond0/bonding/slaves").strip() == "ib0"
    refused = host.ibbond("apply", put(host, fewer.replace("active-backup", "balance-rr")))
    assert refused.code == 2
    assert "mode-refused" in refused.err


def test_a_step_that_fails_puts_everything_back(host: Host) -> None:
    before = everything(host)
    host.sh("echo 1 > /sys/class/net/ib1/fail_open")
    refused = host.ibbond("apply", put(host, STATE))
    assert refused.code == 2
    assert "restored" in refused.err
    host.sh("echo 0 > /sys/class/net/ib1/fail_open")
    assert everything(host) == before
    assert host.ibbond("apply", "--undo").code == 2


def test_unless_it_is_confirmed_it_is_taken_back(host: Host) -> None:
    before = everything(host)
    file = put(host, STATE)
    assert "unless" in host.ok("apply", file, "--confirm-within", "20")
    until = time.monotonic() + 240
    while everything(host) != before:
        assert time.monotonic() < until, everything(host)
        time.sleep(1)
    host.ok("apply", file, "--confirm-within", "600")
    after = everything(host)
    assert "kept" in host.ok("apply", "--confirm")
    assert everything(host) == after
    assert host.ibbond("apply", "--confirm").code == 2


def test_an_apply_that_is_not_confirmed_can_be_undone_by_hand(host: Host) -> None:
    host.sh("ip link set ib0 up; ip addr add 10.0.0.1/24 dev ib0")
    before = everything(host)
    host.ok("apply", put(host, STATE), "--confirm-within", "600")
    second = STATE.replace("updelay = 200", "updelay = 300").replace("10.0.0.253", "10.0.0.252")
    host.ok("apply", put(host, second), "--confirm-within", "600")
    host.ok("apply", "--undo")
    assert everything(host) == before


STEPS = 22  # of STATE's plan; one of them finds its work done
KILLED = """
import contextlib, os
from ibbond.backend import apply
from ibbond.cli.main import run
apply.undone_if_killed = lambda executor: contextlib.nullcontext()
execute, count = apply.Executor._execute, [0]
def counted(self, step):
    count[0] += 1
    if count[0] > {step}:
        os._exit(9)
    execute(self, step)
apply.Executor._execute = counted
pid = os.fork()
if pid == 0:
    os._exit(run(["apply", *{words!r}]))
answer = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


@pytest.mark.parametrize("step", range(1, STEPS - 1))
def test_killed_with_its_child_it_is_finished_or_undone(host: Host, step: int) -> None:
    """kill -9 of the command and of the child that would put back, after so many steps."""
    file = put(host, STATE)
    before = everything(host)
    plan = json.loads(host.ok("apply", file, "--dry-run", "--json"))
    assert len(plan["steps"]) == STEPS, "every step is to be tried"
    assert host.python(KILLED.format(step=step, words=[file])) == 9
    if step % 2:
        host.ok("apply", "--undo")
        assert everything(host) == before
        host.ok("apply", file)
    else:
        host.ok("apply", file)
    assert "nothing to do" in host.ok("apply", file)
    host.sh("test ! -e /run/ibbond/apply.json")


@pytest.mark.parametrize("step", [1, 9, 17])
def test_killed_with_a_timer_it_is_undone_without_further_ado(host: Host, step: int) -> None:
    file = put(host, STATE)
    before = everything(host)
    assert host.python(KILLED.format(step=step, words=[file, "--confirm-within", "5"])) == 9
    until = time.monotonic() + 90
    while everything(host) != before:
        assert time.monotonic() < until, everything(host)
        time.sleep(1)


def test_late_devices_are_waited_for_and_a_lost_bond_is_rebuilt(host: Host) -> None:
    """The driver is restarted: the last member takes the bond with it, and apply makes it again."""
    file = put(host, STATE)
    host.ok("apply", file)
    host.sh("ip link del ib0; ip link del ib1")
    assert "bond0" not in host.read("bonding_masters")
    missing = host.ibbond("apply", file, "--wait", "1")
    assert missing.code == 2
    assert "ib0" in missing.err
    number = host.start("apply", file, "--wait", "120")
    host.add_port("ib0", port=1)
    host.add_port("ib1", port=2)
    host.output_with(number, "done", 120)
    assert host.ibbond("wait", "bond0", "--active", "--address", "--timeout", "30").code == 0
    assert host.ibbond("wait", "bond9", "--timeout", "0").code == 1


def test_a_device_is_found_by_its_port_guid(host: Host) -> None:
    """ib7 is what the file calls it; the port has another name today."""
    guid = host.read("ib1/address").strip()[-23:]
    text = STATE.replace('"ib1"', '"ib7"').replace("[device.ib1]", f'[device.ib7]\nguid = "{guid}"')
    host.ok("apply", put(host, text))
    assert host.read("bond0/bonding/slaves").strip() == "ib0 ib1"
    assert host.read("bond0/bonding/primary").strip() == "ib1"


MANAGED = {  # the state that each tool keeps of a device, with the words of its own files
    "systemd-networkd": (
        "/run/systemd/netif/links/{index}",
        "ADMIN_STATE=configured\nOPER_STATE=enslaved\nNETWORK_FILE=/etc/systemd/network/20-ib0.network\n",
        "remove /etc/systemd/network/20-ib0.network, then networkctl reload",
    ),
    "NetworkManager": (
        "/run/NetworkManager/devices/{index}",
        "[device]\nmanaged=true\nconnection-uuid=5b6a8d53-6d0e-4a52-8a0c-0d4f4c3f6a11\nnm-owned=false\n",
        "nmcli device set ib0 managed no",
    ),
    "ifupdown": ("/run/network/ifstate.ib0", "ib0=ib0\n", "ifdown ib0, then remove it from /etc/network/interfaces"),
}


@pytest.mark.parametrize("tool", MANAGED)
def test_devices_that_another_tool_manages_are_refused_and_nothing_changes(host: Host, tool: str) -> None:
    path, text, hand_over = MANAGED[tool]
    path = path.format(index=host.read("ib0/ifindex").strip())
    file, before = put(host, STATE), everything(host)
    host.sh(f"mkdir -p {os.path.dirname(path)}; printf '{text}' >{path}")
    try:
        for words in (["apply", file], ["apply", file, "--dry-run"]):
            refused = host.ibbond(*words)
            assert refused.code == 2
            assert f"{tool} manages devices of it: ib0 ({tool})" in refused.err
            assert hand_over in refused.err
            assert "--force" in refused.err
        assert everything(host) == before
        host.sh("test ! -e /run/ibbond/apply.json")
        host.ok("apply", file, "--force")
        emptied = put(host, STATE.replace('["ib0", "ib1"]', '["ib1"]'), "emptied.toml")
        released = host.ibbond("apply", emptied, "--interrupt")
        assert (released.code, tool in released.err) == (2, True), "a member that is released is managed, too"
    finally:
        host.sh(f"rm -f {path}")
    host.ok("apply", emptied, "--interrupt")
    assert host.read("bond0/bonding/slaves").strip() == "ib1"
