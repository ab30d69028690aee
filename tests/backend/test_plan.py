"""Plans as values: from any state to any other on a model of the driver's rules, in the order that the driver wants."""

from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from ibbond.backend.plan import (
    MASTERS,
    AddIp,
    DeleteIp,
    LoadDriver,
    SetAdmin,
    Step,
    Write,
    needs_interruption,
    reconcile,
    surviving,
)
from ibbond.backend.state import BondState, DeviceState, HostState, Settings
from ibbond.bonding.options import OPTIONS
from ibbond.host.ip_settings import Hop, IpAddress, IpRoute
from ibbond.host.rtnetlink import RTA_DST, RTA_GATEWAY

MEMBERS = ("ib0", "ib1", "ib2")
DEFAULTS = {
    "mode": "balance-rr",
    "miimon": "0",
    "updelay": "0",
    "fail_over_mac": "none",
    "num_grat_arp": "1",
    "arp_ip_target": "",
    "primary": "",
    "primary_reselect": "always",
    "lacp_rate": "slow",
}


@dataclass
class Model:
    """As much of the driver as a plan depends on: what it refuses, and what a step leaves behind."""

    bonds: dict[str, BondState] = field(default_factory=dict)
    devices: dict[str, DeviceState] = field(default_factory=dict)
    ip: Settings = ()

    def state(self) -> HostState:
        return HostState(dict(self.bonds), dict(self.devices), self.ip)

    def do(self, step: Step) -> None:
        match step:
            case Write(path, text) if path == MASTERS:
                self.masters(text[0], text[1:])
            case Write(path, text):
                name, _, option = path.partition("/")
                self.write(name, option.removeprefix("bonding/"), text)
            case SetAdmin(name, up):
                self.admin(name, up)
            case AddIp(setting):
                device = self.device(setting.devices[0])
                assert isinstance(setting, IpAddress) or device.up, "ENETDOWN"
                assert setting not in self.ip
                self.ip = (*self.ip, setting)
            case DeleteIp(setting):
                self.ip = tuple(each for each in self.ip if each != setting)
            case LoadDriver():
                raise AssertionError(step)

    def masters(self, sign: str, name: str) -> None:
        if sign == "+":
            assert name not in self.bonds, "EEXIST"
            self.bonds[name] = BondState(DeviceState(False, 1500), dict(DEFAULTS), ())
            return
        for member in self.bonds.pop(name).members:
            self.admin(member, False)
        self.ip = surviving(self.ip, (), [name])

    def write(self, name: str, option: str, text: str) -> None:
        bond = self.bonds.get(name)
        if option == "mtu":
            self.put(name, mtu=int(text))
        elif option == "slaves":
            assert bond is not None
            member = text[1:]
            if text[0] == "+":
                assert not self.devices[member].up, "EPERM: the member is up"
                assert all(member not in other.members for other in self.bonds.values()), "EBUSY"
                members: tuple[str, ...] = (*bond.members, member)
            else:
                members = tuple(each for each in bond.members if each != member)
            self.admin(member, text[0] == "+")
            self.change(name, members=members)
        else:
            assert bond is not None
            row = OPTIONS[option]
            assert not (row.no_members and bond.members), f"ENOTEMPTY {option}"
            assert not (row.bond_down and bond.device.up), f"EBUSY {option}"
            if option == "arp_ip_target":
                old = bond.options[option].split()
                new = [each for each in old if each != text[1:]] + ([text[1:]] if text[0] == "+" else [])
                text = " ".join(new)
            elif option == "primary" and text.strip():
                assert text in bond.members, "it would not hold"
            options = {**bond.options, option: text.strip()}
            if option == "miimon" and int(bond.options["miimon"]):  # delays are counted in its runs
                runs = int(bond.options["updelay"]) // int(bond.options["miimon"])
                options["updelay"] = str(runs * int(text))
            self.change(name, options=options)

    def admin(self, name: str, up: bool) -> None:
        self.put(name, up=up)
        if not up:
            self.ip = surviving(self.ip, [name])

    def device(self, name: str) -> DeviceState:
        return self.bonds[name].device if name in self.bonds else self.devices[name]

    def put(self, name: str, **changes: object) -> None:
        device = replace(self.device(name), **changes)  # type: ignore[arg-type]
        if name in self.bonds:
            self.change(name, device=device)
        else:
            self.devices[name] = device

    def change(self, name: str, **changes: object) -> None:
        self.bonds[name] = replace(self.bonds[name], **changes)  # type: ignore[arg-type]


def option_values() -> st.SearchStrategy[dict[str, str]]:
    return st.fixed_dictionaries(
        {
            "mode": st.sampled_from(["balance-rr", "active-backup", "802.3ad"]),
            "miimon": st.sampled_from(["0", "50", "100"]),
            "updelay": st.sampled_from(["0", "200"]),
            "fail_over_mac": st.sampled_from(["none", "active", "follow"]),
            "num_grat_arp": st.sampled_from(["1", "3"]),
            "arp_ip_target": st.sampled_from(["", "10.0.0.1", "10.0.0.2 10.0.0.1"]),
            "primary_reselect": st.sampled_from(["always", "failure"]),
            "lacp_rate": st.sampled_from(["slow", "fast"]),
            "primary": st.just(""),
        }
    )


@st.composite
def host_states(draw: st.DrawFn) -> HostState:
    """bond0, bond1, both or none, over some of three devices."""
    free = draw(st.permutations(MEMBERS))
    bonds: dict[str, BondState] = {}
    for name in draw(st.lists(st.sampled_from(["bond0", "bond1"]), unique=True)):
        count = draw(st.integers(0, len(free)))
        members, free = tuple(free[:count]), free[count:]
        options = draw(option_values())
        if options["miimon"] == "0":
            options["updelay"] = "0"
        if members and options["mode"] == "active-backup":
            options["primary"] = draw(st.sampled_from(["", *members]))
        bonds[name] = BondState(DeviceState(draw(st.booleans()), draw(st.sampled_from([1500, 2044]))), options, members)
    devices = {}
    for name in MEMBERS:
        is_member = any(name in bond.members for bond in bonds.values())
        devices[name] = DeviceState(is_member or draw(st.booleans()), 2044)
    up = {name: bond.device.up for name, bond in bonds.items()}
    up |= {name: device.up for name, device in devices.items()}
    free = [*bonds, *(name for name in MEMBERS if not any(name in bond.members for bond in bonds.values()))]
    ip: list[IpAddress | IpRoute] = []
    for name in free:
        texts = draw(st.lists(st.sampled_from(["10.0.0.1/24", "10.0.0.2/24", "2001:db8::1/64"]), unique=True))
        ip += [IpAddress.of(name, each) for each in texts]
        ip += [route(name)] if up[name] and draw(st.booleans()) else []
    if len(free) > 1 and all(up[name] for name in free[:2]) and draw(st.booleans()):
        ip.append(route(*free[:2]))
    return HostState(bonds, devices, tuple(ip))


def route(*devices: str) -> IpRoute:
    """10.8.0.0/16 over one device, 10.9.0.0/16 over two."""
    destination = bytes((10, 7 + len(devices), 0, 0))
    hops = tuple(Hop(device, ((RTA_GATEWAY, bytes((10, 0, 0, 9))),)) for device in devices)
    return IpRoute((2, 16, 0, 0, 3, 0, 1), 254, ((RTA_DST, destination),), hops)


@settings(max_examples=300, deadline=None)
@given(host_states(), host_states())
def test_steps_lead_from_any_state_to_any_other(current: HostState, wanted: HostState) -> None:
    """As `put_back` does it: plan, carry out, look again, until nothing is left; the driver refuses no step."""
    model = Model(dict(current.bonds), dict(current.devices), current.ip)
    for _ in range(4):
        for step in reconcile(model.state(), wanted):
            model.do(step)
    assert reconcile(model.state(), wanted) == []
    assert set(model.bonds) == set(wanted.bonds)
    for name, bond in wanted.bonds.items():
        found = model.bonds[name]
        assert set(found.members) == set(bond.members)
        assert {**found.options, "arp_ip_target": set(found.options["arp_ip_target"].split())} == {
            **bond.options,
            "arp_ip_target": set(bond.options["arp_ip_target"].split()),
        }
        assert (found.device.up, found.device.mtu) == (bond.device.up, bond.device.mtu)
    assert set(model.ip) == set(wanted.ip)


@given(host_states())
def test_from_a_state_to_itself_there_is_nothing_to_do(state: HostState) -> None:
    assert reconcile(state, state) == []
    for bond in state.bonds.values():
        assert needs_interruption(bond, bond) == ""


def test_the_active_member_leaves_last() -> None:
    bond = BondState(DeviceState(True, 2044), {"fail_over_mac": "active"}, ("ib0", "ib1"), "ib0", {})
    wanted = BondState(bond.device, {"fail_over_mac": "none"}, bond.members)
    lines = [str(step) for step in reconcile(HostState({"bond0": bond}), HostState({"bond0": wanted}))]
    assert lines.index("write -ib1 to /sys/class/net/bond0/bonding/slaves") < lines.index(
        "write -ib0 to /sys/class/net/bond0/bonding/slaves"
    )
    assert needs_interruption(bond, wanted)
