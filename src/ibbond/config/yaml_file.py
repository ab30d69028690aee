"""YAML files with the places of their keys, by a library that keeps comments and order.

Read first: ruamel.yaml's round-trip mode. Aliases stay references, so a file that expands without end costs nothing
until it is expanded, which never happens here. Left out: what the keys mean.
"""

from __future__ import annotations

import re
from typing import Any

from ibbond.config.desired import Problem, Source
from ibbond.errors import Malformed

Table = dict[str, Any]


def load(text: str, path: str) -> Table:
    """The mapping of a file; an empty one for an empty file. Raises `Malformed`, with the line."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        yaml = YAML(typ="rt")
        yaml.allow_duplicate_keys = True
        found = yaml.load(text)
    except (YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark is not None else 0
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise Malformed(f"{Source(path, line)}: {what}") from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise Malformed(f"{Source(path, 1)}: a mapping is expected, not a {type(found).__name__}")
    return found


def unreadable(path: str, malformed: Malformed) -> Problem:
    """What is said of a file that `load` does not read."""
    line = re.match(rf"{re.escape(path)}:(\d+): ", str(malformed))
    source = Source(path, int(line[1]) if line else 0)
    return Problem("config-unreadable", source, str(malformed), "Correct the file; its tool ignores all of it")


def dump(value: Table) -> str:
    """YAML of plain mappings, lists and scalars, block style, in their order."""
    from io import StringIO

    from ruamel.yaml import YAML

    yaml = YAML(typ="rt")
    yaml.default_flow_style = False
    yaml.width = 4096
    stream = StringIO()
    yaml.dump(value, stream)
    return stream.getvalue()


def table(value: object) -> Table:
    """A mapping, or an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def items(value: object) -> list[Any]:
    """A list, a scalar as a list of one, or nothing."""
    if isinstance(value, list):
        return value
    return [] if value is None or isinstance(value, dict) else [value]


def place(parent: object, key: object, path: str) -> Source:
    """Where a key of a mapping, or an item of a list, stands."""
    position = getattr(parent, "lc", None)
    if position is None or position.data is None or key not in position.data:
        return Source(path, (position.line or 0) + 1 if position is not None else 0)
    return Source(path, position.data[key][0] + 1)


def text_of(value: object) -> str:
    """A scalar as its tool reads it, true and false as words; nothing for a list or a mapping: those may be endless."""
    if isinstance(value, list | dict) or value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)
