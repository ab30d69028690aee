"""README's minute with a lab, typed as it stands: every command succeeds and shows what the text says."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not shutil.which("ibnetdiscover"), reason="infiniband-diags is not installed")
def test_the_minute_can_be_pasted(lab: str) -> None:
    match = re.search(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert match
    lines = match.group(1).splitlines()
    assert lines[0].startswith(". .venv/bin/activate")
    environment = {
        "PATH": f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin",
        "IBBOND_LAB": lab,  # instead of the name that a person's lab has
    }
    script = "set -e\n" + "\n".join(lines[1:])
    done = subprocess.run(["sh", "-c", script], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "3 received, 0% packet loss" in done.stdout
    assert re.search(r"failover +h1/bond0 +ib0 -> ib1", done.stdout)
    assert "\nib1\n" in done.stdout
    switches = re.findall(r'^Switch\t36 "S-\w+"\t\t# "(\w+)"', done.stdout, re.MULTILINE)
    assert sorted(switches) == ["s1", "s2"], "the tools see the whole subnet although the first cable is cut"
