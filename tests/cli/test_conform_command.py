"""`ibbond conform`: what it prints and its exit codes."""

import json
import lzma
from pathlib import Path

import pytest

from ibbond.cli.main import run

GOLDEN = Path(__file__).parents[1] / "golden" / "kernel-6.1"


def conform(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = run(["conform", *words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def tampered(path: Path, to: Path) -> Path:
    lines = path.read_text().splitlines()
    case = json.loads(lines[0])
    number, step = next((n, s) for n, s in enumerate(case["steps"]) if s["op"] == "masters_read")
    step["expect"] = "bond9"
    to.write_text("\n".join([json.dumps(case), *lines[1:]]) + "\n")
    assert number == 0
    return to


def test_all_pass(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = conform(capsys, str(GOLDEN / "masters.json"))
    assert code == 0
    assert "masters.json: 5 passed, 0 failed, 0 skipped" in out


def test_a_directory_and_a_compressed_recording(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "a.json.xz").write_bytes(lzma.compress((GOLDEN / "masters.json").read_bytes()))
    (tmp_path / "README.md").write_text("not a recording")
    code, out, _ = conform(capsys, "--json", str(tmp_path))
    assert code == 0
    assert json.loads(out)["files"] == {str(tmp_path / "a.json.xz"): {"passed": 5, "failed": 0, "skipped": 0}}


def test_a_failure_says_where(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tampered(GOLDEN / "masters.json", tmp_path / "bad.json")
    code, out, _ = conform(capsys, str(path))
    assert code == 1
    assert "4 passed, 1 failed, 0 skipped" in out
    assert "! step 0: masters_read: expected bond9, got ''" in out
    code, out, _ = conform(capsys, "--json", str(path))
    assert code == 1
    (failed,) = json.loads(out)["failed_cases"]
    assert (failed["step"], failed["expected"], failed["got"]) == (0, "bond9", "")
    assert failed["name"].startswith("masters/")


def test_verbose_lists_every_case_and_every_difference(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    _, out, _ = conform(capsys, "--verbose", str(tampered(GOLDEN / "masters.json", tmp_path / "bad.json")))
    assert "passed  masters/errors" in out
    assert "step 0: masters_read" in out


def test_skips_say_why(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = conform(capsys, "--only", "infiniband-tun-down/802.3ad/bond-up", str(GOLDEN / "enslave.json"))
    assert code == 0
    assert "skipped enslave/ether/infiniband-tun-down/802.3ad/bond-up: 802.3ad" in out


@pytest.mark.parametrize("text", ["", "{}\n", "no json\n", '{"name": "a", "steps": [{"op": "dance"}]}\n'])
def test_what_is_no_recording(capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.json").write_text(text)
    code, out, err = conform(capsys, str(tmp_path / "bad.json"))
    assert code == 2
    assert not out
    assert "cannot replay" in err


def test_paths_that_lead_nowhere(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for words in ([str(tmp_path / "none.json")], [str(tmp_path)], []):
        code, _, err = conform(capsys, *words)
        assert code == 2
        assert err


def test_a_choice_that_fits_no_case(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = conform(capsys, "--only", "zzz", str(GOLDEN / "masters.json"))
    assert (code, out) == (2, "")
    assert "cannot replay cases with 'zzz' in their name: none of the 5 names contains it; the first is masters/" in err
    code, out, _ = conform(capsys, "--only", "zzz", "--json", str(GOLDEN / "masters.json"))
    assert code == 2
    assert set(json.loads(out)["error"]) == {"what", "why", "fix"}


@pytest.mark.parametrize("ms", ["-1", "-0.5", "NaN", "Infinity"])
def test_a_wait_that_is_none(capsys: pytest.CaptureFixture[str], tmp_path: Path, ms: str) -> None:
    path = tmp_path / "bad.json"
    steps = ['{"op": "masters", "value": "+bond0"}', '{"op": "wait_ms", "ms": ' + ms + "}"]
    path.write_text('{"name": "a", "steps": [' + ", ".join(steps) + "]}\n")
    code, out, err = conform(capsys, str(path))
    assert (code, out) == (2, "")
    assert "cannot replay" in err
