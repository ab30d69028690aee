"""Links: when there is light on a cable, and what both ends do when it comes and goes.

Read first: InfiniBand Architecture volume 1, 7.2 (port states). A link trains to Init by itself; Armed and Active are
the subnet manager's to write. Both ends change in one step, so that no event shows half a link.
"""

from __future__ import annotations

from typing import Protocol

from ibbond.fabric.cable import Cable
from ibbond.fabric.node import Node
from ibbond.fabric.port import Port
from ibbond.fabric.port_states import PortInput, PortReaction
from ibbond.verbs.generation import Generation
from ibbond.verbs.verbs import PortEventKind


class LinkListener(Protocol):
    def port_event(self, port: Port, kind: PortEventKind) -> None: ...

    def link_changed(self, port: Port) -> None:
        """The link at this end came up or went down."""
        ...


class LinkTrainer:
    def __init__(self, generation: Generation, listener: LinkListener) -> None:
        self._generation = generation
        self._listener = listener

    def light(self, cable: Cable) -> None:
        """Train the link if nothing prevents it: both ports go to Init, at what both have enabled (14.2.5.6)."""
        ends = (cable.a, cable.b)
        trains = all(end.node.alive and end.may_train for end in ends)
        if not trains or not cable.plugged:
            return
        widths = _both(ends, "width_enabled", "width_supported")
        speeds = _both(ends, "speed_enabled", "speed_supported")
        if not widths or not speeds:
            return
        active = {"width_active": _fastest(widths), "speed_active": _fastest(speeds)}
        for end in ends:
            end.peer = cable.other(end)
            end.step(PortInput.TRAINED, **active)
        self._generation.bump()
        for end in ends:
            self._listener.link_changed(end)

    def darken(self, cable: Cable, *, failed: bool) -> None:
        """Both ports leave the link; `failed` counts it as a fault. What is on the cable is lost."""
        if cable.a.peer is None:
            return
        ends = (cable.a, cable.b)
        cable.epoch += 1
        for end in ends:
            end.peer = None
            end.counters.link_downed += failed
        failing = [end for end in ends if end.step(PortInput.LOST) is PortReaction.FAIL]
        self._generation.bump()
        for end in failing:
            self._listener.port_event(end, PortEventKind.PORT_ERR)
        for end in ends:
            self._listener.link_changed(end)

    def retrain(self, port: Port) -> None:
        """Down and up again, also out of Disabled."""
        if port.cable is not None:
            self.darken(port.cable, failed=False)
        port.step(PortInput.SET_POLLING)
        if port.cable is not None:
            self.light(port.cable)

    def disable(self, port: Port) -> None:
        """Down until Polling is written."""
        if port.cable is not None:
            self.darken(port.cable, failed=False)
        port.step(PortInput.SET_DISABLED)

    def plug(self, cable: Cable, plugged: bool) -> None:
        cable.plugged = plugged
        if plugged:
            self.light(cable)
        else:
            self.darken(cable, failed=True)

    def make_lossy(self, cable: Cable, loss: float) -> None:
        cable.loss = loss
        self._generation.bump()

    def power(self, node: Node, on: bool) -> None:
        """All links of a node that dies, or lives again."""
        node.alive = on
        for port in node.ports.values():
            if port.cable is not None:
                if on:
                    self.light(port.cable)
                else:
                    self.darken(port.cable, failed=True)


def _both(ends: tuple[Port, Port], enabled: str, supported: str) -> int:
    """The bits that both ends have enabled and can do."""
    a, b = (end.info for end in ends)
    return int(getattr(a, enabled) & getattr(a, supported) & getattr(b, enabled) & getattr(b, supported))


def _fastest(bits: int) -> int:
    return 1 << bits.bit_length() - 1
