"""The one-line tool of 2007 with its options and defaults, in a lab host (on the kernel's driver: tests/kernel)."""

import json

from click.testing import CliRunner

from ibbond import Lab
from ibbond.cli.ib_bond import ib_bond
from tests.live.commands import IBBOND, read
from tests.promises.lab_host import bare, lab, needs_lab, pings_across_failover, shown

__all__ = ["bare", "lab"]


def test_its_defaults() -> None:
    reported = CliRunner().invoke(ib_bond, ["--help"]).output
    for text in ("bond0", "ib0,ib1", "length: 24", "100", "--stop-all", "--status-all"):
        assert text in reported


class TestInALab:
    pytestmark = needs_lab

    def test_create_show_delete(self, bare: Lab) -> None:
        bare["h1"].run([IBBOND, "ib-bond", "--bond-ip", "10.0.0.1"])
        facts = shown(bare)
        assert [each["name"] for each in facts["members"]] == ["ib0", "ib1"]  # type: ignore[attr-defined]
        assert "10.0.0.1/24" in facts["addresses"]  # type: ignore[operator]
        assert facts["options"]["miimon"] == 100  # type: ignore[index]
        pings_across_failover(bare)
        status = json.loads(bare["h1"].run([IBBOND, "ib-bond", "--status-all", "--json"]).stdout)
        assert [each["name"] for each in status["bonds"]] == ["h1/bond0"]
        bare["h1"].run([IBBOND, "ib-bond", "--stop"])
        assert read(bare["h1"], "bonding_masters") == ""
        assert bare["h1"].run([IBBOND, "ib-bond", "--stop"], check=False).returncode == 2
