"""Teaches pyroute2 hardware addresses of any length, and the bond attributes that it does not know.

Read first: pyroute2's `netlink/__init__.py` (`nla`, `l2addr`, `lladdr`). As it comes, 0.9 cuts every link address to 6
bytes, cannot write a longer one, and warns at every neighbor whose address is not 4, 6 or 16 bytes long. IPoIB needs 20.
Nothing of ours imports pyroute2 for its own work (it costs 150 ms and more); this is for programs and tests that use it.
"""

from typing import Any

from ibbond.abi.netlink_attributes import BOND_ATTRIBUTES

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
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfbase, ifinfmsg
    from pyroute2.netlink.rtnl.ifinfmsg.plugins.bond import bond

    their_lladdr: Any = nlmsg_atoms.lladdr

    class HardwareAddress(nla_base_string):  # type: ignore[misc]
        """A link-layer address of any length."""

        __slots__ = ()
        sql_type = "TEXT"

        def encode(self) -> None:
            self["value"] = bytes.fromhex(self.value.replace(":", ""))
            nla_base_string.encode(self)

        def decode(self) -> None:
            nla_base_string.decode(self)
            self.value = bytes(self["value"]).hex(":")

    class NeighborAddress(their_lladdr):  # type: ignore[misc]
        """What a neighbor's address may be: an IP address for tunnels (4 and 16 bytes), else a hardware address."""

        __slots__ = ()

        def encode(self) -> None:
            if "." in self.value or "::" in self.value or self.value.count(":") == 7:
                their_lladdr.encode(self)
            else:
                HardwareAddress.encode(self)

        def decode(self) -> None:
            HardwareAddress.decode(self)
            if len(self["value"]) in (4, 16):
                their_lladdr.decode(self)

    nlmsg_atoms.l2addr = HardwareAddress
    nlmsg_atoms.lladdr = NeighborAddress
