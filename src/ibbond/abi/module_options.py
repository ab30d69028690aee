"""Parameters of the bonding module: `options bonding mode=1 miimon=100` in modprobe.d, or on modprobe's command line.

Read first: modprobe.d(5), `bond_check_params` (bond_main.c of Linux). Parameters are defaults for new bonds. Most bad
combinations are repaired with a warning, as the kernel does it; a few make loading the module fail, here `Refused`.
Left out: reading files, aliases (`alias bond0 bonding`), parameters of other modules.
"""

from __future__ import annotations

import ipaddress
import shlex
from collections.abc import Iterable
from dataclasses import dataclass

from ibbond.bonding.option import INT_MAX, Mode, Rejected, parse_value
from ibbond.bonding.options import OPTIONS
from ibbond.errors import Refused

KERNEL = (6, 1)
WORDS = ("mode", "primary_reselect", "lacp_rate", "ad_select", "xmit_hash_policy", "arp_validate", "fail_over_mac")
NUMBERS: dict[str, tuple[int, int, int]] = {  # name: lowest, highest, what takes the place of another
    "max_bonds": (0, INT_MAX, 1),
    "tx_queues": (1, 255, 16),
    "num_grat_arp": (0, 255, 1),
    "num_unsol_na": (0, 255, 1),
    "miimon": (0, INT_MAX, 0),
    "updelay": (0, INT_MAX, 0),
    "downdelay": (0, INT_MAX, 0),
    "use_carrier": (0, 1, 1),
    "min_links": (0, INT_MAX, 0),
    "arp_interval": (0, INT_MAX, 0),
    "all_slaves_active": (0, 1, 0),
    "resend_igmp": (0, 255, 1),
    "packets_per_slave": (0, 65535, 1),
    "lp_interval": (1, INT_MAX, 1),
}
OTHERS = ("primary", "arp_ip_target", "arp_all_targets")
ORDER = (
    "mode",
    "miimon",
    "updelay",
    "downdelay",
    "use_carrier",
    "arp_interval",
    "arp_ip_target",
    "arp_validate",
    "arp_all_targets",
    "primary",
    "primary_reselect",
    "fail_over_mac",
)
"""Options to be written first, in this order; the others do not depend on each other."""
FORCED_MIIMON_MS = 100


@dataclass(frozen=True, slots=True)
class ModuleOptions:
    """What the module makes of its parameters: bonds to create, and writes that give each of them these options."""

    max_bonds: int
    tx_queues: int
    options: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]


def parse_modprobe(text: str, module: str = "bonding") -> dict[str, str]:
    """The parameters that modprobe.d lines give to a module; a later line wins. Lines may end in a backslash."""
    found: dict[str, str] = {}
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["options"] and len(words) > 1 and words[1].replace("-", "_") == module:
            found |= parse_parameters(words[2:])
    return found


def parse_parameters(words: Iterable[str]) -> dict[str, str]:
    """`name=value` words; a name alone has an empty value. Dashes in names are underscores."""
    pairs = (word.partition("=") for word in words)
    return {name.replace("-", "_"): value for name, _, value in pairs}


def check(parameters: dict[str, str]) -> ModuleOptions:
    """Repair the parameters as the module does when it is loaded. Refused (EINVAL) where it would not load."""
    return _Check(parameters).result()


class _Check:
    def __init__(self, parameters: dict[str, str]) -> None:
        unknown = [name for name in parameters if name not in (*WORDS, *NUMBERS, *OTHERS)]
        self.given = {name: text for name, text in parameters.items() if name not in unknown}
        self.warnings = [f"unknown parameter {name} ignored" for name in unknown]
        self.values = {name: self._number(name) for name in NUMBERS if name in self.given}
        self.mode = Mode(self._word("mode")) if "mode" in self.given else Mode.BALANCE_RR

    def result(self) -> ModuleOptions:
        options: dict[str, str] = {"mode": self.mode.word}
        self._monitors()
        targets = self._targets()
        if self.values.get("arp_interval") and not targets:
            self._warn("arp_interval without arp_ip_target", "arp_interval was reset to 0")
            self.values["arp_interval"] = 0
        if "arp_validate" in self.given:
            if not self.values.get("arp_interval"):
                raise self._refused("arp_validate", "it requires arp_interval")
            options["arp_validate"] = str(self._word("arp_validate"))
        for name in ("lacp_rate", "ad_select", "xmit_hash_policy", "fail_over_mac"):
            if name in self.given and self._matters(name):
                options[name] = str(self._word(name))
        self._primary(options)
        if "arp_all_targets" in self.given:
            options["arp_all_targets"] = self._all_targets()
        first = ("max_bonds", "tx_queues")
        options |= {name: str(value) for name, value in self.values.items() if name not in first}
        ranked = sorted(options.items(), key=lambda pair: ORDER.index(pair[0]) if pair[0] in ORDER else len(ORDER))
        writes = [pair for pair in ranked if pair[0] != "arp_ip_target"]
        if targets:
            at = next((n for n, pair in enumerate(writes) if pair[0] == "arp_interval"), len(writes) - 1)
            writes[at + 1 : at + 1] = [("arp_ip_target", f"+{target}") for target in targets]
        return ModuleOptions(
            max_bonds=self.values.get("max_bonds", 1),
            tx_queues=self.values.get("tx_queues", 16),
            options=tuple(writes),
            warnings=tuple(self.warnings),
        )

    def _monitors(self) -> None:
        values = self.values
        if self.mode in (Mode.LACP, Mode.BALANCE_TLB, Mode.BALANCE_ALB) and not values.get("miimon"):
            self._warn(f"mode {self.mode.word} needs the MII monitor", f"miimon was set to {FORCED_MIIMON_MS} ms")
            values["miimon"] = FORCED_MIIMON_MS
        miimon = values.get("miimon", 0)
        if miimon and values.get("arp_interval"):
            self._warn("miimon and arp_interval exclude each other", "ARP monitoring is off")
            values["arp_interval"] = 0
        for name in ("updelay", "downdelay"):
            delay = values.pop(name, 0)
            if delay and not miimon:
                self._warn(f"{name} without miimon", "it has no effect")
            elif delay:
                values[name] = delay - delay % miimon
                if delay % miimon:
                    self._warn(
                        f"{name} {delay} is no multiple of miimon {miimon}", f"it was rounded to {values[name]} ms"
                    )

    def _targets(self) -> list[str]:
        targets: list[str] = []
        for text in (word for word in self.given.get("arp_ip_target", "").split(",") if word):
            try:
                address = ipaddress.IPv4Address(text)
            except ValueError:
                address = ipaddress.IPv4Address(0)
            if int(address) in (0, 2**32 - 1):
                self._warn(f"bad arp_ip_target {text}", "ARP monitoring will not be performed")
                self.values["arp_interval"] = 0
            elif str(address) not in targets:
                targets.append(str(address))
        return targets

    def _primary(self, options: dict[str, str]) -> None:
        primary = self.given.get("primary", "")
        if primary and not self.mode.uses_primary:
            self._warn(f"primary has no effect in mode {self.mode.word}", "it was dropped")
            primary = ""
        if primary:
            options["primary"] = primary
            if "primary_reselect" in self.given:
                options["primary_reselect"] = str(self._word("primary_reselect"))

    def _all_targets(self) -> str:
        try:
            return str(self._word("arp_all_targets"))
        except Refused:
            self._warn(f"bad arp_all_targets {self.given['arp_all_targets']}", "any is used")
            return "0"

    def _matters(self, name: str) -> bool:
        hashing = (Mode.BALANCE_XOR, Mode.LACP, Mode.BALANCE_TLB)
        modes = {"lacp_rate": (Mode.LACP,), "xmit_hash_policy": hashing}.get(name)
        if modes is None or self.mode in modes:
            return True
        self._warn(f"{name} is irrelevant in mode {self.mode.word}", "it was dropped")
        return False

    def _number(self, name: str) -> int:
        low, high, instead = NUMBERS[name]
        try:
            number = int(self.given[name], 0)
        except ValueError:
            raise self._refused(name, f"{self.given[name]!r} is no number") from None
        if low <= number <= high:
            return number
        self._warn(f"{name} {number} is not in {low} to {high}", f"it was reset to {instead}")
        return instead

    def _word(self, name: str) -> int:
        try:
            return parse_value(OPTIONS[name], self.given[name], KERNEL)
        except Rejected as rejected:
            raise self._refused(name, rejected.why) from None

    def _warn(self, what: str, then: str) -> None:
        self.warnings.append(f"{what}: {then}")

    @staticmethod
    def _refused(name: str, why: str) -> Refused:
        return Refused(f"the module does not load with {name}", why=why, fix="Correct or remove the parameter")
