"""What an operator wants a host's bonds to be, as a value: the common form of every configuration format.

Each format (one file of this folder each) is parsed into it; what a file says that has no effect, or not the effect
that its words suggest, is a `Problem` with its place. Nothing here is compared with a live host, and nothing is
defaulted: a setting that no file makes is not there.
"""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ibbond.bonding.option import Kind, Option, Rejected, parse_value
from ibbond.bonding.options import OPTIONS
from ibbond.bonding.quirks import LATEST

WORDS_OF_YES_AND_NO = {"yes": "1", "true": "1", "no": "0", "false": "0"}


@dataclass(frozen=True, slots=True)
class Source:
    """A place in a file; line 0 stands for the whole file."""

    file: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


@dataclass(frozen=True, slots=True)
class Setting:
    """A value as the bonding driver (or ip(8)) writes it, and where it was made."""

    text: str
    source: Source


@dataclass(frozen=True, slots=True)
class Match:
    """Which device is meant: by one of `names`, a glob or regular expression, a hardware address or its last bytes.

    Several names are spellings of one device (`ib0.000a`, `ib0.800a`). Without any of these the device is not known.
    Of a 20-byte address the port GUID counts, the last eight: flags and queue pair change with every start.
    """

    names: tuple[str, ...] = ()
    glob: str = ""
    regex: str = ""
    address: bytes = b""

    @property
    def name(self) -> str:
        return self.names[0] if self.names else ""

    @property
    def is_known(self) -> bool:
        return bool(self.names or self.glob or self.regex or self.address)

    def fits(self, name: str, address: bytes = b"") -> bool:
        if name in self.names or (self.glob and fnmatch.fnmatchcase(name, self.glob)):
            return True
        if self.regex:
            try:
                return re.fullmatch(self.regex, name) is not None
            except re.error:
                return False
        return bool(self.address) and address.endswith(self.address[-8:] if len(self.address) == 20 else self.address)

    def __str__(self) -> str:
        return self.name or self.glob or self.regex or self.address.hex(":") or "a device that is not named"


@dataclass(slots=True)
class DesiredMember:
    """A device that joins a bond, or a P_Key child (`pkey`, `parent`). Its options are `queue_id` and `prio`.

    `invented_guid` marks a child to which its tool gives an address that no port of the subnet has, and
    `transport_ignored` says why its tool does not set the mode.
    """

    match: Match
    source: Source
    pkey: int | None = None
    parent: str = ""
    transport: Setting | None = None
    mtu: Setting | None = None
    options: dict[str, Setting] = field(default_factory=dict)
    ethernet: bool = False
    invented_guid: bool = False
    transport_ignored: str = ""

    @property
    def device(self) -> str:
        """Its name; that of a child is the kernel's. Empty where it is known by a pattern or address only."""
        if self.pkey is not None and self.parent:
            return f"{self.parent}.{self.pkey | 0x8000:04x}"
        return self.match.name


@dataclass(frozen=True, slots=True)
class DesiredRoute:
    """`to` is a network with prefix length or `default`."""

    to: str
    via: str
    source: Source
    metric: int = 0


@dataclass(slots=True)
class DesiredBond:
    """A bond as one tool's files have it.

    `is_defined` is false where only its members name it; `starts` whether the tool makes it at boot. `primary` is an
    option like others; a tool that takes several names for it has them with blanks between.
    """

    name: str
    tool: str
    source: Source
    is_defined: bool = False
    starts: bool = True
    members: list[DesiredMember] = field(default_factory=list)
    options: dict[str, Setting] = field(default_factory=dict)
    mtu: Setting | None = None
    addresses: list[Setting] = field(default_factory=list)
    dhcp: frozenset[int] = frozenset()  # 4, 6
    routes: list[DesiredRoute] = field(default_factory=list)
    dns: list[Setting] = field(default_factory=list)
    search: list[Setting] = field(default_factory=list)
    hardware_address: Setting | None = None  # that the tool is to give it, which InfiniBand members do not take


@dataclass(frozen=True, slots=True)
class Problem:
    """Something a file says that its tool takes otherwise, or not at all. `kind` is the id of a rule."""

    kind: str
    source: Source
    what: str
    fix: str
    bond: str = ""


@dataclass(slots=True)
class Desired:
    """What the files of a host want, tool by tool. `children` are devices that are in no bond, P_Key children first."""

    bonds: list[DesiredBond] = field(default_factory=list)
    children: list[DesiredMember] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def bond(self, name: str, tool: str, source: Source) -> DesiredBond:
        """The bond of that name and tool, made if it is not there yet."""
        for bond in self.bonds:
            if (bond.name, bond.tool) == (name, tool):
                return bond
        self.bonds.append(DesiredBond(name, tool, source))
        return self.bonds[-1]

    def of(self, name: str) -> list[DesiredBond]:
        return [bond for bond in self.bonds if bond.name == name]

    def add(self, other: Desired) -> None:
        self.bonds += other.bonds
        self.children += other.children
        self.problems += other.problems


def adopt_children(desired: Desired) -> None:
    """Members that another file describes as children take its settings over, and stop being children."""
    for bond in desired.bonds:
        for member in bond.members:
            same = [each for each in desired.children if member.match.name and member.match.name in each.match.names]
            for child in same:
                member.match = Match(tuple(dict.fromkeys((*member.match.names, *child.match.names))))
                member.pkey = child.pkey if member.pkey is None else member.pkey
                member.parent = member.parent or child.parent
                member.transport = member.transport or child.transport
                member.mtu = member.mtu or child.mtu
                member.invented_guid = member.invented_guid or child.invented_guid
                desired.children.remove(child)


def canonical(option: Option, text: str) -> str | None:
    """A value in the driver's words, `active-backup` for `1`; None where it is not one of the option's."""
    words = text.strip()
    if option.kind is Kind.VALUE:
        try:
            number = parse_value(option, WORDS_OF_YES_AND_NO.get(words.lower(), words), LATEST)
        except Rejected:
            return None
        return option.word_of(number) if option.shows_word else str(number)
    if option.kind in (Kind.TARGETS, Kind.TARGETS6):
        return " ".join(word.lstrip("+") for word in re.split(r"[,\s]+", words) if word)
    return words


def set_option(
    desired: Desired,
    bond: DesiredBond,
    name: str,
    text: str,
    source: Source,
    *,
    known: Iterable[str] = (),
    word: str = "",
) -> None:
    """Note an option that a file gives a bond; one that is not known, or a value that it does not take, is a problem.

    `word` is how the file spells it, `known` what else its tool takes there.
    """
    option = OPTIONS.get(name)
    spelt = word or name
    if option is None or option.read_only or option.ours:
        if spelt not in known:
            near = nearest(spelt, known)
            fix = f"Write {near}" if near else "Remove it: see ibbond options for what there is"
            desired.problems.append(
                Problem("option-unknown", source, f"{spelt} is not an option of a bond", fix, bond.name)
            )
        return
    value = canonical(option, text)
    if value is None:
        what = f"{spelt} of {bond.name} does not take {text.strip()!r}"
        desired.problems.append(Problem("option-unknown", source, what, f"See ibbond options {name}", bond.name))
        return
    bond.options.setdefault("num_grat_arp" if name == "num_unsol_na" else name, Setting(value, source))


def nearest(word: str, known: Iterable[str]) -> str:
    """The tool's word for what the driver calls so, or the word that is spelt most like it; empty for none."""
    plain = word.lower().replace("-", "_")
    if isinstance(known, Mapping):
        for own, option in known.items():
            if option == plain:
                return str(own)
    near = difflib.get_close_matches(word, list(known) or OPTIONS, 1, cutoff=0.6)
    return near[0] if near else ""


def hardware_address(text: str) -> bytes:
    """The bytes of `80:00:...` or `80-00-...`; none for anything else."""
    digits = re.sub(r"[:.-]", "", text)
    return bytes.fromhex(digits) if re.fullmatch(r"([0-9a-fA-F]{2})+", digits) else b""


def pkey_names(parent: str, pkey: int) -> tuple[str, ...]:
    """How tools name the child of a partition: the kernel with the full-member bit, others with the key as given."""
    return tuple(dict.fromkeys((f"{parent}.{pkey | 0x8000:04x}", f"{parent}.{pkey & 0x7FFF:04x}")))
