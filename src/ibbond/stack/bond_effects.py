"""What a bond asks for, carried out on its host: announcements, probes, preparation; then log, files and time line.

Read first: `bonding/effects`. The bond has changed its devices itself; what is here leaves the model.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, assert_never

from ibbond.bonding.bond import Bond
from ibbond.bonding.effects import (
    BondEffect,
    Changed,
    FailedOver,
    Log,
    NotifyPeers,
    Prepare,
    ProbeArp,
    ProbeNeighbor,
    ResendReports,
)
from ibbond.stack.events import AttributeChanged
from ibbond.stack.frames import Frames
from ibbond.stack.ip_layer import IpLayer
from ibbond.verbs.generation import Generation

if TYPE_CHECKING:
    from ibbond.stack.host_stack import HostStack


class BondEffects:
    """Executes the effects of the bonds of one host, in their order."""

    def __init__(self, host: HostStack, frames: Frames, generation: Generation) -> None:
        self._host = host
        self._frames = frames
        self._generation = generation

    def execute(self, bond: Bond, effects: Iterable[BondEffect]) -> None:
        for effect in effects:
            self._execute(bond, effect)

    def _execute(self, bond: Bond, effect: BondEffect) -> None:
        host, name = self._host, bond.name
        match effect:
            case FailedOver(old, new):
                self._generation.bump()
                if old and not host.registry.rules.kernel("late_answers"):
                    host.links.superseded(host.now, old)
                host.happened("failover", name, f"{old or 'none'} -> {new}")
            case NotifyPeers():
                self._announce(bond)
            case ResendReports():
                self._report(bond)
            case Prepare(member):
                host.prepare(bond, member)
                host.happened("prepare", name, member)
            case ProbeArp(member, target) | ProbeNeighbor(member, target):
                self._probe(bond, member, target)
            case Log(text, member, level):
                words = f"(slave {member}): {text}" if member else text
                host.happened("log", name, words if level == "info" else f"{level}: {words}")
            case Changed(attribute, member):
                if attribute in ("active_slave", "slaves"):
                    self._generation.bump()
                path = f"{member}/bonding_slave" if member else f"{name}/bonding"
                host.outbox.notify(AttributeChanged(host.name, f"{path}/{attribute}"))
            case _:
                assert_never(effect)

    def _announce(self, bond: Bond) -> None:
        layer = self._layer(bond)
        if layer is None:
            return
        reported = layer.announce()
        for frame in reported:
            self._frames.send(self._host.now, bond.device, frame)
        if reported:
            self._frames.announced(layer, (address for address, _ in layer.addresses))

    def _report(self, bond: Bond) -> None:
        layer = self._layer(bond)
        if layer is None or bond.active is None:
            return
        reported = layer.report()
        for frame in reported:
            self._frames.send(self._host.now, bond.device, frame)
        if reported:
            self._host.happened(
                "report", bond.name, f"{len(layer.groups.joined)} multicast groups through {bond.active}"
            )

    def _probe(self, bond: Bond, member: str, target: bytes) -> None:
        layer = self._layer(bond)
        device = self._host.namespace.get(member)
        if layer is not None and device is not None:
            self._frames.send(self._host.now, bond.device, layer.probe(target, device.address), member=member)

    def _layer(self, bond: Bond) -> IpLayer | None:
        """None when the bond's device has just left."""
        return self._host.ip.get(bond.name)
