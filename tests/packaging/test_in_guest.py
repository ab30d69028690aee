"""The Debian package installed in a machine with the kernel's own bonding driver: check, apply and a demo there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.virtual_machine import Host, Missing, VirtualMachine, kernel_root
from tests.packaging.published import build, given, one
from tests.packaging.test_installed import BONDS

pytestmark = [
    pytest.mark.bare,
    pytest.mark.skipif(not shutil.which("dh"), reason="no debhelper: scripts/setup full installs it"),
]
PROGRAM = "/usr/bin/ibbond"
FILES = 'dpkg -L ibbond | while read -r name; do [ -d "$name" ] || echo "$name"; done'


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return one(given() or build(tmp_path_factory.mktemp("dist")), "*.deb")


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    try:
        root = kernel_root()
    except Missing as missing:
        pytest.skip(str(missing))
    machine = VirtualMachine(root, memory_mib=1536, modules=("tun", "fuse"))
    host = machine.host()
    yield host
    host.close()
    machine.close()


def install(host: Host, package: Path) -> None:
    """Byte-compiling takes minutes under emulation."""
    done = host.try_run("dpkg", "-i", str(package), timeout=1500)
    assert done.code == 0, done.out + done.err


def test_installed_used_and_removed(host: Host, package: Path) -> None:
    install(host, package)
    installed = host.sh(FILES).split()
    assert PROGRAM in installed
    for port in (0, 1):
        host.add_port(f"ib{port}", adapter=port, node=1)
    host.sh(f"mkdir -p /etc/ibbond; cat >/etc/ibbond/bonds.toml <<'END'\n{BONDS}END\n")
    host.run(PROGRAM, "apply")
    bond = json.loads(host.run(PROGRAM, "bond", "show", "bond0", "--json"))
    assert [member["name"] for member in bond["members"]] == ["ib0", "ib1"]
    assert host.read("bond0/bonding/num_grat_arp").strip() == "3"
    judged = host.try_run(PROGRAM, "check", "--json")
    assert judged.code in (0, 1), judged.err
    assert "error" not in {finding["severity"] for finding in json.loads(judged.out)["findings"]}, judged.out
    assert "nothing to do" in host.run(PROGRAM, "apply")
    demo = json.loads(host.try_run(PROGRAM, "demo", "--rounds", "1", "--json", timeout=400).out)
    assert demo["mode"] == "live", demo
    host.sh("ip link del bond0; rm -r /etc/ibbond")
    host.run("dpkg", "--purge", "ibbond")
    left = host.sh(f"for name in {' '.join(installed)}; do [ ! -e $name ] || echo $name; done")
    assert left == ""
