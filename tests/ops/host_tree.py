"""Saved hosts made piece by piece, as text files below a directory: devices, ports, bonds, configuration.

A device is a directory of sys/class/net, or, with a PCI slot, a link into sys/devices as a kernel has it. What the
driver of an older kernel does not have is left out. Names, GUIDs and addresses are made up.
"""

import os
import shutil
from pathlib import Path

from ibbond.backend.kernel.bonds import KernelBackend
from ibbond.bonding.option import Kind
from ibbond.bonding.options import OPTIONS
from ibbond.ops.check import check
from ibbond.ops.read_facts import kernel_facts
from ibbond.ops.rule import Finding
from tests.ops.saved_copy import put

GOOD = {"mode": 1, "miimon": 100, "num_grat_arp": 3, "num_unsol_na": 3, "fail_over_mac": 1}
MEMBER_FILES_SINCE = (3, 14)
WHOLE_ADDRESSES_SINCE = (4, 12)


class HostTree:
    """A host below `root`; `release` decides which files its driver has."""

    def __init__(self, root: Path, release: str = "6.1.0-18-amd64", version: tuple[int, ...] = (6, 1)) -> None:
        self.root = root
        self.version = version
        self.devices: dict[str, dict[str, str]] = {}
        self.bonds: dict[str, dict[str, object]] = {}
        put(root, "proc/sys/kernel/osrelease", release)

    def ib(self, name: str, number: int, *, qpn: int = 0x48, prefix: str = "fe80" + "0" * 12, **files: object) -> None:
        """An IPoIB device on the port whose GUID ends with `number`; `files` as sysfs has them."""
        pkey = int(str(files.setdefault("pkey", 0xFFFF)))
        broadcast = f"00ffffffff12401b{pkey:04x}000000000000ffffffff"
        address = f"80{qpn:06x}{prefix}0002c90300a1{number:02x}01"
        own = {"type": 32, "address": colons(address), "broadcast": colons(broadcast), "mode": "datagram", "mtu": 2044}
        self._device(name, {**own, **files, "pkey": f"0x{pkey:04x}"})

    def eth(self, name: str, number: int, **files: object) -> None:
        own = {"type": 1, "address": f"52:54:00:10:00:{number:02x}", "broadcast": "ff:ff:ff:ff:ff:ff", "mtu": 1500}
        self._device(name, {**own, "speed": 10000, **files})

    def _device(self, name: str, files: dict[str, object]) -> None:
        slot, port = str(files.pop("slot", "")), files.pop("port", None)
        values = {"flags": "0x1843", "carrier": "1", "dev_port": "0", **files}
        base = f"sys/class/net/{name}"
        if slot:
            base = f"sys/devices/pci0000:00/{slot}/net/{name}"
            (self.root / base).mkdir(parents=True)
            self.link(f"sys/class/net/{name}", f"../../devices/pci0000:00/{slot}/net/{name}")
            self.link(f"{base}/device", "../..")
        self.devices[name] = {key: str(value) for key, value in values.items()} | {"base": base}
        for key, value in values.items():
            put(self.root, f"{base}/{key}", str(value))
        if isinstance(port, dict):
            self.port(slot, **port)

    def port(self, slot: str, *, adapter: str = "mlx5_0", number: int = 1, **files: object) -> None:
        """The adapter's port below a device; `pkeys` is its table."""
        table = files.pop("pkeys", ())
        where = f"sys/devices/pci0000:00/{slot}/infiniband/{adapter}/ports/{number}"
        for key, value in {"state": "4: ACTIVE", "sm_lid": "0x1", "link_layer": "InfiniBand", **files}.items():
            put(self.root, f"{where}/{key}", str(value))
        assert isinstance(table, tuple)
        for index, pkey in enumerate(table):
            put(self.root, f"{where}/pkeys/{index}", f"0x{pkey:04x}")

    def bond(
        self,
        name: str,
        *members: str,
        active: str | None = None,
        primary: str = "",
        mtu: int | None = None,
        flags: str = "0x1443",
        links: dict[str, str] | None = None,
        failures: dict[str, int] | None = None,
        addresses: tuple[str, ...] = ("10.9.0.1/24",),
        **options: object,
    ) -> None:
        first = self.devices[members[0]] if members else {"type": "1", "broadcast": "ff:ff:ff:ff:ff:ff", "mtu": "1500"}
        active = (members[0] if members else "") if active is None else active
        base = f"sys/class/net/{name}"
        address = self.devices[active]["address"] if active else "02:00:5e:00:00:01"
        own = {"type": first["type"], "broadcast": first["broadcast"], "address": address, "mtu": mtu or first["mtu"]}
        for key, value in {**own, "flags": flags, "carrier": "1"}.items():
            put(self.root, f"{base}/{key}", str(value))
        infiniband = first["type"] == "32"
        values: dict[str, object] = {**GOOD, "fail_over_mac": int(infiniband), **options}
        values["num_unsol_na"] = values["num_grat_arp"]
        texts = {
            "slaves": " ".join(members),
            "active_slave": active,
            "primary": primary,
            "mii_status": "up",
            "arp_ip_target": "",
        }
        for option in OPTIONS.values():
            if option.has_file and option.kind is Kind.VALUE and option.since <= self.version:
                chosen = values.pop(option.name, option.default)
                texts[option.name] = str(chosen)
                if option.shows_word and isinstance(chosen, int):
                    texts[option.name] = f"{option.word_of(chosen)} {chosen}"
        for key, text in {**texts, **values}.items():
            put(self.root, f"{base}/bonding/{key}", str(text) or None)
        self.bonds[name] = {}
        put(self.root, "sys/class/net/bonding_masters", " ".join(self.bonds))
        lines = [f"{bond} {text} permanent" for bond, text in ((name, each) for each in addresses)]
        there = self.root / "ibbond/addresses"
        put(self.root, "ibbond/addresses", (there.read_text() if there.exists() else "") + "\n".join(lines))
        for member in members:
            self._member(member, member == active, (links or {}).get(member, "up"), (failures or {}).get(member, 0))

    def _member(self, name: str, is_active: bool, link: str, failures: int) -> None:
        if self.version < MEMBER_FILES_SINCE:
            return
        device = self.devices[name]
        whole = device["address"] if self.version >= WHOLE_ADDRESSES_SINCE else device["address"][:17]
        files = {"state": "active" if is_active else "backup", "mii_status": link, "link_failure_count": failures}
        for key, value in {**files, "perm_hwaddr": whole, "queue_id": 0}.items():
            put(self.root, f"{device['base']}/bonding_slave/{key}", str(value))

    def file(self, path: str, text: str) -> None:
        put(self.root, path, text)

    def link(self, path: str, target: str) -> None:
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(target)

    def drop(self, path: str) -> None:
        place = self.root / path
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        else:
            os.unlink(place)

    def findings(self, *bonds: str) -> list[Finding]:
        """What is found, without notes."""
        host = KernelBackend(self.root)
        found = check(kernel_facts(host, list(bonds) or host.bonds()))
        return [each for each in found if each.severity.value != "note"]

    def rules(self, *bonds: str) -> set[str]:
        return {finding.rule.id for finding in self.findings(*bonds)}


def two_ports(root: Path, **of_bond: object) -> HostTree:
    """A good host: ib0 and ib1 on adapters of their own, in bond0."""
    tree = HostTree(root)
    for number, slot in enumerate(("0000:81:00.0", "0000:c1:00.0")):
        tree.ib(f"ib{number}", number, slot=slot, port={"adapter": f"mlx5_{number}", "pkeys": (0xFFFF,)})
    tree.bond("bond0", "ib0", "ib1", **of_bond)  # type: ignore[arg-type]
    return tree


def colons(text: str) -> str:
    return ":".join(text[at : at + 2] for at in range(0, len(text), 2))
