"""The site and the man pages: Sphinx over the Markdown pages of this folder and the docstrings of the package.

Build both with `scripts/docs`. Generated are the commands (from click), the events and effects of the machines and
the Python API (from docstrings). Pages that a command of ibbond prints are kept in the folder and compared by tests.
"""

import re
import textwrap

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.ext.graphviz import Graphviz

from ibbond import __version__
from ibbond.topology import schema

project = "ibbond"
author = "the ibbond authors"
project_copyright = "the ibbond authors, Apache-2.0"
release = version = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.graphviz", "sphinx_click"]
exclude_patterns = ["_build"]
root_doc = "index"

myst_enable_extensions = ["colon_fence"]
myst_fence_as_directive = ["mermaid"]  # a plain fence, which forges draw; here `StateDiagram` does
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "undoc-members": True}
python_maximum_signature_line_length = 100

smartquotes = False  # "--name" is to be typed as it stands
html_theme = "furo"
html_title = f"ibbond {release}"
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
graphviz_output_format = "svg"

man_pages = [
    ("reference/commands/ibbond", "ibbond", "high availability for IP over InfiniBand", author, 1),
    ("reference/commands/lab", "ibbond-lab", "hosts, switches and cables on this machine", author, 1),
    ("reference/commands/bond", "ibbond-bond", "bonds of a lab host or of this host", author, 1),
    ("reference/commands/fabric", "ibbond-fabric", "the subnet of a lab", author, 1),
    ("reference/commands/addr", "ibbond-addr", "explain the 20-byte addresses of IPoIB", author, 1),
    ("reference/commands/config", "ibbond-config", "read, check, write and compare bond configuration", author, 1),
    ("reference/commands/sim", "ibbond-sim", "stories under a virtual clock", author, 1),
    (
        "reference/commands/host",
        "ibbond-host",
        "check, watch, apply, drill and the other single commands",
        author,
        1,
    ),
]
man_show_urls = True

ARROW = re.compile(r"\s*(\w+) --> (\w+): (.*)")
STATES = re.compile(r"\b[A-Z_]+\b(?=.*:)")
DRAWING = """digraph {
  bgcolor=transparent; nodesep=0.4;
  node [shape=box, style=rounded, color="#7c8a99", fontcolor="#5b8bd0", fontname="sans-serif", fontsize=11];
  edge [color="#7c8a99", fontcolor="#7c8a99", fontname="sans-serif", fontsize=10];
"""


class StateDiagram(Graphviz):
    """A Mermaid state diagram, of which only arrows with a text are understood, drawn by Graphviz.

    The colors are readable on the light and the dark background of the theme.
    """

    has_content = True
    required_arguments = optional_arguments = 0

    def run(self) -> list[nodes.Node]:
        states = {name for line in self.content[1:] for name in STATES.findall(line)}
        lines = [DRAWING, "  rankdir=" + ("LR; ranksep=0.9;" if len(states) < 8 else "TB; ranksep=0.6;")]
        for line in self.content[1:]:
            arrow = ARROW.fullmatch(line)
            if not arrow:
                raise self.error(f"not an arrow of a state diagram: {line}")
            before, after, cause = arrow.groups()
            lines.append(f'  {before} -> {after} [label="{textwrap.fill(cause, 24)}"];'.replace("\n", "\\n"))
        self.content = StringList([*lines, "}"], source="")
        return super().run()


OUTSIDE = re.compile(r"\[([^\]]*)\]\(\.\./[^)]*\)")


def without_links_to_the_checkout(app: Sphinx, name: str, source: list[str]) -> None:
    """Files outside this folder are not part of the site: the text of their links stays."""
    if "/" not in name:
        source[0] = OUTSIDE.sub(r"\1", source[0])


def with_the_table_of_keys(app: Sphinx, name: str, source: list[str]) -> None:
    source[0] = source[0].replace("<!-- topology.schema -->", schema.markdown())


def setup(app: Sphinx) -> None:
    app.add_directive("mermaid", StateDiagram)
    app.connect("source-read", with_the_table_of_keys)
    app.connect("source-read", without_links_to_the_checkout)
