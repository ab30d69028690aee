"""The kernel's group files, and the packets that say that they changed."""

import os
from pathlib import Path

import pytest

from ibbond.host.groups import MAX_BYTES, _parse_igmp, _parse_igmp6, _text
from ibbond.stack.host_groups import MAX_GROUPS

IGMP = """Idx	Device    : Count Querier	Group    Users Timer	Reporter
1	lo        :     1      V3
				010000E0     1 0:00000000		0
2	ib0       :     2      V3
				030201EF     1 0:00000000		1
				010000E0     1 0:00000000		0
"""
IGMP6 = """1    lo              ff020000000000000000000000000001     1 0000000C 0
2    ib0             ff0200000000000000000001ff100001     2 00000004 0
2    ib0             ff010000000000000000000000000001     1 00000008 0
"""


def test_igmp_lists_the_groups_of_each_device() -> None:
    found: dict[str, list[bytes]] = {}
    _parse_igmp(IGMP, found)
    assert found == {"lo": [bytes((224, 0, 0, 1))], "ib0": [bytes((239, 1, 2, 3)), bytes((224, 0, 0, 1))]}


def test_igmp6_lists_groups_that_leave_the_node() -> None:
    found: dict[str, list[bytes]] = {}
    _parse_igmp6(IGMP6, found)
    assert found == {
        "lo": [bytes.fromhex("ff020000000000000000000000000001")],
        "ib0": [bytes.fromhex("ff0200000000000000000001ff100001")],
    }


@pytest.mark.parametrize("line", [IGMP.splitlines()[-1], IGMP6.splitlines()[-1]])
def test_of_a_long_file_whole_lines_are_read_and_more_than_a_host_may_join(line: str, tmp_path: Path) -> None:
    """A reading is one turn of the loop: programs must not make it longer than needed."""
    file = tmp_path / "igmp"
    file.write_text((line + "\n") * 20_000)
    descriptor = os.open(file, os.O_RDONLY)
    try:
        text, complete = _text(descriptor)
    finally:
        os.close(descriptor)
    assert not complete
    assert set(text.splitlines()) == {line}
    assert 3 * MAX_GROUPS < len(text.splitlines()) < 4000
    assert len(text) <= MAX_BYTES
