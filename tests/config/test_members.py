"""Members that configuration files give a bond, in each of the formats, and files that say nothing or nonsense."""

from pathlib import Path

import pytest

from ibbond.config.members import configured_members

FILES = {
    "ifupdown": (
        "etc/network/interfaces",
        "auto bond0\niface bond0 inet static\n  address 10.0.0.1/24\n  bond-slaves ib0 \\\n ib1 # x\n",
    ),
    "ifupdown of the member": (
        "etc/network/interfaces.d/ib",
        "iface ib0 inet manual\n  bond-master bond0\niface ib1 inet manual\n  bond_master bond0\n",
    ),
    "ifcfg of RHEL": (
        "etc/sysconfig/network-scripts/ifcfg-ib0",
        'DEVICE=ib0\nTYPE=InfiniBand\nMASTER="bond0"\nSLAVE=yes\n',
    ),
    "ifcfg of SUSE": (
        "etc/sysconfig/network/ifcfg-bond0",
        "BONDING_MASTER='yes'\nBONDING_SLAVE_0='ib0'\nBONDING_SLAVE1=ib1\nBONDING_MODULE_OPTS='mode=active-backup'\n",
    ),
    "keyfile": (
        "etc/NetworkManager/system-connections/ib0.nmconnection",
        "[connection]\nid=ib0\ntype=infiniband\ninterface-name=ib0\nmaster=bond0\nslave-type=bond\n",
    ),
    "newer keyfile": (
        "etc/NetworkManager/system-connections/ib0.nmconnection",
        "[connection]\nid=ib0\ntype=infiniband\ninterface-name=ib0\ncontroller=bond0\nport-type=bond\n",
    ),
    "networkd": (
        "etc/systemd/network/ib.network",
        "[Match]\nName=ib0 ib1\n\n[Network]\nBond=bond0\nPrimarySlave=yes\n",
    ),
    "OFED": (
        "etc/infiniband/openib.conf",
        "IPOIBBOND_ENABLE=yes\nIPOIB_BONDS=bond0,bond1\nbond0_IP=10.0.0.1\nbond0_SLAVES=ib0,ib1\nbond1_SLAVES=ib2\n",
    ),
}


@pytest.mark.parametrize("kind", FILES)
def test_each_format(tmp_path: Path, kind: str) -> None:
    name, text = FILES[kind]
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    path.write_text(text)
    found = configured_members(str(tmp_path))
    both = any(word in text for word in ("ib1",))
    assert found["bond0"].members == (["ib0", "ib1"] if both else ["ib0"])
    assert found["bond0"].file == f"/{name}"


def test_what_says_nothing_gives_nothing(tmp_path: Path) -> None:
    for name, text in {
        "etc/network/interfaces": "iface bond0 inet dhcp\n  bond-slaves none\niface ib0 inet manual\n",
        "etc/sysconfig/network-scripts/ifcfg-ib0": "DEVICE=ib0\nMASTER=bond0\nSLAVE=no\n",
        "etc/sysconfig/network-scripts/ifcfg-ib1.bak": "MASTER=bond0\nSLAVE=yes\n",
        "etc/NetworkManager/system-connections/x": "[connection\nmaster=bond0\n=\n\0\xff",
        "etc/systemd/network/all.network": "[Match]\nName=ib*\n[Network]\nBond=bond0\n",
        "etc/infiniband/openib.conf": "IPOIBBOND_ENABLE=no\nIPOIB_BONDS=bond0\nbond0_SLAVES=ib0\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert configured_members(str(tmp_path)) == {}
    assert configured_members(str(tmp_path / "nothing")) == {}
