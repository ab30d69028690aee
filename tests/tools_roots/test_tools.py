"""What ibbond renders is read by the tools themselves, field by field; needs the roots of `prepare`."""

import pytest

from ibbond.config import bonds_toml
from ibbond.config.fields import compared
from ibbond.config.files import RENDERERS, parsed_version, render
from ibbond.config.gaps import reduced
from tests.tools_roots.states import STATES
from tests.tools_roots.tools import RELEASES, TOOLS, root_of

CASES = [(to, release, name) for to in TOOLS for release in RELEASES for name in STATES]
ADDED = {("transport", ("datagram",))}  # by renderers, where nothing else is said


@pytest.mark.roots
@pytest.mark.parametrize(("to", "release", "state"), CASES)
def test_the_tool_keeps_what_is_held(to: str, release: str, state: str) -> None:
    family, tool = TOOLS[to]
    if (root := root_of(family, release)) is None:
        pytest.skip(f"no root {family}-{release}: run tests/tools_roots/prepare as root")
    desired = bonds_toml.read({"bonds.toml": STATES[state]})
    assert not desired.problems
    versions = RENDERERS[to].versions
    version = parsed_version(versions[min(list(RELEASES).index(release), len(versions) - 1)])
    rendering = render(desired, to, version)
    read = tool(root, rendering.files)
    held, _ = reduced(desired, RENDERERS[to].gaps, version)
    want, got = ({k: v for k, v in compared(each).items() if (k[1], v) not in ADDED} for each in (held, read))
    if to == "cloud-init-2":  # 25.1 hands it to libnetplan, which writes members in an order of its own
        want, got = ({k: tuple(sorted(v)) for k, v in each.items()} for each in (want, got))
    assert got == want, (rendering.files, [problem.what for problem in read.problems])
    assert [problem.what for problem in read.problems if problem.kind == "tool" and to != "cloud-init-1"] == []
