"""Single failures of a fabric: planted wiring faults are found, sound wiring is not blamed, children are ended."""

import json
from pathlib import Path

import pytest

from ibbond.cli.main import run
from ibbond.errors import Refused
from ibbond.sim.whatif import Findings, failures, what_if
from ibbond.topology.default import TWO_HOSTS
from ibbond.topology.load import parse

HOST = """
[hosts.{0}]
ports = {{ ib0 = "{1}", ib1 = "{2}" }}
bonds.bond0 = {{ members = ["ib0", "ib1"], addresses = ["10.0.0.{3}/24"] }}
"""
SWITCHES = """
[switches]
leaf1 = {}
leaf2 = {}
spine1 = {}
spine2 = {}
"""
LINKS = "".join(f'[[links]]\nbetween = ["leaf{leaf}", "spine{spine}"]\n' for leaf in (1, 2) for spine in (1, 2))


def fabric(*wrong: tuple[str, str, str]) -> str:
    """Four hosts at two leaves; `wrong` are (host, switch of ib0, switch of ib1) that are wired otherwise."""
    wiring = {f"h{n}": ("leaf1", "leaf2") for n in range(1, 5)} | {host: (one, two) for host, one, two in wrong}
    hosts = [HOST.format(host, *ends, number) for number, (host, ends) in enumerate(wiring.items(), 1)]
    return "".join([SWITCHES, LINKS, *hosts])


def found(text: str) -> Findings:
    return what_if(parse(text), workers=2)


def cut_off(findings: Findings) -> dict[str, tuple[str, ...]]:
    return {f"{each.kind} {each.name}": each.cut_off for each in findings.cutting}


def test_sound_wiring_survives_every_cable_and_switch() -> None:
    findings = found(fabric())
    assert findings.survives
    assert cut_off(findings) == {}
    assert findings.splitting == []
    assert len(findings.consequences) == 12 + 4 + 4 + 1
    by_name = {each.name: each for each in findings.consequences}
    assert by_name["leaf1"].redundancy_lost == ("h1", "h2", "h3", "h4")
    assert by_name["h1/ib0"].redundancy_lost == ("h1",)
    assert set(by_name["h1/ib0"].interrupted_ms) <= {"h1"}
    assert by_name["h3"].cut_off == ("h3",)
    assert not by_name["spine1"].cut_off
    assert by_name["subnet manager"].cut_off == ()


def test_both_members_at_one_leaf_are_found() -> None:
    findings = found(fabric(("h2", "leaf1", "leaf1")))
    assert findings.one_switch == ("h2",)
    assert cut_off(findings) == {"switch leaf1": ("h2",)}


def test_one_swapped_cable_is_found() -> None:
    findings = found(fabric(("h2", "leaf1", "leaf1"), ("h3", "leaf2", "leaf2")))  # ib1 of h2 and ib0 of h3
    assert findings.one_switch == ("h2", "h3")
    assert cut_off(findings) == {"switch leaf1": ("h2",), "switch leaf2": ("h3",)}


def test_an_uplink_at_the_wrong_spine_is_found() -> None:
    """Without spine1, leaf1 is alone, and every link of the hosts stays up: no bond knows that it should fail over."""
    findings = found(fabric().replace('["leaf1", "spine2"]', '["leaf1", "spine1"]'))
    everywhere = ("h1", "h2", "h3", "h4")
    assert {each.name: each.split for each in findings.splitting} == {"leaf2/5": everywhere, "spine1": everywhere}
    assert not findings.survives


def test_a_single_link_between_two_halves_is_found() -> None:
    text = TWO_HOSTS.replace("count = 2", "").replace('ib0 = "s1", ib1 = "s2"', 'ib0 = "s1", ib1 = "s1"', 1)
    text = text.replace('ib0 = "s1", ib1 = "s2"', 'ib0 = "s2", ib1 = "s2"')
    findings = found(text)
    assert "cable s1/3" in cut_off(findings)
    assert not findings.survives


def test_what_fails_is_every_cable_switch_adapter_and_the_manager() -> None:
    kinds = [failure.kind for failure in failures(parse(TWO_HOSTS))]
    assert {kind: kinds.count(kind) for kind in kinds} == {"cable": 6, "switch": 2, "adapter": 2, "manager": 1}


@pytest.mark.parametrize("wrong", [(), (("h2", "leaf1", "leaf1"),)])
def test_the_command(wrong: tuple[tuple[str, str, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "fabric.toml"
    file.write_text(fabric(*wrong))
    assert run(["fabric", "whatif", str(file), "--json", "--workers", "2"]) == len(wrong)
    facts = json.loads(capsys.readouterr().out)
    assert facts["survives"] == (not wrong)
    assert len(facts["failures"]) == 21
    assert run(["fabric", "whatif", str(file)]) == len(wrong)
    text = capsys.readouterr().out
    assert ("all ports at one switch: h2" in text) == bool(wrong)


def test_the_page_says_what_cuts_off_hosts_and_escapes_names(tmp_path: Path) -> None:
    file, page = tmp_path / "fabric<b>.toml", tmp_path / "page.html"
    file.write_text(fabric(("h2", "leaf1", "leaf1")))
    assert run(["fabric", "whatif", str(file), "--workers", "2", "--page", str(page)]) == 1
    text = page.read_text()
    assert "<tr><td>switch leaf1</td><td class=names>h2</td></tr>" in text
    assert "All ports are cabled to one switch: h2." in text
    assert "fabric&lt;b&gt;.toml" in text
    assert "<b>" not in text
    assert "<svg" in text
    numbers = json.loads(text.partition('id="numbers">')[2].partition("</script>")[0])
    assert numbers["one_switch"] == ["h2"]


def test_a_page_that_cannot_be_written_is_refused_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "fabric.toml"
    file.write_text(fabric())
    assert run(["fabric", "whatif", str(file), "--page", str(tmp_path / "none" / "page.html")]) == 2
    assert "page.html" in capsys.readouterr().err


def test_a_child_that_fails_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> dict[str, object]:
        raise ValueError("broken")

    monkeypatch.setattr("ibbond.sim.whatif.consequence", fail)
    with pytest.raises(RuntimeError, match="ended without a result"):
        found(TWO_HOSTS)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mtu = 2044\n", "no hosts"),
        ("nonsense", "not TOML"),
        ('[switches]\ns1 = {}\n[hosts.h1]\nports.ib0 = "s1"', "one host"),
    ],
)
def test_bad_input_is_refused(text: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "fabric.toml"
    file.write_text(text)
    assert run(["fabric", "whatif", str(file)]) == 2
    assert words in capsys.readouterr().err


def test_a_fabric_that_does_not_come_up_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ibbond.sim.whatif.MAX_SETTLING_MS", 0)
    with pytest.raises(Refused, match="does not come up"):
        found(TWO_HOSTS)
