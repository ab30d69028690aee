"""A TOML document and its tables, read strictly: keys are known, values have their types, refusals say where.

Used by `topology.load`; independent of topologies. `where` is the path in the file, `hosts.h1.ports`.
"""

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from ipaddress import ip_address, ip_interface, ip_network
from typing import TypeVar

from ibbond.errors import Refused
from ibbond.topology.model import Address, Interface, Network, listed

T = TypeVar("T")
KIND_NAMES = {str: "a text in quotes", int: "a number", bool: "true or false", dict: "a table", list: "a list"}
MAX_DEPTH = 32  # tables and lists in each other; dotted keys nest without a limit of tomllib's own
INTEGERS = range(-(1 << 63), 1 << 63)  # TOML 1.0.0, section "Integer"


def read_document(text: str, name: str) -> dict[str, object]:
    """A TOML document of bounded depth and numbers, so that reading and printing its values cannot fail."""
    try:
        document = tomllib.loads(text)
    except ValueError as error:  # also a decimal number of thousands of digits
        raise Refused(f"cannot read {name}", why=f"it is not TOML: {error}", fix="Correct that line") from None
    except RecursionError:
        raise too_deep(name) from None
    waiting: list[tuple[object, int]] = [(document, 0)]
    while waiting:
        value, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise too_deep(name)
        if isinstance(value, int) and value not in INTEGERS:
            why = "it has a number of more than 64 bits"
            raise Refused(f"cannot read {name}", why=why, fix="Use a smaller number")
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        waiting += [(item, depth + 1) for item in inner]
    return document


def too_deep(name: str) -> Refused:
    why = f"its tables and lists are nested more than {MAX_DEPTH} deep"
    return Refused(f"cannot read {name}", why=why, fix="Nest them as docs/topology.md does")


class Reader:
    """Takes keys out of a table; `done` refuses those that were not taken."""

    def __init__(self, table: object, where: str = "") -> None:
        if not isinstance(table, Mapping):
            raise wrong_kind(where, table, dict)
        self.table: dict[str, object] = dict(table)
        self.where = where
        self._known: list[str] = []

    def path(self, key: str) -> str:
        return f"{self.where}.{key}" if self.where else key

    def take(self, key: str, kind: type[T], default: T) -> T:
        """The value of a key, or the default; a value of another type is refused."""
        self._known.append(key)
        value = self.table.pop(key, default)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise wrong_kind(self.path(key), value, kind)
        return value

    def require(self, key: str, kind: type[T], why: str) -> T:
        """The value of a key that must be there."""
        if key not in self.table:
            raise Refused(f"{self.where or 'the topology'} has no {key}", why=why, fix=f"Add {key} there")
        return self.take(key, kind, kind())

    def tables(self, key: str) -> dict[str, "Reader"]:
        """The tables below a key, by name."""
        return {name: Reader(value, f"{self.path(key)}.{name}") for name, value in self.take(key, dict, {}).items()}

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts."""
        values = self.take(key, list, [])
        for value in values:
            if not isinstance(value, str):
                raise wrong_kind(f"{self.path(key)}, one item", value, str)
        return tuple(values)

    def interfaces(self, key: str) -> tuple[Interface, ...]:
        """A list of IP addresses with prefix length."""
        return tuple(self._interface(key, text) for text in self.texts(key))

    def _interface(self, key: str, text: str) -> Interface:
        if "/" not in text:
            raise Refused(
                f"{self.path(key)} has {text!r}",
                why="an address needs its prefix length",
                fix=f"Write {text}/24" if ":" not in text else f"Write {text}/64",
            )
        try:
            return ip_interface(text)
        except ValueError as error:
            raise self.unreadable(key, text, error, "10.0.0.1/24") from None

    def network(self, key: str, text: str) -> Network:
        try:
            return ip_network(text)
        except ValueError as error:
            raise self.unreadable(key, text, error, "10.1.0.0/24") from None

    def address(self, key: str, text: str) -> Address:
        try:
            return ip_address(text)
        except ValueError as error:
            raise self.unreadable(key, text, error, "10.0.0.3") from None

    def unreadable(self, key: str, text: str, error: ValueError, example: str) -> Refused:
        return Refused(f"{self.path(key)} has {text!r}", why=str(error), fix=f"For example: {example}")

    def done(self) -> None:
        """Refuse the keys that are left."""
        for key in self.table:
            raise unknown(f"{self.where or 'the topology'} has an unknown key {key}", key, self._known)


def unknown(what: str, name: str, known: Iterable[str]) -> Refused:
    """The refusal of a name that is not known, with the closest known one."""
    names = list(known)
    near = nearest(name, names)
    why = f"the known names are {listed(names)}" if names else "no key is allowed there"
    return Refused(what, why=why, fix=f"Did you mean {near}?" if near else "Choose one of these")


def nearest(name: str, names: list[str]) -> str:
    """The known name that a misspelled one is closest to; empty if none is close, or several are equally close."""
    close = difflib.get_close_matches(name, names, 2, cutoff=0.5)
    ratios = [difflib.SequenceMatcher(None, each, name).ratio() for each in close]
    return "" if not close or ratios[1:] == ratios[:1] else close[0]


def wrong_kind(where: str, value: object, kind: type) -> Refused:
    return Refused(
        f"{where} is {value!r}",
        why=f"it must be {KIND_NAMES.get(kind, kind.__name__)}",
        fix="See docs/topology.md",
    )
