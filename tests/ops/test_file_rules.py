"""What the files of a host ask for, compared with what its kernel holds: bonds, members, options, words."""

from pathlib import Path

from ibbond.bonding.options import OPTIONS
from ibbond.ops.rule import Finding
from tests.ops.host_tree import HostTree, two_ports

NM = "etc/NetworkManager/system-connections"
NETDEV = "[NetDev]\nName=bond0\nKind=bond\n[Bond]\nMode=active-backup\nMIIMonitorSec=100ms\nGratuitousARP=3\n"
IFCFG = 'DEVICE=bond0\nTYPE=Bond\nONBOOT={onboot}\nIPADDR=10.9.0.1\nPREFIX=24\nBONDING_OPTS="mode=1 miimon=100"\n'
UUID = "0b7c1f6e-1111-4222-8333-444455556666"


def only(tree: HostTree, rule: str) -> Finding:
    (finding,) = (each for each in tree.findings() if each.rule.id == rule)
    return finding


def driver_restarted(root: Path, onboot: str = "yes", ports: int = 2) -> HostTree:
    """bond0 went with its last InfiniBand device; the devices are back, and another bond is well."""
    tree = HostTree(root, "5.14.0-427.el9.x86_64", (5, 14))
    for number in range(ports):
        tree.ib(f"ib{number}", number, flags="0x1002")
    tree.eth("eno1", 1)
    tree.eth("eno2", 2)
    tree.bond("bond1", "eno1", "eno2")
    scripts = "etc/sysconfig/network-scripts"
    tree.file(f"{scripts}/ifcfg-bond0", IFCFG.format(onboot=onboot))
    for name in ("ib0", "ib1"):
        tree.file(f"{scripts}/ifcfg-{name}", f"DEVICE={name}\nTYPE=InfiniBand\nMASTER=bond0\nSLAVE=yes\n")
    return tree


def test_a_bond_that_is_gone_is_an_error_with_the_command_that_makes_it(tmp_path: Path) -> None:
    tree = driver_restarted(tmp_path)
    (finding,) = tree.findings()
    assert (finding.bond, finding.rule.id, finding.severity.value) == ("bond0", "missing-bond", "error")
    assert "/etc/sysconfig/network-scripts/ifcfg-bond0" in finding.found.what
    assert finding.found.run == (
        "ibbond bond create bond0 ib0 ib1 --set mode=active-backup --set miimon=100 --address 10.9.0.1/24",
    )
    assert "ifup bond0" in finding.found.do


def test_a_bond_that_no_one_starts_is_not_missed(tmp_path: Path) -> None:
    assert driver_restarted(tmp_path, onboot="no").findings() == []


def test_a_bond_whose_devices_are_gone_is_not_made_by_a_command(tmp_path: Path) -> None:
    (finding,) = driver_restarted(tmp_path, ports=0).findings()
    assert finding.found.run == ()
    assert "load their driver" in finding.found.do


def test_a_host_whose_only_bond_is_gone_is_judged(tmp_path: Path) -> None:
    tree = driver_restarted(tmp_path)
    tree.file("sys/class/net/bonding_masters", "")
    assert tree.rules() == {"missing-bond"}
    tree.drop("sys/class/net/bonding_masters")
    tree.drop("sys/class/net/bond1")
    assert tree.rules() == {"missing-bond"}


def test_a_bond_that_was_there_before_its_manager_has_the_drivers_defaults(tmp_path: Path) -> None:
    """The module made bond0 when it was loaded; networkd found it, kept it, and could not set its mode."""
    tree = HostTree(tmp_path)
    tree.eth("eno1", 1)
    tree.eth("eno2", 2)
    tree.bond("bond0", "eno1", "eno2", active="", mode=0, miimon=0, num_grat_arp=1)
    tree.file("etc/systemd/network/10-bond0.netdev", NETDEV + "PrimaryReselectPolicy=failure\n")
    tree.file("etc/systemd/network/20-lan.network", "[Match]\nName=eno1 eno2\n[Network]\nBond=bond0\n")
    found = only(tree, "option-differs").found
    for text in ("mode is balance-rr, not active-backup", "miimon is 0, not 100", "10-bond0.netdev"):
        assert text in found.what
    assert found.run[:2] == (
        "ibbond bond set bond0 mode active-backup --interrupt",
        "ibbond bond set bond0 miimon 100",
    )
    assert "before its manager" in found.why
    assert "max_bonds=0" in found.do


def test_settings_that_arrived_are_no_finding(tmp_path: Path) -> None:
    """Rounded to the monitor's interval, forced by the driver, another word for the same, one of two tools."""
    tree = two_ports(tmp_path, updelay=200, primary="ib1", primary_reselect=2)
    options = "mode=1 miimon=100 updelay=250 num_unsol_na=3 fail_over_mac=none primary_reselect=failure lacp_rate=fast"
    tree.file("etc/sysconfig/network-scripts/ifcfg-bond0", f'TYPE=Bond\nBONDING_OPTS="{options} primary=ib1"\n')
    tree.file("etc/network/interfaces", "iface bond0 inet manual\n  bond-slaves ib0 ib1\n  bond-miimon 50\n")
    assert tree.findings() == []


def test_a_primary_that_did_not_arrive(tmp_path: Path) -> None:
    tree = two_ports(tmp_path, active="ib1", primary_reselect=2)
    tree.file("etc/systemd/network/10-bond0.netdev", NETDEV)
    tree.file("etc/systemd/network/10-bond0.network", "[Match]\nName=bond0\n[Network]\nPrimarySlave=ib0\n")
    tree.file("etc/systemd/network/20-ib.network", "[Match]\nName=ib0 ib1\n[Network]\nBond=bond0\n")
    (finding,) = tree.findings()
    assert finding.rule.id == "option-misplaced"
    assert "/etc/systemd/network/10-bond0.network:4" in finding.found.what
    assert finding.found.run == ("ibbond bond set bond0 primary ib0",)
    assert "PrimarySlave=yes" in finding.found.do
    tree.file("etc/systemd/network/10-bond0.network", "[Match]\nName=bond0\n")
    tree.file("etc/network/interfaces", "iface bond0 inet manual\n  bond-slaves ib0 ib1\n  bond-primary ib0\n")
    assert only(tree, "option-differs").found.run == ("ibbond bond set bond0 primary ib0",)


def test_members_by_pattern_are_there(tmp_path: Path) -> None:
    tree = two_ports(tmp_path)
    tree.eth("eno1", 1)
    tree.eth("eno2", 2)
    tree.bond("bond1", "eno1", "eno2", addresses=("10.8.0.1/24",))
    tree.file(
        "etc/network/interfaces",
        "auto bond0\niface bond0\n  bond-slaves glob ib0-1\n  bond-mode active-backup\n\n"
        "auto bond1\niface bond1\n  bond-slaves regex eno[12]\n",
    )
    assert tree.findings() == []
    tree.file("etc/network/interfaces", "auto bond0\niface bond0\n  bond-slaves glob ib0-2\n")
    assert only(tree, "missing-member").found.member == "ib2"


def test_a_port_that_names_its_bond_by_uuid_is_missed(tmp_path: Path) -> None:
    tree = HostTree(tmp_path, "5.14.0-427.el9.x86_64", (5, 14))
    tree.ib("ib0.8001", 1, pkey=0x8001)
    tree.bond("bond0", "ib0.8001")
    port = "[connection]\nid={0}\ntype=infiniband\n{1}\n[infiniband]\np-key=32769\nparent={0}\n"
    tree.file(f"{NM}/b", f"[connection]\nid=b\nuuid={UUID}\ntype=bond\ninterface-name=bond0\n[bond]\nmiimon=100\n")
    tree.file(f"{NM}/p0", port.format("ib0", f"interface-name=ib0.8001\ncontroller={UUID}\nport-type=bond"))
    tree.file(f"{NM}/p1", port.format("ib1", f"master={UUID}\nslave-type=bond"))
    found = only(tree, "missing-member")
    assert found.found.member == "ib1.8001"
    assert "p1:4" in found.why


def test_a_misspelt_option_is_reported_with_the_nearest(tmp_path: Path) -> None:
    tree = two_ports(tmp_path)
    tree.file("etc/sysconfig/network-scripts/ifcfg-bond0", 'TYPE=Bond\nBONDING_OPTS="mode=1 mimon=100"\n')
    found = only(tree, "option-unknown").found
    assert found.what.startswith("/etc/sysconfig/network-scripts/ifcfg-bond0:2: mimon")
    assert found.fix == "Write miimon"


def test_every_option_is_compared_and_can_be_set(tmp_path: Path) -> None:
    """A value other than the live one of each option that can be set in active-backup, in one file."""
    tree = two_ports(tmp_path)
    wanted = {"miimon": "50", "num_grat_arp": "9", "resend_igmp": "4", "primary_reselect": "better", "use_carrier": "0"}
    text = "".join(f"  bond-{name.replace('_', '-')} {value}\n" for name, value in wanted.items())
    tree.file("etc/network/interfaces", f"iface bond0 inet manual\n  bond-slaves ib0 ib1\n  mtu 4092\n{text}")
    found = only(tree, "option-differs").found
    assert set(found.run) == {f"ibbond bond set bond0 {name} {value}" for name, value in wanted.items()} | {
        "ip link set bond0 mtu 4092"
    }
    assert all(OPTIONS[name].has_file for name in wanted)
