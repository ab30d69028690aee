"""What an operator decides about a subnet: partitions, P_Key tables, the manager's priority; and the LIDs ever given.

Read first: InfiniBand Architecture volume 1, chapter 14; OpenSM's partitions.conf and guid2lid files.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ibbond.manager.partitions import Partition


@dataclass(slots=True)
class SubnetConfig:
    """What all managers of a subnet share: partitions, P_Key tables and LIDs by port GUID.

    The LIDs are those ever given (OpenSM's guid2lid file), so that they stay when another manager takes over.
    """

    partitions: list[Partition] = field(default_factory=list)
    pkeys: dict[int, tuple[int, ...]] = field(default_factory=dict)
    lids: dict[int, int] = field(default_factory=dict)
    priority: int = 0
