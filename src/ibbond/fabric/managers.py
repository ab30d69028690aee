"""The built-in subnet managers of a subnet: where they sit, who is master, what an operator asks of them.

Read first: `subnet_manager` and `standby`. Each sits at port 0 of a switch, as in managed switches, or at one port that
was chosen. They die with their switch, and all of them when the operator kills them.
"""

from __future__ import annotations

from collections.abc import Callable

from ibbond.errors import Refused
from ibbond.fabric.inventory import Inventory
from ibbond.fabric.port import PKEYS_PER_PORT, Port
from ibbond.fabric.switch import Switch
from ibbond.manager.partitions import DEFAULT_PARTITION, Partition
from ibbond.manager.subnet_config import SubnetConfig
from ibbond.manager.subnet_manager import SmEffect, SubnetManager
from ibbond.verbs.timing import Timing
from ibbond.verbs.verbs import FIRST_MLID, SMI_QPN, ManagementDatagram, SubnetLog
from ibbond.wire.mad import ManagementClass, Method, is_answer
from ibbond.wire.port_info import Capability, PortInfo
from ibbond.wire.sa import is_rmpp_control
from ibbond.wire.smp import Smp, SmpAttribute

MANAGERS = 3  # a master and two standbys
OWN_TRANSACTION = 0x8000 << 48  # of no program outside
SUBNET_CLASSES = (ManagementClass.SUBNET_LID_ROUTED, ManagementClass.SUBNET_DIRECTED_ROUTE)


class Managers:
    """By the name of their port, in the order of precedence. `send` and `log` carry out what they say."""

    def __init__(
        self,
        inventory: Inventory,
        timing: Timing,
        send: Callable[[Port, ManagementDatagram], None],
        log: Callable[[SubnetLog], None],
    ) -> None:
        self.all: dict[str, SubnetManager] = {}
        self.config = SubnetConfig()
        self._inventory = inventory
        self._timing = timing
        self._send = send
        self._log = log
        self._partitions: list[Partition] = [DEFAULT_PARTITION]
        self._places: list[str] = []
        self._ports: dict[str, Port] = {}  # of the managers
        self._wanted = False  # killed ones do not start with their switch

    @property
    def master(self) -> SubnetManager | None:
        return next((manager for manager in self.all.values() if manager.is_master), None)

    def add_partition(self, partition: Partition) -> None:
        for name in (*(partition.full or ()), *partition.limited):
            self._inventory.port(name)
        key, default = partition.full_pkey, DEFAULT_PARTITION.pkey
        others = [own for own in self._partitions if own.full_pkey != key or key != default]
        if any(own.full_pkey == key for own in others):
            what = f"cannot add partition {partition.name}"
            raise Refused(what, why=f"{key:#06x} is in use", fix="Choose another key")
        self._partitions = [partition, *others] if key == default else [*others, partition]

    def place(self, port: Port) -> None:
        if not port.is_end_port:
            fix = f"Choose {port.node.name}/0"
            raise Refused(f"no subnet manager at {port.name}", why="it has no LID", fix=fix)
        self._places = [port.name]

    def plan_partitions(self) -> None:
        """From now on partitions are what they are."""
        self.config.partitions = self._partitions
        self.config.pkeys = {port.guid: self._planned_pkeys(port) for port in self._inventory.end_ports()}

    def install(self, now: int) -> None:
        """Put managers in their places and start them."""
        for rank, name in enumerate(self._places or self._default_places()):
            port = self._ports[name] = self._inventory.port(name)
            self.all[name] = SubnetManager(port.guid, self._timing, self.config, max(rank - 1, 0))
        self.revive(now)

    def tick(self, now: int, name: str, manager: SubnetManager) -> None:
        port = self._ports[name]
        self.carry_out(name, manager.tick(now, port.lid, port.sm_lid))

    def take(self, now: int, port: Port, mad: ManagementDatagram) -> bool:
        """A MAD for software at an end port: True when a manager there has taken it."""
        manager = self.all.get(port.name)
        if manager is None or not manager.alive or not _is_for_manager(mad.mad, manager):
            return False
        self.carry_out(port.name, manager.handle(now, mad))
        return True

    def link_changed(self, now: int, port: Port) -> None:
        """A link of the node of this end port changed."""
        manager = self.all.get(port.name)
        if manager is not None and manager.alive:
            self.carry_out(port.name, manager.changed_nearby(now))

    def sm_lid_changed(self, now: int, port: Port) -> None:
        manager = self.all.get(port.name)
        if manager is not None and port.sm_lid != port.lid:
            manager.lost_mastership(now)

    def kill(self) -> None:
        self._wanted = False
        for name, manager in self.all.items():
            if manager.alive:
                manager.stop()
                set_is_sm(self._ports[name], False)
                self._log(SubnetLog("subnet manager died", name))

    def revive(self, now: int) -> None:
        """The first whose node lives becomes master if there is none, the others stand by."""
        if not self.all:
            what = "cannot revive the subnet manager"
            raise Refused(what, why="this subnet has no built-in subnet manager", fix="Start OpenSM at a port")
        self._wanted = True
        for name, manager in self.all.items():
            if not manager.alive and self._ports[name].node.alive:
                set_is_sm(self._ports[name], True)
                self.carry_out(name, manager.start(now) if self.master is None else manager.stand_by(now))

    def switch_died(self, switch: Switch) -> None:
        manager = self.all.get(switch.management_port.name)
        if manager is not None:
            manager.stop()

    def switch_booted(self, now: int) -> None:
        if self._wanted:
            self.revive(now)

    def set_pkeys(self, now: int, port: Port, pkeys: tuple[int, ...]) -> None:
        name, master = self._answering(f"cannot set the P_Keys of {port.name}")
        check_table(port, pkeys)
        self.config.pkeys[port.guid] = pkeys
        self.carry_out(name, master.sweep_now(now))

    def change_lid(self, now: int, port: Port, lid: int) -> None:
        what = f"cannot give {port.name} LID {lid}"
        name, master = self._answering(what)
        if not 0 < lid < FIRST_MLID:
            raise Refused(what, why="a unicast LID is 1 to 49151", fix="Choose a LID in this range")
        holder = next((guid for guid, held in self.config.lids.items() if held == lid and guid != port.guid), None)
        if holder is not None:
            names = [other.name for other in self._inventory.end_ports() if other.guid == holder]
            raise Refused(what, why=f"{', '.join(names)} uses it", fix="Choose a free LID")
        self.config.lids[port.guid] = lid
        self.carry_out(name, master.sweep_now(now))

    def reregister(self, now: int, port: Port) -> None:
        """Where managers are outside, the port is written as any software may: by an SMP from itself to itself."""
        if not self.all:
            self._write(port, port.info.unchanged().changed(client_reregister=True))
            return
        name, master = self._answering(f"cannot have {port.name} register again")
        self.carry_out(name, master.reregister(now, port.guid))

    def _write(self, port: Port, info: PortInfo) -> None:
        if not port.lid:
            raise Refused(f"cannot write to {port.name}", why="it has no LID yet", fix="Wait for the subnet manager")
        smp = Smp(Method.SET, SmpAttribute.PORT_INFO, port.number, info.pack(), OWN_TRANSACTION, m_key=info.m_key)
        self._send(port, ManagementDatagram(port.lid, port.lid, SMI_QPN, SMI_QPN, smp.pack()))

    def carry_out(self, name: str, effects: list[SmEffect]) -> None:
        port = self._ports[name]
        for effect in effects:
            if isinstance(effect, SubnetLog):
                self._log(effect)
            else:
                self._send(port, effect)

    def _answering(self, what: str) -> tuple[str, SubnetManager]:
        for name, manager in self.all.items():
            if manager.is_master:
                return name, manager
        if not self.all:
            why = "the manager of this subnet is not the built-in one, and numbers ports itself"
            raise Refused(what, why=why, fix="Start the lab without --sm opensm")
        raise Refused(what, why="no built-in subnet manager is alive", fix="Revive it: ibbond lab revive sm")

    def _default_places(self) -> list[str]:
        """Managed switches, as many as are worth it; without any the first host."""
        switches = [switch.management_port.name for switch in self._inventory.switches()]
        hosts = [hca.ports[1].name for hca in self._inventory.hcas()]
        return switches[:MANAGERS] or hosts[:1]

    def _planned_pkeys(self, port: Port) -> tuple[int, ...]:
        keys = (partition.key_of(port.name) for partition in self._partitions)
        return tuple(key for key in keys if key is not None)


def check_table(port: Port, pkeys: tuple[int, ...]) -> None:
    """`Refused` when the port cannot have this P_Key table."""
    what = f"cannot set the P_Keys of {port.name}"
    if len(pkeys) > PKEYS_PER_PORT // 2 or any(not 0 <= key <= 0xFFFF for key in pkeys):
        raise Refused(what, why="a table has at most 32 keys of 16 bits here", fix="Use fewer keys, or smaller ones")
    if isinstance(port.node, Switch):
        raise Refused(what, why="switches do not enforce partitions here", fix="Choose a host's port")


def set_is_sm(port: Port, on: bool) -> None:
    """What the software of a manager does at its own port: CapabilityMask.IsSM."""
    mask = port.info.capability_mask
    port.change(capability_mask=mask | Capability.IS_SM if on else mask & ~Capability.IS_SM)


def _is_for_manager(mad: bytes, manager: SubnetManager) -> bool:
    """Answers by their transaction, requests by their class."""
    if is_answer(mad):
        return manager.owns(int.from_bytes(mad[8:16], "big")) or is_rmpp_control(mad)
    return mad[1] in (*SUBNET_CLASSES, ManagementClass.SUBNET_ADMINISTRATION)
