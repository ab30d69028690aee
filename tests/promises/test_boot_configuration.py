"""The boot configuration of the 2007 package: its four variables make the bond; the unit calls what makes it."""

import configparser
from pathlib import Path

from click.testing import CliRunner

from ibbond import Lab
from ibbond.cli.apply import apply
from tests.live.commands import EXAMPLES, IBBOND
from tests.promises.lab_host import bare, lab, needs_lab, shown

__all__ = ["bare", "lab"]

OPENIB_CONF = "ONBOOT=yes\nIPOIBBOND_ENABLE=yes\nIPOIB_BONDS=bond0\nbond0_IP=10.0.0.1/24\nbond0_SLAVES=ib0,ib1\n"


def test_the_unit_and_the_udev_rule_fit_together() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(EXAMPLES / "ibbond.service")
    words = unit["Service"]["ExecStart"].split()
    assert words[1:3] == ["ibbond", "apply"]
    assert words[3] in CliRunner().invoke(apply, ["--help"]).output
    assert "RemainAfterExit" not in unit["Service"], "a device that returns starts it again"
    assert "ibbond.service" in (EXAMPLES / "90-ibbond.rules").read_text()


class TestInALab:
    pytestmark = needs_lab

    def test_the_four_variables(self, bare: Lab, tmp_path: Path) -> None:
        (tmp_path / "openib.conf").write_text(OPENIB_CONF)
        bare["h1"].run([IBBOND, "apply", str(tmp_path / "openib.conf")])
        facts = shown(bare)
        assert [each["name"] for each in facts["members"]] == ["ib0", "ib1"]  # type: ignore[attr-defined]
        assert "10.0.0.1/24" in facts["addresses"]  # type: ignore[operator]
        bare["h1"].run([IBBOND, "wait", "bond0", "--active", "--address", "--timeout", "30"])
        assert "nothing to do" in bare["h1"].run([IBBOND, "apply", str(tmp_path / "openib.conf")]).stdout
        bare["h1"].run([IBBOND, "ib-bond", "--stop"])
