"""`ibbond ib-bond`: the options and defaults of the 2007 tool, the whole job on the real driver."""

import json

from tests.kernel.virtual_machine import Host


def test_one_line_does_the_whole_job(host: Host) -> None:
    assert "is set up" in host.ok("ib-bond", "--bond-ip", "10.0.0.1")
    facts = json.loads(host.ok("bond", "show", "bond0", "--json"))
    assert (facts["mode"], facts["active"], facts["mtu"], facts["up"]) == ("active-backup", "ib0", 2044, True)
    assert facts["options"]["miimon"] == 100
    assert "10.0.0.1/24" in facts["addresses"]
    assert [each["name"] for each in facts["members"]] == ["ib0", "ib1"]
    assert "was so already" in host.ok("ib-bond", "--bond-ip", "10.0.0.1")
    assert host.ibbond("check", "--ignore", "one-adapter").code == 0


def test_several_bonds_over_any_members(host: Host) -> None:
    host.add_port("ib2", adapter=1, port=1)
    host.add_port("ib3", adapter=1, port=2)
    host.ok("ib-bond", "--bond-ip", "10.0.0.1/16", "--slaves", "ib0,ib2", "--miimon", "50")
    host.ok("ib-bond", "--bond-name", "bond1", "--bond-ip", "10.1.0.1", "--slaves", "ib1,ib3")
    assert host.read("bond0/bonding/miimon") == "50\n"
    status = host.ok("ib-bond", "--status")
    assert "bond0" in status
    assert "bond1" not in status
    both = json.loads(host.ok("ib-bond", "--status-all", "--json"))["bonds"]
    assert [each["name"] for each in both] == ["bond0", "bond1"]
    assert "10.0.0.1/16" in both[0]["addresses"]
    host.ok("ib-bond", "--stop", "--bond-name", "bond1")
    assert host.read("bonding_masters") == "bond0\n"
    host.ok("ib-bond", "--stop-all")
    assert host.read("bonding_masters") == ""


def test_partition_children_make_a_bond_of_their_own(host: Host) -> None:
    """ib0.f1f1 and ib1.f1f1, as in the package's document; connected mode gives the large MTU."""
    for name, port in (("ib0.f1f1", 5), ("ib1.f1f1", 6)):
        host.add_port(name, port=port)
        host.write(f"{name}/pkey", "0xf1f1")
        host.write(f"{name}/mode", "connected")
        host.run("ip", "link", "set", name, "mtu", "65520")
    host.ok("ib-bond", "--bond-name", "bond1", "--bond-ip", "10.1.0.1", "--slaves", "ib0.f1f1,ib1.f1f1")
    assert host.read("bond1/mtu") == "65520\n"
    assert host.read("bond1/broadcast").split(":")[8:10] == ["f1", "f1"]


def test_bad_words_are_refused(host: Host) -> None:
    for words, reported in (
        (("--bond-ip", "10.0.0.1/99"), "not an IP address"),
        (("--slaves", "ib0,ib9"), "no device ib9"),
        (("--slaves", ","), "--slaves is empty"),
        (("--stop",), "no bond bond0"),
        (("--status", "--bond-name", "bond3"), "no bond bond3"),
        (("--stop", "--status"), "cannot be combined"),
    ):
        result = host.ibbond("ib-bond", *words)
        assert (result.code, reported in result.err) == (2, True), (words, result.err)
    assert host.read("bonding_masters") == ""


def test_a_failure_takes_everything_back(host: Host) -> None:
    host.write("ib1/fail_open", "5")
    result = host.ibbond("ib-bond", "--bond-ip", "10.0.0.1")
    assert result.code == 2
    assert "restored" in result.err
    assert host.read("bonding_masters") == ""
