"""IPoIB as a kind of network device: what it allows, and a device of that kind.

Read first: `ipoib_setup`, `ipoib_change_mtu` and `ipoib_set_mac` in Linux's `ipoib_main.c`. The state machine behind
the device is `interface`; opening and closing reach it as events.
"""

from __future__ import annotations

import errno

from ibbond.errors import Refused
from ibbond.ipoib.events import PortFacts
from ibbond.netdev.device import Device
from ibbond.wire.group_address import LINK_LOCAL_SCOPE, broadcast_address
from ibbond.wire.hardware_type import INFINIBAND
from ibbond.wire.hwaddr import RC_SUPPORTED, HardwareAddress
from ibbond.wire.ipoib import CONNECTED_MTU, ENCAPSULATION_BYTES
from ibbond.wire.pkey import FULL_MEMBER

MIN_MTU = 72
HARD_HEADER_BYTES = 24  # Linux's pseudo header of 20 bytes and the encapsulation header
TX_QUEUE_LEN = 256
DATAGRAM, CONNECTED = "datagram", "connected"


class IpoibDriver:
    """What IPoIB allows; one per device. `mode` is the device's, `speed_mbit` the port's rate."""

    kind = "ipoib"
    can_set_address = False
    vlan_challenged = True

    def __init__(self, port: PortFacts, *, mode: str = DATAGRAM, speed_mbit: int | None = 40_000) -> None:
        self._port = port
        self.mode = mode
        self._speed_mbit = speed_mbit

    def open(self, device: Device) -> None:
        """Never refused: a device without its P_Key is up and waits for it."""

    def close(self, device: Device) -> None:
        """Never refused."""

    def max_mtu(self) -> int:
        """The most that may be asked for. In datagram mode the broadcast group may allow less."""
        return CONNECTED_MTU if self.mode == CONNECTED else self._port.mtu_bytes - ENCAPSULATION_BYTES

    def check_mtu(self, device: Device, mtu: int) -> None:
        if not MIN_MTU <= mtu <= self.max_mtu():
            raise Refused(
                f"cannot set the MTU of {device.name} to {mtu}",
                why=f"in {self.mode} mode its port carries {MIN_MTU} to {self.max_mtu()} bytes",
                fix="Choose an MTU within these limits",
            )

    def check_address(self, device: Device, address: bytes) -> None:
        raise Refused(
            f"cannot set the hardware address of {device.name}",
            why="an IPoIB address is made of the port's GID and a queue pair number",
            fix="Leave it unchanged; a bond takes the address of its active member",
            code=errno.EOPNOTSUPP,
        )

    def speed(self, device: Device) -> int | None:
        return self._speed_mbit if device.carrier else None

    def duplex(self, device: Device) -> str | None:
        return "full" if device.carrier else None


def ipoib_device(
    name: str,
    port: PortFacts,
    qpn: int,
    *,
    pkey: int | None = None,
    scope: int = LINK_LOCAL_SCOPE,
    flags: int = RC_SUPPORTED,
    driver: IpoibDriver | None = None,
) -> Device:
    """A device that is down, without carrier; `pkey` None is the key at index 0 of the port's table.

    `flags` is the first octet of the address: Linux with connected mode built in always says that it takes reliable
    connections.
    """
    if pkey is None:
        pkey = port.pkeys[0] if port.pkeys else FULL_MEMBER
    driver = driver or IpoibDriver(port)
    address = HardwareAddress(qpn, port.gid, flags).pack()
    return Device(
        name,
        driver,
        INFINIBAND,
        address,
        broadcast_address(pkey, scope),
        mtu=port.mtu_bytes - ENCAPSULATION_BYTES,
        min_mtu=MIN_MTU,
        max_mtu=CONNECTED_MTU,
        permanent_address=address,
        hard_header_len=HARD_HEADER_BYTES,
        tx_queue_len=TX_QUEUE_LEN,
    )
