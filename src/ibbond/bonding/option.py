"""What an option of a bond is: one row of the table in `options`, and how its text is parsed.

Read first: `struct bond_option`, `bond_opt_parse` and `bond_opt_check_deps` (bond_options.c of the kernel's driver).
Left out: what a write does besides storing the value (`setters`).
"""

import enum
import errno
import re
from dataclasses import dataclass

from ibbond.errors import Refused

Version = tuple[int, ...]
INT_MAX = 2**31 - 1
BLANKS = " \t\n\v\f\r"
NAME_CHARACTERS = 15  # IFNAMSIZ - 1

_WORD = re.compile(f"[^{BLANKS}]+")


class Mode(enum.IntEnum):
    """The modes of a bond; only active-backup carries traffic here."""

    BALANCE_RR = 0
    ACTIVE_BACKUP = 1
    BALANCE_XOR = 2
    BROADCAST = 3
    LACP = 4
    BALANCE_TLB = 5
    BALANCE_ALB = 6

    @property
    def word(self) -> str:
        """The kernel's word: `active-backup`, `802.3ad`, ..."""
        return "802.3ad" if self is Mode.LACP else self.name.lower().replace("_", "-")

    @property
    def uses_primary(self) -> bool:
        """One member is preferred and one active (`bond_uses_primary`)."""
        return self in (Mode.ACTIVE_BACKUP, Mode.BALANCE_TLB, Mode.BALANCE_ALB)

    @property
    def is_load_balancing(self) -> bool:
        """`bond_is_lb`: the adaptive modes."""
        return self in (Mode.BALANCE_TLB, Mode.BALANCE_ALB)


ALL_MODES = frozenset(Mode)


class Kind(enum.Enum):
    """How the text of an option is read."""

    VALUE = enum.auto()  # a word or a number of the row
    NAME = enum.auto()  # a member's name, empty clears
    MEMBERS = enum.auto()  # +NAME, -NAME
    QUEUES = enum.auto()  # NAME:ID
    TARGETS = enum.auto()  # +ADDRESS, -ADDRESS, IPv4
    TARGETS6 = enum.auto()  # +ADDRESS, -ADDRESS, IPv6
    ADDRESS = enum.auto()  # six octets with colons
    FACT = enum.auto()  # read-only


@dataclass(frozen=True, slots=True)
class Word:
    """A word that stands for a number; `since` the kernel version that has it."""

    text: str
    number: int
    since: Version = (2, 6)


@dataclass(frozen=True, slots=True)
class Option:
    """One row: everything that the driver, sysfs text, netlink, the CLI and the reference page know of an option."""

    name: str  # of the sysfs file
    doc: str
    netlink: int | None = None  # IFLA_BOND_*, or IFLA_BOND_SLAVE_* for an option of a member
    kind: Kind = Kind.VALUE
    default: int = 0
    words: tuple[Word, ...] = ()
    limits: tuple[int, int] | None = None  # any number between these is good too
    default_word: int | None = None  # the value that the word `default` stands for, where the kernel marks one
    unit: str = ""
    modes: frozenset[Mode] = ALL_MODES  # in others: EACCES
    no_members: bool = False  # refused while the bond has members: ENOTEMPTY
    bond_down: bool = False  # refused while the bond is up: EBUSY
    shows_word: bool = False  # reads as `NAME NUMBER`
    readable_in: frozenset[Mode] = ALL_MODES  # the file is empty in other modes
    read_only: bool = False
    netlink_only: bool = False  # no sysfs file
    ours: bool = False  # a setting that the kernel's driver does not have
    of_member: bool = False
    after_members: bool = False  # names members, so it is written once they have joined
    counted_in_runs: bool = False  # kept in runs of the MII monitor: needs miimon, and is a multiple of it
    needs: str = ""  # does nothing while this option is 0
    in_effect: frozenset[Mode] = ALL_MODES  # does nothing in other modes, though they take it
    label: str = ""  # the driver's name for it in log lines
    field: str = ""  # where `Values` keeps it, when not under its name
    since: Version = (2, 6)

    @property
    def key(self) -> str:
        return self.field or self.name

    @property
    def has_file(self) -> bool:
        """It is a file in /sys/class/net/BOND/bonding."""
        return not (self.netlink_only or self.ours or self.of_member)

    def word_of(self, number: int) -> str:
        """The word that shows a value of a row that shows words."""
        return next((word.text for word in self.words if word.number == number), str(number))


class Rejected(Exception):
    """An errno of the kernel's option engine and the reason in words; `refusal` makes a `Refused` of it."""

    def __init__(self, code: int, why: str, fix: str) -> None:
        super().__init__(why)
        self.code = code
        self.why = why
        self.fix = fix


def check_dependencies(option: Option, mode: Mode, has_members: bool, is_up: bool) -> None:
    """`bond_opt_check_deps`: mode, then members, then state. Raises `Rejected`."""
    if mode not in option.modes:
        words = ", ".join(sorted(allowed.word for allowed in option.modes))
        raise Rejected(errno.EACCES, f"it is not supported in mode {mode.word}", f"Modes that have it: {words}")
    if option.no_members and has_members:
        raise Rejected(errno.ENOTEMPTY, "the bond has members", "Remove them first")
    if option.bond_down and is_up:
        raise Rejected(errno.EBUSY, "the bond is up", "Set it down first")


def parse_value(option: Option, text: str, kernel: Version) -> int:
    """The number that a word or number stands for, as `bond_opt_parse` reads it. Raises `Rejected` (EINVAL)."""
    line = text.split("\n", 1)[0]
    words = [word for word in option.words if word.since <= kernel] if option.words else ()
    if line.strip(BLANKS + "0123456789"):
        asked = first_word(line)[:32]
        if asked == "default" and option.default_word is not None:
            return option.default_word
        for word in words:
            if word.text == asked:
                return word.number
        raise Rejected(errno.EINVAL, f"{line!r} is not one of its values", f"It takes {describe(option, kernel)}")
    if digits := first_word(line):  # the first number counts: `1 2` is 1
        number = int(digits) & 0xFFFF_FFFF_FFFF_FFFF
        if any(word.number == number for word in words):
            return number
        if option.limits is not None and option.limits[0] <= number <= option.limits[1]:
            return number
    raise Rejected(errno.EINVAL, f"{line!r} is not one of its values", f"It takes {describe(option, kernel)}")


def first_word(text: str) -> str:
    """What `sscanf("%s")` reads: up to the first of the kernel's blanks, which are ASCII's; may be empty."""
    found = _WORD.search(text)
    return found.group() if found is not None else ""


def describe(option: Option, kernel: Version) -> str:
    """The values of a row in words, for people: `none (0), active (1)` or `0 to 255`."""
    named = ", ".join(f"{word.text} ({word.number})" for word in option.words if word.since <= kernel)
    if option.limits is None:
        return named or "nothing"
    return f"{option.limits[0]} to {option.limits[1]}" + (f" or {named}" if named else "")


def refusal(bond: str, option: str, rejected: Rejected) -> Refused:
    """The refusal that the writer of the option gets."""
    return Refused(f"cannot set {option} of {bond}", why=rejected.why, fix=rejected.fix, code=rejected.code)


def is_device_name(name: str) -> bool:
    """`dev_valid_name`; a NUL byte would be the end of a name in the kernel."""
    forbidden = any(character in "/:\0" or character in BLANKS for character in name)
    return 0 < len(name) <= NAME_CHARACTERS and name not in (".", "..") and not forbidden
