"""Files of lines, read with their line numbers: sections with keys (systemd, keyfiles), and assignments of a shell.

Read first: systemd.syntax(7), GLib's key file format, sysconfig files of initscripts and wicked. Nothing is refused:
what is not understood is not returned. Left out: what the keys mean.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ibbond.config.desired import Source

ASSIGNMENT = re.compile(r"""[ \t]*(?:export[ \t]+)?(\w+)=("(?:[^"\\]|\\.)*"|'[^']*'|[^\s#;]*)""")


@dataclass(frozen=True, slots=True)
class Entry:
    """`key = value` in a section, and its line."""

    section: str
    key: str
    value: str
    source: Source


def sections(text: str, file: str, *, continues: bool = False) -> list[list[Entry]]:
    """One list for each occurrence of a section, in order; `continues`: a backslash at its end joins the next line."""
    found: list[list[Entry]] = []
    name = ""
    for number, line, _ in joined_lines(text, continues):
        stripped = line.strip()
        if stripped.startswith("[") and stripped.endswith("]"):
            name = stripped[1:-1]
            found.append([])
        elif "=" in stripped and not stripped.startswith(("#", ";")) and found:
            key, _, value = stripped.partition("=")
            found[-1].append(Entry(name, key.strip(), value.strip(), Source(file, number)))
    return found


def assignments(text: str, file: str) -> dict[str, Entry]:
    """`KEY=value` of a file that a shell would source, without quotes; the last one of a key counts, as there."""
    found: dict[str, Entry] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if match := ASSIGNMENT.match(line):
            value = match[2]
            if value[:1] in ("'", '"'):
                value = value[1:-1]
            found[match[1]] = Entry("", match[1], value, Source(file, number))
    return found


def joined_lines(text: str, continues: bool) -> Iterator[tuple[int, str, int]]:
    """Lines with the numbers of their first and last one; `continues`: a backslash at the end joins the next."""
    joined, start, number = "", 0, 0
    for number, line in enumerate(text.splitlines(), 1):
        if continues and line.endswith("\\") and not line.lstrip().startswith(("#", ";")):
            joined, start = joined + line[:-1] + " ", start or number
            continue
        yield (start or number), joined + line, number
        joined, start = "", 0
    if joined:
        yield start, joined, number
