"""A host of the bonding tests: devices that look like IPoIB and Ethernet, and a bond to try things on."""

from collections.abc import Iterable

from ibbond.bonding import events as e
from ibbond.bonding.bond import Bond
from ibbond.bonding.effects import BondEffect, Log
from ibbond.bonding.registry import Registry
from ibbond.errors import Refused
from ibbond.machine import MS
from ibbond.netdev.device import AddressOrigin, Device, NetdevEvent
from ibbond.netdev.namespace import Namespace
from ibbond.wire.hardware_type import ETHERNET, INFINIBAND

IB_BROADCAST = bytes.fromhex("00ffffffff12401bffff000000000000ffffffff")
IB_ADDRESSES = {
    "ib1": bytes.fromhex("80000049fe800000000000000002c903000a0001"),
    "ib2": bytes.fromhex("8000004afe800000000000000002c903000a0002"),
    "ib3": bytes.fromhex("8000004bfe800000000000000002c903000a0003"),
}


class FakeDriver:
    """A device whose cable is a flag: carrier appears when it is up and plugged in."""

    def __init__(self, kind: str, *, can_set_address: bool, vlan_challenged: bool, speed: int | None) -> None:
        self.kind = kind
        self.can_set_address = can_set_address
        self.vlan_challenged = vlan_challenged
        self.mbit = speed
        self.plugged = True
        self.refuses_mtu_above: int | None = None

    def open(self, device: Device) -> None:
        device.carrier = self.plugged

    def close(self, device: Device) -> None:
        device.carrier = False

    def check_mtu(self, device: Device, mtu: int) -> None:
        if self.refuses_mtu_above is not None and mtu > self.refuses_mtu_above:
            raise Refused(f"MTU {mtu} of {device.name}", why="too long", fix="Use less")

    def check_address(self, device: Device, address: bytes) -> None:
        return None

    def speed(self, device: Device) -> int | None:
        return self.mbit

    def duplex(self, device: Device) -> str | None:
        return "full" if self.mbit else None


class Host:
    """Time, a namespace with three IPoIB and two Ethernet devices, and a registry of bonds."""

    def __init__(self, profile: str = "default", without: Iterable[str] = ()) -> None:
        self.now = 1_000 * MS
        self.namespace = Namespace()
        self.logged: list[str] = []
        self.notices: list[tuple[str, NetdevEvent]] = []
        self.registry = Registry(self.namespace, profile=profile, without=tuple(without), log=self._log)
        self.namespace.subscribe(lambda notice, device: self.notices.append((device.name, notice)))
        for name, address in IB_ADDRESSES.items():
            self.add(infiniband(name, address))
        for number in (1, 2):
            self.add(ethernet(f"eth{number}", bytes((0x02, 0, 0, 0, 0, number))))
        self.effects: list[BondEffect] = []

    def add(self, device: Device) -> Device:
        self.namespace.register(device)
        return device

    def device(self, name: str) -> Device:
        device = self.namespace.get(name)
        assert device is not None
        return device

    def bond(self, name: str = "bond0", members: Iterable[str] = (), up: bool = False, **options: object) -> Bond:
        """A bond with options written as text, then its members, then up."""
        bond = self.registry.create(self.now, name)
        for option, value in options.items():
            self.set(bond, option, str(value))
        for member in members:
            self.do(bond, e.AddMember(member))
        if up:
            self.do(bond, e.Open())
        return bond

    def do(self, bond: Bond, event: e.BondEvent) -> list[BondEffect]:
        """One request, and then what is due at once."""
        effects = bond.handle(self.now, event)
        effects += self.run_due(bond)
        self.effects += effects
        return effects

    def set(self, bond: Bond, option: str, text: str) -> list[BondEffect]:
        return self.do(bond, e.SetOption(option, text))

    def refused(self, bond: Bond, event: e.BondEvent) -> int:
        """The errno of a request that must be refused."""
        try:
            bond.handle(self.now, event)
        except Refused as refused:
            return refused.code
        raise AssertionError(f"{event} was not refused")

    def plug(self, name: str, on: bool) -> None:
        device = self.device(name)
        assert isinstance(device.driver, FakeDriver)
        device.driver.plugged = on
        device.set_carrier(on and device.up)
        for bond in self.registry.bonds.values():
            self.effects += self.run_due(bond)

    def wait(self, ms: int) -> list[BondEffect]:
        """Let time pass, exactly."""
        until, effects = self.now + ms * MS, []
        while True:
            bonds = list(self.registry.bonds.values())
            waiting = [at for bond in bonds if (at := bond.deadline()) is not None and at <= until]
            if not waiting:
                break
            self.now = max(self.now, min(waiting))
            for bond in bonds:
                effects += self.run_due(bond)
        self.now = until
        self.effects += effects
        return effects

    def ready(self, bond: Bond, name: str) -> list[BondEffect]:
        return self.do(bond, e.Ready(name))

    def run_due(self, bond: Bond) -> list[BondEffect]:
        effects: list[BondEffect] = []
        while (at := bond.deadline()) is not None and at <= self.now:
            effects += bond.tick(self.now)
        return effects

    def _log(self, bond: str, line: Log) -> None:
        member = f"(slave {line.member}): " if line.member else ""
        self.logged.append(f"{bond}: {member}{line.text}")


def infiniband(name: str, address: bytes, broadcast: bytes = IB_BROADCAST) -> Device:
    driver = FakeDriver("ipoib", can_set_address=False, vlan_challenged=True, speed=None)
    device = Device(name, driver, INFINIBAND, address, broadcast, mtu=2044, max_mtu=65520, hard_header_len=24)
    device.address_origin = AddressOrigin.SET
    return device


def ethernet(name: str, address: bytes, speed: int = 10000) -> Device:
    driver = FakeDriver("ethernet", can_set_address=True, vlan_challenged=False, speed=speed)
    return Device(name, driver, ETHERNET, address, b"\xff" * 6)
