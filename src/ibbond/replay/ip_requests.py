"""The ip(8) commands of a recorded case, carried out in its world.

Read first: `ip_command`, which reads them, and `bond_changelink` of Linux. Left out: everything that recordings do not
use; `ip_command.Unknown` says so.
"""

from __future__ import annotations

import errno
import ipaddress

from ibbond.bonding.bond import Bond
from ibbond.bonding.events import (
    AddMember,
    Close,
    Open,
    RemoveMember,
    SetAddress,
    SetMtu,
    SetOption,
    SetPriority,
)
from ibbond.bonding.option import is_device_name
from ibbond.errors import Refused
from ibbond.netdev.device import AddressOrigin, Device, Flags
from ibbond.replay import ip_command
from ibbond.replay.ip_bond_options import COMMAND_LINE, DEVICES, USAGE, IpRefused
from ibbond.replay.world import RecordedWorld, refused


def run_command(world: RecordedWorld, command: ip_command.Command) -> None:
    """What ip does with a command. Raises `IpRefused` before anything happened, or what the kernel says, `Refused`."""
    check_devices(world, command)
    match command:
        case ip_command.FlushAddresses(device=name, width=width):
            world.ip.flush_addresses(world.device(name), width)
            world.addresses_changed()
        case ip_command.AddAddress(device=name, ip=ip, prefix=prefix, check=check):
            if not world.ip.add_address(world.device(name), ip, prefix, check=check):
                raise refused(name, errno.EEXIST)
            world.addresses_changed()
        case ip_command.RemoveAddress(device=name, ip=ip):
            if not world.ip.remove_address(world.device(name), ip):
                raise refused(name, errno.EADDRNOTAVAIL)
            world.addresses_changed()
        case ip_command.AddBond():
            add_bond(world, command)
        case ip_command.DeleteLink(name=name):
            if name in world.registry.bonds:
                world.delete_bond(name)
            else:
                world.namespace.unregister(world.device(name))
        case ip_command.SetLink():
            set_link(world, command)


def check_devices(world: RecordedWorld, command: ip_command.Command) -> None:
    """ip looks up every device by its name before it sends anything."""
    names: list[tuple[int, str]] = []
    match command:
        case ip_command.AddBond(options=options):
            names = [(USAGE, value) for name, value in options if name in DEVICES]
        case ip_command.SetLink(device=device, master=master, options=options):
            names = [(USAGE, device), (COMMAND_LINE, master or "")]
            names += [(USAGE, value) for name, value in options if name in DEVICES]
        case ip_command.DeleteLink(name=device):
            names = [(USAGE, device)]
        case _:
            names = [(USAGE, command.device)]
    for rc, name in names:
        if name and name not in world.namespace:
            raise IpRefused(rc, f'cannot find device "{name}"')


def add_bond(world: RecordedWorld, command: ip_command.AddBond) -> None:
    """`rtnl_create_link`, `bond_newlink`; a bond that is refused something does not come to be."""
    bond = world.create_bond(command.name)
    device = bond.device
    try:
        if command.mtu is not None:
            set_number(world, device, "mtu", command.mtu)
        if command.address is not None:
            set_address(world, device, command.address)
        if command.tx_queue_len is not None:
            set_number(world, device, "tx_queue_len", command.tx_queue_len)
        set_options(world, bond, command.options)
        if command.up:
            set_admin(world, device, up=True)
    except Refused:
        world.delete_bond(device.name)
        raise


def set_link(world: RecordedWorld, command: ip_command.SetLink) -> None:
    """`__rtnl_newlink`: what the bonding driver is asked for comes before what every device can do (`do_setlink`)."""
    device = world.device(command.device)
    if command.options:
        set_options(world, world.bond(device.name), command.options)
    for key, value in command.member_options:
        bond = world.bond_of(device)
        if bond is None:
            raise refused(device.name, errno.EOPNOTSUPP)
        event = (
            SetPriority(device.name, int(value)) if key == "prio" else SetOption("queue_id", f"{device.name}:{value}")
        )
        world.ask(bond, event)
    if command.mtu is not None:
        set_number(world, device, "mtu", command.mtu)
    if command.address is not None:
        set_address(world, device, command.address)
    if command.name is not None:
        if not is_device_name(command.name):
            raise refused(command.name, errno.EINVAL)
        world.namespace.rename(device, command.name)
    for flag, on in ((Flags.PROMISC, command.promisc), (Flags.ALLMULTI, command.allmulticast)):
        if on is not None:
            device.ask(flag, on)
    for flag, on in (
        (Flags.MULTICAST, command.multicast),
        (Flags.NOARP, None if command.arp is None else not command.arp),
    ):
        if on is not None:
            device.flags = device.flags | flag if on else device.flags & ~flag
            device.rx_mode_changed()
    if command.master is not None:
        set_master(world, device, command.master)
    if command.up is not None:
        set_admin(world, device, up=command.up)
    if command.tx_queue_len is not None:
        set_number(world, device, "tx_queue_len", command.tx_queue_len)


def set_master(world: RecordedWorld, device: Device, master: str) -> None:
    present = world.bond_of(device)
    if present is not None and present.device.name == master:
        return
    if present is not None:
        world.ask(present, RemoveMember(device.name))
    if master:
        world.ask(world.bond(master), AddMember(device.name))


def set_options(world: RecordedWorld, bond: Bond, options: tuple[tuple[str, str], ...]) -> None:
    """Attributes of one netlink message. miimon and ARP monitoring exclude each other there (`bond_changelink`)."""
    given = dict(options)
    for name, value in options:
        if name in ("arp_interval", "arp_validate") and value != "0" and given.get("miimon", "0") != "0":
            raise refused(f"miimon with {name}", errno.EINVAL)
        if name in ("arp_ip_target", "ns_ip6_target"):
            replace_targets(world, bond, name, value)
        else:
            world.ask(bond, SetOption(name, value or "\n"))  # no name: the line that clears it in sysfs


def replace_targets(world: RecordedWorld, bond: Bond, name: str, value: str) -> None:
    present = bond.snapshot().options[name]
    assert isinstance(present, tuple)
    for target in present:
        world.ask(bond, SetOption(name, f"-{ipaddress.ip_address(target)}"))
    for target in filter(None, value.split(",")):
        world.ask(bond, SetOption(name, f"+{target}"))


def set_admin(world: RecordedWorld, device: Device, *, up: bool) -> None:
    bond = world.registry.bonds.get(device.name)
    if bond is not None:
        world.ask(bond, Open() if up else Close())
        world.watched = world.watched or (up and device.name == world.case.bond)
    elif up:
        device.open()
    else:
        device.close()
    world.member_changed(device)


def set_number(world: RecordedWorld, device: Device, name: str, number: int) -> None:
    bond = world.registry.bonds.get(device.name)
    if name == "tx_queue_len":
        device.tx_queue_len = number
    elif bond is not None:
        world.ask(bond, SetMtu(number))
    else:
        device.set_mtu(number)


def set_address(world: RecordedWorld, device: Device, address: bytes) -> None:
    if device.addr_len and len(address) != device.addr_len:
        raise refused(device.name, errno.EINVAL)
    address = address[: device.addr_len]  # where addresses have no bytes, any will do
    bond = world.registry.bonds.get(device.name)
    if bond is not None:
        world.ask(bond, SetAddress(address))
    else:
        device.set_address(address, AddressOrigin.SET)
        world.member_changed(device)
