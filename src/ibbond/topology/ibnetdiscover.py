"""The topology file that ibnetdiscover(8) prints, which is also the input of ibsim.

Read first: ibnetdiscover(8), "TOPOLOGY FILE FORMAT", and ibsim's net-examples. A node is a line `Switch 36 "ID"` or
`Ca 2 "ID"` with its description in a comment (without one, ID is that); its cabled ports follow, `[1] "ID"[2]`, with
their GUIDs in parentheses.
"""

import re

from ibbond.errors import Refused
from ibbond.topology.fabric_dump import ADAPTER, ROUTER, SWITCH, DumpEnd, DumpNode, FabricDump

KINDS = {"switch": SWITCH, "ca": ADAPTER, "hca": ADAPTER, "rt": ROUTER, "router": ROUTER}
NODE = re.compile(r'(?P<kind>Switch|Ca|Hca|Rt|Router)\s+(?P<ports>\d+)\s+"(?P<key>[^"]+)"(?P<rest>.*)', re.IGNORECASE)
PORT = re.compile(
    r'\[(?P<port>\d+)\](?:\[ext \d+\])?(?:\((?P<guid>[0-9a-fA-F]+)\))?\s+"(?P<peer>[^"]+)"\s*\[(?P<peer_port>\d+)\]'
)
GUID = re.compile(r"(?:switch|ca|rt)guid=(?:0x)?(?P<guid>[0-9a-fA-F]+)", re.IGNORECASE)
SETTING = re.compile(r"(?:vendid|devid|sysimgguid|module)\b", re.IGNORECASE)
DESCRIPTION = re.compile(r'#\s*"(?P<text>[^"]*)"')


def looks_like(text: str) -> bool:
    """Whether the text has a node line of this format."""
    return any(NODE.match(line) for line in text.splitlines())


def parse(text: str, source: str) -> FabricDump:
    """Read a topology file; `Refused` names the line that cannot be read."""
    dump = FabricDump(source)
    guid: int | None = None
    node: DumpNode | None = None
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#") or SETTING.match(line):
            continue
        if match := GUID.match(line):
            guid = int(match["guid"], 16)
            dump.has_both_ends = True  # ibnetdiscover wrote it, not a person for ibsim
        elif match := NODE.match(line):
            description = DESCRIPTION.search(match["rest"])
            node = DumpNode(
                match["key"],
                KINDS[match["kind"].lower()],
                int(match["ports"]),
                number,
                guid,
                description["text"] if description else match["key"],
            )
            guid = None
            dump.add_node(node)
        elif match := PORT.match(line):
            if node is None:
                raise dump.refused(number, "describes a port", "no node line stands before it")
            port = int(match["port"])
            if match["guid"]:
                node.port_guids[port] = int(match["guid"], 16)
            dump.add_cable(DumpEnd(node.key, port), DumpEnd(match["peer"], int(match["peer_port"])), number)
        else:
            raise unreadable(dump, number, line)
    return dump


def unreadable(dump: FabricDump, number: int, line: str) -> Refused:
    return dump.refused(
        number,
        f"reads {line[:60]!r}",
        "it is neither a node, a port nor a GUID of ibnetdiscover's topology file",
        "Save the file again: ibnetdiscover > FILE",
    )
