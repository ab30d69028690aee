"""What sysfs says of InfiniBand adapters: the files below /sys/class that libraries and scripts read.

Read first: Documentation/ABI/stable/sysfs-class-infiniband of Linux, and `drivers/infiniband/core/sysfs.c` for the
texts. Paths count from /sys/class. A port's texts follow from what a subnet manager wrote to it, so that they are true
at the moment they are rendered. Left out: counters (perfquery reads them), files of single drivers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ibbond.fabric.hca import Hca
from ibbond.fabric.node import DEVICE_ID, VENDOR_ID
from ibbond.fabric.port import Port
from ibbond.verbs.verbs import PortState
from ibbond.wire import uverbs

FIRMWARE = (2, 42, 5000)
UVERBS_MAJOR, FIRST_UVERBS, FIRST_UMAD, FIRST_ISSM = 231, 192, 0, 64
RDMA_CM_DEV = (10, 58)
RDMA_CM_ABI, UMAD_ABI = 4, 5
WIDTHS = {1: 1, 2: 4, 4: 8, 8: 12}  # lanes, by PortInfo.LinkWidthActive
SPEEDS = {1: ("SDR", 25), 2: ("DDR", 50), 4: ("QDR", 100)}  # name and 100 Mbit/s of a lane, by LinkSpeedActive
PHYSICAL = {1: "Sleep", 2: "Polling", 3: "Disabled", 4: "PortConfigurationTraining", 5: "LinkUp",
            6: "LinkErrorRecovery", 7: "Phy Test"}  # fmt: skip
STATES = {PortState.DOWN: "DOWN", PortState.INIT: "INIT", PortState.ARMED: "ARMED", PortState.ACTIVE: "ACTIVE"}
STATIC = {
    "infiniband_verbs/abi_version": str(uverbs.ABI_VERSION),
    "infiniband_mad/abi_version": str(UMAD_ABI),
    "misc/rdma_cm/abi_version": str(RDMA_CM_ABI),
    "misc/rdma_cm/dev": "{}:{}".format(*RDMA_CM_DEV),
}


@dataclass(frozen=True, slots=True)
class RdmaDevice:
    """An adapter as programs of its host know it: `mlx4_0`, /dev/infiniband/uverbs0, one umad for each port."""

    name: str
    number: int  # of uverbs
    first_umad: int
    hca: Hca

    @property
    def ports(self) -> tuple[Port, ...]:
        return tuple(self.hca.ports[number] for number in sorted(self.hca.ports))

    @property
    def uverbs(self) -> str:
        return f"uverbs{self.number}"

    @property
    def uverbs_dev(self) -> tuple[int, int]:
        return UVERBS_MAJOR, FIRST_UVERBS + self.number


def devices(adapters: Sequence[Hca]) -> tuple[RdmaDevice, ...]:
    """The adapters of one host under the names that a Mellanox driver gives in this order."""
    found: list[RdmaDevice] = []
    umads = 0
    for number, hca in enumerate(adapters):
        found.append(RdmaDevice(f"mlx4_{number}", number, umads, hca))
        umads += len(hca.ports)
    return tuple(found)


def files(device: RdmaDevice) -> Iterator[tuple[str, str]]:
    """(path below /sys/class, text without its newline) of everything that one adapter has."""
    hca = device.hca
    guid = colons(hca.guid.to_bytes(8))
    yield f"infiniband_verbs/{device.uverbs}/ibdev", device.name
    yield f"infiniband_verbs/{device.uverbs}/abi_version", str(uverbs.PROVIDER_ABI_VERSION)
    yield f"infiniband_verbs/{device.uverbs}/dev", "{}:{}".format(*device.uverbs_dev)
    for index, port in enumerate(device.ports):
        for kind, first in (("umad", FIRST_UMAD), ("issm", FIRST_ISSM)):
            number = device.first_umad + index
            yield f"infiniband_mad/{kind}{number}/ibdev", device.name
            yield f"infiniband_mad/{kind}{number}/port", str(port.number)
            yield f"infiniband_mad/{kind}{number}/dev", f"{UVERBS_MAJOR}:{first + number}"
    base = f"infiniband/{device.name}"
    yield f"{base}/node_type", "1: CA"
    yield f"{base}/node_guid", guid
    yield f"{base}/sys_image_guid", guid
    yield f"{base}/node_desc", hca.description.text
    yield f"{base}/fw_ver", ".".join(map(str, FIRMWARE))
    yield f"{base}/hca_type", "ibbond"
    yield f"{base}/hw_rev", "1"
    yield f"{base}/board_id", "IBBOND"
    yield f"{base}/device/vendor", f"0x{VENDOR_ID:04x}"
    yield f"{base}/device/device", f"0x{DEVICE_ID:04x}"
    yield f"{base}/device/class", "0x020700"
    yield f"{base}/device/numa_node", "-1"
    for port in device.ports:
        for name, text in port_files(port):
            yield f"{base}/ports/{port.number}/{name}", text


def links(device: RdmaDevice, netdevs: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, str]]:
    """(path, target) of the links; `netdevs` has the names of IPoIB devices by port name."""
    base = f"infiniband/{device.name}/device"
    for port in device.ports:
        for name in netdevs.get(port.name, ()):
            yield f"{base}/net/{name}", f"../../../../net/{name}"
    yield f"{base}/infiniband/{device.name}", f"../../../{device.name}"
    yield f"{base}/infiniband_verbs/{device.uverbs}", f"../../../../infiniband_verbs/{device.uverbs}"
    yield f"infiniband_verbs/{device.uverbs}/device", f"../../infiniband/{device.name}/device"
    for index in range(len(device.ports)):
        number = device.first_umad + index
        yield f"infiniband_mad/umad{number}/device", f"../../infiniband/{device.name}/device"


def port_files(port: Port) -> Iterator[tuple[str, str]]:
    """What is in `ports/N`."""
    info = port.info
    yield "state", f"{int(port.state)}: {STATES[port.state]}"
    yield "phys_state", f"{info.physical_state}: {PHYSICAL.get(info.physical_state, '<unknown>')}"
    yield "lid", f"0x{port.lid:x}"
    yield "sm_lid", f"0x{port.sm_lid:x}"
    yield "lid_mask_count", str(info.lmc)
    yield "sm_sl", str(info.sm_sl)
    yield "cap_mask", f"0x{info.capability_mask:08x}"
    yield "rate", rate(info.width_active, info.speed_active)
    yield "link_layer", "InfiniBand"
    for index, gid in enumerate(gids(port)):
        yield f"gids/{index}", colons(gid)
        yield f"gid_attrs/types/{index}", "IB/RoCE v1"
    for index, pkey in enumerate(port.pkey_table):
        yield f"pkeys/{index}", f"0x{pkey:04x}"


def gids(port: Port) -> list[bytes]:
    """The GID table: the subnet's prefix with each GUID of the port, zeros in unused entries."""
    return [port.gid[:8] + guid.to_bytes(8) if guid else bytes(16) for guid in port.guids]


def rate(width: int, speed: int) -> str:
    """`40 Gb/sec (4X QDR)` of the codes of PortInfo (`rate_show`)."""
    lanes = WIDTHS.get(width, 4)
    name, tenths = SPEEDS.get(speed, SPEEDS[1])
    gigabits, rest = divmod(lanes * tenths, 10)
    return f"{gigabits}{f'.{rest}' if rest else ''} Gb/sec ({lanes}X {name})"


def colons(raw: bytes) -> str:
    """Four hexadecimal digits at a time, as sysfs writes GUIDs and GIDs."""
    return ":".join(raw[at : at + 2].hex() for at in range(0, len(raw), 2))
