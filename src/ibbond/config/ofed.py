"""openib.conf of OFED and its successors, and SUSE's /etc/sysconfig/infiniband, as a desired state.

Read first: the release notes of OFED's ib-bonding (IPOIBBOND_ENABLE, IPOIB_BONDS, NAME_IP, NAME_SLAVES, SET_IPOIB_CM,
IPOIB_MTU). Left out: everything else in those files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ibbond.config.desired import Desired, DesiredMember, Match, Setting
from ibbond.config.ifcfg import YES
from ibbond.config.lines import Entry, assignments

TOOL = "openibd"
PATTERNS = ("etc/infiniband/openib.conf", "etc/ofed/openib.conf", "etc/sysconfig/infiniband")

DEFAULTS = {"mode": "active-backup", "miimon": "100"}  # what its ib-bond sets


def read(files: Mapping[str, str]) -> Desired:
    """The bonds of these files; none where bonding is not enabled."""
    desired = Desired()
    for path, text in sorted(files.items()):
        values = assignments(text, path)
        enabled = values.get("IPOIBBOND_ENABLE")
        if enabled is not None and enabled.value.lower() in YES and "IPOIB_BONDS" in values:
            for name in _words(values["IPOIB_BONDS"].value):
                _bond(desired, name, values)
    return desired


def _bond(desired: Desired, name: str, values: dict[str, Entry]) -> None:
    bond = desired.bond(name, TOOL, values["IPOIB_BONDS"].source)
    bond.is_defined = True
    for option, text in DEFAULTS.items():
        bond.options[option] = Setting(text, values["IPOIB_BONDS"].source)
    slaves = values.get(f"{name}_SLAVES") or values.get(f"{name.upper()}_SLAVES")
    address = values.get(f"{name}_IP") or values.get(f"{name.upper()}_IP")
    connected, mtu = values.get("SET_IPOIB_CM"), values.get("IPOIB_MTU")
    is_connected = connected is not None and connected.value.lower() in (*YES, "auto")
    for word in _words(slaves.value) if slaves else ():
        assert slaves is not None
        member = DesiredMember(Match((word,)), slaves.source)
        if connected is not None:
            member.transport = Setting("connected" if is_connected else "datagram", connected.source)
        bond.members.append(member)
    if address is not None:
        bond.addresses.append(Setting(address.value, address.source))
    if mtu is not None and is_connected:
        bond.mtu = Setting(mtu.value, mtu.source)


def _words(text: str) -> list[str]:
    return [word for word in re.split(r"[,\s]+", text) if word]
