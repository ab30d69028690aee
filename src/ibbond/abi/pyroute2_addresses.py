"""Teaches pyroute2 hardware addresses of any length, and the bond and member attributes that it does not know.

Read first: pyroute2's `netlink/__init__.py` (`nla`, `l2addr`, `lladdr`). As it comes, 0.9 cuts every link address to 6
bytes, cannot write a longer one, and warns at every neighbor whose address is not 4, 6 or 16 bytes long. IPoIB needs
20. ibbond itself does not import pyroute2 (that takes 150 ms and more); this is for programs that use it.
"""

from typing import Any

from ibbond.abi.bond_attributes import BOND_OPTIONS, width
from ibbond.bonding.option import Kind

_taught = False


def teach_pyroute2() -> None:
    """Make IFLA_ADDRESS, IFLA_BROADCAST, IFLA_PERM_ADDRESS, the members' permanent address and NDA_LLADDR whole.

    Values are colon-separated hex, both ways. Call it once, before the first message; doing it again is harmless.
    """
    global _taught
    if _taught:
        return
    _taught = True
    from pyroute2.netlink import nla_base_string, nlmsg_atoms
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfbase
    from pyroute2.netlink.rtnl.ifinfmsg.plugins.bond import bond

    their_lladdr: Any = nlmsg_atoms.lladdr

    class HardwareAddress(nla_base_string):  # type: ignore[misc]
        """A link-layer address of any length."""

        sql_type = "TEXT"

        def encode(self) -> None:
            self["value"] = bytes.fromhex(self.value.replace(":", ""))
            nla_base_string.encode(self)

        def decode(self) -> None:
            nla_base_string.decode(self)
            self.value = bytes(self["value"]).hex(":")

    class NeighborAddress(their_lladdr):  # type: ignore[misc]
        """What a neighbor's address may be: an IP address for tunnels (4 and 16 bytes), else a hardware address."""

        def encode(self) -> None:
            if all(len(octet) == 2 for octet in self.value.split(":")):
                HardwareAddress.encode(self)
            else:
                their_lladdr.encode(self)

        def decode(self) -> None:
            HardwareAddress.decode(self)
            if len(self["value"]) in (4, 16):
                their_lladdr.decode(self)

    nlmsg_atoms.l2addr = HardwareAddress
    nlmsg_atoms.lladdr = NeighborAddress

    ifinfbase.nla_map = tuple(
        (name, "l2addr") if name == "IFLA_PERM_ADDRESS" else (name, *rest) for name, *rest in ifinfbase.nla_map
    )
    known = {name for name, *_ in bond.nla_map}
    bond.nla_map = tuple(bond.nla_map) + tuple(
        (f"IFLA_BOND_{_constant(number)}", _format(number)) for number in range(len(known), max(BOND_OPTIONS) + 1)
    )
    member = ifinfbase.ifinfo.bond_slave_data
    member.nla_map = (*member.nla_map[:7], *_MEMBER_TAIL)


def _constant(number: int) -> str:
    return _CONSTANTS.get(number, BOND_OPTIONS[number].name.upper())


def _format(number: int) -> str:
    option = BOND_OPTIONS[number]
    if option.kind is Kind.TARGETS6:
        return "*ipaddr"  # as long as it is: 16 bytes here
    return f"uint{8 * width(option)}"


# Where linux/if_link.h has another word than the sysfs file.
_CONSTANTS = {29: "AD_LACP_ACTIVE", 30: "MISSED_MAX", 33: "BROADCAST_NEIGH"}
_MEMBER_TAIL = (
    ("IFLA_BOND_SLAVE_AD_ACTOR_OPER_PORT_STATE", "uint8"),
    ("IFLA_BOND_SLAVE_AD_PARTNER_OPER_PORT_STATE", "uint16"),
    ("IFLA_BOND_SLAVE_PRIO", "int32"),
)
