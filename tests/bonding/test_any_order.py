"""A bond driven by the texts of its files, in any order, is at every moment what those files say, and the core agrees.

`test_properties` asks the core by events; here the requests are what a shell writes, good and bad, and after every step
each file is read, parsed and held against the bond itself, the file of its neighbor, and procfs.
"""

import errno

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ibbond.abi import procfs_text, sysfs_text
from ibbond.bonding import events as e
from ibbond.bonding.bond import Bond
from ibbond.bonding.effects import Prepare
from ibbond.bonding.member import Link
from ibbond.bonding.option import Kind, Mode
from ibbond.bonding.options import OPTIONS
from ibbond.errors import Refused
from tests.bonding.bond_host import Host

MEMBERS = ("ib1", "ib2", "ib3", "eth1")
FILES = [name for name, option in OPTIONS.items() if option.has_file]
MEMBER_FILES = ("state", "mii_status", "link_failure_count", "perm_hwaddr", "queue_id", "ad_aggregator_id")
TEXTS = st.one_of(
    st.integers(-2, 300).map(str),
    st.sampled_from(
        ["65536", "99999999999", "", "\n", "0x10", "+", "-", "on", "off", "none", "all", "active", "always"]
    ),
    st.sampled_from(["always", "better", "failure", "layer3+4", "stable", "active-backup", "802.3ad", "+10.0.0.9"]),
    st.sampled_from(["-10.0.0.9", "+fe80::9", "ib1:3", "ib2:0", "nix:1", "+nix", "-nix", "ib1", "ib1\n", "eth1"]),
    st.text(max_size=6),
)
ERRNOS = {  # what a write(2) to a file of bonding/ may end with
    errno.EINVAL,
    errno.EACCES,
    errno.EPERM,
    errno.ENODEV,
    errno.EBUSY,
    errno.ENOTEMPTY,
    errno.ENOENT,
    errno.ERANGE,
    errno.EOPNOTSUPP,
}


class Shell(RuleBasedStateMachine):
    """Random writes and a random network."""

    profile = "default"

    @initialize()
    def start(self) -> None:
        self.host = Host(self.profile)
        self.bond: Bond = self.host.bond(mode=1, miimon=100)

    def write(self, file: str, text: str) -> bool:
        """One write(2); whether it was taken. A refused one has an errno of the driver's and has changed no file."""
        before = self.files()
        refused = self.refusal(file, text)
        if refused is None:
            return True
        assert refused.code in ERRNOS, (file, text, refused.code)
        assert all((refused.what, refused.why, refused.fix))
        assert self.files() == before, (file, text)
        self.host.effects += self.host.run_due(self.bond)
        return False

    def refusal(self, file: str, text: str) -> Refused | None:
        try:
            self.host.do(self.bond, sysfs_text.bond_request(file, text))
        except Refused as refused:
            return refused
        return None

    def files(self) -> dict[str, str]:
        snapshot = self.bond.snapshot()
        return {name: sysfs_text.read_bond(snapshot, name) for name in FILES}

    @rule(file=st.sampled_from(FILES), text=TEXTS)
    def write_anything(self, file: str, text: str) -> None:
        self.write(file, text)

    @rule(data=st.data(), file=st.sampled_from([name for name in FILES if OPTIONS[name].kind is Kind.VALUE]))
    def write_a_value(self, data: st.DataObject, file: str) -> None:
        """What a file takes as a word it takes as a number, and shows both; another value is shown as it was set."""
        option = OPTIONS[file]
        if option.read_only:
            assert not self.write(file, "1")
            return
        word = data.draw(st.sampled_from([word.text for word in option.words] or ["3"]))
        if self.write(file, f"{word}\n"):
            shown = sysfs_text.read_bond(self.bond.snapshot(), file)
            if option.shows_word and shown:
                assert shown.split()[0] == word, (file, word)

    @rule(name=st.sampled_from(MEMBERS), sign=st.sampled_from("+-"))
    def enslave_or_release(self, name: str, sign: str) -> None:
        if self.write("slaves", f"{sign}{name}\n"):
            listed = sysfs_text.read_bond(self.bond.snapshot(), "slaves").split()
            assert (name in listed) is (sign == "+")

    @rule(name=st.sampled_from(MEMBERS))
    def switch(self, name: str) -> None:
        if self.write("active_slave", f"{name}\n"):
            for effect in [effect for effect in self.host.effects if isinstance(effect, Prepare)]:
                self.host.do(self.bond, e.Ready(effect.name))
            self.host.effects.clear()

    @rule(up=st.booleans())
    def set_admin(self, up: bool) -> None:
        if up is not self.bond.device.up:
            self.host.do(self.bond, e.Open() if up else e.Close())

    @rule(name=st.sampled_from(MEMBERS), on=st.booleans())
    def plug(self, name: str, on: bool) -> None:
        self.host.plug(name, on)

    @rule(ms=st.sampled_from([1, 40, 100, 350]))
    def wait(self, ms: int) -> None:
        self.host.wait(ms)

    @invariant()
    def files_say_what_the_core_knows(self) -> None:
        bond, snapshot = self.bond, self.bond.snapshot()
        mode = Mode(int(sysfs_text.read_bond(snapshot, "mode").split()[1]))
        assert mode == bond.values.mode
        for name, text in self.files().items():
            said = sysfs_text.parse_bond(name, text)
            option = OPTIONS[name]
            match option.kind:
                case Kind.VALUE | Kind.TARGETS | Kind.TARGETS6 | Kind.ADDRESS if text:
                    assert said == snapshot.options[name], name
                case Kind.MEMBERS:
                    assert said == tuple(bond.members)
                case Kind.NAME:
                    wanted = bond.active if name == "active_slave" else snapshot.primary
                    assert said == (wanted if mode in option.readable_in else None), name
                    assert said is None or said in bond.members
        assert self.files()["mii_status"] == ("up\n" if bond.device.carrier else "down\n")

    @invariant()
    def members_files_and_the_bonds_agree(self) -> None:
        snapshot = self.bond.snapshot()
        active = []
        for member in snapshot.members:
            texts = {name: sysfs_text.read_member(snapshot, member, name) for name in MEMBER_FILES}
            core = self.bond.members[member.name]
            assert (texts["mii_status"] == "up\n") is (core.link is Link.UP)
            assert f"{member.name}:{texts['queue_id'].strip()}" in sysfs_text.read_bond(snapshot, "queue_id").split()
            active += [member.name] if texts["state"] == "active\n" else []
        if self.bond.values.active_backup:
            if self.bond.active is None and self.bond.values.arp_interval:
                assert len(active) <= 1, "the ARP monitor tries one after the other"
            else:
                assert active == ([self.bond.active] if self.bond.active else [])

    @invariant()
    def procfs_says_the_same_as_sysfs(self) -> None:
        snapshot = self.bond.snapshot()
        read = procfs_text.parse(procfs_text.render(snapshot))
        assert [member.name for member in read.members] == sysfs_text.read_bond(snapshot, "slaves").split()
        assert [member.link for member in read.members] == [member.link for member in snapshot.members]
        assert read.carrier is snapshot.carrier
        if self.bond.values.active_backup:
            assert read.active == sysfs_text.parse_bond("active_slave", sysfs_text.read_bond(snapshot, "active_slave"))


class KernelsShell(Shell):
    profile = "kernel-6.1"


SLOWLY = settings(max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck))
TestOurs = Shell.TestCase
TestOurs.settings = SLOWLY
TestKernels = KernelsShell.TestCase
TestKernels.settings = SLOWLY
