"""The lines on which the keys and list items of a TOML document stand, which tomllib does not report.

Read first: TOML 1.0.0. The document has been parsed by tomllib before, so it is known to be valid. Left out: arrays of
tables, whose keys are found below the name of the array.
"""

from __future__ import annotations

import re
import tomllib

Path = tuple[str, ...]
KEY = r"""(?:"(?:[^"\\\n]|\\.)*"|'[^'\n]*'|[A-Za-z0-9_-]+)"""
DOTTED = rf"{KEY}(?:[ \t]*\.[ \t]*{KEY})*"
HEADER = re.compile(rf"[ \t]*\[\[?[ \t]*({DOTTED})[ \t]*\]")
ASSIGNMENT = re.compile(rf"[ \t]*({DOTTED})[ \t]*=")
TOKEN = re.compile(
    r'''"""(?:[^\\]|\\.)*?"{3,5}|\'\'\'.*?'{3,5}|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'|#[^\n]*|[\[\]{},\n]|[^\s]''', re.S
)


def places(text: str) -> dict[Path, int]:
    """The line of each key, by its path, and of each item of a list (the path of the list and the item's number)."""
    found: dict[Path, int] = {}
    prefix: Path = ()
    position, line = 0, 1
    while position < len(text):
        if header := HEADER.match(text, position):
            prefix = keys_of(header[1])
            found.setdefault(prefix, line)
            position = header.end()
        elif assignment := ASSIGNMENT.match(text, position):
            path = (*prefix, *keys_of(assignment[1]))
            for length in range(len(prefix) + 1, len(path) + 1):
                found.setdefault(path[:length], line)
            position, line = _value(text, assignment.end(), line, path, found)
        position, line = _end_of_line(text, position, line)
    return found


def keys_of(dotted: str) -> Path:
    """The keys of `a."b.c".d`."""
    keys = []
    for key in re.findall(KEY, dotted):
        keys.append(str(tomllib.loads(f"k = {key}")["k"]) if key[0] in "\"'" else key)
    return tuple(keys)


def _value(text: str, position: int, line: int, path: Path, found: dict[Path, int]) -> tuple[int, int]:
    """Passes a value that may go over several lines; the end of it."""
    depth, index, item_next, in_list = 0, 0, False, False
    while token := TOKEN.search(text, position):
        word = token[0]
        if word == "\n" and depth == 0:
            return token.start(), line
        if word[0] not in "#]},\n" and item_next and depth == 1 and in_list:
            found[(*path, str(index))] = line
            item_next, index = False, index + 1
        if word in "[{":
            depth += 1
            if depth == 1:
                in_list = item_next = word == "["
        elif word in "]}":
            depth -= 1
        elif word == "," and depth == 1:
            item_next = True
        position = token.end()
        line += word.count("\n")
    return len(text), line


def _end_of_line(text: str, position: int, line: int) -> tuple[int, int]:
    end = text.find("\n", position)
    return (len(text), line) if end < 0 else (end + 1, line + 1)
