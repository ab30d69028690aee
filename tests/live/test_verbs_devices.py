"""RDMA devices in lab hosts: there without being switched on, true at every moment, and not seen from outside."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ibbond.host import notification
from tests.live.verbs_lab import IBBOND, VerbsLab, installed, verbs_lab

pytestmark = [
    pytest.mark.skipif(not installed("ibv_devinfo", "rdma"), reason="ibverbs-utils or iproute2 is not installed"),
    pytest.mark.skipif(notification.why_not() is not None, reason=str(notification.why_not())),
]
SYSFS = "/sys/class/infiniband/mlx4_0"


@pytest.fixture(scope="module")
def lab() -> Iterator[VerbsLab]:
    with verbs_lab(f"dev{os.getpid() % 100000}") as running:
        yield running


def test_a_program_finds_its_hosts_adapter(lab: VerbsLab) -> None:
    found = lab.run("h1", "ibv_devinfo")
    assert "InfiniBand (0)" in found
    assert "0002:c903:0010:0000" in found
    assert found.count("PORT_ACTIVE") == 2
    assert "0002:c903:0010:0010" in lab.run("h2", "ibv_devinfo")
    lids = {host: lab.status()["hosts"][host]["devices"]["ib0"]["lid"] for host in ("h1", "h2")}
    for host, lid in lids.items():
        assert f"lid {lid} " in lab.run(host, "rdma", "link").splitlines()[0]


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
def test_in_scripts_by_path_in_the_background_and_for_other_users(lab: VerbsLab, how: str) -> None:
    assert lab.run("h1", "sh", "-c", how).count("PORT_ACTIVE") == 2


def test_the_files_lead_from_one_device_to_the_other(lab: VerbsLab) -> None:
    assert lab.run("h1", "ls", f"{SYSFS}/device/net").split() == ["ib0", "ib1"]
    assert lab.run("h1", "ls", "/sys/class/net/ib1/device/infiniband").split() == ["mlx4_0"]
    assert lab.run("h1", "cat", "/sys/class/net/bond0/bonding/slaves").split() == ["ib0", "ib1"]
    assert lab.run("h1", "cat", f"{SYSFS}/ports/1/link_layer") == "InfiniBand\n"
    gid = lab.run("h1", "cat", f"{SYSFS}/ports/1/gids/0").strip().replace(":", "")
    assert gid == "fe80" + "0" * 12 + "0002c90300100001"


def test_ports_are_shown_as_they_are_now(lab: VerbsLab) -> None:
    def states() -> list[str]:
        return lab.run("h1", "sh", "-c", f"cat {SYSFS}/ports/*/state").splitlines()

    lab.wait(lambda: states() == ["4: ACTIVE"] * 2, within=10)
    lab.cut("h1/ib0")
    assert states() == ["1: DOWN", "4: ACTIVE"]
    assert "state DOWN physical_state POLLING" in lab.run("h1", "rdma", "link")
    assert "PORT_DOWN" in lab.run("h1", "ibv_devinfo")
    lab.mend("h1/ib0")
    lab.wait(lambda: states() == ["4: ACTIVE"] * 2, within=10)


def test_an_adapter_that_is_pulled_is_not_there(lab: VerbsLab) -> None:
    lab.kill("h2")
    assert lab.run("h2", "ls", "/sys/class/infiniband") == ""
    assert "mlx4" not in lab.run("h2", "ibv_devices")
    lab.revive("h2")
    assert "mlx4_0" in lab.run("h2", "ibv_devices")


def test_from_a_host_into_another_the_devices_are_the_others(lab: VerbsLab) -> None:
    found = lab.run("h1", IBBOND, "lab", "exec", "h2", "--", "ibv_devinfo")
    assert "0002:c903:0010:0010" in found


def test_nothing_is_seen_outside(lab: VerbsLab) -> None:
    lab.run("h1", "ibv_devinfo")
    outside = Path("/sys/class/infiniband"), Path("/dev/infiniband")
    assert not any(path.exists() for path in outside) or Path("/sys/module/ib_core").exists()
    assert "mlx4_0" not in subprocess.run(["rdma", "link"], capture_output=True, text=True, check=False).stdout
    mounts = Path("/proc/self/mountinfo").read_text()
    assert not any(f" {place} " in mounts for place in ("/sys/class", *map(str, outside)))


def test_opens_without_number_and_descriptors_without_end_are_given_back(lab: VerbsLab) -> None:
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
        count, code = lab.run("h1", "python3", "-c", program).split()
        assert int(count) >= 500
        assert code == "24"
    assert "mlx4_0" in lab.run("h1", "ibv_devices")


def test_the_dev_folder_works_as_before(lab: VerbsLab) -> None:
    lab.run("h1", "sh", "-c", "echo x >/dev/null; head -c 8 /dev/urandom | wc -c; ls /dev/pts /dev/shm >/dev/null")
