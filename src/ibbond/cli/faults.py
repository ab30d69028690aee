"""`ibbond lab lose|kill|revive|set-pkeys|change-lid|reregister`: what else may happen to a running lab's subnet."""

from __future__ import annotations

import click

from ibbond.cli import completers
from ibbond.cli.numbers import Number
from ibbond.cli.output import as_dict, done, json_option, name_option
from ibbond.errors import Refused

NODES = click.argument("nodes", nargs=-1, required=True, metavar="SWITCH|HCA|sm...", shell_complete=completers.nodes)
NO_PARTITION = (0x0000, 0x8000)  # an empty place of the table, and the same as a full member
PORT = click.argument("port", metavar="HOST/DEV", shell_complete=completers.ports)


@click.command()
@name_option
@click.argument("cables", nargs=-1, required=True, metavar="CABLE...", shell_complete=completers.cables)
@click.option("--percent", type=Number(0, 100), required=True, help="Percentage of packets to lose; 0 ends the loss.")
@json_option
def lose(lab_name: str, cables: tuple[str, ...], percent: float, as_json: bool) -> None:
    """Make cables lose packets: ibbond lab lose h1/ib0 --percent 5"""
    ask(lab_name, as_json, f"{', '.join(cables)} loses {percent:g} %", "lose", cables=list(cables), percent=percent)


@click.command()
@name_option
@NODES
@json_option
def kill(lab_name: str, nodes: tuple[str, ...], as_json: bool) -> None:
    """Turn off switches or the subnet manager (sm), or remove a host's HCA: ibbond lab kill s1"""
    ask(lab_name, as_json, f"killed {', '.join(nodes)}", "kill", nodes=list(nodes))


@click.command()
@name_option
@NODES
@json_option
def revive(lab_name: str, nodes: tuple[str, ...], as_json: bool) -> None:
    """Undo `kill`; switches restart with empty tables: ibbond lab revive s1 sm h1"""
    ask(lab_name, as_json, f"revived {', '.join(nodes)}", "revive", nodes=list(nodes))


@click.command("set-pkeys")
@name_option
@PORT
@click.argument("pkeys", nargs=-1, required=True, metavar="PKEY...")
@json_option
def set_pkeys(lab_name: str, port: str, pkeys: tuple[str, ...], as_json: bool) -> None:
    """Have the subnet manager write a port's P_Key table: ibbond lab set-pkeys h1/ib0 0xffff 0x8001"""
    numbers = [number(pkey) for pkey in pkeys]
    for pkey, value in zip(pkeys, numbers, strict=True):
        if value in NO_PARTITION:
            why = f"{pkey} does not stand for a partition"
            raise Refused(f"cannot set the P_Keys of {port}", why=why, fix="For example: 0xffff or 0x8001")
    ask(lab_name, as_json, f"{port} has {', '.join(pkeys)}", "pkeys", port=port, pkeys=numbers)


@click.command("change-lid")
@name_option
@PORT
@click.argument("lid")
@json_option
def change_lid(lab_name: str, port: str, lid: str, as_json: bool) -> None:
    """Have the subnet manager give a port another LID: ibbond lab change-lid h1/ib0 77"""
    ask(lab_name, as_json, f"{port} has LID {lid}", "lid", port=port, lid=number(lid))


@click.command()
@name_option
@PORT
@json_option
def reregister(lab_name: str, port: str, as_json: bool) -> None:
    """Have the subnet manager ask a port to register again: ibbond lab reregister h1/ib0"""
    ask(lab_name, as_json, f"{port} was asked to register again", "reregister", port=port)


def number(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise Refused(f"cannot read {text!r}", why="it is not a number", fix="For example: 0x8001 or 77") from None


def ask(lab_name: str, as_json: bool, said: str, do: str, **words: object) -> None:
    from ibbond.backend.control_socket import Control

    with Control.of(lab_name) as control:
        facts = as_dict(control.ask(do, **words))
    done(as_json, said, facts)
