"""Random desired states for property tests: what a careful operator could write, every option of the table among it."""

from hypothesis import strategies as st

from ibbond.bonding.option import Kind, Mode, Option
from ibbond.bonding.options import OPTIONS
from ibbond.config.desired import Desired, DesiredBond, DesiredMember, DesiredRoute, Match, Setting, Source

HERE = Source("state", 1)
WRITABLE = [
    option
    for option in OPTIONS.values()
    if not (option.read_only or option.ours or option.of_member)
    and option.kind in (Kind.VALUE, Kind.TARGETS, Kind.TARGETS6)
    and Mode.ACTIVE_BACKUP in option.modes
    and option.name not in ("mode", "num_unsol_na", "fail_over_mac")
]
OCTETS = st.integers(1, 254)
V4 = st.tuples(OCTETS, OCTETS).map(lambda pair: f"10.9.{pair[0]}.{pair[1]}")
V6 = OCTETS.map(lambda number: f"2001:db8::{number:x}")


def setting(text: object) -> Setting:
    return Setting(str(text), HERE)


@st.composite
def values(draw: st.DrawFn, option: Option) -> str:
    if option.kind in (Kind.TARGETS, Kind.TARGETS6):
        return " ".join(draw(st.lists(V4 if option.kind is Kind.TARGETS else V6, min_size=1, max_size=3, unique=True)))
    if option.shows_word:
        return draw(st.sampled_from([word.text for word in option.words if word.text not in ("maxval", "default")]))
    low, high = option.limits or (0, 1)
    number = draw(st.sampled_from([low, high, option.default, min(low + 100, high), min(3, high)]))
    return str(min(number, 100_000))


@st.composite
def devices(draw: st.DrawFn, name: str) -> DesiredMember:
    member = DesiredMember(Match((name,)), HERE)
    if draw(st.booleans()):
        member.pkey, member.parent = draw(st.sampled_from([0x8001, 0x8123])), name
        member.match = Match((member.device,))
    elif draw(st.integers(0, 3)) == 0:
        member.match = Match((name,), address=bytes.fromhex("0002c903") + bytes((0, 0, 1, int(name[2:]))))
    member.transport = draw(st.sampled_from([None, setting("datagram"), setting("connected")]))
    member.mtu = draw(st.sampled_from([None, setting(2044), setting(4092)]))
    if draw(st.integers(0, 3)) == 0:
        member.options["queue_id"] = setting(draw(st.integers(1, 16)))
    return member


@st.composite
def bonds(draw: st.DrawFn, index: int) -> DesiredBond:
    bond = DesiredBond(f"bond{index}", "test", HERE, is_defined=True)
    bond.starts = draw(st.integers(0, 4)) > 0
    bond.members = [draw(devices(f"ib{index * 2 + number}")) for number in range(draw(st.integers(1, 2)))]
    chosen = draw(st.lists(st.sampled_from(WRITABLE), unique=True, max_size=6))
    arp = draw(st.booleans())
    left_out = ("miimon", "updelay", "downdelay", "peer_notif_delay") if arp else ("arp_interval", "arp_validate")
    bond.options = {"mode": setting("active-backup"), "fail_over_mac": setting("active")}
    bond.options |= {each.name: setting(draw(values(each))) for each in chosen if each.name not in left_out}
    if draw(st.booleans()):
        bond.options["primary"] = setting(bond.members[0].device or bond.members[0].match.name)
    bond.mtu = draw(st.sampled_from([None, setting(2044), setting(65520)]))
    bond.addresses = [setting(f"{a}/24") for a in draw(st.lists(V4, unique=True, max_size=2))]
    bond.addresses += [setting(f"{a}/64") for a in draw(st.lists(V6, unique=True, max_size=2))]
    if draw(st.integers(0, 4)) == 0:
        bond.dhcp = draw(st.sampled_from([frozenset({4}), frozenset({6}), frozenset({4, 6})]))
        bond.addresses = []
    if draw(st.booleans()):
        bond.routes.append(DesiredRoute("default", draw(V4), HERE, draw(st.sampled_from([0, 50]))))
    if draw(st.booleans()):
        bond.routes.append(DesiredRoute("2001:db8:9::/48", draw(V6), HERE, draw(st.sampled_from([0, 50]))))
    bond.dns = [setting(a) for a in draw(st.lists(V4, unique=True, max_size=2))]
    bond.search = [setting(a) for a in draw(st.lists(st.sampled_from(["example.org", "lab"]), unique=True))]
    return bond


@st.composite
def states(draw: st.DrawFn) -> Desired:
    desired = Desired([draw(bonds(index)) for index in range(draw(st.integers(1, 2)))])
    if draw(st.integers(0, 3)) == 0:
        desired.children.append(DesiredMember(Match(("ib9.8002",)), HERE, pkey=0x8002, parent="ib9"))
    return desired
