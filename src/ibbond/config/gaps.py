"""What a format in a version of its tool cannot hold, and what becomes of it; a desired state cut down to the rest.

Read first: fields.py. Each format has its own rows beside its parser and renderer. A harmless row is for a setting
whose absence changes nothing. Left out: the rest of rendering.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ibbond.config.desired import Desired
from ibbond.config.fields import Field, fields, identity, without

Version = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Gap:
    """Fields of this name (and of this text, patterns both) are not held before version `since`, or in none."""

    name: str
    becomes: str
    since: Version = ()
    text: str = "*"
    when: Callable[[Field, Desired], bool] = lambda field, desired: True
    harmless: bool = False

    def has(self, field: Field, desired: Desired, version: Version) -> bool:
        if self.since and version >= self.since:
            return False
        return (
            fnmatchcase(field.name, self.name)
            and fnmatchcase(field.text, self.text)
            and bool(self.when(field, desired))
        )


@dataclass(frozen=True, slots=True)
class Loss:
    """A setting that is not held, and what becomes of it."""

    field: Field
    becomes: str
    harmless: bool = False

    def __str__(self) -> str:
        return f"{self.field.of}: {self.field.name} {self.field.text}".rstrip() + f" {self.becomes}"


def reduced(desired: Desired, gaps: Iterable[Gap], version: Version) -> tuple[Desired, list[Loss]]:
    """What is held of it, and the losses."""
    rows = list(gaps)
    losses = []
    for field in fields(desired):
        gap = next((gap for gap in rows if gap.has(field, desired, version)), None)
        if gap is not None:
            losses.append(Loss(field, gap.becomes, gap.harmless))
    return without(desired, [loss.field for loss in losses]), losses


def of_child(field: Field, desired: Desired) -> bool:
    """The field is one of a P_Key child."""
    members = [member for bond in desired.bonds for member in bond.members]
    return any(device.pkey is not None and identity(device) == field.of for device in (*members, *desired.children))


def not_of_child(field: Field, desired: Desired) -> bool:
    return not of_child(field, desired)


def of_ethernet(field: Field, desired: Desired) -> bool:
    """The field is one of an Ethernet device, or of a bond that has such."""
    for bond in desired.bonds:
        for member in bond.members:
            if member.ethernet and field.of in (bond.name, identity(member)):
                return True
    return False


def not_of_ethernet(field: Field, desired: Desired) -> bool:
    return not of_ethernet(field, desired)


def of_bond(field: Field, desired: Desired) -> bool:
    return any(bond.name == field.of for bond in desired.bonds)


def of_device(field: Field, desired: Desired) -> bool:
    return not of_bond(field, desired)
