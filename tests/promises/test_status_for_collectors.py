"""Status for support collectors: stable JSON of a check, and a bundle that says the same on another machine."""

import json
from pathlib import Path

from click.testing import CliRunner

from ibbond.backend.kernel.bonds import KernelBackend
from ibbond.cli.check import check
from ibbond.ops.collect import collect, write_tar
from tests.ops.saved_copy import saved_host


def test_a_bundle_checked_elsewhere(tmp_path: Path) -> None:
    root = saved_host(tmp_path / "host", slots=("0000:03:00.0", "0000:03:00.1"))
    write_tar(collect(KernelBackend(root)), tmp_path / "bundle.tar.gz")
    seen = []
    for where in (root, tmp_path / "bundle.tar.gz"):
        result = CliRunner().invoke(check, ["--root", str(where), "--json"], standalone_mode=False)
        assert result.return_value == 1, result.output
        seen.append(json.loads(result.output))
    keys = {"kernel", "bonds", "clean", "findings"}
    assert keys | {"unknown", "unreadable"} == set(seen[0])
    for (
        key
    ) in keys:  # a bundle says more than a bare copy of the files: collect has asked for the switches, for example
        assert seen[0][key] == seen[1][key]
    finding = next(each for each in seen[0]["findings"] if each["rule"] == "one-adapter")
    assert set(finding) >= {"rule", "severity", "bond", "member", "what", "why", "fix"}
