"""RDMA devices in lab hosts: there without being switched on, true at every moment, and not seen from outside."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ibbond import Lab
from ibbond.host import notification
from tests.live.background import installed
from tests.live.commands import IBBOND

pytestmark = [
    pytest.mark.skipif(not installed("ibv_devinfo", "rdma"), reason="ibverbs-utils or iproute2 is not installed"),
    pytest.mark.skipif(notification.why_not() is not None, reason=str(notification.why_not())),
]
SYSFS = "/sys/class/infiniband/mlx4_0"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as running:
        yield running


def test_a_program_finds_its_hosts_adapter(lab: Lab) -> None:
    found = lab["h1"].run(["ibv_devinfo"]).stdout
    assert "InfiniBand (0)" in found
    assert "0002:c903:0010:0000" in found
    assert found.count("PORT_ACTIVE") == 2
    assert "0002:c903:0010:0010" in lab["h2"].run(["ibv_devinfo"]).stdout
    lids = {host: lab.status()["hosts"][host]["devices"]["ib0"]["lid"] for host in ("h1", "h2")}
    for host, lid in lids.items():
        assert f"lid {lid} " in lab[host].run(["rdma", "link"]).stdout.splitlines()[0]


@pytest.mark.parametrize(
    "how",
    [
        "ibv_devinfo",
        "$(which ibv_devinfo)",
        "sh -c 'ibv_devinfo & wait'",
        "su nobody -s /bin/sh -c ibv_devinfo",
        "env -i PATH=$PATH ibv_devinfo",
    ],
)
def test_in_scripts_by_path_in_the_background_and_for_other_users(lab: Lab, how: str) -> None:
    assert lab["h1"].run(["sh", "-c", how]).stdout.count("PORT_ACTIVE") == 2


def test_the_files_lead_from_one_device_to_the_other(lab: Lab) -> None:
    assert lab["h1"].run(["ls", f"{SYSFS}/device/net"]).stdout.split() == ["ib0", "ib1"]
    assert lab["h1"].run(["ls", "/sys/class/net/ib1/device/infiniband"]).stdout.split() == ["mlx4_0"]
    assert lab["h1"].run(["cat", "/sys/class/net/bond0/bonding/slaves"]).stdout.split() == ["ib0", "ib1"]
    assert lab["h1"].run(["cat", f"{SYSFS}/ports/1/link_layer"]).stdout == "InfiniBand\n"
    gid = lab["h1"].run(["cat", f"{SYSFS}/ports/1/gids/0"]).stdout.strip().replace(":", "")
    assert gid == "fe80" + "0" * 12 + "0002c90300100001"


def test_ports_are_shown_as_they_are_now(lab: Lab) -> None:
    def states() -> list[str]:
        return lab["h1"].run(["sh", "-c", f"cat {SYSFS}/ports/*/state"]).stdout.splitlines()

    lab.wait(lambda: states() == ["4: ACTIVE"] * 2, within=10)
    lab.cut("h1/ib0")
    assert states() == ["1: DOWN", "4: ACTIVE"]
    assert "state DOWN physical_state POLLING" in lab["h1"].run(["rdma", "link"]).stdout
    assert "PORT_DOWN" in lab["h1"].run(["ibv_devinfo"]).stdout
    lab.mend("h1/ib0")
    lab.wait(lambda: states() == ["4: ACTIVE"] * 2, within=10)


def test_an_adapter_that_is_pulled_is_not_there(lab: Lab) -> None:
    lab.kill("h2")
    assert lab["h2"].run(["ls", "/sys/class/infiniband"]).stdout == ""
    assert "mlx4" not in lab["h2"].run(["ibv_devices"]).stdout
    lab.revive("h2")
    assert "mlx4_0" in lab["h2"].run(["ibv_devices"]).stdout


def test_from_a_host_into_another_the_devices_are_the_others(lab: Lab) -> None:
    found = lab["h1"].run([IBBOND, "lab", "exec", "h2", "--", "ibv_devinfo"]).stdout
    assert "0002:c903:0010:0010" in found


def test_nothing_is_seen_outside(lab: Lab) -> None:
    lab["h1"].run(["ibv_devinfo"])
    outside = Path("/sys/class/infiniband"), Path("/dev/infiniband")
    assert not any(path.exists() for path in outside) or Path("/sys/module/ib_core").exists()
    assert "mlx4_0" not in subprocess.run(["rdma", "link"], capture_output=True, text=True, check=False).stdout
    mounts = Path("/proc/self/mountinfo").read_text()
    assert not any(f" {place} " in mounts for place in ("/sys/class", *map(str, outside)))


def test_opens_without_number_and_descriptors_without_end_are_given_back(lab: Lab) -> None:
    """A thousand opens, one after the other, and more at once than there are numbers for."""
    program = (
        "import os\n"
        "flags = os.O_RDWR | os.O_CLOEXEC\n"
        "for _ in range(1000): os.close(os.open('/dev/infiniband/uverbs0', flags))\n"
        "held = []\n"
        "try:\n"
        "    while True: held.append(os.open('/dev/infiniband/uverbs0', flags))\n"
        "except OSError as error: print(len(held), error.errno)\n"
    )
    for _ in range(2):
        count, code = lab["h1"].run(["python3", "-c", program]).stdout.split()
        assert int(count) >= 500
        assert code == "24"
    assert "mlx4_0" in lab["h1"].run(["ibv_devices"]).stdout


def test_the_dev_folder_works_as_before(lab: Lab) -> None:
    lab["h1"].run("echo x >/dev/null; head -c 8 /dev/urandom | wc -c; ls /dev/pts /dev/shm >/dev/null")
