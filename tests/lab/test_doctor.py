"""What `lab doctor` says where something is missing."""

import pytest

from ibbond.host import tun
from ibbond.lab import doctor


def test_without_tun_devices_no_lab_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "why_not_live", lambda: "/dev/net/tun: No such file or directory")
    monkeypatch.setattr(tun, "available", lambda: "/dev/net/tun: No such file or directory")
    findings = doctor.examine()
    assert not doctor.can_run(findings)
    assert [finding.state for finding in findings[:2]] == ["missing", "missing"]
    assert "modprobe tun" in findings[1].fix


def test_an_ordinary_user_without_subordinate_ids_is_root_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "may_make_namespaces", lambda: False)
    monkeypatch.setattr(doctor, "map_commands", lambda process, user, group: [])
    [finding] = [finding for finding in doctor.examine() if finding.name == "users in hosts"]
    assert (finding.state, finding.found) == ("limited", "root alone")
    assert "uidmap" in finding.fix


def test_a_sysctl_that_forbids_user_namespaces_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"kernel/apparmor_restrict_unprivileged_userns": "1"}
    monkeypatch.setattr(doctor, "may_make_namespaces", lambda: False)
    monkeypatch.setattr(doctor, "_sysctl", values.get)
    [finding] = [finding for finding in doctor.examine() if finding.name == "user namespaces"]
    assert finding.state == "missing"
    assert finding.fix == "Run: sysctl kernel.apparmor_restrict_unprivileged_userns=0"
