"""docs/json.md against the commands: every field that is printed is there, and has one of its types or words.

A state that reaches people as the number of an enum, a renamed key and a field without a description fail here.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ibbond import Lab
from ibbond.rdma_cm.id_states import IdState
from ibbond.stack.neighbor_states import NudState
from ibbond.topology.default import TWO_HOSTS
from ibbond.verbs.verbs import PortState
from tests.live.commands import commanded_lab, ibbond, sound_lab
from tests.ops.host_tree import two_ports

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "json.md").read_text()
TYPES = {str: "string", bool: "boolean", int: "number", float: "number", type(None): "null"}
Fields = list[tuple[re.Pattern[str], frozenset[str]]]
SAVED = (  # of a copy, and what needs no lab
    "check",
    "check --list-rules",
    "bond list",
    "bond show bond0",
    "map",
)
ALONE = (
    "options",
    "options miimon",
    "addr explain 0x0002c90300a10101",
    "addr explain 80:00:00:48:fe:80:00:00:00:00:00:00:00:02:c9:03:00:a1:01:01",
    "conform --only grat-arp tests/golden/kernel-6.1/failover.json",
    "sim run scenarios/two_hosts.toml",
    "sim explore scenarios/two_hosts.toml --seeds 0..2",
    "sim swarm --seeds 0..2",
    "sim sweep scenarios/two_hosts.toml --over miimon=50,100 --seeds 1",
    "drill h1/bond0 --sim scenarios/two_hosts.toml --class planned-switch",
    "lab rdma-session h1 h2 --simulated --failovers 1",
    "config render {tmp}/bonds.toml --to netplan",
    "config render {tmp}/bonds.toml",
    "config convert {tmp}/bonds.toml --to netplan --for 0.106",
    "config lint {tmp}/bonds.toml",
    "config import {tmp}/bonds.toml",
    "config diff {tmp}/bonds.toml {tmp}/other.toml",
    "lab topology",
    "lab doctor",
    "lab list",
    "completion bash",
)
BONDS = """
[bond.bond0]
members = ["ib0", "ib1"]
addresses = ["10.0.0.1/24"]
options = { miimon = 100, ad_select = "bandwidth" }
"""
IN_A_LAB = (
    "lab exec h1 ping -c 1 -W 2 10.0.0.2",
    "lab neighbors",
    "map h1",
    "lab probe --seconds 0.5 h1 h2",
    "lab cut h1/ib0",
    "lab status",
    "fabric show",
    "check h1/bond0",
    "lab mend h1/ib0",
    "lab flap h1/ib1 --times 1 --down-ms 50",
    "lab top --times 2 --every 0.2",
    "lab lose h1/ib0 --percent 2",
    "lab kill s2",
    "lab status",
    "fabric show",
    "lab revive s2",
    "lab set-pkeys h1/ib1 0x7fff 0x8001",
    "lab change-lid h1/ib1 99",
    "lab reregister h1/ib1",
    "lab capture h1/ib0 {tmp}/capture.erf --seconds 0.2",
    "lab graph",
    "lab events --no-follow",
    "fabric routes",
    "fabric groups",
    "fabric counters",
    "bond list",
    "bond show h1/bond0",
    "bond proc h1/bond0",
    "bond set h1/bond0 miimon 50",
    "bond switch h1/bond0 ib1",
    "bond remove h1/bond0 ib0",
    "bond add h1/bond0 ib0",
    "bond delete h1/bond0",
    "bond create h1/bond0 ib0 ib1 --address 10.0.0.1/24",
    "wait h1/bond0",
    "lab rdma-session h1 h2 --failovers 1",
)


def described() -> dict[str, Fields]:
    """The fields of each command."""
    found: dict[str, Fields] = {}
    for section in PAGE.split("\n## ")[1:]:
        title, _, body = section.partition("\n")
        fields: Fields = []
        for line in re.findall(r"^    (\S.*)$", body, re.MULTILINE):
            paths, kinds = re.split(r"\s+(?=\"|string|number|boolean|null)", line, maxsplit=1)
            words = frozenset(re.findall(r'"[^"]*"|\w+', kinds))
            fields += [(pattern(path), words) for path in paths.split(", ")]
        found |= dict.fromkeys(title.split(", "), fields)
    return found


def pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.escape(path).replace(r"\*", "[^\0]+?").replace(r"\.", "\0"))


def leaves(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Every value that is not an object or list, with its path; keys may have dots, so that they are joined by NUL."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from leaves(each, f"{path}\0{key}" if path else str(key))
    elif isinstance(value, list):
        for each in value:
            yield from leaves(each, f"{path}[]")
    else:
        yield path, value


def wrong(fields: Fields, printed: dict[str, object]) -> Iterator[str]:
    for path, value in leaves(printed):
        kinds = [kinds for each, kinds in fields if each.fullmatch(path)]
        kind = TYPES[type(value)]
        if not kinds:
            yield f"{path!r} is not described ({value!r})"
        elif not any(kind in each or f'"{value}"' in each for each in kinds):
            yield f"{path!r} is {value!r}, not {' or '.join(sorted(kinds[0]))}"


def compare(line: str, *more: str, lab: Lab | None = None) -> None:
    """Run a command and compare what it prints with its section."""
    words = line.split()
    sections = described()
    name = next(name for name in (" ".join(words[:2]), words[0]) if name in sections)
    count = len(name.split())
    done = ibbond(*words[:count], "--json", *(("--name", lab.name) if lab else ()), *words[count:], *more, check=False)
    assert done.returncode in (0, 1), done.stderr
    for text in done.stdout.splitlines():
        printed = json.loads(text)
        if words[0] in ("bond", "options"):
            for each in printed.pop("bonds", []) + (printed.pop("options") if line == "options" else []):
                assert not list(wrong(sections[name], each)), line
        assert not list(wrong(sections[name], printed)), line


@pytest.mark.parametrize("command", SAVED)
def test_of_a_saved_host(command: str, tmp_path: Path) -> None:
    two_ports(tmp_path, miimon=0)
    compare(command, "--root", str(tmp_path))


@pytest.mark.parametrize("command", ALONE)
def test_without_a_lab(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (tmp_path / "bonds.toml").write_text(BONDS)  # its mode is missing: a finding
    (tmp_path / "other.toml").write_text(BONDS.replace("100", "50"))
    compare(command.format(tmp=tmp_path))


def test_a_topology_judged(tmp_path: Path) -> None:
    (tmp_path / "two.toml").write_text(TWO_HOSTS)
    compare("fabric whatif", str(tmp_path / "two.toml"))


def test_in_a_lab(tmp_path: Path) -> None:
    with sound_lab() as lab:
        for command in IN_A_LAB:
            compare(command.format(tmp=tmp_path), lab=lab)


def test_a_start_and_an_end(tmp_path: Path) -> None:
    compare("demo --rounds 1")
    with commanded_lab("jsonpage"):
        compare("lab status --name jsonpage")
        compare("lab list")
        compare("drill h1/bond0 --name jsonpage --class planned-switch")
        compare("lab down --name jsonpage")


def test_words_are_those_of_the_enums() -> None:
    pages = described()
    for command, path, states in (
        ("lab neighbors", "neighbors[]\0state", {state.name for state in NudState} - {"NONE"}),
        ("lab status", "hosts\0h1\0rdma_ids[]\0state", {state.name.lower() for state in IdState}),
        ("fabric show", "show[]\0state", {state.name.lower() for state in PortState}),
    ):
        (words,) = (words for each, words in pages[command] if each.fullmatch(path))
        assert words == {f'"{state}"' for state in states}


def test_a_number_where_a_word_is_meant_is_noticed() -> None:
    neighbors = described()["lab neighbors"]
    row = {"host": "h1", "device": "bond0", "address": "", "hardware_address": "", "port": "", "age_ms": 1.0}
    assert not list(wrong(neighbors, {"neighbors": [row | {"state": "REACHABLE"}]}))
    assert len(list(wrong(neighbors, {"neighbors": [row | {"state": 3}]}))) == 1
    assert len(list(wrong(neighbors, {"neighbors": [row | {"status": "REACHABLE"}]}))) == 1
