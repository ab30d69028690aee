"""`ibbond lab ...`: starting, looking at and ending labs. Words only; `lab.launch` and the lab itself do the work.

What is done to cables and hosts of a running lab is in `cli.cables` and `cli.exec`.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import click
from click.core import ParameterSource

from ibbond.cli.cables import capture, cut, events, flap, mend
from ibbond.cli.doctor import doctor
from ibbond.cli.exec import exec_, shell
from ibbond.cli.faults import change_lid, kill, lose, reregister, revive, set_pkeys
from ibbond.cli.files import BUNDLES, FROM, import_topology, only_with_from, read_topology
from ibbond.cli.graph import graph
from ibbond.cli.neighbors import neighbors
from ibbond.cli.output import addresses, as_dict, device, done, json_option, name_option, print_json, state, table
from ibbond.cli.probe import probe
from ibbond.cli.rdma import rdma_session
from ibbond.cli.signals import signals_end_it
from ibbond.cli.top import top
from ibbond.cli.usage import Group
from ibbond.cli.web import web
from ibbond.errors import Refused


@click.group(cls=Group)
def lab() -> None:
    """Hosts, switches and cables on this machine.

    A cable is named by either end: h1/ib0, or a switch port such as s1/3. Several labs run side by side with --name.
    """


for command in (
    *(exec_, shell, cut, mend, flap, capture, events),
    *(lose, kill, revive, set_pkeys, change_lid, reregister),
    *(neighbors, probe, top, graph, web, doctor, rdma_session),
):
    lab.add_command(command)


@lab.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@name_option
@FROM
@BUNDLES
@click.option("--resume", is_flag=True, help="Take over the hosts, programs and bonds of a lab that was killed.")
@click.option("--foreground", is_flag=True, help="Stay in the foreground; Ctrl-C takes the lab down.")
@click.option("--profile", default="default", show_default=True, help="The driver behavior to emulate.")
@click.option(
    "--sm",
    "manager",
    type=click.Choice(["builtin", "opensm"]),
    default="builtin",
    show_default=True,
    help="The subnet manager: built in, or the distribution's unmodified OpenSM.",
)
@json_option
def up(
    file: Path | None,
    lab_name: str,
    fabric: Path | None,
    bundles: tuple[Path, ...],
    resume: bool,
    foreground: bool,
    profile: str,
    manager: str,
    as_json: bool,
) -> None:
    """Start a lab from FILE (docs/topology.md), or the default one: two hosts, two switches.

    Returns when every port is active and every bond is up. The lab then runs in the background until `lab down`.
    """
    from ibbond.host.named_namespaces import named_hosts
    from ibbond.lab.launch import killed, refuse_changes, start
    from ibbond.lab.state import LabConfig

    name = lab_name or "lab"
    text, source = topology_text(file, fabric, bundles)
    if not resume and killed(name):
        if named_hosts(name):
            resume = resume_instead(name, as_json)
        else:
            click.echo(f"lab {name} was killed: removing what it left", err=True)
    config = LabConfig(name, text, source, resume=resume, profile=profile, leased=foreground, manager=manager)
    if resume:
        source_of = click.get_current_context().get_parameter_source
        given = {"file": "text", "profile": "profile", "manager": "manager"}
        refuse_changes(config, [given[word] for word in given if source_of(word) is ParameterSource.COMMANDLINE])
    with signals_end_it(f"lab {name} is down") as too_late, contextlib.ExitStack() as ending:
        if foreground:
            from ibbond.lab.launch import running_lab

            running, _ = ending.enter_context(running_lab(config))
        else:
            running = start(config)
            too_late()  # it is up: what comes now must not end the words that say so
        if as_json:
            print_json(running.status)
        else:
            click.echo(describe(running.status))
        sys.stdout.flush()
        if foreground:
            failed(name, running.process.wait())


def failed(name: str, code: int) -> None:
    """A lab that has ended by itself; `Refused` where that was not its proper end."""
    from ibbond.lab.state import Files

    if code:
        why = f"it was killed by signal {-code}" if code < 0 else "an internal error"
        raise Refused(f"lab {name} has ended", why=why, fix=f"Read its log: {Files(name).log}")


def topology_text(file: Path | None, fabric: Path | None, bundles: tuple[Path, ...]) -> tuple[str, str]:
    """The topology that FILE or --from names, and where it is from; notes about an import go to stderr."""
    if fabric is None:
        if bundles:
            raise only_with_from()
        return read_topology(file)
    if file is not None:
        raise Refused(
            f"cannot use both {file} and --from {fabric}",
            why="each describes the whole fabric",
            fix="Omit one; ibbond lab topology --from FILE prints a topology file that can be edited",
        )
    return import_topology(fabric, bundles)


def resume_instead(name: str, as_json: bool) -> bool:
    """What to do with a lab that was killed: ask a person, or clean and say so."""
    option = "" if name == "lab" else f" --name {name}"
    if sys.stdin.isatty() and sys.stdout.isatty() and not as_json:
        question = f"Lab {name} was killed; its hosts and the programs in them are still here. Resume it?"
        return click.confirm(question, default=True)
    click.echo(
        f"lab {name} was killed: removing what it left (to take it over instead: ibbond lab up{option} --resume)",
        err=True,
    )
    return False


@lab.command()
@name_option
@json_option
def status(lab_name: str, as_json: bool) -> None:
    """Show the hosts of a lab with their addresses and bonds, its cables, and its process."""
    from ibbond.backend.control_socket import Control

    with Control.of(lab_name) as control:
        facts = as_dict(control.ask("status"))
    if as_json:
        print_json(facts)
    else:
        click.echo(describe(facts))


@lab.command()
@name_option
@json_option
def down(lab_name: str, as_json: bool) -> None:
    """Take a lab down: its hosts, their programs and devices. Also cleans up after a killed lab."""
    from ibbond.lab.launch import take_down

    text = take_down(lab_name or "lab")
    done(as_json, text, {"down": lab_name or "lab"})


@lab.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the labs of this user."""
    from ibbond.lab.launch import killed
    from ibbond.lab.state import Files, names

    found = [
        {"name": name, "state": "runs" if Files(name).held else "was killed" if killed(name) else "is down"}
        for name in names()
    ]
    if as_json:
        print_json({"labs": found})
    else:
        click.echo(table([(lab["name"], state(lab["state"])) for lab in found]) or "no labs")


@lab.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@FROM
@BUNDLES
@json_option
def topology(file: Path | None, fabric: Path | None, bundles: tuple[Path, ...], as_json: bool) -> None:
    """Check FILE and list its cables; without FILE print the default topology as a template.

    With --from, print the topology file of an imported fabric.
    """
    from ibbond.lab.state import NOT_OURS
    from ibbond.topology.load import parse

    text, source = topology_text(file, fabric, bundles)
    parsed = parse(text, name=source, others=NOT_OURS)
    if as_json:
        print_json(
            {
                "hosts": [host.name for host in parsed.hosts],
                "switches": [switch.name for switch in parsed.switches],
                "cables": [[parsed.end_for_people(c.a), parsed.end_for_people(c.b)] for c in parsed.cables],
            }
        )
    elif file is None:
        click.echo(text, nl=False)
    else:
        rows = [(parsed.end_for_people(cable.a), parsed.end_for_people(cable.b)) for cable in parsed.cables]
        click.echo(
            f"{source}: {len(parsed.hosts)} hosts, {len(parsed.switches)} switches, {len(rows)} cables\n{table(rows)}"
        )


def describe(facts: dict[str, object]) -> str:
    """The status of a lab for people."""
    lines = [
        f"lab '{facts['name']}' is up: {facts['topology']}, process {facts['pid']}",
        "",
    ]
    rows = []
    for host, host_facts in as_dict(facts["hosts"]).items():
        for kind in ("bonds", "devices"):
            for name, device_facts in as_dict(as_dict(host_facts)[kind]).items():
                rows.append(describe_device(f"{host}/{name}", as_dict(device_facts)))
    lines.append(table(rows, ("DEVICE", "STATE", "", "ADDRESSES")))
    missing = as_dict(facts["sysfs"])["why_not"]
    if missing is not None:
        lines += ["", f"/sys/class/net in the hosts does not show bonds: {missing}"]
    if not as_dict(facts["manager"])["alive"]:
        dead = click.style("the subnet manager is dead", "red")
        lines += ["", f"{dead}; restart it with: ibbond lab revive sm"]
    lines += describe_faults(facts)
    late = as_dict(facts.get("late") or {})
    if late.get("worst_ms"):
        lines += ["", f"the machine was busy: {describe_late(late['worst_ms'], late['why'])}"]
    lines += ["", table((describe_cable(as_dict(cable)) for cable in cables_of(facts)), ("CABLE", "", "STATE"))]
    return "\n".join(lines)


def describe_late(worst_ms: object, why: object) -> str:
    return f"the lab ran up to {worst_ms:g} ms late" + (f", because {why}" if why else "")


def describe_faults(facts: dict[str, object]) -> list[str]:
    """What went wrong inside, by where it came in; nothing where nothing did."""
    lines = []
    for kind, text in (("faults", "handling failed (traceback in the log)"), ("malformed", "could not be parsed")):
        counts = as_dict(facts.get(kind) or {})
        if counts:
            lines += ["", f"{text}: {', '.join(f'{entry} {count}' for entry, count in counts.items())}"]
    return lines


def describe_device(name: str, facts: dict[str, object]) -> tuple[str, str, str, str]:
    word = "up" if facts["carrier"] and facts["up"] else "no carrier" if facts["up"] else "down"
    if "members" in facts:
        members = facts["members"]
        assert isinstance(members, list)
        more = f"active {facts['active'] or 'none'} of {', '.join(members) or 'no members'}"
    elif facts.get("master"):
        more = f"member of {facts['master']}"
    else:
        more = str(facts.get("kind", ""))
    own = facts["addresses"]
    assert isinstance(own, list)
    return device(name), state(word), more, addresses(own)


def describe_cable(cable: dict[str, object]) -> tuple[str, str, str]:
    ends = cable["ends"]
    assert isinstance(ends, list)
    loss = click.style(f", loses {cable['loss_percent']:g} %", "yellow") if cable["loss_percent"] else ""
    return device(str(ends[0])), device(str(ends[1])), f"{state(str(cable['state']))}{loss}"


def cables_of(facts: dict[str, object]) -> list[object]:
    cables = facts["cables"]
    assert isinstance(cables, list)
    return cables
