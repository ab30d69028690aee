"""Old kernels, partial copies, unreadable bonds, archives.

Each fact is read on its own, what is not reported is named.
"""

import json
import random
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from ibbond.backend.kernel.bonds import KernelBackend
from ibbond.errors import Refused
from ibbond.ops.check import RULES, check, unknown
from ibbond.ops.read_facts import kernel_facts
from ibbond.ops.saved import opened
from tests.ops.host_tree import HostTree, two_ports
from tests.ops.saved_copy import BROADCAST

PROC_OF_2009 = """Ethernet Channel Bonding Driver: v3.6.0 (September 26, 2009)

Bonding Mode: fault-tolerance (active-backup) (fail_over_mac active)
Primary Slave: None
Currently Active Slave: ib0
MII Status: up
MII Polling Interval (ms): 0
Up Delay (ms): 0
Down Delay (ms): 0

Slave Interface: ib0
MII Status: up
Speed: 40000 Mbps
Duplex: full
Link Failure Count: 0
Permanent HW addr: 80:00:04:04:fe:80
Slave queue ID: 0

Slave Interface: ib1
MII Status: up
Speed: 40000 Mbps
Duplex: full
Link Failure Count: 7
Permanent HW addr: 80:00:04:05:fe:80
Slave queue ID: 0
"""
PROC_OF_LACP = """Ethernet Channel Bonding Driver: v3.7.1 (April 27, 2011)

Bonding Mode: IEEE 802.3ad Dynamic link aggregation
Transmit Hash Policy: layer2+3 (2)
MII Status: up
MII Polling Interval (ms): 100
Up Delay (ms): 0
Down Delay (ms): 0
Peer Notification Delay (ms): 0

802.3ad info
LACP rate: fast
Min links: 0
Aggregator selection policy (ad_select): stable
System priority: 65535
System MAC address: 52:54:00:10:00:01
Active Aggregator Info:
\tAggregator ID: 2
\tNumber of ports: 2
\tActor Key: 9
\tPartner Key: 1000
\tPartner Mac Address: 52:54:00:aa:00:40
"""


def command(*words: str) -> tuple[int, str, str]:
    done = subprocess.run([sys.executable, "-m", "ibbond", *words], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_a_kernel_without_files_of_members_is_judged_by_its_procfs_text(tmp_path: Path) -> None:
    """Linux 2.6.32: `bonding_slave` came with 3.14."""
    tree = HostTree(tmp_path, "2.6.32-504.el6.x86_64", (2, 6, 32))
    tree.ib("ib0", 1)
    tree.ib("ib1", 2)
    tree.bond("bond0", "ib0", "ib1", miimon=0, num_grat_arp=1)
    tree.file("proc/net/bonding/bond0", PROC_OF_2009)
    found = {finding.rule.id: finding.found for finding in tree.findings()}
    assert {"no-link-monitor", "few-announcements", "member-flaps"} <= set(found)
    assert found["member-flaps"].member == "ib1"
    snapshot = KernelBackend(tmp_path).snapshot("bond0")
    assert [(m.state, m.link) for m in snapshot.members] == [("active", "up"), ("backup", "up")]
    assert not any(member.unknown for member in snapshot.members)


def test_a_lacp_bond_of_an_older_kernel_silences_no_other(tmp_path: Path) -> None:
    """The line `LACP active` came with 5.15; a copy may also have no text of that bond."""
    tree = HostTree(tmp_path, "5.4.0-193-generic", (5, 4))
    tree.ib("ib0", 1)
    tree.ib("ib1", 2, carrier="0")
    tree.eth("eno1", 1)
    tree.eth("eno2", 2)
    tree.bond("bond0", "ib0", "ib1", links={"ib1": "down"})
    tree.bond("mgmt", "eno1", "eno2", mode=4, active="", num_grat_arp=1, xmit_hash_policy=2, lacp_rate=1)
    for text in (PROC_OF_LACP, None):
        if text:
            tree.file("proc/net/bonding/mgmt", text)
            assert KernelBackend(tmp_path).snapshot("mgmt").lacp.aggregator is not None
        assert [(f.bond, f.rule.id, f.found.member) for f in tree.findings()] == [("bond0", "member-down", "ib1")]
        shutil.rmtree(tmp_path / "proc/net", ignore_errors=True)


@pytest.mark.parametrize("form", ["directory", "text"])
def test_the_text_of_one_bond_is_judged_for_what_it_tells(tmp_path: Path, form: str) -> None:
    place = tmp_path / "proc/net/bonding/bond0" if form == "directory" else tmp_path / "pasted.txt"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(
        PROC_OF_2009.replace("80:00:04:05:fe:80", "80:00:00:49:fe:80" + ":00" * 6 + ":00:02:c9:03:00:a1:02:01")
    )
    with opened(tmp_path if form == "directory" else place) as root:
        host = KernelBackend(root)
        facts = kernel_facts(host, host.bonds())
        assert {f.rule.id for f in check(facts)} == {"no-link-monitor", "member-flaps"}
        assert facts.bonds[0].is_infiniband
        untold = unknown(facts, facts.bonds[0])
    assert "num_grat_arp" in untold.facts
    assert "few-announcements" in untold.rules
    assert "no-link-monitor" not in untold.rules


def test_a_release_that_is_not_reported_is_not_guessed(tmp_path: Path) -> None:
    tree = two_ports(tmp_path, num_grat_arp=1)
    tree.drop("proc/sys/kernel/osrelease")
    facts = kernel_facts(KernelBackend(tmp_path), ["bond0"])
    (finding,) = (f for f in check(facts) if f.rule.id == "few-announcements")
    assert "Linux before 7.0" in finding.why
    assert "Kernel :" not in finding.why
    assert "the kernel's release" in unknown(facts, facts.bonds[0]).facts
    assert not any(f.rule.id.startswith("quirk-") for f in check(facts))
    tree.file("proc/version", "Linux version 5.14.0-427.el9.x86_64 (mock@host) (gcc) #1 SMP")
    assert KernelBackend(tmp_path).version == (5, 14)


def test_a_member_that_the_copy_lacks_is_named(tmp_path: Path) -> None:
    tree = two_ports(tmp_path, miimon=0)
    tree.drop("sys/class/net/ib1")
    facts = kernel_facts(KernelBackend(tmp_path), ["bond0"])
    assert tree.rules() == {"no-link-monitor"}
    assert "everything about ib1 (the copy has no /sys/class/net/ib1)" in unknown(facts, facts.bonds[0]).facts


def test_a_file_that_the_copy_lacks_is_named(tmp_path: Path) -> None:
    tree = two_ports(tmp_path, miimon=0)
    tree.drop("sys/devices/pci0000:00/0000:c1:00.0/net/ib1/bonding_slave/mii_status")
    tree.drop("sys/class/net/bond0/bonding/num_grat_arp")
    facts = kernel_facts(KernelBackend(tmp_path), ["bond0"])
    assert tree.rules() == {"no-link-monitor"}
    assert {"num_grat_arp", "the link of ib1"} <= set(unknown(facts, facts.bonds[0]).facts)


def test_a_mode_that_is_not_in_the_table_is_said_and_the_others_are_judged(tmp_path: Path) -> None:
    tree = two_ports(tmp_path, mode="future 7")
    code, out, _ = command("check", "--root", str(tmp_path))
    assert (code, "a mode that this version does not know: future" in out) == (2, True)
    tree.eth("eno1", 1)
    tree.eth("eno2", 2)
    tree.bond("bond1", "eno1", "eno2", miimon=0)
    code, out, _ = command("check", "--root", str(tmp_path), "--json")
    report = json.loads(out)
    assert code == 1
    assert list(report["unreadable"]) == ["bond0"]
    assert [finding["rule"] for finding in report["findings"]] == ["no-link-monitor"]


def test_files_that_tar_has_padded_with_zeros_are_read(tmp_path: Path) -> None:
    """tar trusts the size that stat(2) gives for a file of /sys, 4096, and fills up what it does not get."""
    two_ports(tmp_path, miimon=0)
    for path in (tmp_path / "sys").rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.write_bytes(path.read_bytes().ljust(4096, b"\0"))
    facts = kernel_facts(KernelBackend(tmp_path), ["bond0"])
    assert {f.rule.id for f in check(facts) if f.severity.value != "note"} == {"no-link-monitor"}
    assert facts.bonds[0].snapshot.unknown == frozenset()


@pytest.mark.parametrize("seed", range(30))
def test_a_copy_with_less_finds_less_and_nothing_else(tmp_path: Path, seed: int) -> None:
    """Any half of the files: no exception, and no rule that the whole copy does not hit."""
    whole = two_ports(tmp_path, miimon=0, num_grat_arp=1, mtu=1500, failures={"ib1": 9}, primary="ib0")
    whole.file("ibbond/routes", "10.9.0.0/24 dev bond0 proto kernel\n10.7.0.0/16 via 10.9.0.9 dev ib0")
    before = whole.rules() | {"moves-without-primary", "kernel-defect"}
    assert len(before) >= 6
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file() or path.is_symlink())
    for path in random.Random(seed).sample(files, len(files) // 2):
        path.unlink()
    host = KernelBackend(tmp_path)
    facts = kernel_facts(host, host.bonds())
    assert {f.rule.id for f in check(facts) if not f.rule.id.startswith("quirk-")} <= before
    for bond in facts.bonds:
        assert set(unknown(facts, bond).rules) <= set(RULES)


def archive(tree: Path, path: Path, top: str) -> Path:
    with tarfile.open(path, "w:xz") as tar:
        tar.add(tree, arcname=top)
    return path


@pytest.mark.parametrize("top", [".", "sosreport-h1-2026-01-01-abc", "cases/h1"])
def test_an_archive_may_have_folders_on_top(tmp_path: Path, top: str) -> None:
    two_ports(tmp_path / "tree", miimon=0)
    with opened(archive(tmp_path / "tree", tmp_path / "copy.tar.xz", top)) as root:
        assert {f.rule.id for f in check(kernel_facts(KernelBackend(root), ["bond0"]))} >= {"no-link-monitor"}


def test_two_hosts_in_one_folder_are_distinguished(tmp_path: Path) -> None:
    for name in ("h1", "h2"):
        two_ports(tmp_path / name)
    with pytest.raises(Refused, match="several hosts: h1, h2"), opened(tmp_path):
        pass


@pytest.mark.parametrize("what", ["empty", "absent"])
def test_what_is_not_a_copy_is_refused_with_the_reason(tmp_path: Path, what: str) -> None:
    (tmp_path / "empty").mkdir()
    code, _, err = command("check", "--root", str(tmp_path / what))
    assert code == 2
    assert "modprobe" not in err
    assert ("neither sys/class/net nor proc/net/bonding" if what == "empty" else "No such file") in err


def test_a_sosreport_is_read_for_what_it_has(tmp_path: Path) -> None:
    """Texts of ip(8) and /proc/net, no files of /sys but flags."""
    copy = tmp_path / "sosreport-h1"
    tree = HostTree(copy, "5.14.0-427.el9.x86_64", (5, 14))
    (copy / "proc/sys/kernel/osrelease").unlink()
    tree.file("sos_commands/kernel/uname_-a", "Linux h1 5.14.0-427.el9.x86_64 #1 SMP x86_64 GNU/Linux")
    address = "80:00:00:4{}:fe:80" + ":00" * 6 + ":00:02:c9:03:00:a1:0{}:01"
    whole = PROC_OF_2009.replace("80:00:04:04:fe:80", address.format(8, 1)).replace(
        "80:00:04:05:fe:80", address.format(9, 2)
    )
    tree.file(
        "proc/net/bonding/bond0",
        whole.replace("Interval (ms): 0", "Interval (ms): 100").replace("Count: 7", "Count: 0"),
    )
    tree.file(
        "sos_commands/networking/ip_-o_addr",
        "5: bond0    inet 10.0.0.1/24 brd 10.0.0.255 scope global bond0\\       valid",
    )
    tree.file(
        "sos_commands/networking/ip_route_show_table_all",
        "10.0.0.0/24 dev bond0 proto kernel scope link src 10.0.0.1\n10.77.0.0/16 via 10.0.0.2 dev ib0 onlink \n",
    )
    links = [
        f"{n}: {name}: <BROADCAST,MULTICAST,UP,LOWER_UP> mtu {mtu} qdisc mq master bond0 state UP\n    link/infiniband"
        f" {address.format(8 + n, 1 + n)} brd {BROADCAST} promiscuity 0\n"
        for n, (name, mtu) in enumerate((("ib0", 2044), ("ib1", 1000)))
    ]
    links.append("5: bond0: <BROADCAST,MULTICAST,NOARP,MASTER,UP,LOWER_UP> mtu 2044 qdisc noqueue state UP\n")
    tree.file("sos_commands/networking/ip_-s_-d_link", "".join(links))
    tree.file("sos_commands/kernel/sysctl_-a", "net.ipv4.conf.all.arp_ignore = 0\nnet.ipv4.conf.bond0.arp_ignore = 8")
    with opened(tmp_path) as root:
        host = KernelBackend(root)
        found = {f.rule.id for f in check(kernel_facts(host, host.bonds())) if f.severity.value != "note"}
    assert found == {"route-through-member", "member-mtu-differs", "arp-off", "arp-ignored"}


def test_commands_that_show_a_bond_show_a_copys(tmp_path: Path) -> None:
    (tmp_path / "pasted.txt").write_text(PROC_OF_2009)
    root = ("--root", str(tmp_path / "pasted.txt"))
    code, out, _ = command("bond", "show", "pasted", *root, "--json")
    facts = json.loads(out)
    assert (code, facts["active"], facts["up"], facts["mtu"]) == (0, "ib0", None, None)
    assert "num_grat_arp" in facts["unknown"]
    assert command("bond", "proc", "pasted", *root)[1] == PROC_OF_2009
    assert "pasted" in command("bond", "list", *root)[1]
    code, _, err = command("bond", "show", "bond9", *root)
    assert (code, "are: pasted" in err) == (2, True)
