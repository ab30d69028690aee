"""`ibbond addr explain`."""

import json

import pytest

from ibbond.cli.main import run

UNICAST = "80:00:00:49:fe:80:00:00:00:00:00:00:00:02:c9:03:00:0a:00:01"
BROADCAST = "00:ff:ff:ff:ff:12:40:1b:ff:ff:00:00:00:00:00:00:ff:ff:ff:ff"


def test_an_address_is_taken_apart(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["addr", "explain", UNICAST]) == 0
    rows = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    assert rows["qpn"].strip() == "0x000049"
    assert rows["link-local"].strip() == "fe80::202:c903:a:1"


def test_a_group_says_its_mgid(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["addr", "explain", "--json", BROADCAST]) == 0
    assert json.loads(capsys.readouterr().out) == {"kind": "multicast", "mgid": "ff12:401b:ffff::ffff:ffff"}


@pytest.mark.parametrize("text", ["", "80:00", "zz" + UNICAST[2:], UNICAST.replace(":", ""), UNICAST + ":00"])
def test_what_is_no_address_is_refused(capsys: pytest.CaptureFixture[str], text: str) -> None:
    assert run(["addr", "explain", text]) == 2
    assert "20 bytes" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    ["0x0002c90300a10101", "0002:c903:00a1:0101", "00:02:c9:03:00:a1:01:01", "0002c90300a10101", "fe80::2:c903:a1:101"],
)
def test_what_follows_from_a_guid_or_gid_in_the_forms_of_tools(capsys: pytest.CaptureFixture[str], text: str) -> None:
    assert run(["addr", "explain", "--json", text]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["guid"] == "0002:c903:00a1:0101"
    assert facts["link-local"] == "fe80::202:c903:a1:101"
    assert facts["dhcp client-id (dhclient, udhcpc)"] == "20:00:02:c9:03:00:a1:01:01"
    assert "queue pair" in facts["unknown"]


@pytest.mark.parametrize("text", ["80-00-00-48-FE-80-00-00-00-00-00-00-00-00-00-00", "80:00:00:48:fe:80"])
def test_an_address_that_a_tool_has_cut_says_so(capsys: pytest.CaptureFixture[str], text: str) -> None:
    assert run(["addr", "explain", text]) == 2
    assert "of its 20 bytes are present" in capsys.readouterr().err
