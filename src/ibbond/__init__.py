"""ibbond: high availability for IP over InfiniBand, on real hosts, in a lab of namespaces, and in a simulator.

`Lab` and `TopologyBuilder` are the Python API for tests (docs/testing.md). They are imported when they are used,
because the command line must start fast.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ibbond.testing.lab import Lab
    from ibbond.topology.builder import TopologyBuilder

__version__ = "0.1.0"
__all__ = ["Lab", "TopologyBuilder", "__version__"]
_HOMES = {"Lab": "ibbond.testing.lab", "TopologyBuilder": "ibbond.topology.builder"}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'ibbond' has no attribute {name!r}")
