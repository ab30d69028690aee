"""What an agent answers to every SMP, by LID and by directed route, to the well-meant and to the wrong."""

from dataclasses import replace

import pytest

from ibbond.fabric.events import MadArrived, SendMad, SetIsSm
from ibbond.fabric.port_states import LinkState
from ibbond.machine import SECOND
from ibbond.verbs.verbs import ManagementDatagram, PortEventKind, PortState
from ibbond.wire.mad import MadHeader, Method, Notice, Status
from ibbond.wire.perf import PerfAttribute, PerfMad
from ibbond.wire.port_info import Capability, PhysicalState, PortInfo
from ibbond.wire.sa import SaAttribute, SaMad
from ibbond.wire.smp import (
    Block16,
    GuidInfo,
    NodeDescription,
    NodeInfo,
    SlToVl,
    SmInfo,
    Smp,
    SmpAttribute,
    SmState,
    SwitchInfo,
    VlArbitration,
    directed_path,
)
from tests.fabric.subnets import Lab, pairs, two_switches

TO_S1, TO_S2, TO_H2 = (1,), (1, 7), (1, 7, 2)  # from h1/1
PERMISSIVE = 0xFFFF


@pytest.fixture
def lab() -> Lab:
    return two_switches(Lab()).start()


def send(lab: Lab, smp: Smp, port: str = "h1/1", lid: int = PERMISSIVE) -> Smp | None:
    """The answer to an SMP of a program at a port; None when none came."""
    lab.seen.clear()
    source = PERMISSIVE if lid == PERMISSIVE else lab.subnet.port(port).lid
    lab.do(SendMad(port, ManagementDatagram(source, lid, 0, 0, smp.pack())))
    answers = [
        Smp.parse(effect.mad.mad) for effect in lab.seen if isinstance(effect, MadArrived) and effect.port == port
    ]
    assert len(answers) <= 1
    return answers[0] if answers else None


def by_route(path: tuple[int, ...], attribute: int, modifier: int = 0, **fields: object) -> Smp:
    values: dict[str, object] = {"method": Method.GET, **fields}
    return Smp(
        attribute=attribute,
        modifier=modifier,
        transaction_id=0x1234,
        directed=True,
        hop_count=len(path),
        initial_path=directed_path(path),
        **values,  # type: ignore[arg-type]
    )


def get(lab: Lab, path: tuple[int, ...], attribute: int, modifier: int = 0) -> bytes:
    answer = send(lab, by_route(path, attribute, modifier))
    assert answer is not None
    assert answer.status == Status.OK
    return answer.data


def put(lab: Lab, path: tuple[int, ...], attribute: int, modifier: int, data: bytes, m_key: int = 0) -> Smp:
    answer = send(lab, by_route(path, attribute, modifier, method=Method.SET, data=data, m_key=m_key))
    assert answer is not None
    return answer


@pytest.mark.parametrize(
    ("path", "name", "number"),
    [((), "h1", 1), (TO_S1, "s1", 1), (TO_S2, "s2", 7), (TO_H2, "h2", 2), ((1, 7, 8), "s1", 8), ((1, 2), "h2", 1)],
)
def test_directed_routes_lead_where_they_say(lab: Lab, path: tuple[int, ...], name: str, number: int) -> None:
    assert NodeDescription.parse(get(lab, path, SmpAttribute.NODE_DESCRIPTION)).text == name
    info = NodeInfo.parse(get(lab, path, SmpAttribute.NODE_INFO))
    assert info.local_port == number
    assert info.node_guid == lab.subnet.nodes[name].guid
    assert (info.node_type, info.port_count) == ((2, 8) if name.startswith("s") else (1, 2))


def test_an_answer_shows_the_way_back(lab: Lab) -> None:
    answer = send(lab, by_route(TO_H2, SmpAttribute.NODE_INFO))
    assert answer is not None
    assert answer.returning
    assert answer.hop_pointer == 0
    assert answer.return_path[1:4] == bytes((1, 7, 2))  # the ports it came in by: s1/1, s2/7, h2/2


@pytest.mark.parametrize("path", [(2,), (1, 9), (1, 3), (1, 2, 1), (1, 7, 5), (1, 0)])
def test_routes_to_nowhere_are_silent(lab: Lab, path: tuple[int, ...]) -> None:
    """Another port of the host itself, ports without light, and through a host."""
    assert send(lab, by_route(path, SmpAttribute.NODE_INFO)) is None


def test_by_lid(lab: Lab) -> None:
    smp = Smp(Method.GET, SmpAttribute.NODE_DESCRIPTION, transaction_id=7)
    for port in ("s1/0", "s2/0", "h2/2", "h1/1", "h1/2"):
        answer = send(lab, smp, lid=lab.subnet.port(port).lid)
        assert answer is not None
        assert NodeDescription.parse(answer.data).text == port.split("/")[0]
        assert not answer.directed
    assert send(lab, smp, lid=0x1000) is None


def test_by_lid_and_then_by_route(lab: Lab) -> None:
    """What ibportstate does: the route starts at the node of a LID, and the answer comes back by LID."""
    own, s2 = lab.subnet.port("h1/1").lid, lab.subnet.port("s2/0").lid
    answer = send(lab, replace(by_route((2,), SmpAttribute.NODE_DESCRIPTION), dr_slid=own), lid=s2)
    assert answer is not None
    assert NodeDescription.parse(answer.data).text == "h2"


def test_by_route_and_then_by_lid_is_not_offered(lab: Lab) -> None:
    own, far = lab.subnet.port("h1/1").lid, lab.subnet.port("h2/2").lid
    smp = replace(by_route((1,), SmpAttribute.NODE_DESCRIPTION), dr_dlid=far, dr_slid=PERMISSIVE)
    lab.seen.clear()
    lab.do(SendMad("h1/1", ManagementDatagram(own, PERMISSIVE, 0, 0, smp.pack())))
    assert lab.seen == []


@pytest.mark.parametrize(
    ("path", "method", "attribute", "modifier", "status"),
    [
        (TO_S1, Method.TRAP_REPRESS, SmpAttribute.NODE_INFO, 0, None),
        (TO_S1, Method.SEND, SmpAttribute.NODE_INFO, 0, Status.BAD_METHOD),
        (TO_S1, Method.GET_TABLE, SmpAttribute.NODE_INFO, 0, Status.BAD_METHOD),
        (TO_S1, Method.SET, SmpAttribute.NODE_INFO, 0, Status.BAD_ATTRIBUTE),
        (TO_S1, Method.SET, SmpAttribute.NODE_DESCRIPTION, 0, Status.BAD_ATTRIBUTE),
        (TO_S1, Method.GET, 0x31, 0, Status.BAD_ATTRIBUTE),
        (TO_S1, Method.GET, 0x1A, 0, Status.BAD_ATTRIBUTE),
        (TO_H2, Method.GET, SmpAttribute.SWITCH_INFO, 0, Status.BAD_ATTRIBUTE),
        (TO_H2, Method.GET, SmpAttribute.LINEAR_FORWARDING_TABLE, 0, Status.BAD_ATTRIBUTE),
        (TO_H2, Method.SET, SmpAttribute.MULTICAST_FORWARDING_TABLE, 0, Status.BAD_ATTRIBUTE),
        (TO_H2, Method.GET, SmpAttribute.SM_INFO, 0, Status.BAD_ATTRIBUTE),
        (TO_S1, Method.GET, SmpAttribute.PORT_INFO, 9, Status.BAD_VALUE),
        (TO_H2, Method.GET, SmpAttribute.PORT_INFO, 3, Status.BAD_VALUE),
        (TO_S1, Method.GET, SmpAttribute.PKEY_TABLE, 9 << 16, Status.BAD_VALUE),
        (TO_S1, Method.GET, SmpAttribute.PKEY_TABLE, 3 << 16, Status.BAD_VALUE),  # no enforcement, no table
        (TO_H2, Method.GET, SmpAttribute.PKEY_TABLE, 2, Status.BAD_VALUE),
        (TO_S1, Method.GET, SmpAttribute.LINEAR_FORWARDING_TABLE, 768, Status.BAD_VALUE),
        (TO_S1, Method.GET, SmpAttribute.MULTICAST_FORWARDING_TABLE, 32, Status.BAD_VALUE),
        (TO_S1, Method.GET, SmpAttribute.MULTICAST_FORWARDING_TABLE, 1 << 28, Status.BAD_VALUE),
        (TO_S1, Method.GET, SmpAttribute.VL_ARBITRATION, 0, Status.BAD_VALUE),
        (TO_S1, Method.GET, SmpAttribute.VL_ARBITRATION, 5 << 16, Status.BAD_VALUE),
        (TO_S1, Method.GET, SmpAttribute.SL_TO_VL, 9, Status.BAD_VALUE),
        (TO_S1, Method.SET, SmpAttribute.SL_TO_VL, 200 << 8 | 1, Status.BAD_VALUE),
        (TO_H2, Method.GET, SmpAttribute.GUID_INFO, 1, Status.BAD_VALUE),
    ],
)
def test_wrong_questions(
    lab: Lab, path: tuple[int, ...], method: int, attribute: int, modifier: int, status: Status | None
) -> None:
    answer = send(lab, by_route(path, attribute, modifier, method=method, data=b"\1" * 64))
    if status is None:
        assert answer is None
    else:
        assert answer is not None
        assert (answer.method, answer.status) == (Method.GET_RESP, status)
        assert answer.data == b"\1" * 64
    assert lab.reachable() == pairs(["h1/1", "h1/2", "h2/1", "h2/2"])


@pytest.mark.parametrize("octet", [0, 2], ids=["base", "class"])
@pytest.mark.parametrize("kind", ["by route", "by LID", "performance", "subnet administration"])
def test_another_version(lab: Lab, kind: str, octet: int) -> None:
    """Requests get status 0x04; what asks for no answer is counted and dropped."""
    source, target = lab.subnet.port("h1/1").lid, lab.subnet.port("s1/0").lid
    qpn = 0
    match kind:
        case "by route":
            source = target = PERMISSIVE
            request = by_route(TO_S1, SmpAttribute.NODE_INFO).pack()
        case "by LID":
            request = Smp(Method.GET, SmpAttribute.NODE_INFO).pack()
        case "performance":
            qpn, request = 1, PerfMad(Method.GET, PerfAttribute.PORT_COUNTERS).pack()
        case _:
            qpn, request = 1, SaMad(Method.GET, SaAttribute.CLASS_PORT_INFO).pack()
    for method, refused in ((Method.GET, True), (Method.SEND, False), (Method.GET_RESP, False)):
        mad = bytearray(request)
        mad[octet], mad[3] = 9, method
        lab.seen.clear()
        lab.do(SendMad("h1/1", ManagementDatagram(source, target, qpn, qpn, bytes(mad))))
        answers = [effect.mad.mad for effect in lab.seen if isinstance(effect, MadArrived)]
        assert len(answers) == refused
        for answer in answers:
            assert answer[octet] == request[octet], "our own version"
            assert (answer[3], answer[4] & 0x7F, answer[5]) == (Method.GET_RESP, 0, Status.BAD_VERSION)
    assert lab.subnet.malformed == 2


def test_every_attribute_of_the_table_can_be_read(lab: Lab) -> None:
    for number in range(9):
        info = PortInfo.parse(get(lab, TO_S1, SmpAttribute.PORT_INFO, number))
        assert info.local_port == 1
    assert PortInfo.parse(get(lab, TO_H2, SmpAttribute.PORT_INFO)).lid == lab.subnet.port("h2/2").lid
    assert GuidInfo.parse(get(lab, TO_H2, SmpAttribute.GUID_INFO)).guids[0] == lab.subnet.port("h2/2").guid
    assert Block16.parse(get(lab, TO_H2, SmpAttribute.PKEY_TABLE)).entries[:2] == (0xFFFF, 0)
    assert SlToVl.parse(get(lab, TO_H2, SmpAttribute.SL_TO_VL)).lanes == (0, 1, 2, 3, 4, 5, 6, 7) * 2
    assert VlArbitration.parse(get(lab, TO_S1, SmpAttribute.VL_ARBITRATION, 1 << 16 | 3)).entries[0] == (0, 0)
    switch = SwitchInfo.parse(get(lab, TO_S1, SmpAttribute.SWITCH_INFO))
    assert (switch.linear_cap, switch.multicast_cap, switch.port_state_change) == (0xBFFF, 1024, False)
    assert switch.linear_top == max(port.lid for port in lab.subnet.end_ports())
    table = get(lab, TO_S1, SmpAttribute.LINEAR_FORWARDING_TABLE)
    assert table[lab.subnet.port("h2/1").lid] == 2
    assert table[lab.subnet.port("s1/0").lid] == 0
    assert table[0] == 255


@pytest.mark.parametrize(
    ("attribute", "modifier", "data"),
    [
        (SmpAttribute.SL_TO_VL, 2 << 8 | 3, SlToVl((1,) * 16).pack()),
        (SmpAttribute.VL_ARBITRATION, 3 << 16 | 3, VlArbitration(((1, 64),) * 32).pack()),
        (SmpAttribute.PKEY_TABLE, 1, Block16((0x8005,) * 32).pack()),
        (SmpAttribute.LINEAR_FORWARDING_TABLE, 767, bytes(range(64))),
        (SmpAttribute.MULTICAST_FORWARDING_TABLE, 31, Block16((0x1FE,) * 32).pack()),
    ],
)
def test_what_is_set_is_read_back(lab: Lab, attribute: int, modifier: int, data: bytes) -> None:
    assert put(lab, TO_S1, attribute, modifier, data).data == data
    assert get(lab, TO_S1, attribute, modifier) == data


def test_guids_beside_the_first_can_be_set(lab: Lab) -> None:
    own = lab.subnet.port("h2/2").guid
    put(lab, TO_H2, SmpAttribute.GUID_INFO, 0, GuidInfo((1, 2, 3, 4, 5, 6, 7, 8)).pack())
    assert GuidInfo.parse(get(lab, TO_H2, SmpAttribute.GUID_INFO)).guids == (own, 2, 3, 4, 5, 6, 7, 8)


def port_info(lab: Lab, path: tuple[int, ...], number: int = 0) -> PortInfo:
    """PortInfo ready to be set: no change of state."""
    info = PortInfo.parse(get(lab, path, SmpAttribute.PORT_INFO, number))
    return info.changed(state=0, physical_state=0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"state": PortState.INIT},
        {"state": PortState.ARMED},
        {"state": 7},
        {"physical_state": PhysicalState.LINK_UP},
        {"physical_state": 9},
        {"neighbor_mtu": 6},
        {"operational_vls": 9},
        {"lid": 0},
        {"lid": 0xC000},
        {"lid": 0xFFFF},
        {"sm_lid": 0xC000},
        {"lmc": 1},
    ],
)
def test_port_info_that_is_refused_changes_nothing(lab: Lab, wrong: dict[str, int]) -> None:
    before = lab.subnet.port("h2/2").info
    wanted = port_info(lab, TO_H2).changed(subnet_timeout=3, **wrong)
    assert put(lab, TO_H2, SmpAttribute.PORT_INFO, 2, wanted.pack()).status == Status.BAD_VALUE
    assert lab.subnet.port("h2/2").info == before
    assert lab.events("h2/2") == []


def test_down_retrains_the_link_on_both_ends(lab: Lab) -> None:
    lab.seen.clear()
    put(lab, TO_S1, SmpAttribute.PORT_INFO, 2, port_info(lab, TO_S1, 2).changed(state=PortState.DOWN).pack())
    assert lab.subnet.port("s1/2").state == lab.subnet.port("h2/1").state == PortState.INIT
    assert lab.events("h2/1") == [PortEventKind.PORT_ERR]
    assert lab.subnet.counters("h2/1").link_downed == 0
    lab.run_until_quiescent()
    assert lab.subnet.port("h2/1").state == PortState.ACTIVE


def test_a_disabled_port_stays_dark_until_polling(lab: Lab) -> None:
    disabled = port_info(lab, TO_S1, 2).changed(physical_state=PhysicalState.DISABLED)
    put(lab, TO_S1, SmpAttribute.PORT_INFO, 2, disabled.pack())
    lab.run_until_quiescent()
    assert lab.subnet.port("h2/1").state == PortState.DOWN
    assert lab.subnet.port("s1/2").link_state is LinkState.DISABLED
    polling = port_info(lab, TO_S1, 2).changed(physical_state=PhysicalState.POLLING)
    put(lab, TO_S1, SmpAttribute.PORT_INFO, 2, polling.pack())
    lab.run_until_quiescent()
    assert lab.subnet.port("h2/1").state == PortState.ACTIVE


def test_counters_of_violations_can_only_be_cleared(lab: Lab) -> None:
    lab.subnet.port("h2/2").change(p_key_violations=7)
    put(lab, TO_H2, SmpAttribute.PORT_INFO, 2, port_info(lab, TO_H2).changed(p_key_violations=9).pack())
    assert lab.subnet.port("h2/2").info.p_key_violations == 7
    put(lab, TO_H2, SmpAttribute.PORT_INFO, 2, port_info(lab, TO_H2).changed(p_key_violations=0).pack())
    assert lab.subnet.port("h2/2").info.p_key_violations == 0


def test_port_state_change_is_cleared_by_writing_one(lab: Lab) -> None:
    switch = lab.subnet.nodes["s2"]
    switch.set_port_state_change(True)  # type: ignore[attr-defined]
    seen = SwitchInfo.parse(get(lab, TO_S2, SmpAttribute.SWITCH_INFO))
    assert seen.port_state_change
    put(lab, TO_S2, SmpAttribute.SWITCH_INFO, 0, replace(seen, port_state_change=False).pack())
    assert SwitchInfo.parse(get(lab, TO_S2, SmpAttribute.SWITCH_INFO)).port_state_change
    put(lab, TO_S2, SmpAttribute.SWITCH_INFO, 0, seen.pack())
    assert not SwitchInfo.parse(get(lab, TO_S2, SmpAttribute.SWITCH_INFO)).port_state_change


def test_only_what_changes_the_forwarding_bumps_the_generation(lab: Lab) -> None:
    generation = lab.subnet._generation
    table = get(lab, TO_S1, SmpAttribute.LINEAR_FORWARDING_TABLE)
    group = get(lab, TO_S1, SmpAttribute.MULTICAST_FORWARDING_TABLE)
    before = generation.value
    put(lab, TO_S1, SmpAttribute.LINEAR_FORWARDING_TABLE, 0, table)
    put(lab, TO_S1, SmpAttribute.MULTICAST_FORWARDING_TABLE, 0, group)
    put(lab, TO_S1, SmpAttribute.SL_TO_VL, 0x0102, bytes(64))
    assert generation.value == before
    put(lab, TO_S1, SmpAttribute.LINEAR_FORWARDING_TABLE, 0, bytes([255]) * 64)
    assert generation.value == before + 1
    put(lab, TO_S1, SmpAttribute.MULTICAST_FORWARDING_TABLE, 0, b"\1" * 64)
    assert generation.value == before + 2


class TestManagementKey:
    """14.2.4: a port with an M_Key."""

    KEY = 0xFEED

    def lock(self, lab: Lab, protect: int, lease: int = 0) -> PortInfo:
        info = port_info(lab, TO_H2).changed(m_key=self.KEY, m_key_protect=protect, m_key_lease=lease)
        assert put(lab, TO_H2, SmpAttribute.PORT_INFO, 2, info.pack()).status == Status.OK
        return info

    @pytest.mark.parametrize(
        ("protect", "reads", "shows"), [(0, True, KEY), (1, True, 0), (2, False, None), (3, False, None)]
    )
    def test_who_may_read(self, lab: Lab, protect: int, reads: bool, shows: int | None) -> None:
        self.lock(lab, protect)
        answer = send(lab, by_route(TO_H2, SmpAttribute.PORT_INFO))
        assert (answer is not None) is reads
        if answer is not None:
            assert PortInfo.parse(answer.data).m_key == shows
        knowing = send(lab, by_route(TO_H2, SmpAttribute.PORT_INFO, m_key=self.KEY))
        assert knowing is not None
        assert PortInfo.parse(knowing.data).m_key == self.KEY

    @pytest.mark.parametrize("protect", [0, 1, 2, 3])
    def test_who_may_write(self, lab: Lab, protect: int) -> None:
        info = self.lock(lab, protect)
        before = lab.subnet.port("h2/2").info
        wanted = info.changed(subnet_timeout=5).pack()
        refused = send(lab, by_route(TO_H2, SmpAttribute.PORT_INFO, 2, method=Method.SET, data=wanted))
        assert refused is None
        assert lab.subnet.port("h2/2").info == before.changed(m_key_violations=1)
        assert put(lab, TO_H2, SmpAttribute.PORT_INFO, 2, wanted, self.KEY).status == Status.OK
        assert lab.subnet.port("h2/2").info.subnet_timeout == 5

    def test_the_lease_opens_a_port_whose_manager_is_gone(self, lab: Lab) -> None:
        self.lock(lab, 2, lease=5)
        question = by_route(TO_H2, SmpAttribute.PORT_INFO)
        assert send(lab, question) is None
        lab.now += 4 * SECOND
        assert send(lab, question) is None
        lab.now += SECOND
        answer = send(lab, question)
        assert answer is not None
        assert PortInfo.parse(answer.data).m_key == self.KEY

    def test_the_manager_stops_the_lease(self, lab: Lab) -> None:
        self.lock(lab, 2, lease=5)
        question = by_route(TO_H2, SmpAttribute.PORT_INFO)
        assert send(lab, question) is None
        assert send(lab, replace(question, m_key=self.KEY)) is not None
        lab.now += 6 * SECOND
        assert send(lab, question) is None


def test_sm_info_of_the_built_in_manager(lab: Lab) -> None:
    smp = Smp(Method.GET, SmpAttribute.SM_INFO, transaction_id=3)
    answer = send(lab, smp, lid=lab.subnet.port("s1/0").lid)
    assert answer is not None
    info = SmInfo.parse(answer.data)
    assert (info.guid, info.state) == (lab.subnet.port("s1/0").guid, SmState.MASTER)
    by_way = send(lab, by_route(TO_S2, SmpAttribute.SM_INFO))
    assert by_way is not None
    assert SmInfo.parse(by_way.data).state == SmState.STANDBY


def test_a_new_manager_is_reported_by_trap_144(lab: Lab) -> None:
    lab.after(SetIsSm("h2/1", True))
    logs = [getattr(effect, "what", "") for effect in lab.seen]
    assert any(log.startswith("trap 144") for log in logs)
    assert lab.subnet.port("h2/1").info.capability_mask & Capability.IS_SM
    answer = send(lab, Smp(Method.GET, SmpAttribute.SM_INFO), port="h2/2", lid=lab.subnet.port("h2/1").lid)
    assert answer is None  # it is for the program at h2/1
    assert any(isinstance(effect, MadArrived) and effect.port == "h2/1" for effect in lab.seen)


def test_another_version_changes_nothing(lab: Lab) -> None:
    before = lab.subnet.port("h2/2").info
    wanted = port_info(lab, TO_H2).changed(subnet_timeout=3)
    raw = by_route(TO_H2, SmpAttribute.PORT_INFO, 2, method=Method.SET, data=wanted.pack()).pack()
    lab.seen.clear()
    lab.do(SendMad("h1/1", ManagementDatagram(PERMISSIVE, PERMISSIVE, 0, 0, b"\2" + raw[1:])))
    assert [effect.mad.mad[5] for effect in lab.seen if isinstance(effect, MadArrived)] == [Status.BAD_VERSION]
    assert lab.subnet.port("h2/2").info == before


@pytest.mark.parametrize("kind", [0x02, 0x05, 0x06, 0x08, 0x09, 0x10, 0x21, 0x30, 0x4F, 0xFF])
def test_a_class_that_no_one_serves_is_dropped(lab: Lab, kind: int) -> None:
    """At QP1 of a host, a switch and the manager: no answer, and nothing has changed."""
    mad = bytes([1, kind, 1, Method.SET]) + bytes(12) + b"\0\x15" + bytes(238)
    before = [lab.subnet.port(name).info for name in ("h2/2", "s1/0", "s2/0")]
    lab.seen.clear()
    for name in ("h2/2", "s1/0", "s2/0"):
        own, lid = lab.subnet.port("h1/1").lid, lab.subnet.port(name).lid
        lab.do(SendMad("h1/1", ManagementDatagram(own, lid, 1, 1, mad)))
    assert [effect for effect in lab.seen if isinstance(effect, MadArrived) and effect.port == "h1/1"] == []
    assert [lab.subnet.port(name).info for name in ("h2/2", "s1/0", "s2/0")] == before


@pytest.mark.parametrize("mad", [b"", bytes(255), bytes(257), bytes(256), b"\xff" * 256, b"\1\x81" + b"\xff" * 254])
def test_bytes_that_are_no_mad(lab: Lab, mad: bytes) -> None:
    lab.seen.clear()
    for lid in (PERMISSIVE, lab.subnet.port("s1/0").lid, 0, 0xC000):
        lab.do(SendMad("h1/1", ManagementDatagram(2, lid, 0, 0, mad)))
    assert [effect for effect in lab.seen if isinstance(effect, MadArrived)] == []
    assert lab.reachable()


def test_a_trap_repeats_until_it_is_repressed() -> None:
    """An external manager: the trap of a switch comes again every second, then no more."""
    lab = two_switches(Lab(built_in_manager=False)).start()
    s1 = lab.subnet.port("s1/0")
    info = s1.info.changed(lid=9, sm_lid=9, subnet_timeout=18, state=0, physical_state=0)
    lab.do(SendMad("s1/0", ManagementDatagram(PERMISSIVE, PERMISSIVE, 0, 0, by_set(info))))
    lab.seen.clear()
    lab.subnet.retrain(lab.subnet.port("s1/1"))
    lab.run_until_quiescent(3000)
    traps = [effect.mad for effect in lab.seen if isinstance(effect, MadArrived)]
    assert len(traps) == 4  # for down and for up, and then twice again
    notice = Notice.parse(Smp.parse(traps[-1].mad).data)
    assert (notice.trap, notice.issuer_lid) == (128, 9)
    smp = replace(Smp.parse(traps[-1].mad), method=Method.TRAP_REPRESS)
    lab.do(SendMad("s1/0", ManagementDatagram(9, 9, 0, 0, smp.pack())))
    lab.seen.clear()
    lab.run_until_quiescent(5000)
    assert lab.seen == []
    assert MadHeader.parse(traps[0].mad).method == Method.TRAP


def by_set(info: PortInfo) -> bytes:
    return by_route((), SmpAttribute.PORT_INFO, 0, method=Method.SET, data=info.pack()).pack()


@pytest.mark.parametrize("changes", [{"down_default": 7}, {"speed_enabled": 9}])
def test_reserved_link_settings_are_refused(lab: Lab, changes: dict[str, int]) -> None:
    before = lab.subnet.port("s1/3").info
    asked = before.changed(state=0, physical_state=0, **changes)
    answer = send(lab, by_route(TO_S1, SmpAttribute.PORT_INFO, 3, method=Method.SET, data=asked.pack()))
    assert answer is not None
    assert answer.status == Status.BAD_VALUE
    assert lab.subnet.port("s1/3").info == before


def test_each_queue_pair_takes_its_own_classes(lab: Lab) -> None:
    """13.5: subnet management at queue pair 0, everything else at 1; the rest is dropped."""
    own, there = lab.subnet.port("h1/1").lid, lab.subnet.port("s1/0").lid
    smp = Smp(Method.GET, SmpAttribute.NODE_INFO).pack()
    counters = PerfMad(Method.GET, PerfAttribute.PORT_COUNTERS, data=bytes([0, 1]).ljust(192, b"\0")).pack()
    for mad, right in ((smp, 0), (counters, 1)):
        for qpn in (0, 1):
            lab.seen.clear()
            lab.do(SendMad("h1/1", ManagementDatagram(own, there, qpn, qpn, mad)))
            assert len([effect for effect in lab.seen if isinstance(effect, MadArrived)]) == (qpn == right)
