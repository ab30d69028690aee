"""The keys of topology files as a table: what the reference page prints.

Read first: docs/topology.md. `topology.load`, `fat_tree` and `host_programs` read the keys; a test compares what they
read with this table: keys, types and defaults. In a path NAME, DEVICE and PATH stand for names
that the file chooses, and [] for each item of a list.
"""

from __future__ import annotations

from dataclasses import dataclass

REQUIRED = "required"
TEXT, NUMBER, BOOLEAN, LIST, TABLE = "text", "number", "true or false", "list", "table"
KINDS: dict[type, str] = {str: TEXT, int: NUMBER, bool: BOOLEAN, list: LIST, dict: TABLE}


@dataclass(frozen=True, slots=True)
class Key:
    """One key. `default` as it is written in the file, or in words where it depends on other keys."""

    path: str
    kind: str
    default: str
    unit: str
    meaning: str


def _identity(path: str, what: str) -> tuple[Key, ...]:
    """The keys that switches and adapters share."""
    return (
        Key(f"{path}.guid", TEXT, "by plan", "hexadecimal, 64 bits", f"the node GUID of the {what}"),
        Key(f"{path}.description", TEXT, "by plan", "at most 64 bytes", f"the node description of the {what}"),
        Key(f"{path}.port_guids", TABLE, "by plan", "hexadecimal, 64 bits", "port number to GUID; adapters only"),
    )


HOST, HCA, BOND = "hosts.NAME", "hosts.NAME.hcas[]", "hosts.NAME.bonds.NAME"
DEVICE, ROUTE, PARTITION = "hosts.NAME.devices.NAME", "hosts.NAME.routes[]", "partitions.NAME"
KEYS: tuple[Key, ...] = (
    Key("mtu", NUMBER, "2044", "bytes", "IP MTU of the default partition: 2044, or 4092 for an InfiniBand MTU of 4096"),
    Key("switches", TABLE, "{}", "", "switches by name"),
    Key("switches.NAME.ports", NUMBER, "36", "1 to 254", "number of ports"),
    *_identity("switches.NAME", "switch"),
    Key("links", LIST, "[]", "", "cables between switches"),
    Key("links[].between", LIST, "[]", "two ends", "switches (s1: any free port) or ports (s1/7)"),
    Key("links[].count", NUMBER, "1", "", "number of cables between these two"),
    Key("partitions", TABLE, "{}", "", "partitions beside the default one, by name"),
    Key(f"{PARTITION}.pkey", NUMBER, REQUIRED, "16 bits", "the P_Key, with or without the full-member bit"),
    Key(f"{PARTITION}.members", LIST, "[]", "", "full members: ports (h1/ib0), or hosts for all their ports"),
    Key(f"{PARTITION}.limited", LIST, "[]", "", "limited members, in the same form"),
    Key(f"{PARTITION}.mtu", NUMBER, "the subnet's mtu", "bytes", "IP MTU of the partition"),
    Key("hosts", TABLE, "{}", "", "hosts by name"),
    Key(
        f"{HOST}.ports", TABLE, "{}", "", "IPoIB device to switch, to switch/port, or to a table of the next three keys"
    ),
    Key(f"{HOST}.ports.DEVICE.to", TEXT, REQUIRED, "", "the switch or switch port at the other end of the cable"),
    Key(f"{HOST}.ports.DEVICE.hca", NUMBER, "two ports each", "1 to 64", "the adapter that has the port"),
    Key(f"{HOST}.ports.DEVICE.port", NUMBER, "the next one", "1 to 254", "the port number on the adapter"),
    Key(f"{HOST}.hcas", LIST, "[]", "", "a table for each adapter, the first one first"),
    Key(f"{HCA}.ports", NUMBER, "as many as used", "1 to 254", "number of ports of the adapter"),
    *_identity(HCA, "adapter"),
    Key(f"{HOST}.mode", TEXT, '"datagram"', "", "IPoIB mode of all devices: datagram, connected or datagram-only"),
    Key(f"{HOST}.bonds", TABLE, "{}", "", "bonds by name; they exist when the lab starts"),
    Key(f"{BOND}.members", LIST, "[]", "", "IPoIB devices of the host, also partition children (ib0.8001)"),
    Key(f"{BOND}.options", TABLE, "{}", "see the options page", "bonding options, set before the members are added"),
    Key(f"{BOND}.mtu", NUMBER, "the subnet's, or 65520", "bytes", "MTU of the bond; 65520 in connected mode"),
    Key(f"{BOND}.addresses", LIST, "[]", "", "IP addresses with prefix length"),
    Key(f"{HOST}.devices", TABLE, "{}", "", "settings of devices that are not in a bond, by name"),
    Key(f"{DEVICE}.addresses", LIST, "[]", "", "IP addresses with prefix length"),
    Key(f"{DEVICE}.mode", TEXT, "the host's mode", "", "IPoIB mode of this device"),
    Key(f"{DEVICE}.mtu", NUMBER, "the subnet's, or 65520", "bytes", "MTU of this device; 65520 in connected mode"),
    Key(f"{DEVICE}.up", BOOLEAN, "true", "", "whether the device is set up at the start"),
    Key(f"{HOST}.ethernet", LIST, "[]", "", "names of Ethernet devices, to show what a bond refuses"),
    Key(f"{HOST}.routes", LIST, "[]", "", "routes beside those that follow from the addresses"),
    Key(f"{ROUTE}.to", TEXT, REQUIRED, "", "destination network, or default"),
    Key(f"{ROUTE}.via", TEXT, REQUIRED, "", "gateway, in one of the host's networks"),
    Key(f"{HOST}.forward", BOOLEAN, "false", "", "whether the host forwards packets between its networks"),
    Key(f"{HOST}.files", TABLE, "{}", "", "absolute path to text, or to a table of the next two keys"),
    Key(f"{HOST}.files.PATH.text", TEXT, REQUIRED, "at most 1 MiB", "content of the file"),
    Key(f"{HOST}.files.PATH.mode", NUMBER, "0o644", "permission bits", "mode of the file"),
    Key(
        f"{HOST}.exec", LIST, "[]", "60 s each", "commands to run when all bonds are up: shell lines, or lists of words"
    ),
    Key("fat_tree", TABLE, "{}", "", "a whole topology in short; excludes switches, links and hosts"),
    Key("fat_tree.hosts", NUMBER, "16", "2 to 4000", "number of hosts"),
    Key("fat_tree.leaves", NUMBER, "4", "2 to 200", "number of leaf switches"),
    Key("fat_tree.spines", NUMBER, "2", "1 to 100", "number of spine switches"),
    Key("fat_tree.members", NUMBER, "2", "1 to leaves", "ports, and so bond members, of each host"),
    Key("fat_tree.options", TABLE, "{}", "see the options page", "bonding options of all bonds"),
)


def markdown() -> str:
    """The table of the reference page."""
    head = "| key | type | default | unit or range | meaning |\n| --- | --- | --- | --- | --- |\n"
    return head + "".join(
        f"| `{key.path}` | {key.kind} | {key.default} | {key.unit} | {key.meaning} |\n" for key in KEYS
    )
