"""Every parser of `wire` and `abi`, found by its name, takes any input: it gives a value or raises `Malformed`."""

import contextlib
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType

from hypothesis import given, settings
from hypothesis import strategies as st

from ibbond import abi, wire
from ibbond.abi import procfs_text, sysfs_text
from ibbond.bonding.options import OPTIONS
from ibbond.errors import Malformed, Refused
from ibbond.wire import rxe
from ibbond.wire.icmp import too_big

WRITTEN = ("device_text.parse_number", "device_text.parse_transport_mode")  # what users write is refused with an errno
Parser = Callable[[bytes], object]


def parsers() -> Iterator[tuple[str, Parser]]:
    for package in (wire, abi):
        for found in pkgutil.iter_modules(package.__path__):
            module = importlib.import_module(f"{package.__name__}.{found.name}")
            for name, parse in _public(module):
                yield f"{found.name}.{name}", parse
    for name in OPTIONS:
        if OPTIONS[name].has_file:
            yield f"sysfs_text.parse_bond {name}", _of_text(partial(sysfs_text.parse_bond, name))
    yield "rxe.parse_send", lambda raw: rxe.parse_send(_slot(raw), 0, max_pieces=4, max_inline=64)
    yield "rxe.parse_receive", lambda raw: rxe.parse_receive(_slot(raw), 0, max_pieces=4)


def _slot(raw: bytes) -> memoryview:
    """A ring's slots are whole, whatever a program writes into them."""
    return memoryview(raw[:512].ljust(512, b"\0"))


def _public(module: ModuleType) -> Iterator[tuple[str, Parser]]:
    own = {name: each for name, each in vars(module).items() if getattr(each, "__module__", "") == module.__name__}
    functions = {name: each for name, each in own.items() if inspect.isfunction(each) and name.startswith("parse")}
    for name, each in own.items():
        if inspect.isclass(each):
            functions |= {f"{name}.{way}": getattr(each, way) for way in vars(each) if way.startswith("parse")}
    for name, function in functions.items():
        first, *others = inspect.signature(function).parameters.values()
        if all(other.default is not inspect.Parameter.empty for other in others):
            takes_bytes = "bytes" in str(first.annotation)
            yield name, function if takes_bytes else _of_text(function)


def _of_text(parse: Callable[[str], object]) -> Parser:
    return lambda raw: parse(raw.decode("latin1"))


PARSERS = dict(parsers())
MEMBER = "\nSlave Interface: ib0\nMII Status: up\nSpeed: 1 Mbps\nLink Failure Count: 1\nPermanent HW addr: 80:00\n"
LACP = (
    "\n\n802.3ad info\nLACP rate: slow\nMin links: 0\nSystem priority: 1\nActive Aggregator Info:\n\tAggregator ID: 1\n"
    f"{MEMBER}Aggregator ID: 1\nActor Churn State: none\ndetails actor lacp pdu:\n    port key: 1\n"
    "details partner lacp pdu:\n    oper key: 1\n"
)
TEXTS = [
    f"{procfs_text.TITLE}6\n\nBonding Mode: {procfs_text.MODES[1]}\nMII Polling Interval (ms): 100\n"
    f"ARP IP target/s (n.n.n.n form): 10.0.0.1\n{MEMBER}",
    f"{procfs_text.TITLE}6\n\nBonding Mode: {procfs_text.MODES[4]}\nUp Delay (ms): 1{LACP}",
    "2: ib0@x: <UP> mtu 2044 master bond0\n    link/infiniband 80:00 brd 00:ff\n    inet 10.0.0.1/24 scope global",
    "default via 10.0.0.1 dev bond0 metric 1\n10.0.0.0/24 dev ib0 src 10.0.0.2\n\tnexthop via 10.0.0.3 dev ib1",
    "Iface\nib0 0000000A 0100000A 0003 0 0 7 00FFFFFF 0 0 0",
    "fe800000000000000000000000000001 02 40 20 80 ib0",
    "20010db8000000000000000000000000 40 " + "0" * 32 + " 00 " + "0" * 32 + " 00000100 0 0 00000001 ib0",
    "active-backup 1",
    "ib0:1 ib1:2",
    "bond0: (slave ib0): link status definitely down",
    '{"id": "a", "bond": "bond0", "steps": [], "observations": {}}',
]
PIECES = [b"9" * 5000, b"99999999999999999999", b"\xb2", b":", b"\n", b"\n\n", b" ", b"", b"-1", b"0x", b"/129", b"%"]
texts = st.sampled_from([text.encode() for text in TEXTS])
zeros = st.sampled_from([4, 8, 16, 20, 24, 40, 44, 48, 64, 92, 120, 232, 256, 280]).map(bytes)
piece = st.sampled_from(PIECES) | st.binary(min_size=1, max_size=4)


@st.composite
def bent(draw: st.DrawFn) -> bytes:
    """Right input (or zeros, which many layouts take) with some bytes replaced."""
    raw = draw(texts | zeros | st.binary(max_size=300))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(raw)))
        new = draw(piece)
        raw = raw[:at] + new + raw[at + draw(st.integers(0, 12)) :]
    return raw


def test_the_parsers_are_found() -> None:
    assert {"arp.Arp.parse", "procfs_text.parse", "ip_text.parse_routes", "smp.Smp.parse"} <= PARSERS.keys()
    assert len(PARSERS) > 100


@given(st.lists(bent(), min_size=5, max_size=5))
@settings(max_examples=60, deadline=None)
def test_any_input_is_malformed_or_a_value(inputs: list[bytes]) -> None:
    for name, parse in PARSERS.items():
        for raw in inputs:
            with contextlib.suppress(Malformed, *((Refused,) if name in WRITTEN else ())):
                try:
                    parse(raw)
                except (Malformed, Refused):
                    raise
                except Exception as error:
                    error.add_note(f"{name} of {raw!r}")
                    raise


def test_an_mtu_larger_than_its_field_is_the_largest_there_is() -> None:
    assert too_big(bytes(40), 1 << 40, bytes(4)) == too_big(bytes(40), 0xFFFF, bytes(4))
    assert too_big(bytes(40), 1 << 40, bytes(16)) == too_big(bytes(40), 0xFFFF_FFFF, bytes(16))
