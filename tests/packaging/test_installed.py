"""The Debian package and the executable in bare Debians, pip and pipx from a read-only source: run, upgraded, removed.

Nothing is installed on this machine. `IBBOND_DIST=DIR` tests the files of a release instead of building them.
"""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ibbond.cli.main import COMMANDS
from tests.packaging.bare_root import copy_of_base, run_in, why_not
from tests.packaging.published import ROOT, build, given, one

pytestmark = [
    pytest.mark.bare,
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
    pytest.mark.skipif(not shutil.which("dh"), reason="no debhelper: scripts/setup full installs it"),
]
RELEASES = ("bookworm", "trixie")
APT = "export DEBIAN_FRONTEND=noninteractive; apt-get -qq update; apt-get -qq -y install --no-install-recommends"
BONDS = """version = 1
[bond.bond0]
members = ["ib0", "ib1"]
addresses = ["10.0.0.1/24"]
options = {mode = "active-backup", miimon = 100, num_grat_arp = 3}
"""
PAGE = """(ibbond lab web --json >/tmp/url & web=$!; python3 -c "
import json, time, urllib.request
for _ in range(300):
    line = open('/tmp/url').readline()
    if line.endswith(chr(10)):
        break
    time.sleep(0.1)
print('page', urllib.request.urlopen(json.loads(line)['url']).status)"; kill $web)"""
WHAT_IS_LEFT = (
    "find / -xdev -name '*ibbond*' ! -path '/*.deb' ! -path '/var/log/*' ! -path '/var/lib/apt/*' "
    "! -path '/var/cache/*' ! -path '/tmp/*'"
)
COMPLETE = {
    "bash": "bash -ec '. /usr/share/bash-completion/completions/ibbond; COMP_WORDS=(ibbond lab u); COMP_CWORD=2; "
    '_ibbond_completion ibbond; printf "%s\\n" "${COMPREPLY[@]}"\'',
    "zsh": "zsh -fc 'autoload -Uz compinit; compinit -u -D; print -r -- $_comps[ibbond]'",
    "fish": "fish -c 'complete -C \"ibbond lab u\"'",
}


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return given() or build(tmp_path_factory.mktemp("dist"))


def newer(package: Path, place: Path) -> Path:
    """The same package with a higher version."""
    tree = place / "tree"
    subprocess.run(["dpkg-deb", "-R", package, tree], check=True)
    control = tree / "DEBIAN/control"
    control.write_text(re.sub(r"(?m)^(Version: .*)$", r"\1+1", control.read_text()))
    subprocess.run(["dpkg-deb", "-Znone", "--root-owner-group", "-b", tree, place / "newer.deb"], check=True, stdout=-3)
    return place / "newer.deb"


@pytest.mark.parametrize("release", RELEASES)
def test_the_debian_package(dist: Path, tmp_path: Path, release: str) -> None:
    root = copy_of_base(tmp_path / "root", release)
    shutil.copy(one(dist, "*.deb"), root / "ibbond.deb")
    shutil.copy(newer(one(dist, "*.deb"), tmp_path), root / "newer.deb")
    run_in(root, f"{APT} /ibbond.deb fuse3 iputils-ping procps systemd zsh fish", {})
    before = run_in(root, "dpkg -L ibbond | xargs sha256sum 2>/dev/null | sort", {}).stdout
    commands(root)
    completions(root)
    service_is_off(root)
    run_in(root, "dpkg -i /ibbond.deb && dpkg -i /newer.deb && systemctl enable ibbond.service", {})
    assert "+1" in run_in(root, "dpkg-query -W ibbond", {}).stdout
    run_in(root, "ibbond --version && dpkg -i --force-downgrade /ibbond.deb && dpkg --verify ibbond", {})
    assert run_in(root, "dpkg -L ibbond | xargs sha256sum 2>/dev/null | sort", {}).stdout == before
    assert "enabled" in run_in(root, "systemctl is-enabled ibbond.service", {}).stdout, "an upgrade turned it off"
    run_in(root, "dpkg --purge ibbond", {})
    assert run_in(root, WHAT_IS_LEFT, {}).stdout == ""


def commands(root: Path) -> None:
    """`check`, `apply`, `demo` and a story by name, by root and by an ordinary user."""
    (root / "etc/ibbond").mkdir()
    (root / "etc/ibbond/bonds.toml").write_text(BONDS)
    assert run_in(root, "cd / && ibbond sim run two_hosts --json", {}).returncode == 0
    assert run_in(root, "ibbond check", {}, check=False).returncode in (0, 1)
    plan = run_in(root, "ibbond apply --dry-run --json", {}, check=False, network=False)
    assert plan.returncode == 2, plan.stdout + plan.stderr
    assert "ib0" in plan.stdout + plan.stderr, "a plan for devices that are missing is refused"
    demo = json.loads(run_in(root, "ibbond demo --rounds 1 --json", {}, check=False).stdout)
    assert demo["mode"] == "live", demo
    assert "failover" in [event["what"] for event in demo["events"]]
    assert (
        "extcap {version=" in run_in(root, "/usr/lib/*/wireshark/extcap/ibbond-extcap --extcap-interfaces", {}).stdout
    )
    for name in COMMANDS:
        assert "ibbond" in run_in(root, f"zcat /usr/share/man/man1/ibbond-{name}.1.gz", {}).stdout


def completions(root: Path) -> None:
    assert run_in(root, COMPLETE["bash"], {}).stdout == "up\n"
    assert run_in(root, COMPLETE["zsh"], {}).stdout.strip() == "_ibbond"
    assert "up" in run_in(root, COMPLETE["fish"], {}).stdout


def service_is_off(root: Path) -> None:
    for unit in ("ibbond.service", "ibbond-exporter.service"):
        state = run_in(root, f"systemctl is-enabled {unit}; systemd-analyze verify {unit}", {}, check=False)
        assert state.stdout.strip() == "disabled", f"{unit}: {state.stdout}{state.stderr}"
        assert "ibbond" not in state.stderr, state.stderr


@pytest.mark.parametrize("release", RELEASES)
def test_the_executable_without_network(dist: Path, tmp_path: Path, release: str) -> None:
    root = copy_of_base(tmp_path / "root", release)
    run_in(root, f"{APT} python3 iproute2 fuse3 iputils-ping procps", {})
    shutil.copy(one(dist, "ibbond-*-linux-*"), root / "usr/bin/ibbond")
    script = "ip link set lo up; ibbond --version; ibbond sim run two_hosts --json >/dev/null; ibbond lab up; "
    script += "ibbond lab exec h1 -- ping -c1 10.0.0.2; ibbond lab exec h1 -- ibbond bond list; "
    script += f"{PAGE}; ibbond lab down"
    done = run_in(root, script, {}, network=False)
    assert "1 received" in done.stdout
    assert "page 200" in done.stdout
    assert "h1/bond0" in done.stdout
    assert run_in(root, "rm -r /usr/bin/ibbond /root/.cache/pex; " + WHAT_IS_LEFT, {}).stdout == ""


def test_pipx_and_pip_from_a_read_only_source(dist: Path, tmp_path: Path) -> None:
    root = copy_of_base(tmp_path / "root", "trixie")
    run_in(root, f"{APT} pipx python3-venv", {})
    (root / "source").mkdir()
    subprocess.run(["tar", "-xzf", one(dist, "*.tar.gz"), "-C", root / "source", "--strip-components=1"], check=True)
    shutil.copy(one(dist, "*.whl"), root / one(dist, "*.whl").name)
    script = "mount --bind /source /source; mount -o remount,bind,ro /source; cd /tmp; "
    script += "pipx install --quiet /*.whl >/dev/null; export PATH=/root/.local/bin:$PATH; ibbond sim run two_hosts; "
    script += "test -e /root/.local/share/man/man1/ibbond-lab.1; pipx uninstall ibbond; "
    script += "python3 -m venv env; env/bin/pip install --quiet /source; env/bin/ibbond sim run two_hosts --json; "
    script += "test -e env/share/man/man1/ibbond-apply.1"
    done = run_in(root, script, {})
    assert '"broken": null' in done.stdout
    assert run_in(root, WHAT_IS_LEFT + " ! -path '/source/*' ! -name '*.whl'", {}).stdout == ""
    assert str(ROOT) not in done.stdout
