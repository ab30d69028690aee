"""The one counter that says whether remembered decisions still hold.

Whatever changes where a packet goes (carrier, forwarding table, neighbor, active member, group, capture, option) bumps
it; a flow of an older generation takes the slow path once. The fast path never decides, it remembers.
"""


class Generation:
    """A counter that every host and the subnet of one world share."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def bump(self) -> None:
        self.value += 1
