"""The distribution's own tools bring up a bond from files that ibbond rendered, on the real driver.

Each runs in its debootstrap root (tests/tools_roots/prepare), in the guest, in the network namespace of the test: the
programs are Debian's, only the service manager that would start them at boot is not there. `ibbond config diff`
compares what the kernel holds afterwards with the desired state, setting by setting.
"""

import time

import pytest

from ibbond.config import bonds_toml
from ibbond.config.files import default_version, render
from tests.kernel.virtual_machine import Host
from tests.tools_roots.tools import root_of

STATE = """version = 1
[bond.bond0]
members = ["ib0", "ib1"]
mtu = 2044
addresses = ["10.0.0.1/24", "2001:db8::1/64"]
routes = [{to = "10.77.0.0/16", via = "10.0.0.254"}]
[bond.bond0.options]
mode = "active-backup"
miimon = 100
updelay = 200
downdelay = 100
num_grat_arp = 3
primary = "ib1"
primary_reselect = "failure"
resend_igmp = 2
"""
CONNECTED = '[device.ib1]\ntransport = "connected"\n'
ENTER = """
R={root}
mount -t tmpfs tmpfs $R/run; mkdir -p $R/run/network $R/run/systemd; chmod 755 $R/run
mount -t proc proc $R/proc; mount --rbind /dev $R/dev; mount --bind /sys $R/sys
"""
NETWORKD = """
mount -o remount,bind,ro $R/sys
SYSTEMD_LOG_TARGET=console chroot $R /usr/lib/systemd/systemd-networkd > /tmp/networkd.log 2>&1 < /dev/null &
"""
START = {  # format: the family of its root, what is said to it, whether it holds a transport mode
    "ifupdown": ("ifupdown", "chroot $R ifup bond0", True),
    "networkd": ("networkd", NETWORKD, False),
    "netplan": ("netplan", "chroot $R /usr/libexec/netplan/generate" + NETWORKD, False),
}


@pytest.mark.parametrize("to", START)
def test_the_tool_makes_what_was_rendered(host: Host, to: str) -> None:
    family, script, has_transport = START[to]
    if (root := root_of(family, "bookworm")) is None:
        pytest.skip(f"no root {family}-bookworm: run tests/tools_roots/prepare as root")
    text = STATE + (CONNECTED if has_transport else "")
    rendering = render(bonds_toml.read({"bonds.toml": text}), to, default_version(to))
    assert rendering.is_complete, rendering.losses
    files = {f"{root}/{path}": content for path, content in rendering.files.items()}
    if to == "ifupdown":
        files[f"{root}/etc/network/interfaces"] = "source /etc/network/interfaces.d/*\n"
    files[f"/tmp/{host.name}.toml"] = text
    host.python(
        "import pathlib\n"
        f"for path, text in {files!r}.items():\n"
        "    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)\n"
        "    pathlib.Path(path).write_text(text)\n"
    )
    host.sh(ENTER.format(root=root) + script)
    ready = host.ibbond("wait", "bond0", "--active", "--address", "--timeout", "60")
    log = host.sh("cat /tmp/networkd.log 2>/dev/null || true")
    assert ready.code == 0, ready.err + log[-1500:]
    assert [line for line in log.splitlines() if "Ignoring" in line and "Unknown section 'IPoIB'" not in line] == []
    until = time.monotonic() + 60
    while (differences := host.ibbond("config", "diff", f"/tmp/{host.name}.toml")).code != 0:
        assert time.monotonic() < until, differences.out + differences.err + log
