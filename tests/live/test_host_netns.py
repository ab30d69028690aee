"""Namespaces of lab hosts: made, entered, found after a crash, removed without a trace."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ibbond.errors import Refused
from ibbond.host import namespace
from ibbond.host.named_namespaces import NETNS_DIRECTORY, STATE_DIRECTORY, leftovers
from ibbond.host.namespace import NetNamespace

MakeHost = Callable[[str], NetNamespace]


def test_a_host_is_a_namespace_of_its_own(make_host: MakeHost) -> None:
    space = make_host("h1")
    inside = space.run(["readlink", "/proc/self/ns/net", "/proc/self/ns/mnt"]).stdout.split()
    assert inside[0] != os.readlink("/proc/self/ns/net")
    assert inside[1] != os.readlink("/proc/self/ns/mnt")
    assert space.run(["ls", "/sys/class/net"]).stdout.split() == ["lo"]
    assert space.run(["cat", "/sys/class/net/lo/operstate"]).stdout.strip() == "unknown"  # up: loopback has no other


@pytest.mark.parametrize("user", ["root", "ordinary"])
def test_a_call_within_a_host_leaves_this_thread_where_it_is(
    make_host: MakeHost, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if user == "ordinary":
        monkeypatch.setattr(namespace, "_way_home", lambda: -1)
    space, outside = make_host("h1"), os.readlink("/proc/thread-self/ns/net")
    assert space.run_in(lambda: os.readlink("/proc/thread-self/ns/net")) != outside
    with pytest.raises(ZeroDivisionError):
        space.run_in(lambda: 1 / 0)
    assert os.readlink("/proc/thread-self/ns/net") == outside


def test_mounts_inside_stay_inside(make_host: MakeHost, tmp_path: Path) -> None:
    space = make_host("h1")
    assert space.run(["mount", "-t", "tmpfs", "none", str(tmp_path)]).returncode == 0
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()


@pytest.mark.skipif(not Path("/dev/console").exists(), reason="this machine has no console")
def test_the_console_of_the_machine_is_not_that_of_a_host(make_host: MakeHost) -> None:
    null = os.stat("/dev/null").st_rdev
    assert os.stat("/dev/console").st_rdev != null
    seen = make_host("h1").run(["stat", "-c", "%t:%T", "/dev/console"]).stdout.strip()
    assert seen == f"{os.major(null):x}:{os.minor(null):x}"


def test_the_exit_code_and_the_output_of_a_program_come_back(make_host: MakeHost) -> None:
    done = make_host("h1").run(["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "err\n")


def test_a_taken_name_is_refused(make_host: MakeHost, lab: str) -> None:
    if not make_host("h1").named:
        pytest.skip("this user cannot write /run/netns")
    with pytest.raises(Refused, match="it already exists"):
        namespace.make(lab, "h1")


@pytest.mark.parametrize(("lab_name", "host"), [("a-b", "h1"), ("", "h1"), ("a", ""), ("a", "../x")])
def test_names_that_could_meet_are_refused(lab_name: str, host: str) -> None:
    with pytest.raises(Refused):
        namespace.make(lab_name, host)


def test_removing_ends_the_programs_inside_and_leaves_nothing(lab: str) -> None:
    space = namespace.make(lab, "h1")
    sleeper = space.popen(["sleep", "60"])
    stubborn = space.popen(["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 60; done"], stdout=subprocess.PIPE)
    assert stubborn.stdout is not None
    assert stubborn.stdout.readline() == b"ready\n"
    space.remove(timeout=0.3)
    assert sleeper.wait(5) == -signal.SIGTERM
    assert stubborn.wait(5) == -signal.SIGKILL
    stubborn.stdout.close()
    assert without_traces(lab)


def test_what_a_killed_lab_leaves_is_found_and_cleaned(lab: str) -> None:
    script = """
        import sys, time
        from ibbond.host import namespace
        from ibbond.host.named_namespaces import STATE_DIRECTORY, NETNS_DIRECTORY, leftovers
        from ibbond.host.privilege import become_root
        spaces = [namespace.make(sys.argv[1], host) for host in ("h1", "h2")]
        program = spaces[0].popen(["sleep", "60"])
        print(spaces[0].named, flush=True)
        time.sleep(60)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), lab]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        named = owner.stdout.readline() == "True\n"
        owner.kill()
    if not named:
        pytest.skip("this user cannot write /run/netns")
    assert leftovers(lab) == [f"ibbond-{lab}-h1", f"ibbond-{lab}-h2"]
    assert leftovers(lab + "x") == []
    adopted = namespace.take_over(lab, "h1")
    assert len(adopted.processes()) == 1
    adopted.close()
    assert namespace.clean(lab) == [f"ibbond-{lab}-h1", f"ibbond-{lab}-h2"]
    assert leftovers(lab) == []
    assert without_traces(lab)


def test_an_adopted_host_keeps_its_mounts_while_a_program_lives(make_host: MakeHost, lab: str, tmp_path: Path) -> None:
    space = make_host("h1")
    if not space.named:
        pytest.skip("this user cannot write /run/netns")
    assert space.run(["mount", "-t", "tmpfs", "none", str(tmp_path)]).returncode == 0
    space.popen(["sleep", "60"])
    until = time.monotonic() + 5
    while not space.processes() and time.monotonic() < until:
        time.sleep(0.01)
    adopted = namespace.take_over(lab, "h1")
    assert str(tmp_path) in adopted.run(["cat", "/proc/self/mounts"]).stdout
    assert adopted.run(["hostname"]).stdout == "h1\n"
    adopted.close()


def test_a_host_has_a_name_ipc_and_memory_of_its_own(lab: str) -> None:
    machine = os.uname().nodename
    space = namespace.make(lab, "h1", "10.0.0.2 h2\nfd00::2 h2\n127.0.0.1 localhost\n")
    try:
        assert space.run(["hostname"]).stdout == "h1\n"
        assert space.run(["hostname", "other"]).returncode == 0
        assert os.uname().nodename == machine
        found = space.run(["getent", "ahosts", "h2"]).stdout
        assert "10.0.0.2" in found
        assert "fd00::2" in found
        assert space.run(["sh", "-c", "echo x > /dev/shm/ibbond-test"]).returncode == 0
        assert not Path("/dev/shm/ibbond-test").exists()
        assert space.run(["ls", "-A", "/dev/shm"]).stdout == "ibbond-test\n"
        for kind in ("uts", "ipc"):
            assert space.run(["readlink", f"/proc/self/ns/{kind}"]).stdout.strip() != os.readlink(
                f"/proc/self/ns/{kind}"
            )
    finally:
        space.remove()


def test_an_ordinary_user_gets_hosts_in_a_namespace_of_his_own(lab: str) -> None:
    script = """
        import ctypes, os, sys
        from ibbond.host import namespace, tun
        from ibbond.host.named_namespaces import STATE_DIRECTORY, NETNS_DIRECTORY, leftovers
        from ibbond.host.privilege import become_root
        from ibbond.host.rtnetlink import RouteSocket
        if os.geteuid() == 0:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE, as a program that began as this user is
        become_root()
        space = namespace.make(sys.argv[1], "h1")
        routes = space.run_in(RouteSocket)
        device = tun.open_tun(space, routes, "ib0", mtu=2044)
        device.set_up(True)
        print(space.named, space.run(["cat", "/proc/net/dev"]).stdout.count("ib0"))
        space.remove()
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script), lab], text=True, capture_output=True)
    if "cannot become root" in done.stderr:
        pytest.skip("user namespaces are not allowed here")
    if not os.stat("/dev/net/tun").st_mode & 0o006:
        pytest.skip("ordinary users may not open /dev/net/tun here (mode 0666 on most distributions)")
    assert done.stdout == "False 1\n", done.stderr


def traces(lab: str) -> tuple[list[str], list[str], bool]:
    """What a lab must take away: its mounts, its names of namespaces, and our note where it was the last lab.

    Other labs run on this machine meanwhile and come and go, so the note counts once no name of anyone stands there.
    """
    mounts = [line for line in Path("/proc/self/mounts").read_text().splitlines() if lab in line]
    pins = [path.name for path in NETNS_DIRECTORY.iterdir()] if NETNS_DIRECTORY.exists() else []
    return mounts, [name for name in pins if lab in name], STATE_DIRECTORY.exists() and not pins


def without_traces(lab: str) -> bool:
    """Tried for a while, for another lab may be between its name and its note."""
    until = time.monotonic() + 5
    while (left := traces(lab)) != ([], [], False):
        if time.monotonic() > until:
            print(left)
            return False
        time.sleep(0.05)
    return True
