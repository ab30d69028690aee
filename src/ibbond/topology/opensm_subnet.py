"""The file opensm-subnet.lst that OpenSM writes into its dump directory: one line for each end of each cable.

Read first: OpenSM's osm_dump.c. A line is `{ near end } { far end } PHY=4x LOG=ACT SPD=10`; an end names its node's
type, number of ports (hexadecimal), GUIDs, description and port number (hexadecimal).
"""

import re

from ibbond.topology.fabric_dump import ADAPTER, ROUTER, SWITCH, DumpEnd, DumpNode, FabricDump

KINDS = {"CA": ADAPTER, "SW": SWITCH, "RT": ROUTER}
END = re.compile(
    r"\{ (?P<kind>CA|SW|RT)(?:-SM)? Ports:(?P<ports>[0-9A-Fa-f]+) SystemGUID:[0-9A-Fa-f]+ "
    r"NodeGUID:(?P<guid>[0-9A-Fa-f]+) PortGUID:(?P<port_guid>[0-9A-Fa-f]+) .*?"
    r"\{(?P<description>.*?)\} LID:[0-9A-Fa-f]+ PN:(?P<port>[0-9A-Fa-f]+) \}"
)


def looks_like(text: str) -> bool:
    """Whether the text has a line of this format."""
    return any(END.match(line.strip()) for line in text.splitlines())


def parse(text: str, source: str) -> FabricDump:
    """Read the file; `Refused` names the line that cannot be read."""
    dump = FabricDump(source, has_both_ends=True)
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line:
            continue
        ends = list(END.finditer(line))
        if len(ends) != 2:
            raise dump.refused(
                number, f"reads {line[:60]!r}", "it does not describe both ends of a cable", "Copy the whole file"
            )
        near, far = (read_end(dump, end, number) for end in ends)
        dump.add_cable(near, far, number)
    return dump


def read_end(dump: FabricDump, end: re.Match[str], number: int) -> DumpEnd:
    key, port = end["guid"].lower(), int(end["port"], 16)
    if key not in dump.nodes:
        dump.add_node(
            DumpNode(key, KINDS[end["kind"]], int(end["ports"], 16), number, int(key, 16), end["description"])
        )
    node = dump.nodes[key]
    if node.kind == ADAPTER:
        node.port_guids[port] = int(end["port_guid"], 16)
    return DumpEnd(key, port)
