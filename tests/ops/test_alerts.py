"""The alert rules against histories: each fires in the one in which it must, with no others, and health fires none.

Read first: "Unit testing for rules" of Prometheus. promtool is the judge. The page and the rules have the same
names, and rules only ask for metrics and rules of `check` that exist.
"""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from ibbond.ops.check import RULES
from ibbond.ops.metrics import METRICS

ROOT = Path(__file__).parents[2]
FILE = ROOT / "examples/prometheus/ibbond.rules.yml"
PAGE = (ROOT / "docs/monitoring.md").read_text()
ALERTS = [rule["alert"] for rule in YAML(typ="safe").load(FILE)["groups"][0]["rules"]]
MINUTES = 90
HEALTH = {  # what a scrape of a good host says
    'up{job="ibbond"}': "1",
    "ibbond_exporter_readable": "1",
    "ibbond_exporter_watching": "1",
    'ibbond_bond_present{bond="bond0"}': "1",
    'ibbond_bond_up{bond="bond0"}': "1",
    'ibbond_bond_carrier{bond="bond0"}': "1",
    'ibbond_bond_members{bond="bond0"}': "2",
    'ibbond_bond_members_expected{bond="bond0"}': "2",
    'ibbond_bond_members_usable{bond="bond0"}': "2",
    'ibbond_member_active{bond="bond0",member="ib0"}': "1",
    'ibbond_member_primary{bond="bond0",member="ib0"}': "1",
    'ibbond_member_link_up{bond="bond0",member="ib0"}': "1",
    'ibbond_member_device_up{bond="bond0",member="ib0"}': "1",
    'ibbond_member_link_failures_total{bond="bond0",member="ib0"}': "2",
    'ibbond_port_active{bond="bond0",member="ib0"}': "1",
    'ibbond_port_subnet_manager_lid{bond="bond0",member="ib0"}': "1",
    'ibbond_port_errors_total{bond="bond0",member="ib0",counter="symbol_error"}': "7",
}


def finding(rule: str) -> dict[str, str]:
    return {f'ibbond_check_finding{{bond="bond0",member="ib0",rule="{rule}"}}': "1"}


def changed(metric: str, value: str) -> dict[str, str]:
    """One metric of health with another value; a value that begins with + grows by so much each minute."""
    (series,) = (name for name in HEALTH if name.partition("{")[0] == metric)
    return {series: value}


STORIES: dict[str, dict[str, str]] = {
    "IbbondExporterDown": changed("up", "0"),
    "IbbondExporterBlind": changed("ibbond_exporter_watching", "0"),
    "IbbondBondMissing": changed("ibbond_bond_present", "0"),
    "IbbondBondDown": changed("ibbond_bond_carrier", "0"),
    "IbbondRedundancyLost": changed("ibbond_bond_members_usable", "1"),
    "IbbondMemberMissing": changed("ibbond_bond_members", "1"),
    "IbbondMemberFlaps": changed("ibbond_member_link_failures_total", "+1"),
    "IbbondPortActiveMemberDown": changed("ibbond_member_link_up", "0"),
    "IbbondMemberSetDown": changed("ibbond_member_device_up", "0"),
    "IbbondNotOnPrimary": changed("ibbond_member_active", "0"),
    "IbbondOptionsDrifted": finding("option-differs"),
    "IbbondNoLinkMonitor": finding("no-link-monitor"),
    "IbbondKernelDefect": finding("kernel-before-2007-patches"),
    "IbbondSharedFate": finding("one-switch"),
    "IbbondMtuDiffers": finding("member-mtu-differs"),
    "IbbondPartitionDiffers": finding("pkey-differs"),
    "IbbondAddressFails": finding("dad-failed"),
    "IbbondTrafficOutsideBond": finding("route-through-member"),
    "IbbondPortErrors": changed("ibbond_port_errors_total", "+1"),
    "IbbondNoSubnetManager": changed("ibbond_port_subnet_manager_lid", "0"),
}


def firing(series: dict[str, str], tmp_path: Path) -> set[str]:
    """The alerts that fire after `MINUTES` in which the series were so."""

    def values(value: str) -> str:
        return f"0+{value[1:]}x{MINUTES}" if value.startswith("+") else f"{value}+0x{MINUTES}"

    asked = [{"eval_time": f"{MINUTES}m", "alertname": alert, "exp_alerts": []} for alert in ALERTS]
    listed = [{"series": name, "values": values(value)} for name, value in series.items()]
    story = {"interval": "1m", "input_series": listed, "alert_rule_test": asked}
    path = tmp_path / "test.yml"
    path.write_text(json.dumps({"rule_files": [str(FILE)], "evaluation_interval": "1m", "tests": [story]}))
    done = subprocess.run(["promtool", "test", "rules", str(path)], capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    found = set(re.findall(r"alertname: ?(\w+)", said))  # asked for no alert, it names those that it got
    assert bool(found) == bool(done.returncode), said
    return found


needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is missing")


@needs_promtool
def test_health_fires_nothing(tmp_path: Path) -> None:
    assert firing(HEALTH, tmp_path) == set()


@needs_promtool
@pytest.mark.parametrize("alert", STORIES)
def test_each_fires_alone(alert: str, tmp_path: Path) -> None:
    assert firing(HEALTH | STORIES[alert], tmp_path) == {alert}


@needs_promtool
def test_no_exporter_is_an_alert(tmp_path: Path) -> None:
    assert firing({'up{job="node"}': "1"}, tmp_path) == {"IbbondExporterAbsent"}


def test_every_alert_has_its_story_and_its_row() -> None:
    assert {*STORIES, "IbbondExporterAbsent"} == set(ALERTS)
    assert re.findall(r"^\| `(Ibbond\w+)`", PAGE, re.MULTILINE) == ALERTS


def test_the_page_has_every_metric() -> None:
    names = [metric.name + ("_total" if metric.kind == "counter" else "") for metric in METRICS]
    assert re.findall(r"^\| `(ibbond_\w+)`", PAGE, re.MULTILINE) == ["ibbond_exporter_readable", *names]


def test_alerts_ask_for_what_exists() -> None:
    names = {metric.name + ("_total" if metric.kind == "counter" else "") for metric in METRICS}
    text = FILE.read_text()
    expressions = "\n".join(re.findall(r"expr: (.*)", text))
    assert set(re.findall(r"\bibbond_\w+", expressions)) <= names | {"ibbond_exporter_readable"}
    for pattern in re.findall(r'rule=~?"([^"]+)"', expressions):
        for one in pattern.split("|"):
            assert [rule for rule in RULES if re.fullmatch(one, rule)], one
