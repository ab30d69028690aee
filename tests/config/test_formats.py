"""Configuration files in each format, read into one desired state; files that say nothing, nonsense, or do harm."""

import os
import random
from pathlib import Path

import pytest

from ibbond.bonding.options import OPTIONS
from ibbond.config.desired import Desired, DesiredBond, Match
from ibbond.config.files import READERS, configured
from ibbond.config.ifupdown import members
from ibbond.config.netplan import PARAMETERS
from ibbond.config.networkd import BONDS, span_ms

NM = "etc/NetworkManager/system-connections"
UUID = "0b7c1f6e-1111-4222-8333-444455556666"
SAME = {  # the same bond in every format: ib0 and ib1, 10.0.0.1/24, miimon 100, num_grat_arp 3, primary ib0
    "ifupdown": {
        "etc/network/interfaces": "auto bond0\niface bond0 inet static\n  address 10.0.0.1/24\n"
        "  bond-slaves ib0 \\\n ib1\n  bond-mode active-backup\n  bond_miimon 100\n  bond-num-grat-arp 3\n"
        "  bond-primary ib0\n  gateway 10.0.0.254\n  mtu 2044\n  dns-nameservers 10.0.0.53\n",
    },
    "ifupdown of the members": {
        "etc/network/interfaces": "auto bond0\niface bond0 inet static\n  address 10.0.0.1\n  netmask 255.255.255.0\n"
        "  bond-slaves none\n  bond-mode 1\n  bond-miimon 100\n  bond-num-grat-arp 3\n  gateway 10.0.0.254\n"
        "  mtu 2044\n  dns-nameserver 10.0.0.53\n",
        "etc/network/interfaces.d/ib": "iface ib0 inet manual\n  bond-master bond0\n  bond-primary ib0\n"
        "iface ib1 inet manual\n  bond_master bond0\n",
    },
    "ifcfg of RHEL": {
        "etc/sysconfig/network-scripts/ifcfg-bond0": "DEVICE=bond0\nTYPE=Bond\nBONDING_MASTER=yes\nONBOOT=yes\n"
        "IPADDR=10.0.0.1\nPREFIX=24\nGATEWAY=10.0.0.254\nMTU=2044\nDNS1=10.0.0.53\n"
        'BONDING_OPTS="mode=1 miimon=100 num_grat_arp=3 primary=ib0"\n',
        "etc/sysconfig/network-scripts/ifcfg-ib0": 'DEVICE=ib0\nTYPE=InfiniBand\nMASTER="bond0"\nSLAVE=yes\n',
        "etc/sysconfig/network-scripts/ifcfg-ib1": "DEVICE=ib1\nTYPE=InfiniBand\nMASTER=bond0\nSLAVE=yes\n",
        "etc/sysconfig/network-scripts/ifcfg-ib1.bak": "DEVICE=ib7\nMASTER=bond0\nSLAVE=yes\n",
    },
    "ifcfg of SUSE": {
        "etc/sysconfig/network/ifcfg-bond0": "STARTMODE='auto'\nBONDING_MASTER='yes'\nBONDING_SLAVE_0='ib0'\n"
        "BONDING_SLAVE1=ib1\nIPADDR='10.0.0.1/24'\nMTU='2044'\n"
        "BONDING_MODULE_OPTS='mode=active-backup miimon=100 num_grat_arp=3 primary=ib0'\n",
        "etc/sysconfig/network/ifroute-bond0": "default 10.0.0.254 - bond0\n",
    },
    "keyfiles": {
        f"{NM}/bond0.nmconnection": f"[connection]\nid=my bond\nuuid={UUID}\ntype=bond\ninterface-name=bond0\n"
        "\n[bond]\nmode=active-backup\nmiimon=100\nnum_grat_arp=3\nprimary=ib0\n\n[ethernet]\nmtu=2044\n\n"
        "[ipv4]\nmethod=manual\naddress1=10.0.0.1/24,10.0.0.254\ndns=10.0.0.53;\n",
        f"{NM}/ib0.nmconnection": "[connection]\nid=ib0\ntype=infiniband\ninterface-name=ib0\n"
        "master=bond0\nslave-type=bond\n",
        f"{NM}/ib1.nmconnection": "[connection]\nid=ib1\ntype=infiniband\ninterface-name=ib1\n"
        f"controller={UUID}\nport-type=bond\n",
    },
    "networkd": {
        "etc/systemd/network/10-bond0.netdev": "[NetDev]\nName=bond0\nKind=bond\n\n[Bond]\nMode=active-backup\n"
        "MIIMonitorSec=100ms\nGratuitousARP=3\n",
        "etc/systemd/network/10-bond0.network": "[Match]\nName=bond0\n\n[Network]\nAddress=10.0.0.1/24\n"
        "Gateway=10.0.0.254\nDNS=10.0.0.53\n\n[Link]\nMTUBytes=2044\n",
        "etc/systemd/network/20-ib0.network": "[Match]\nName=ib0\n\n[Network]\nBond=bond0\nPrimarySlave=true\n",
        "etc/systemd/network/20-ib1.network": "[Match]\nName=ib1\n\n[Network]\nBond=bond0\n",
        "usr/lib/systemd/network/20-ib1.network": "[Match]\nName=ib9\n\n[Network]\nBond=bond9\n",
    },
    "netplan": {
        "etc/netplan/10-ib.yaml": "network:\n  version: 2\n  ethernets:\n    ib0: {infiniband-mode: datagram}\n"
        "    second: {match: {name: ib1}}\n  bonds:\n    bond0:\n      interfaces: [ib0, second]\n      mtu: 2044\n"
        "      addresses: [10.0.0.1/24]\n      nameservers: {addresses: [10.0.0.53]}\n"
        "      routes: [{to: default, via: 10.0.0.254}]\n"
        "      parameters: {mode: active-backup, mii-monitor-interval: 90, gratuitous-arp: 3, primary: ib0}\n",
        "etc/netplan/90-later.yaml": "network: {bonds: {bond0: {parameters: {mii-monitor-interval: 100}}}}\n",
    },
}
OFED = {
    "etc/infiniband/openib.conf": "IPOIBBOND_ENABLE=yes\nIPOIB_BONDS=bond0,bond1\nbond0_IP=10.0.0.1/24\n"
    "bond0_SLAVES=ib0,ib1\nbond1_SLAVES=ib2\nSET_IPOIB_CM=yes\nIPOIB_MTU=65520\n"
}


def write(root: Path, files: dict[str, str]) -> Desired:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return configured(str(root))


def names(bond: DesiredBond) -> list[str]:
    return [str(member.match) for member in bond.members]


@pytest.mark.parametrize("kind", SAME)
def test_the_same_bond_in_each_format(tmp_path: Path, kind: str) -> None:
    desired = write(tmp_path, SAME[kind])
    assert not desired.problems
    (bond,) = desired.bonds
    assert (bond.name, bond.is_defined, bond.starts, names(bond)) == ("bond0", True, True, ["ib0", "ib1"])
    values = {name: setting.text for name, setting in bond.options.items()}
    assert values == {"mode": "active-backup", "miimon": "100", "num_grat_arp": "3", "primary": "ib0"}
    assert [setting.text for setting in bond.addresses] == ["10.0.0.1/24"]
    assert bond.mtu is not None
    assert bond.mtu.text == "2044"
    assert [(route.to, route.via) for route in bond.routes] == [("default", "10.0.0.254")]
    assert [setting.text for setting in bond.dns] == ([] if kind == "ifcfg of SUSE" else ["10.0.0.53"])
    for setting in (*bond.options.values(), *bond.addresses, bond.mtu):
        text = SAME[kind][setting.source.file.lstrip("/")].splitlines()[setting.source.line - 1]
        assert setting.source.line > 0
        assert (
            setting.text.partition("/")[0] in text or setting.text == "active-backup" or text == "PrimarySlave=true"
        ), text


def test_the_files_of_ofed(tmp_path: Path) -> None:
    first, second = write(tmp_path, OFED).bonds
    assert (names(first), names(second)) == (["ib0", "ib1"], ["ib2"])
    assert [setting.text for setting in first.addresses] == ["10.0.0.1/24"]
    assert first.mtu is not None
    assert (first.mtu.text, first.members[0].transport and first.members[0].transport.text) == ("65520", "connected")


def test_what_says_nothing_gives_nothing(tmp_path: Path) -> None:
    desired = write(
        tmp_path,
        {
            "etc/network/interfaces": "auto lo\niface lo inet loopback\niface ib0 inet manual\n",
            "etc/sysconfig/network-scripts/ifcfg-ib0": "DEVICE=ib0\nMASTER=bond0\nSLAVE=no\n",
            f"{NM}/x": "[connection\nmaster=bond0\n=\n\0\ufffd",
            "etc/systemd/network/all.network": "[Match]\nName=en*\n[Network]\nDHCP=yes\n",
            "etc/infiniband/openib.conf": "IPOIBBOND_ENABLE=no\nIPOIB_BONDS=bond0\nbond0_SLAVES=ib0\n",
            "etc/netplan/50.yaml": "network: {version: 2, ethernets: {eno1: {dhcp4: true}}}\n",
        },
    )
    assert desired == Desired()
    assert configured(str(tmp_path / "nothing")) == Desired()


def test_a_child_has_the_names_that_tools_give_it(tmp_path: Path) -> None:
    """NetworkManager names it by the key as given, initscripts with the full-member bit: the same partition."""
    desired = write(
        tmp_path,
        {
            f"{NM}/p1.nmconnection": "[connection]\nid=p1\ntype=infiniband\nmaster=bond0\nslave-type=bond\n"
            "[infiniband]\np-key=10\nparent=ib1\ntransport-mode=datagram\n",
            "etc/sysconfig/network-scripts/ifcfg-ib0.800a": "DEVICE=ib0.800a\nPKEY=yes\nPKEY_ID=10\nPHYSDEV=ib0\n"
            "MASTER=bond0\nSLAVE=yes\n",
        },
    )
    members = [member for bond in desired.bonds for member in bond.members]
    assert [member.pkey for member in members] == [10, 10]
    assert all(member.match.fits(name) for member, name in zip(members, ("ib1.000a", "ib0.000a"), strict=True))
    assert all(member.match.fits(name) for member, name in zip(members, ("ib1.800a", "ib0.800a"), strict=True))


@pytest.mark.parametrize(
    ("text", "fitting", "others"),
    [
        ("glob ib0-1", ["ib0", "ib1"], ["ib2", "glob"]),
        ("glob ib[01]", ["ib0", "ib1"], ["ib2"]),
        ("regex eno[12]", ["eno1", "eno2"], ["eno3", "regex"]),
        ("regex [", [], ["ib0"]),
        ("none", [], ["none"]),
        ("all", [], ["all"]),
        ("ib0 regex ib1.*", ["ib0", "ib1.8001"], ["ib2"]),
    ],
)
def test_patterns_of_members(text: str, fitting: list[str], others: list[str]) -> None:
    matches = members(text)
    assert all(any(match.fits(name) for match in matches) for name in fitting)
    assert not any(match.fits(name) for match in matches for name in others)


def test_members_by_address(tmp_path: Path) -> None:
    """The port GUID counts: flags and queue pair, in front of it, change with every start."""
    guid = "00:02:c9:03:00:a1:01:01"
    whole = f"80:00:00:48:fe:80:00:00:00:00:00:00:{guid}"
    desired = write(
        tmp_path,
        {
            f"{NM}/b.nmconnection": "[connection]\ntype=bond\nid=b\ninterface-name=bond0\n",
            f"{NM}/p.nmconnection": f"[connection]\nid=p\ntype=infiniband\nmaster=b\nslave-type=bond\n"
            f"[infiniband]\nmac-address={whole.upper()}\n",
            "etc/systemd/network/1.netdev": "[NetDev]\nName=bond1\nKind=bond\n",
            "etc/systemd/network/1.network": f"[Match]\nPermanentMACAddress={whole}\n[Network]\nBond=bond1\n",
            "etc/netplan/1.yaml": f"network:\n  ethernets:\n    p:\n      match: {{macaddress: '{whole}'}}\n"
            "  bonds: {bond2: {interfaces: [p]}}\n",
        },
    )
    live = bytes.fromhex(whole.replace("80:00:00:48", "80:00:07:77").replace(":", ""))
    for bond in desired.bonds:
        assert [member.match.fits("ib5", live) for member in bond.members] == [True], bond
        assert not bond.members[0].match.fits("ib5", live[:-1] + b"\2")


def test_words_that_no_tool_knows_are_reported_with_the_nearest(tmp_path: Path) -> None:
    desired = write(
        tmp_path,
        {
            "etc/sysconfig/network-scripts/ifcfg-bond0": 'DEVICE=bond0\nTYPE=Bond\nBONDING_OPTS="mode=1 mimon=100"\n',
            "etc/network/interfaces": "iface bond1 inet manual\n  bond-slaves ib0\n  bond-up-delay 1\n  bond-mode 9\n",
            f"{NM}/b.nmconnection": "[connection]\ntype=bond\ninterface-name=bond2\n[bond]\nfailover_mac=active\n",
            "etc/systemd/network/b.netdev": "[NetDev]\nName=bond3\nKind=bond\n[Bond]\nMIIMonitor=100ms\n",
            "etc/netplan/b.yaml": "network:\n  bonds:\n    bond4:\n      interfaces: []\n      parameters:\n"
            "        miimon: 100\n",
        },
    )
    reported = {(problem.bond, str(problem.source).rpartition("/")[2]): problem for problem in desired.problems}
    assert {bond: problem.fix for (bond, _), problem in reported.items() if problem.fix.startswith("Write")} == {
        "bond0": "Write miimon",
        "bond1": "Write bond-updelay",
        "bond2": "Write fail_over_mac",
        "bond3": "Write MIIMonitorSec",
        "bond4": "Write mii-monitor-interval",
    }
    assert ("bond1", "interfaces:4") in reported
    assert "does not take '9'" in reported["bond1", "interfaces:4"].what
    assert ("bond4", "b.yaml:6") in reported


def test_spellings_that_the_tools_take_are_no_problem(tmp_path: Path) -> None:
    """Every option in every spelling that the tool has for it."""
    values = {
        "arp_ip_target": "10.0.0.2",
        "primary": "ib0",
        "mode": "active-backup",
        "ad_actor_system": "02:00:00:00:00:01",
    }
    rows = [
        row for row in OPTIONS.values() if row.has_file and not row.read_only and row.name not in ("slaves", "queue_id")
    ]

    def value(name: str) -> str:
        return values.get(name) or str(OPTIONS[name].default or (OPTIONS[name].limits or (0, 0))[0])

    desired = write(
        tmp_path,
        {
            "etc/network/interfaces": "iface bond1 inet manual\n  bond_slaves ib0\n  bond-lacp-bypass-allow yes\n"
            + "".join(f"  bond-{row.name.replace('_', '-')} {value(row.name)}\n" for row in rows),
            "etc/sysconfig/network-scripts/ifcfg-bond0": "TYPE=Bond\nBONDING_OPTS='"
            + " ".join(f"{row.name}={value(row.name)}" for row in rows)
            + "'\n",
            "etc/systemd/network/b.netdev": "[NetDev]\nName=bond3\nKind=bond\n[Bond]\n"
            + "".join(f"{key}={value(option)}\n" for key, option in BONDS.items()),
            "etc/netplan/b.yaml": "network:\n  bonds:\n    bond4:\n      parameters:\n"
            + "".join(f"        {key}: '{value(option)}'\n" for key, option in PARAMETERS.items()),
        },
    )
    assert [problem for problem in desired.problems if problem.kind.startswith(("option-u", "option-m"))] == []
    assert len(desired.bonds) == 4


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [("100ms", 100), ("1", 1000), ("1s 500ms", 1500), ("2min", 120_000), ("x", None), ("", None)],
)
def test_time_spans_of_systemd(text: str, milliseconds: float | None) -> None:
    assert span_ms(text) == milliseconds


def test_a_primary_that_networkd_does_not_read_is_reported(tmp_path: Path) -> None:
    desired = write(
        tmp_path,
        {
            "etc/systemd/network/1.netdev": "[NetDev]\nName=bond0\nKind=bond\n",
            "etc/systemd/network/1.network": "[Match]\nName=bond0\n[Network]\nPrimarySlave=ib0\n",
            "etc/systemd/network/2.network": "[Match]\nName=ib0 ib1\n[Network]\nBond=bond0\n",
        },
    )
    (problem,) = desired.problems
    assert (problem.kind, str(problem.source)) == ("option-misplaced", "/etc/systemd/network/1.network:4")
    assert desired.bonds[0].options["primary"].text == "ib0"


@pytest.mark.parametrize(
    "text",
    [
        "network: [",
        "a: b: c",
        "- 1\n",
        "\tx: 1\n",
        "network:\n  bonds:\n    bond0: {interfaces: [ib0\n",
        "%YAML 9.9\n---\n&x *x",
    ],
)
def test_yaml_that_cannot_be_read_is_reported_with_its_line(tmp_path: Path, text: str) -> None:
    good = SAME["ifupdown"]["etc/network/interfaces"]
    desired = write(tmp_path, {"etc/netplan/x.yaml": text, "etc/network/interfaces": good})
    assert [bond.name for bond in desired.bonds] == ["bond0"]
    for problem in desired.problems:
        assert problem.kind == "config-unreadable"
        assert "/etc/netplan/x.yaml" in problem.what


def test_yaml_that_expands_without_end_is_read_at_once(tmp_path: Path) -> None:
    lines = [f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(20)]
    write(
        tmp_path,
        {"etc/netplan/x.yaml": "a: &a [x, x]\n" + "".join(lines) + "network: {bonds: {bond0: {interfaces: *t}}}\n"},
    )


def test_files_that_harm_a_reader_are_passed_over(tmp_path: Path) -> None:
    """A pipe would keep us forever, a link of a saved copy may lead outside, a huge file is cut."""
    outside = tmp_path / "outside"
    outside.write_text("iface bond7 inet manual\n  bond-slaves ib0\n")
    root = tmp_path / "copy"
    write(root, {"etc/network/interfaces": "iface bond0 inet manual\n  bond-slaves ib0\n" + "#" * (2 << 20)})
    (root / "etc/network/interfaces.d").mkdir()
    os.mkfifo(root / "etc/network/interfaces.d/pipe")
    (root / "etc/network/interfaces.d/link").symlink_to(outside)
    assert [bond.name for bond in configured(str(root)).bonds] == ["bond0"]


@pytest.mark.parametrize("seed", range(40))
def test_any_mutation_is_read(tmp_path: Path, seed: int) -> None:
    """Half-written and damaged files: something or nothing, never an exception."""
    chance = random.Random(seed)
    for files in (*SAME.values(), OFED):
        for name, text in files.items():
            at, length = chance.randrange(len(text)), chance.randrange(12)
            noise = chance.choice(["", "\0", "=", "[", "\\\n", "  - ", "'", '"', ": ", "\n\n", "é"])
            write(tmp_path, {name: text[:at] + noise + text[at + length :]})
    for read in (reader.read for reader in READERS.values()):
        read({"/x": ""})


def test_the_tables_of_words_name_options() -> None:
    assert {*BONDS.values(), *PARAMETERS.values()} <= set(OPTIONS)
    assert not Match().is_known
