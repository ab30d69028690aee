"""Nothing secret is left of a configuration file, and its reader finds the same bonds, at the same lines."""

from pathlib import Path

import pytest

from ibbond.backend.kernel.bonds import KernelBackend
from ibbond.config.files import configured
from ibbond.config.without_secrets import LEFT_OUT, without_secrets
from ibbond.ops.check import check
from ibbond.ops.collect import collect, write_directory
from ibbond.ops.read_facts import kernel_facts
from tests.ops.saved_copy import put, saved_host

SECRET = "hunter2"
KEYFILE = "etc/NetworkManager/system-connections/bond0.nmconnection"
NETDEV = "etc/systemd/network/bond0.netdev"
NETWORK = "run/systemd/network/bond0.network"
INTERFACES = "etc/network/interfaces"
RHEL = "etc/sysconfig/network-scripts/ifcfg-bond0"
SUSE = "etc/sysconfig/network/ifcfg-bond0"
NETPLAN = "etc/netplan/50-bonds.yaml"
NETPLAN_BOND = """  bonds:
    bond0:
      # the old password was hunter2
      interfaces: [ib0, ib7]
      auth: {key-management: psk, password: hunter2}
      parameters: {mode: active-backup, mii-monitor-interval: 150, mii-monitor: hunter2}
      mtu: 2044 # hunter2
"""

SECRETS = {
    "keyfile, wifi": (KEYFILE, "[wifi-security]\npsk=hunter2\nwep-key0=hunter2\n"),
    "keyfile, wireguard": (
        KEYFILE,
        "[wireguard-peer.hunter2]\npreshared-key=hunter2\n[wireguard]\nprivate-key=hunter2\n",
    ),
    "keyfile, macsec": (KEYFILE, "[macsec]\nmka-cak=hunter2\nmka-ckn=1\n"),
    "keyfile, gsm": (KEYFILE, "[gsm]\npin=hunter2\npassword=hunter2\n[vpn-secrets]\ncookie=hunter2\n"),
    "keyfile, 802.1X": (KEYFILE, "[802-1x]\nidentity=hunter2\nprivate-key-password=hunter2\n"),
    "keyfile, in a section that is kept": (
        KEYFILE,
        "[connection]\npassword=hunter2\n[ethernet]\nmtu=2044\ntoken=hunter2\n",
    ),
    "keyfile, a comment": (KEYFILE, "# it was hunter2\n"),
    "keyfile, an unknown option": (KEYFILE, "[bond]\nmimon=hunter2\n"),
    "keyfile, netplan's": (
        "run/NetworkManager/system-connections/netplan-w.nmconnection",
        "[wifi-security]\npsk=hunter2\n",
    ),
    "netdev": (NETDEV, "[WireGuard]\nPrivateKey=hunter2\n[WireGuardPeer]\nPresharedKey=hunter2\n"),
    "netdev, continued": (NETDEV, "[MACsecTransmitAssociation]\nKey=\\\nhunter2\n[Bond]\nMode=\\\nactive-backup\n"),
    "netdev, an unknown option": (NETDEV, "[Bond]\nMIMonitorSec=\\\n  hunter2\n"),
    "network": (
        NETWORK,
        "[Match]\nName=bond0\n[Network]\nToken=hunter2\n[DHCPv4]\nClientIdentifier=hunter2\n; hunter2\n",
    ),
    "network, a drop-in": (f"{NETWORK}.d/10.conf", "[Network]\nSecret=hunter2\n"),
    "interfaces": (
        INTERFACES,
        "iface wlan0 inet dhcp\n  wpa-psk hunter2\n  wireless-key s:hunter2\n  wireless_key1 hunter2\n",
    ),
    "interfaces, continued": (INTERFACES, "iface wlan0 inet dhcp\n  wpa-psk \\\n  hunter2\n  bond-mode \\\n  1\n"),
    "interfaces, a script": (
        INTERFACES,
        "iface x inet manual\n  up wpa_cli password hunter2; ip route add 10.9.0.0/16 via 10.0.0.9\n",
    ),
    "interfaces, a comment": (
        INTERFACES,
        "# wpa-psk hunter2\niface x inet manual # hunter2\n  bond-mode 1 # hunter2\n",
    ),
    "interfaces, an unknown option": (INTERFACES, "iface bond0 inet manual\n  bond-mimon hunter2\n"),
    "SUSE, WEP": (SUSE, "WIRELESS_KEY_0='hunter2'\nWIRELESS_WPA_PSK=hunter2\nWIRELESS_CLIENT_KEY_PASSWORD=hunter2\n"),
    "RHEL, WEP": (
        RHEL,
        "KEY1=s:hunter2\nKEY=hunter2\nIEEE_8021X_IDENTITY=hunter2\nTYPE=Bond\nDEVICE=bond0 # hunter2\n",
    ),
    "RHEL, keys": (
        "etc/sysconfig/network-scripts/route-bond0",
        "10.9.0.0/16 via 10.0.0.9 # hunter2\npassword hunter2\n",
    ),
    "RHEL, continued": (RHEL, 'WPA_PSK="\\\nhunter2"\nexport PASSWORD=hunter2; MTU=1\n'),
    "openib.conf": ("etc/infiniband/openib.conf", "IPOIBBOND_ENABLE=yes\nIPOIB_BONDS=bond0\nSRP_PASSWORD=hunter2\n"),
    "modprobe": ("etc/modprobe.d/x.conf", "options wifi key=hunter2\ninstall bonding x --token hunter2\n# hunter2\n"),
    "netplan": (NETPLAN, f"network:\n{NETPLAN_BOND}"),
    "netplan, wifis": (
        "run/netplan/60.yaml",
        "network:\n  wifis:\n    w0:\n      access-points:\n        net:\n          password: |\n            hunter2\n",
    ),
    "netplan, lists": (
        NETPLAN,
        f"network:\n  tunnels:\n  - keys: {{private: hunter2}}\n  # hunter2\n  - hunter2\n{NETPLAN_BOND}",
    ),
    "netplan, flow": (
        "lib/netplan/1.yaml",
        '{network: {version: 2, modems: {w: {pin: "hunter2"}}, bonds: {bond0: {mtu: 9}}}}',
    ),
    "netplan, not YAML": (NETPLAN, "network:\n  wifis: {password: hunter2\n"),
    "netplan, elsewhere": (NETPLAN, f"x: [hunter2,\n  hunter2]\nnetwork:\n{NETPLAN_BOND}"),
    "netplan, merged": (
        NETPLAN,
        "network:\n  bonds:\n    a: &a {mtu: 7, auth: hunter2}\n    b: {<<: *a, interfaces: [ib1]}\n",
    ),
    "netplan, merged from a section left out": (NETPLAN, "network:\n  wifis: {a: &a hunter2}\n  bonds: {b: *a}\n"),
}
UNREADABLE = ("netplan, not YAML", "netplan, merged from a section left out")


@pytest.mark.parametrize("name", SECRETS)
def test_a_bundle_has_no_secret_and_the_same_findings(name: str, tmp_path: Path) -> None:
    path, text = SECRETS[name]
    root = saved_host(tmp_path / "host")
    for file, content in (
        (KEYFILE, "[connection]\ntype=bond\ninterface-name=bond0\n[bond]\nmode=active-backup\nmiimon=50\n"),
        (INTERFACES, "auto bond0\niface bond0 inet static\n  address 10.0.0.1/24\n  bond-slaves ib0 ib9\n"),
        (NETDEV, "[NetDev]\nKind=bond\nName=bond0\n"),
    ):
        put(root, file, content + text if file == path else content)
    if not (root / path).exists():
        put(root, path, text)
    bundle = collect(KernelBackend(root))
    assert path in bundle.files
    assert not [file for file, content in bundle.files.items() if SECRET.encode() in content]
    write_directory(bundle, tmp_path / "copy")
    copied = configured(str(tmp_path / "copy"))
    if name in UNREADABLE:
        assert [each.kind for each in copied.problems] == ["config-unreadable"]
        return
    assert copied == configured(str(root))
    assert _findings(tmp_path / "copy") == _findings(root)


def _findings(root: Path) -> list[dict[str, object]]:
    """All but what needs the switches, which only a live host can ask."""
    host = KernelBackend(root)
    found = [each.as_json() for each in check(kernel_facts(host, host.bonds())) if each.rule.id != "one-switch"]
    assert found
    return found


def test_of_a_file_that_no_reader_knows_nothing_is_taken() -> None:
    assert without_secrets("etc/shadow", "root:hunter2") == f"{LEFT_OUT}\n"
