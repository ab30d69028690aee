"""What a topology file may say, what it means, and what is refused with which words."""

from pathlib import Path

import pytest

from ibbond.cli.main import run
from ibbond.errors import Refused
from ibbond.topology.load import default, parse
from ibbond.topology.model import LAB_BOND_OPTIONS, Cable, HostFile

PAIR = """
[switches]
s1 = {}
[hosts.h1]
ports = { ib0 = "s1", ib1 = "s1" }
[hosts.h1.bonds.bond0]
members = ["ib0", "ib1"]
addresses = ["10.0.0.1/24"]
[hosts.h2]
ports = { ib0 = "s1" }
"""


def test_default_is_two_switches_two_links_two_hosts_with_two_ports() -> None:
    topology = default()
    assert [switch.name for switch in topology.switches] == ["s1", "s2"]
    assert topology.cables == (
        Cable("h1/1", "s1/1"),
        Cable("h1/2", "s2/1"),
        Cable("h2/1", "s1/2"),
        Cable("h2/2", "s2/2"),
        Cable("s1/3", "s2/3"),
        Cable("s1/4", "s2/4"),
    )
    bond = topology.host("h1").bonds[0]
    assert (bond.name, bond.members, bond.mtu) == ("bond0", ("ib0", "ib1"), 2044)
    assert bond.options == LAB_BOND_OPTIONS
    assert [str(address) for address in bond.addresses] == ["10.0.0.1/24", "fd00::1/64"]
    assert topology.host("h2").ethernet[0].name == "eth0"


def test_names_of_people_lead_to_ports() -> None:
    topology = default()
    assert topology.port_of("h1/ib1") == "h1/2"
    assert topology.port_of("h1/2") == "h1/2"
    assert topology.port_of("s1/3") == "s1/3"
    assert topology.end_for_people("h2/1") == "h2/ib0"
    assert topology.end_for_people("s1/3") == "s1/3"
    assert topology.cable_at("s2/1") == Cable("h1/2", "s2/1")


@pytest.mark.parametrize("name", ["h1/ib9", "h3/ib0", "s1/9", "s1", "h1/bond0", "", "/", "h1/"])
def test_a_cable_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(Refused):
        default().port_of(name)


def test_two_ports_make_one_hca_unless_said_otherwise() -> None:
    text = """
    [switches]
    s1 = {}
    [hosts.h1]
    ports = { ib0 = "s1", ib1 = "s1", ib2 = "s1" }
    [hosts.h2]
    ports = { ib0 = "s1", ib1 = { to = "s1/9", hca = 2 } }
    """
    topology = parse(text)
    assert [device.port for device in topology.host("h1").devices] == ["h1/1", "h1/2", "h1-2/1"]
    assert [device.port for device in topology.host("h2").devices] == ["h2/1", "h2-2/1"]
    assert Cable("h2-2/1", "s1/9") in topology.cables


def test_children_of_a_partition_come_into_being_by_their_names() -> None:
    topology = parse(
        """
        [switches]
        s1 = {}
        [partitions.blue]
        pkey = 0x0001
        members = ["h1"]
        [hosts.h1]
        ports = { ib0 = "s1", ib1 = "s1" }
        [hosts.h1.bonds.bond1]
        members = ["ib0.8001", "ib1.8001"]
        """
    )
    child = topology.host("h1").device("ib1.8001")
    assert child is not None
    assert (child.port, child.pkey, child.parent) == ("h1/2", 0x8001, "ib1")
    assert topology.pkeys_of("h1/2") == (0xFFFF, 0x8001)


def test_options_keep_their_order_and_lists_are_written_one_by_one() -> None:
    text = (
        PAIR
        + '\n[hosts.h1.bonds.bond0.options]\narp_ip_target = ["10.0.0.2", "10.0.0.3"]\nmiimon = 50\nprimary = "ib0"'
    )
    options = parse(text).host("h1").bonds[0].options
    assert options == (
        ("mode", "active-backup"),
        ("miimon", "50"),
        ("num_grat_arp", "3"),
        ("arp_ip_target", "+10.0.0.2"),
        ("arp_ip_target", "+10.0.0.3"),
        ("primary", "ib0"),
    )


def test_routes_and_forwarding() -> None:
    text = PAIR.replace("[hosts.h1]", '[hosts.h1]\nforward = true\nroutes = [{ to = "default", via = "10.0.0.9" }]')
    host = parse(text).host("h1")
    assert host.forward
    assert (str(host.routes[0].destination), str(host.routes[0].gateway)) == ("0.0.0.0/0", "10.0.0.9")


def test_fat_tree_of_64_hosts() -> None:
    topology = parse("[fat_tree]\nhosts = 64\nleaves = 4\nspines = 4")
    assert (len(topology.hosts), len(topology.switches), len(topology.cables)) == (64, 8, 64 * 2 + 16)
    first, second = (topology.cable_at(device.port).b.partition("/")[0] for device in topology.host("h1").devices)
    assert first != second


def test_the_story_of_a_scenario_is_left_to_its_reader() -> None:
    assert parse(PAIR + "\n[story]\nseconds = 3", others=("story",)).hosts


def test_a_hosts_mode_is_that_of_its_devices_and_bonds() -> None:
    """65520 bytes where no MTU is said; a device's own table wins; children follow their host."""
    text = PAIR.replace("[hosts.h1]", '[hosts.h1]\nmode = "connected"').replace('"ib1"]', '"ib1"]\nmtu = 4000')
    host = parse(text).host("h1")
    assert [(device.mode, device.mtu) for device in host.devices] == [("connected", 65520)] * 2
    assert host.bonds[0].mtu == 4000
    own = parse(PAIR + '\n[hosts.h2.devices.ib0]\nmode = "connected"').host("h2")
    assert (own.devices[0].mode, own.devices[0].mtu) == ("connected", 65520)
    plain = parse(text + '\n[hosts.h1.devices."ib0.8001"]\nmode = "datagram"\n' + BLUE).host("h1")
    child = plain.device("ib0.8001")
    assert child is not None
    assert (child.mode, child.mtu) == ("datagram", 2044)


BLUE = '[partitions.blue]\npkey = 0x8001\nmembers = ["h1"]'
REFUSED = {
    "unknown mode": (PAIR.replace("[hosts.h1]", '[hosts.h1]\nmode = "conected"'), "Did you mean connected"),
    "bond of both modes": (
        PAIR.replace("[hosts.h1]", '[hosts.h1]\nmode = "connected"') + '\n[hosts.h1.devices.ib1]\nmode = "datagram"',
        "ib0 is connected and ib1 is datagram",
    ),
    "child of another driver": (
        PAIR + '\n[hosts.h1.devices."ib0.8001"]\nmode = "datagram-only"\n' + BLUE,
        "both use the same driver",
    ),
    "MTU beyond connected mode": (
        PAIR.replace("[hosts.h1]", '[hosts.h1]\nmode = "connected"').replace("members =", "mtu = 65521\nmembers ="),
        "connected mode carries 65520",
    ),
    "not TOML": ("hosts = [", "not TOML"),
    "no hosts": ("mtu = 2044", "no hosts"),
    "unknown key": (PAIR.replace("members", "member"), "Did you mean members"),
    "unknown key at the top": ("host = 1\n" + PAIR, "Did you mean hosts"),
    "wrong kind": (PAIR.replace('["ib0", "ib1"]', '"ib0"'), "must be a list"),
    "a truth is not a number": (PAIR.replace("s1 = {}", "s1 = { ports = true }"), "must be a number"),
    "unknown switch": (PAIR.replace('ib1 = "s1"', 'ib1 = "s2"'), "Did you mean s1"),
    "unknown port": (PAIR.replace('ib1 = "s1"', 'ib1 = "s1/37"'), "ports 1 to 36"),
    "odd port": (PAIR.replace('ib1 = "s1"', 'ib1 = "s1/01"'), "ports 1 to 36"),
    "port used twice": (
        PAIR.replace('ib0 = "s1", ib1 = "s1"', 'ib0 = "s1/1", ib1 = "s1/1"'),
        "hosts.h1.ports.ib0 uses that port",
    ),
    "no port free": (PAIR.replace("s1 = {}", "s1 = { ports = 2 }"), "all 2 ports"),
    "loop of names": (PAIR.replace('"ib0", "ib1"', '"ib0", "bond0"'), "loop: bond0 -> bond0"),
    "longer loop of names": (
        PAIR.replace('"ib0", "ib1"', '"bond1"') + '\n[hosts.h1.bonds.bond1]\nmembers = ["bond0"]',
        "loop: bond0 -> bond1 -> bond0",
    ),
    "link to itself": (PAIR + '\n[[links]]\nbetween = ["s1", "s1"]', "a loop"),
    "one name for two nodes": (PAIR.replace("s1 = {}", "s1 = {}\nh1 = {}"), "two nodes are named h1"),
    "two islands": (PAIR.replace("s1 = {}", "s1 = {}\ns2 = {}"), "s2 cannot be reached from s1"),
    "MTU of the subnet": ("mtu = 1500\n" + PAIR, "2044 or mtu = 4092"),
    "MTU that the subnet cannot carry": (PAIR.replace("members =", "mtu = 4092\nmembers ="), "carries 2044"),
    "connected-mode MTU": (PAIR.replace("members =", "mtu = 65520\nmembers ="), "Use 2044 or less"),
    "MTU too small": (PAIR.replace("members =", "mtu = 500\nmembers ="), "IPv6 needs 1280"),
    "unknown member": (PAIR.replace('"ib1"]', '"ib7"]'), "Choose one of these"),
    "member of another type": (
        PAIR.replace("[hosts.h1]", '[hosts.h1]\nethernet = ["eth0"]').replace('"ib1"]', '"eth0"]'),
        "is Ethernet",
    ),
    "member of two bonds": (PAIR + '\n[hosts.h1.bonds.bond1]\nmembers = ["ib1"]', "ib1 is a member of bond0"),
    "members of different P_Keys": (
        PAIR.replace('"ib1"]', '"ib1.8001"]') + '\n[partitions.blue]\npkey = 0x8001\nmembers = ["h1"]',
        "ib1.8001 has P_Key 0x8001",
    ),
    "P_Key that the port has not": (PAIR.replace('"ib0", "ib1"', '"ib0.8001"'), "P_Key table"),
    "limited member": (
        PAIR.replace('"ib0", "ib1"', '"ib0.8001"') + '\n[partitions.blue]\npkey = 1\nlimited = ["h1"]',
        "P_Key table",
    ),
    "default P_Key": (PAIR + "\n[partitions.blue]\npkey = 0x7fff", "0xffff is the default"),
    "two partitions of one P_Key": (
        PAIR + "\n[partitions.blue]\npkey = 0x8001\n[partitions.red]\npkey = 1",
        "have the P_Key 0x8001",
    ),
    "partition of an unknown host": (PAIR + '\n[partitions.b]\npkey = 1\nmembers = ["h9"]', "Choose one of these"),
    "partition wider than the subnet": (PAIR + "\n[partitions.b]\npkey = 1\nmtu = 4092", "the subnet carries 2044"),
    "address without prefix": (PAIR.replace("10.0.0.1/24", "10.0.0.1"), "Write 10.0.0.1/24"),
    "no address": (PAIR.replace("10.0.0.1/24", "10.0.0.256/24"), "10.0.0.256/24"),
    "address used twice": (
        PAIR + '\n[hosts.h2.devices.ib0]\naddresses = ["10.0.0.1/24"]',
        "h1/bond0 has it too",
    ),
    "address of a member": (
        PAIR + '\n[hosts.h1.devices.ib0]\naddresses = ["10.0.1.1/24"]',
        "an address of its own",
    ),
    "gateway off link": (
        PAIR.replace("[hosts.h1]", '[hosts.h1]\nroutes = [{ to = "default", via = "10.9.0.9" }]'),
        "in none of its networks",
    ),
    "route of mixed families": (
        PAIR.replace("[hosts.h1]", '[hosts.h1]\nroutes = [{ to = "fd01::/64", via = "10.0.0.9" }]'),
        "the other IPv6",
    ),
    "bad host name": (PAIR.replace("hosts.h2", 'hosts."H 2"'), "lower-case"),
    "device name too long": (PAIR.replace("ib1", "infiniband-port-1"), "1 to 15"),
    "a billion links": (PAIR + '\n[[links]]\nbetween = ["s1", "s1"]\ncount = 1000000000', "s1 has 36 ports"),
    "a billion ports": (PAIR.replace("s1 = {}", "s1 = { ports = 1000000000 }"), "a node has 1 to 254"),
    "adapter below 1": (PAIR.replace('ib1 = "s1"', 'ib1 = { to = "s1", hca = -3 }'), "1 to 64"),
    "adapter above all": (PAIR.replace('ib1 = "s1"', 'ib1 = { to = "s1", hca = 1000000000 }'), "1 to 64"),
    "adapter port below 1": (PAIR.replace('ib1 = "s1"', 'ib1 = { to = "s1", port = -1 }'), "1 to 254"),
    "adapter port above all": (PAIR.replace('ib1 = "s1"', 'ib1 = { to = "s1", port = 1000000000 }'), "1 to 254"),
    "switch port of many digits": (PAIR.replace('ib1 = "s1"', f'ib1 = "s1/{"9" * 5000}"'), "ports 1 to 36"),
    "GUID of a port of many digits": (
        PAIR.replace("s1 = {}", f's1 = {{ port_guids = {{ {"9" * 5000} = "0x1" }} }}'),
        "1 to 254",
    ),
    "lists in lists": ("hosts = " + "[" * 3000 + "]" * 3000, "nested more than 32 deep"),
    "lists in lists that tomllib reads": ("hosts = " + "[" * 100 + "]" * 100, "nested more than 32 deep"),
    "tables in tables": ("hosts" + ".a" * 3000 + " = 1", "nested more than 32 deep"),
    "decimal number of many digits": ("mtu = " + "9" * 5000 + PAIR, "not TOML"),
    "number of many digits": ("mtu = 0x" + "f" * 5000 + PAIR, "more than 64 bits"),
    "option of many digits": (
        PAIR + "\n[hosts.h1.bonds.bond0.options]\nmiimon = 0x" + "f" * 5000,
        "more than 64 bits",
    ),
    "chain of bonds": (
        PAIR + "".join(f'\n[hosts.h2.bonds.b{i}]\nmembers = ["b{i + 1}", "c{i + 1}"]' for i in range(2000)),
        "bonds do not nest",
    ),
    "bonds by many paths": (
        PAIR
        + "".join(
            f'\n[hosts.h2.bonds.{x}{i}]\nmembers = ["b{i + 1}", "c{i + 1}"]' for i in range(40) for x in ("b", "c")
        ),
        "bonds do not nest",
    ),
    "multicast address": (PAIR.replace("10.0.0.1/24", "224.0.0.1/4"), "a multicast address"),
    "unspecified address": (PAIR.replace("10.0.0.1/24", "0.0.0.0/0"), "the unspecified address"),
    "broadcast address of all": (PAIR.replace("10.0.0.1/24", "255.255.255.255/32"), "the broadcast address"),
    "loopback address": (PAIR.replace("10.0.0.1/24", "127.0.0.1/8"), "the loopback address"),
    "network address": (PAIR.replace("10.0.0.1/24", "10.0.0.0/24"), "the network 10.0.0.0/24 itself"),
    "broadcast address": (PAIR.replace("10.0.0.1/24", "10.0.0.255/24"), "the broadcast address of 10.0.0.0/24"),
    "IPv6 multicast address": (PAIR.replace("10.0.0.1/24", "ff02::1/8"), "a multicast address"),
    "IPv6 unspecified address": (PAIR.replace("10.0.0.1/24", "::/64"), "the unspecified address"),
    "IPv6 loopback address": (PAIR.replace("10.0.0.1/24", "::1/128"), "the loopback address"),
    "address of all routers": (PAIR.replace("10.0.0.1/24", "fd00::/64"), "all routers of fd00::/64"),
    "address with an interface": (PAIR.replace("10.0.0.1/24", "fe80::1%ib0/64"), "has the scope ib0"),
    "multicast address of a device": (
        PAIR + '\n[hosts.h2.devices.ib0]\naddresses = ["239.1.2.3/24"]',
        "a multicast address",
    ),
    "child of a long name": (
        PAIR.replace("ib0", "ibp194s0f0d0").replace('"ibp194s0f0d0", "ib1"', '"ibp194s0f0d0.8001"') + BLUE,
        "ibp194s0f0d0.8001 has 17 characters, Linux takes 15; the kernel cuts the parent's name to ten",
    ),
    "children that would have one name": (
        PAIR.replace("ib0", "ibp194s0f0d0").replace("ib1", "ibp194s0f0d1").replace('d1"]', 'd1.8001"]') + BLUE,
        "so the children of ibp194s0f0d0 and ibp194s0f0d1 would be ibp194s0f0.8001",
    ),
    "fat tree beside hosts": (PAIR + "\n[fat_tree]\nhosts = 4", "Remove one of them"),
    "file of no root": (PAIR.replace("[hosts.h1]", '[hosts.h1]\nfiles."etc/x" = ""'), "a path begins with one /"),
    "file above itself": (PAIR.replace("[hosts.h1]", '[hosts.h1]\nfiles."/etc/../x" = ""'), "without .."),
    "file at the root": (PAIR.replace("[hosts.h1]", '[hosts.h1]\nfiles."/x" = ""'), "the root directory is that"),
    "file of the kernel": (PAIR.replace("[hosts.h1]", '[hosts.h1]\nfiles."/sys/x" = ""'), "/sys is the kernel's"),
    "file that is a number": (PAIR.replace("[hosts.h1]", '[hosts.h1]\nfiles."/etc/x" = 5'), "a text in quotes"),
    "file without a text": (PAIR.replace("[hosts.h1]", '[hosts.h1]\nfiles."/etc/x" = {}'), "has no text"),
    "file with a wide mode": (
        PAIR.replace("[hosts.h1]", '[hosts.h1]\nfiles."/etc/x" = { text = "", mode = 0o4755 }'),
        "a mode is 0o000 to 0o777",
    ),
    "file below a file": (
        PAIR.replace("[hosts.h1]", '[hosts.h1]\nfiles = { "/etc/x" = "", "/etc/x-y" = "", "/etc/x/y" = "" }'),
        "/etc/x and /etc/x/y",
    ),
    "file too large": (
        PAIR.replace("[hosts.h1]", f'[hosts.h1]\nfiles."/etc/x" = "{"x" * (1 << 20)}y"'),
        "has at most 1048576",
    ),
    "command that is a number": (PAIR.replace("[hosts.h1]", "[hosts.h1]\nexec = [5]"), "exec, number 1 is 5"),
    "command of no words": (PAIR.replace("[hosts.h1]", '[hosts.h1]\nexec = ["true", []]'), "number 2 is []"),
    "empty command": (PAIR.replace("[hosts.h1]", '[hosts.h1]\nexec = [" "]'), "it names no program"),
    "fat tree too narrow": ("[fat_tree]\nhosts = 2000\nleaves = 2", "Use more leaves"),
}


@pytest.mark.parametrize(("text", "words"), REFUSED.values(), ids=REFUSED)
def test_refused(text: str, words: str) -> None:
    with pytest.raises(Refused) as refusal:
        parse(text)
    assert words in str(refusal.value)
    assert refusal.value.what
    assert refusal.value.why
    assert refusal.value.fix


@pytest.mark.parametrize("address", ["10.0.0.0/31", "10.0.0.255/32", "fd00::/127", "fd00::/128", "240.0.0.1/24"])
def test_addresses_at_the_edge_of_a_prefix(address: str) -> None:
    """RFC 3021 and RFC 6164: prefixes of two addresses have neither network nor broadcast nor router address."""
    assert parse(PAIR.replace("10.0.0.1/24", address)).host("h1").bonds


def test_files_and_commands_of_a_host() -> None:
    host = parse(
        PAIR.replace(
            "[hosts.h1]",
            """[hosts.h1]
            files = { "/usr/local/bin/check" = { text = "x", mode = 0o755 }, "/etc/a.conf" = "y" }
            exec = ["check && true", ["ip", "link"]]""",
        )
    ).host("h1")
    assert host.files == (HostFile("/etc/a.conf", "y"), HostFile("/usr/local/bin/check", "x", 0o755))
    assert host.exec == (("/bin/sh", "-c", "check && true"), ("ip", "link"))


def test_the_longest_name_with_a_child() -> None:
    text = PAIR.replace("ib0", "ibp194s0f0").replace('"ibp194s0f0", "ib1"', '"ibp194s0f0.8001"') + BLUE
    assert parse(text).host("h1").device("ibp194s0f0.8001")


@pytest.mark.parametrize(
    "fault",
    [
        "a billion links",
        "lists in lists",
        "tables in tables",
        "number of many digits",
        "adapter below 1",
        "multicast address",
        "children that would have one name",
    ],
)
@pytest.mark.parametrize("command", [["lab", "topology"], ["lab", "up"], ["sim", "run"]], ids=" ".join)
def test_commands_refuse_it(fault: str, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, words = REFUSED[fault]
    file = tmp_path / "strange.toml"
    file.write_text(text)
    assert run([*command, str(file)]) == 2
    assert words in capsys.readouterr().err


def test_the_file_that_these_refusals_spoil_is_fine() -> None:
    assert parse(PAIR).host("h1").bonds
