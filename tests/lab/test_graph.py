"""A lab's status as SVG, Mermaid and dot: nodes, rows, colors of cables."""

import shutil
import subprocess
from typing import Any
from xml.etree import ElementTree

import pytest

from ibbond.lab.graph import FORMATS, layers, links_of, svg

STATUS: dict[str, Any] = {
    "name": "lab",
    "hosts": {
        "h1": {"bonds": {"bond0": {"active": "ib1"}}, "devices": {}},
        "h2": {"bonds": {"bond0": {"active": "ib0"}}, "devices": {}},
    },
    "cables": [
        {"ends": ["h1/ib0", "leaf1/1"], "state": "cut"},
        {"ends": ["h1/ib1", "leaf2/1"], "state": "up"},
        {"ends": ["h2/ib0", "leaf1/2"], "state": "up"},
        {"ends": ["h2/ib1", "leaf2/2"], "state": "down"},
        {"ends": ["leaf1/3", "spine/1"], "state": "up"},
        {"ends": ["leaf2/3", "spine/2"], "state": "up"},
        {"ends": ["leaf2/4", "spine/3"], "state": "up"},
    ],
}


def test_rows_are_hosts_leaves_and_spines() -> None:
    assert layers(STATUS["hosts"], links_of(STATUS)) == [["h1", "h2"], ["leaf1", "leaf2"], ["spine"]]


def test_cables_have_the_color_of_their_state() -> None:
    lines = [item for item in ElementTree.fromstring(svg(STATUS)) if item.tag.endswith("line")]
    strokes = [line.attrib["stroke"] for line in lines]
    assert strokes == ["#d32f2f", "#2e7d32", "#2e7d32", "#ef6c00", *["#2e7d32"] * 3]
    assert [line.attrib["stroke-width"] for line in lines] == ["2", "4", "4", "2", "2", "2", "2"]
    assert "stroke-dasharray" in lines[0].attrib
    assert len({tuple(sorted(line.attrib.items())) for line in lines}) == 7  # two cables side by side are two lines


@pytest.mark.parametrize("form", FORMATS)
def test_every_node_is_in_the_picture(form: str) -> None:
    text = FORMATS[form](STATUS)
    assert all(node in text for node in ("h1", "h2", "leaf1", "leaf2", "spine"))
    assert text.count("#d32f2f") == 1


@pytest.mark.skipif(shutil.which("dot") is None, reason="graphviz is not installed")
def test_graphviz_reads_it() -> None:
    subprocess.run(["dot", "-Tsvg"], input=FORMATS["dot"](STATUS), text=True, capture_output=True, check=True)
