"""What is not a recording is refused, and says where."""

import json
from pathlib import Path

import pytest

from ibbond.abi.recording import parse_case, parse_recording
from ibbond.errors import Malformed

GOLDEN = Path(__file__).parents[1] / "golden" / "kernel-6.1"
CASE = {"name": "one", "steps": [{"op": "masters", "value": "+bond0"}], "devices": {"ib0": {"type": "infiniband"}}}


def test_all_recordings_are_read() -> None:
    cases = [case for path in sorted(GOLDEN.glob("*.json")) for case in parse_recording(path.read_bytes())]
    assert len(cases) == 596
    assert len({case.name for case in cases}) == 596


def test_the_shortest_case() -> None:
    case = parse_case(json.dumps(CASE))
    assert case.bond == "bond0"
    assert case.devices["ib0"].carrier
    assert [str(step) for step in case.steps] == ["masters '+bond0'"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"steps": [{"op": "dance"}]}, "step 0 is 'dance'"),
        ({"steps": [{"op": "write", "path": "bonding/mode"}]}, "lacks value"),
        ({"steps": [{"op": "read"}]}, "lacks path"),
        ({"steps": [{"op": "carrier", "dev": "ib0"}]}, "lacks on"),
        ({"steps": [{"op": "wait_ms", "ms": "long"}]}, "Expected"),
        ({"devices": {"ib0": {"type": "token-ring"}}}, "token-ring"),
        ({"name": 5}, "Expected `str`"),
        ({"monitor": True}, "0 of them have a time"),
        ({"observations": {"events": [{"what": "log"}]}}, "without t_ms"),
    ],
)
def test_a_case_that_does_not_keep_the_format(change: dict[str, object], says: str) -> None:
    with pytest.raises(Malformed, match="(?s).*" + says.replace("`", ".")):
        parse_case(json.dumps({**CASE, **change}))


@pytest.mark.parametrize("text", [b"", b"\n\n", b"{", b"\xff\xfe", b"[]", b'{"name": "a"}', b'{"a": ' + b"[" * 3000])
def test_a_file_that_is_none(text: bytes) -> None:
    with pytest.raises(Malformed):
        parse_recording(text)


def test_the_line_is_named() -> None:
    with pytest.raises(Malformed, match="line 2"):
        parse_recording(json.dumps(CASE).encode() + b"\n{}\n")
