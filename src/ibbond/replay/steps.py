"""The steps of a recorded case, performed in its world and answered as record.py would have seen them.

Read first: tests/golden/kernel-6.1/README.md (`Steps`). Left out: what makes the world go (`replay/world`), ip(8)
(`replay/ip_requests`).
"""

from __future__ import annotations

import errno
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass

from ibbond.abi import procfs_text, sysfs_text
from ibbond.abi.device_text import parse_number
from ibbond.abi.device_tree import File, Kind
from ibbond.abi.recording import Step
from ibbond.errors import Refused
from ibbond.machine import MS
from ibbond.netdev.device import Device, Flags
from ibbond.replay.ip_bond_options import IpRefused
from ibbond.replay.ip_command import parse_command
from ibbond.replay.ip_requests import run_command, set_admin, set_number
from ibbond.replay.world import RecordedWorld, errno_name, refused

LINK_FILES = (
    "type",
    "addr_len",
    "address",
    "broadcast",
    "mtu",
    "tx_queue_len",
    "flags",
    "addr_assign_type",
    "operstate",
    "carrier",
)
USER_FLAGS = (
    "UP",
    "BROADCAST",
    "LOOPBACK",
    "POINTOPOINT",
    "RUNNING",
    "NOARP",
    "PROMISC",
    "ALLMULTI",
    "MASTER",
    "SLAVE",
    "MULTICAST",
    "LOWER_UP",
)
LINK_WORDS = {"up": "UP", "going down": "GOING_DOWN", "down": "DOWN", "going back": "GOING_BACK"}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a step answered: an errno's name or nothing, what was read, ip(8)'s exit status."""

    errno: str = ""
    expect: object = None
    rc: int | None = None


class Steps:
    """Performs the steps of a world's case."""

    def __init__(self, world: RecordedWorld) -> None:
        self._world = world

    def perform(self, step: Step) -> Answer:
        """One step, and the work that is due after it."""
        actions: dict[str, Callable[[Step], Answer]] = {
            "masters": self._masters,
            "masters_read": self._masters_read,
            "write": self._write,
            "read": self._read,
            "ls": self._ls,
            "enslave": self._enslave,
            "release": self._enslave,
            "up": self._up,
            "down": self._up,
            "carrier": self._carrier,
            "wait_ms": self._wait,
            "peer": self._peer_step,
            "join": self._join,
            "ip": self._ip,
            "link": self._link,
            "maddr": self._maddr,
            "proc": self._proc,
        }
        try:
            answer = actions[step.op](step)
        except Refused as error:
            answer = Answer(errno=errno_name(error.code))
        self._world.run_until_quiescent()
        self._world.clock.run()
        return answer

    # -- steps -------------------------------------------------------------------------------------------------------

    def _masters(self, step: Step) -> Answer:
        if step.value:
            sign, name = sysfs_text.masters_request(step.value)
            if sign == "+":
                self._world.create_bond(name)
            else:
                self._world.delete_bond(name)
        return Answer()

    def _masters_read(self, step: Step) -> Answer:
        return Answer(expect=" ".join(sorted(self._world.registry.masters())))

    def _write(self, step: Step) -> Answer:
        file = self._world.file(self._world.case.device(step), step.path)
        value = step.value or ""
        if file.kind is Kind.BOND:
            bond = self._world.bond(file.device)
            if value or file.mode == sysfs_text.READ_ONLY:
                self._world.ask(bond, sysfs_text.bond_request(file.name, value))
        elif file.name in ("mtu", "tx_queue_len"):
            if value:
                set_number(self._world, self._world.device(file.device), file.name, parse_number(value))
        else:
            raise refused(step.path, errno.EACCES)
        return Answer()

    def _read(self, step: Step) -> Answer:
        return Answer(expect=self._world.text(self._world.case.device(step), step.path))

    def _ls(self, step: Step) -> Answer:
        path = f"{self._world.case.device(step)}/{step.path}"
        files = [self._world.tree.find(f"{path}/{name}") for name in sorted(self._world.tree.names(path))]
        return Answer(expect={file.name: oct(file.mode) for file in files if isinstance(file, File)} or None)

    def _enslave(self, step: Step) -> Answer:
        sign = "+" if step.op == "enslave" else "-"
        bond = self._world.bond(self._world.case.device(step))
        self._world.ask(bond, sysfs_text.bond_request("slaves", sign + step.slave))
        return Answer()

    def _up(self, step: Step) -> Answer:
        set_admin(self._world, self._world.device(self._world.case.device(step), errno.ENODEV), up=step.op == "up")
        return Answer()

    def _carrier(self, step: Step) -> Answer:
        self._world.plug(self._world.device(self._world.case.device(step)), on=bool(step.on))
        return Answer()

    def _wait(self, step: Step) -> Answer:
        if self._world.times is None:
            self._world.clock.run(round((step.ms or 0) * MS))
        return Answer()

    def _peer_step(self, step: Step) -> Answer:
        ip = ipaddress.ip_address(step.ip).packed
        if step.on and ip not in self._world.peer.peer_ips:
            self._world.peer.peer_ips.append(ip)
        elif not step.on and ip in self._world.peer.peer_ips:
            self._world.peer.remove_ip(ip)
        return Answer()

    def _join(self, step: Step) -> Answer:
        device = self._world.ip.holder(ipaddress.ip_address(step.address).packed)
        if device is None:
            raise refused(step.address, errno.ENODEV)
        self._world.ip.join(device, ipaddress.ip_address(step.group).packed)
        return Answer()

    def _link(self, step: Step) -> Answer:
        name = self._world.case.device(step)
        facts: dict[str, object] = {}
        for file in LINK_FILES:
            try:
                facts[file] = self._world.text(name, file).strip()
            except Refused as error:
                facts[file] = errno_name(error.code)
        device = self._world.namespace.get(name)
        if device is not None:
            facts |= self._rtnetlink(device)
        return Answer(expect=facts)

    def _maddr(self, step: Step) -> Answer:
        device = self._world.namespace.get(self._world.case.device(step))
        if device is None:
            return Answer(expect=[])
        shown = {address.ljust(device.addr_len, b"\0")[: device.addr_len].hex() for address in device.multicast}
        return Answer(expect=sorted(shown))

    def _proc(self, step: Step) -> Answer:
        name = self._world.case.device(step)
        if name not in self._world.registry.bonds:
            raise refused(name, errno.ENOENT)
        return Answer(expect=procfs_text.render(self._world.registry.bonds[name].snapshot()))

    def _ip(self, step: Step) -> Answer:
        try:
            run_command(self._world, parse_command(step.args))
        except IpRefused as error:
            return Answer(rc=error.rc)
        except Refused:
            return Answer(rc=2)
        return Answer(rc=0)

    def _rtnetlink(self, device: Device) -> dict[str, object]:
        shown = device.flags & ~(Flags.PROMISC | Flags.ALLMULTI) | device.asked
        if device.usable:
            shown |= Flags.LOWER_UP | Flags.RUNNING
        facts: dict[str, object] = {
            "flag_names": [name for name in USER_FLAGS if shown & Flags[name]],
            "min_mtu": device.min_mtu,
            "max_mtu": device.max_mtu,
            "master": device.master.name if device.master else None,
            "promiscuity": device.promiscuity,
            "allmulti": device.allmulti,
        }
        if self._world.bond_of(device) is not None:
            _, member = self._world.membership(device)
            facts["slave_data"] = {
                "state": member.state.upper(),
                "mii_status": LINK_WORDS[member.link],
                "link_failure_count": member.link_failure_count,
                "perm_hwaddr": member.permanent_address.hex(":"),
                "queue_id": member.queue_id,
                "prio": member.priority,
            }
        return facts
