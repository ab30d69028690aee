"""What the subnet administrator grants, refuses and reports; statuses are those of the architecture."""

from dataclasses import replace
from typing import Any

import pytest

from ibbond.fabric.events import Cut, MadArrived, Mend, SendMad
from ibbond.machine import MS, SECOND
from ibbond.manager.partitions import Partition
from ibbond.verbs.timing import Timing
from ibbond.verbs.verbs import ManagementDatagram
from ibbond.wire.mad import Method, Notice, Status
from ibbond.wire.sa import RMPP_VERSION, Rmpp, RmppFlags, RmppType, SaAttribute, SaMad, SaStatus, records
from ibbond.wire.sa_records import (
    ClassPortInfo,
    InformInfo,
    LinkRecord,
    LinkRecordMask,
    McMemberMask,
    McMemberRecord,
    NodeRecord,
    NodeRecordMask,
    PathMask,
    PathRecord,
    PortInfoRecord,
    PortInfoRecordMask,
    ServiceMask,
    ServiceRecord,
)
from tests.fabric.subnets import BROADCAST, CREATE, JOIN, PATH, QKEY, Lab, two_switches

MGID = bytes.fromhex("ff12401bffff00000000000000010203")
OTHER = bytes.fromhex("ff12601bffff0000000000000000fb00")
FULL, NON, SEND_ONLY, SEND_ONLY_FULL = 1, 2, 4, 8


@pytest.fixture
def lab() -> Lab:
    lab = two_switches(Lab(), hosts=3)
    lab.subnet.add_partition(Partition("storage", 0x8001, full=("h1/1",), limited=("h2/1", "h3/1")))
    return lab.start()


def table(lab: Lab, attribute: int, mask: int = 0, data: bytes = b"", sm_key: int = 0) -> list[bytes]:
    """A whole table, however many segments it comes in."""
    request = SaMad(Method.GET_TABLE, attribute, mask, data, sm_key=sm_key)
    answer = lab.ask("h1/1", request)
    assert answer.status == 0
    assert answer.method == Method.GET_TABLE_RESP
    assert answer.rmpp.type == RmppType.DATA
    whole, total = answer.data[: answer.data_bytes], answer.rmpp.payload_bytes
    own = lab.subnet.port("h1/1")
    while not answer.rmpp.flags & RmppFlags.LAST:
        ack = Rmpp(RmppType.ACK, RmppFlags.ACTIVE, answer.rmpp.segment, answer.rmpp.segment + 1, version=RMPP_VERSION)
        lab.seen.clear()
        mad = replace(answer, rmpp=ack, data=b"").pack()
        lab.do(SendMad("h1/1", ManagementDatagram(own.lid, own.sm_lid, 1, 1, mad)))
        lab.run_until_quiescent(5)
        (answer,) = [SaMad.parse(effect.mad.mad) for effect in lab.seen if isinstance(effect, MadArrived)]
        whole += answer.data[: answer.data_bytes]
    assert total == len(whole) + 20 * answer.rmpp.segment
    return records(whole, answer.record_bytes)


class TestJoin:
    def test_broadcast_group_gives_the_parameters_of_the_link(self, lab: Lab) -> None:
        record = lab.join("h1/1")
        assert isinstance(record, McMemberRecord)
        assert record == McMemberRecord(
            mgid=BROADCAST,
            port_gid=lab.subnet.port("h1/1").gid,
            qkey=QKEY,
            mlid=0xC000,
            mtu_selector=2,
            mtu=4,
            pkey=0xFFFF,
            rate_selector=2,
            rate=3,
            lifetime_selector=2,
            lifetime=0x12,
            scope=2,
            join_state=1,
        )

    def test_join_states_add_up_and_are_taken_away_one_by_one(self, lab: Lab) -> None:
        assert lab.join("h1/1", state=NON).join_state == 2  # type: ignore[union-attr]
        assert lab.join("h1/1", state=FULL).join_state == 3  # type: ignore[union-attr]
        assert lab.leave("h1/1", state=FULL) == 0
        assert lab.leave("h1/1", state=FULL) == SaStatus.INVALID
        assert lab.leave("h1/1", state=NON) == 0
        assert lab.leave("h1/1", state=NON) == SaStatus.INVALID

    @pytest.mark.parametrize(
        ("mask", "status"),
        [
            (JOIN, SaStatus.INSUFFICIENT_COMPONENTS),  # the group is not there, and nothing says how to make it
            (CREATE & ~McMemberMask.QKEY, SaStatus.INSUFFICIENT_COMPONENTS),
            (CREATE & ~McMemberMask.TRAFFIC_CLASS, SaStatus.INSUFFICIENT_COMPONENTS),
            (CREATE & ~McMemberMask.PKEY, SaStatus.INSUFFICIENT_COMPONENTS),
            (CREATE & ~McMemberMask.FLOW_LABEL, SaStatus.INSUFFICIENT_COMPONENTS),
            (CREATE & ~McMemberMask.SL, SaStatus.INSUFFICIENT_COMPONENTS),
            (CREATE & ~McMemberMask.PORT_GID, SaStatus.INSUFFICIENT_COMPONENTS),
            (CREATE & ~McMemberMask.JOIN_STATE, SaStatus.INSUFFICIENT_COMPONENTS),
            (CREATE, 0),
        ],
    )
    def test_what_making_a_group_needs(self, lab: Lab, mask: int, status: int) -> None:
        answer = lab.join("h1/1", MGID, mask=mask, qkey=QKEY, pkey=0xFFFF)
        assert (answer if isinstance(answer, int) else 0) == status
        assert (MGID in lab.subnet.manager.groups.by_mgid) is (status == 0)  # type: ignore[union-attr]

    @pytest.mark.parametrize(
        ("mgid", "fields"),
        [
            (MGID, {"state": 0}),
            (MGID, {"state": NON}),
            (MGID, {"state": SEND_ONLY}),
            (MGID, {"pkey": 0x8002}),  # not in the port's table
            (MGID, {"pkey": 0x8001}),  # not the one in the MGID
            (bytes.fromhex("fe12401bffff00000000000000010203"), {}),
            (bytes.fromhex("ff72401bffff00000000000000010203"), {}),
            (bytes.fromhex("ff12401b800100000000000000010203"), {}),
        ],
    )
    def test_groups_that_are_not_made(self, lab: Lab, mgid: bytes, fields: dict[str, Any]) -> None:
        wanted = {"qkey": QKEY, "pkey": 0xFFFF, **fields}
        assert lab.join("h1/1", mgid, mask=CREATE, **wanted) == SaStatus.INVALID

    def test_send_only_full_members_may_make_a_group(self, lab: Lab) -> None:
        assert isinstance(
            lab.join("h1/1", MGID, mask=CREATE, qkey=QKEY, pkey=0xFFFF, state=SEND_ONLY_FULL), McMemberRecord
        )

    def test_mlids_count_up_and_are_used_again(self, lab: Lab) -> None:
        assert [lab.create("h1/1", mgid).mlid for mgid in (MGID, OTHER)] == [0xC002, 0xC003]  # type: ignore[union-attr]
        lab.leave("h1/1", MGID)
        assert lab.create("h1/1", bytes.fromhex("ff12401bffff00000000000000000009")).mlid == 0xC002  # type: ignore[union-attr]

    def test_a_group_ends_with_its_last_full_member(self, lab: Lab) -> None:
        lab.create("h1/1", MGID)
        assert isinstance(lab.join("h2/1", MGID, state=SEND_ONLY), McMemberRecord)
        assert lab.leave("h1/1", MGID) == 0
        assert lab.join("h2/1", MGID, state=SEND_ONLY) == SaStatus.INSUFFICIENT_COMPONENTS
        assert not any(switch.masks.get(0xC002) for switch in switches(lab))

    def test_the_broadcast_group_does_not(self, lab: Lab) -> None:
        lab.join("h1/1")
        assert lab.leave("h1/1") == 0
        assert isinstance(lab.join("h2/1"), McMemberRecord)

    @pytest.mark.parametrize(
        ("bit", "fields"),
        [
            (McMemberMask.QKEY, {"qkey": 1}),
            (McMemberMask.PKEY, {"pkey": 0x8001}),
            (McMemberMask.TRAFFIC_CLASS, {"traffic_class": 1}),
            (McMemberMask.SL, {"sl": 1}),
            (McMemberMask.FLOW_LABEL, {"flow_label": 1}),
            (McMemberMask.MTU, {"mtu": 5, "mtu_selector": 2}),
            (McMemberMask.MTU, {"mtu": 4, "mtu_selector": 0}),
            (McMemberMask.RATE, {"rate": 7, "rate_selector": 2}),
        ],
    )
    def test_a_join_must_fit_the_group(self, lab: Lab, bit: int, fields: dict[str, Any]) -> None:
        assert lab.join("h1/1", mask=JOIN | bit, **fields) == SaStatus.INVALID
        assert isinstance(lab.join("h1/1", mask=JOIN), McMemberRecord)

    def test_a_limited_member_may_listen_an_outsider_not(self, lab: Lab) -> None:
        storage = bytes.fromhex("ff12401b8001000000000000ffffffff")
        assert isinstance(lab.join("h2/1", storage), McMemberRecord)
        assert lab.join("h1/2", storage) == SaStatus.INVALID

    def test_for_a_port_that_no_one_knows(self, lab: Lab) -> None:
        record = McMemberRecord(mgid=BROADCAST, port_gid=b"\xfe\x80" + bytes(14), join_state=1)
        answer = lab.ask("h1/1", SaMad(Method.SET, SaAttribute.MC_MEMBER_RECORD, JOIN, record.pack()))
        assert answer.status == SaStatus.INVALID_GID

    def test_a_group_without_a_name_gets_one(self, lab: Lab) -> None:
        record = lab.join("h1/1", bytes(16), mask=CREATE & ~McMemberMask.MGID, qkey=QKEY, pkey=0xFFFF)
        assert isinstance(record, McMemberRecord)
        assert record.mgid.startswith(bytes.fromhex("ff12a01b"))

    def test_mtu_and_rate_are_chosen_by_selector(self, lab: Lab) -> None:
        mask = CREATE | McMemberMask.MTU | McMemberMask.MTU_SELECTOR | McMemberMask.RATE | McMemberMask.RATE_SELECTOR
        record = lab.join("h1/1", MGID, mask=mask, qkey=QKEY, pkey=0xFFFF, mtu_selector=3, rate_selector=0, rate=3)
        assert isinstance(record, McMemberRecord)
        assert (record.mtu, record.rate) == (5, 4)
        wrong = lab.join("h1/1", OTHER, mask=mask, qkey=QKEY, pkey=0xFFFF, mtu_selector=0, mtu=5, rate_selector=3)
        assert wrong == SaStatus.INVALID

    def test_when_the_answer_comes_packets_arrive(self) -> None:
        """The tables are written before the answer leaves: no packet is lost that is sent right after it."""
        lab = two_switches(Lab(timing=Timing.simulated())).start()
        qpns = {}
        for port in ("h1/1", "h2/2"):
            lab.join(port, ms=2)  # a little more than a join takes
            qpns[port] = lab.listen(port)
        assert lab.multicast("h1/1", source_qpn=qpns["h1/1"]) == ["h2/2"]

    def test_members_of_a_dark_port_are_gone(self, lab: Lab) -> None:
        lab.create("h1/1", MGID)
        lab.after(Cut("h1/1"))
        assert lab.join("h2/1", MGID) == SaStatus.INSUFFICIENT_COMPONENTS


def switches(lab: Lab) -> list:  # type: ignore[type-arg]
    return [lab.subnet.nodes["s1"], lab.subnet.nodes["s2"]]


class TestMemberRecords:
    def test_get_finds_a_group_by_its_mgid(self, lab: Lab) -> None:
        data = McMemberRecord(mgid=BROADCAST).pack()
        answer = lab.ask("h1/1", SaMad(Method.GET, SaAttribute.MC_MEMBER_RECORD, McMemberMask.MGID, data))
        record = McMemberRecord.parse(answer.data)
        assert (record.mlid, record.port_gid, record.join_state) == (0xC000, bytes(16), 0)

    def test_get_of_many_or_none(self, lab: Lab) -> None:
        many = lab.ask("h1/1", SaMad(Method.GET, SaAttribute.MC_MEMBER_RECORD))
        assert many.status == SaStatus.TOO_MANY_RECORDS
        data = McMemberRecord(mgid=MGID).pack()
        none = lab.ask("h1/1", SaMad(Method.GET, SaAttribute.MC_MEMBER_RECORD, McMemberMask.MGID, data))
        assert none.status == SaStatus.NO_RECORDS

    def test_tables_show_groups_and_to_the_trusted_members(self, lab: Lab) -> None:
        for port in ("h1/1", "h2/1"):
            lab.join(port)
        plain = [McMemberRecord.parse(raw) for raw in table(lab, SaAttribute.MC_MEMBER_RECORD)]
        assert [(record.mlid, record.join_state) for record in plain] == [(0xC000, 0), (0xC001, 0)]
        trusted = [McMemberRecord.parse(raw) for raw in table(lab, SaAttribute.MC_MEMBER_RECORD, sm_key=1)]
        assert [record.port_gid for record in trusted if record.mlid == 0xC000] == [
            lab.subnet.port("h1/1").gid,
            lab.subnet.port("h2/1").gid,
        ]

    @pytest.mark.parametrize(
        ("mask", "fields", "found"),
        [
            (McMemberMask.MLID, {"mlid": 0xC001}, 1),
            (McMemberMask.PKEY, {"pkey": 0x8001}, 1),
            (McMemberMask.QKEY, {"qkey": QKEY}, 2),
            (McMemberMask.MTU, {"mtu": 4, "mtu_selector": 2}, 2),
            (McMemberMask.MTU, {"mtu": 4, "mtu_selector": 1}, 0),
            (McMemberMask.SCOPE, {"scope": 5}, 0),
        ],
    )
    def test_components(self, lab: Lab, mask: int, fields: dict[str, int], found: int) -> None:
        data = McMemberRecord(**fields).pack()  # type: ignore[arg-type]
        assert len(table(lab, SaAttribute.MC_MEMBER_RECORD, mask, data)) == found


class TestPath:
    def test_as_ipoib_asks(self, lab: Lab) -> None:
        path = lab.path("h1/1", "h2/2")
        assert isinstance(path, PathRecord)
        assert (path.slid, path.dlid) == (lab.subnet.port("h1/1").lid, lab.subnet.port("h2/2").lid)
        assert (path.mtu, path.rate, path.pkey, path.sl, path.reversible, path.numb_path) == (5, 7, 0xFFFF, 0, True, 1)

    @pytest.mark.parametrize(
        ("port", "to", "pkey", "found"),
        [
            ("h1/1", "h2/1", 0x8001, True),
            ("h2/1", "h1/1", 0x0001, True),
            ("h2/1", "h3/1", 0x0001, False),  # both limited
            ("h1/1", "h2/2", 0x8001, False),  # no member
            ("h2/1", "h3/1", 0xFFFF, True),
            ("h1/1", "h2/1", 0x8009, False),
        ],
    )
    def test_pkeys(self, lab: Lab, port: str, to: str, pkey: int, found: bool) -> None:
        path = lab.path(port, to, pkey)
        assert isinstance(path, PathRecord) is found
        assert found or path == SaStatus.NO_RECORDS

    def ask(self, lab: Lab, mask: int, method: int = Method.GET, **fields: object) -> SaMad:
        return lab.ask("h1/1", SaMad(method, SaAttribute.PATH_RECORD, mask, PathRecord(**fields).pack()))  # type: ignore[arg-type]

    def test_unknown_gids_and_lids(self, lab: Lab) -> None:
        own, empty = lab.subnet.port("h1/1"), b"\xfe\x80" + bytes(13) + b"\1"
        assert self.ask(lab, PATH & ~PathMask.PKEY, dgid=empty, sgid=own.gid).status == SaStatus.NO_RECORDS
        by_lid = PathMask.SLID | PathMask.DLID
        assert self.ask(lab, by_lid, slid=own.lid, dlid=999).status == SaStatus.NO_RECORDS
        answer = self.ask(lab, by_lid, slid=own.lid, dlid=lab.subnet.port("h3/1").lid)
        assert PathRecord.parse(answer.data).dgid == lab.subnet.port("h3/1").gid

    def test_without_a_source(self, lab: Lab) -> None:
        gid = lab.subnet.port("h2/1").gid
        assert self.ask(lab, PathMask.DGID, dgid=gid).status == SaStatus.INSUFFICIENT_COMPONENTS

    @pytest.mark.parametrize(
        ("mask", "fields", "found"),
        [
            (PathMask.MTU | PathMask.MTU_SELECTOR, {"mtu": 4, "mtu_selector": 0}, True),
            (PathMask.MTU | PathMask.MTU_SELECTOR, {"mtu": 5, "mtu_selector": 0}, False),
            (PathMask.MTU | PathMask.MTU_SELECTOR, {"mtu": 5, "mtu_selector": 2}, True),
            (PathMask.RATE | PathMask.RATE_SELECTOR, {"rate": 7, "rate_selector": 1}, False),
            (PathMask.RATE | PathMask.RATE_SELECTOR, {"rate_selector": 3}, True),
        ],
    )
    def test_mtu_and_rate(self, lab: Lab, mask: int, fields: dict[str, int], found: bool) -> None:
        own, other = lab.subnet.port("h1/1"), lab.subnet.port("h2/1")
        answer = self.ask(lab, PathMask.SGID | PathMask.DGID | mask, sgid=own.gid, dgid=other.gid, **fields)
        assert answer.status == (0 if found else SaStatus.NO_RECORDS)

    def test_service_id_and_class_come_back(self, lab: Lab) -> None:
        own, other = lab.subnet.port("h1/1"), lab.subnet.port("h2/1")
        mask = PATH | PathMask.SERVICE_ID_LOW | PathMask.SERVICE_ID_HIGH | PathMask.TRAFFIC_CLASS
        fields: dict[str, Any] = {"sgid": own.gid, "dgid": other.gid, "service_id": 0x1060CBC, "pkey": 0xFFFF}
        path = PathRecord.parse(self.ask(lab, mask, numb_path=1, traffic_class=3, **fields).data)
        assert (path.service_id, path.traffic_class) == (0x1060CBC, 3)

    def test_to_a_group(self, lab: Lab) -> None:
        own = lab.subnet.port("h1/1")
        answer = self.ask(lab, PathMask.SGID | PathMask.DGID, sgid=own.gid, dgid=BROADCAST)
        assert PathRecord.parse(answer.data).dlid == 0xC000
        assert self.ask(lab, PathMask.SGID | PathMask.DGID, sgid=own.gid, dgid=MGID).status == SaStatus.NO_RECORDS

    def test_a_table_from_one_port(self, lab: Lab) -> None:
        own = lab.subnet.port("h1/1")
        raw = table(lab, SaAttribute.PATH_RECORD, PathMask.SGID, PathRecord(sgid=own.gid).pack())
        paths = [PathRecord.parse(record) for record in raw]
        assert {path.dlid for path in paths} == {port.lid for port in lab.subnet.end_ports()}
        assert {path.slid for path in paths} == {own.lid}

    def test_a_cut_port_has_no_path(self, lab: Lab) -> None:
        gid = lab.subnet.port("h2/1").gid
        lab.after(Cut("h2/1"))
        own = lab.subnet.port("h1/1")
        answer = self.ask(lab, PATH & ~PathMask.PKEY, dgid=gid, sgid=own.gid)
        assert answer.status == SaStatus.NO_RECORDS


class TestServices:
    def record(self, lab: Lab, port: str = "h1/1", **fields: object) -> ServiceRecord:
        values: dict[str, object] = {"service_id": 0x77, "pkey": 0xFFFF, "lease": 10, "name": b"backup", **fields}
        return ServiceRecord(gid=lab.subnet.port(port).gid, **values)  # type: ignore[arg-type]

    def ask(self, lab: Lab, method: int, record: ServiceRecord, mask: int) -> SaMad:
        return lab.ask("h1/1", SaMad(method, SaAttribute.SERVICE_RECORD, mask, record.pack()))

    KEY = ServiceMask.SERVICE_ID | ServiceMask.GID | ServiceMask.PKEY

    def test_a_life(self, lab: Lab) -> None:
        record = self.record(lab, data=bytes(range(64)))
        assert self.ask(lab, Method.SET, record, self.KEY | ServiceMask.LEASE | ServiceMask.NAME).status == 0
        found = self.ask(lab, Method.GET, ServiceRecord(name=b"backup"), ServiceMask.NAME)
        assert ServiceRecord.parse(found.data) == record
        assert self.ask(lab, Method.DELETE, record, self.KEY).method == Method.DELETE_RESP
        assert self.ask(lab, Method.GET, record, self.KEY).status == SaStatus.NO_RECORDS
        assert self.ask(lab, Method.DELETE, record, self.KEY).status == SaStatus.NO_RECORDS

    def test_the_lease_runs_out(self, lab: Lab) -> None:
        self.ask(lab, Method.SET, self.record(lab), self.KEY | ServiceMask.LEASE)
        self.ask(lab, Method.SET, self.record(lab, service_id=0x78), self.KEY)  # forever
        lab.now += 11 * SECOND
        found = [ServiceRecord.parse(raw).service_id for raw in table(lab, SaAttribute.SERVICE_RECORD)]
        assert found == [0x78]

    @pytest.mark.parametrize("missing", [ServiceMask.SERVICE_ID, ServiceMask.GID, ServiceMask.PKEY])
    def test_what_it_needs(self, lab: Lab, missing: int) -> None:
        answer = self.ask(lab, Method.SET, self.record(lab), self.KEY & ~missing)
        assert answer.status == SaStatus.INSUFFICIENT_COMPONENTS

    def test_of_a_foreign_port_or_partition(self, lab: Lab) -> None:
        assert self.ask(lab, Method.SET, self.record(lab, pkey=0x8009), self.KEY).status == SaStatus.INVALID
        stranger = replace(self.record(lab), gid=bytes(16))
        assert self.ask(lab, Method.SET, stranger, self.KEY).status == SaStatus.INVALID_GID


class TestReports:
    def subscribe(self, lab: Lab, trap: int, subscribe: bool = True, port: str = "h1/1") -> SaMad:
        data = InformInfo(trap=trap, subscribe=subscribe).pack()
        return lab.ask(port, SaMad(Method.SET, SaAttribute.INFORM_INFO, 0, data))

    def reports(self, lab: Lab, port: str = "h1/1") -> list[Notice]:
        mads = [effect.mad.mad for effect in lab.seen if isinstance(effect, MadArrived) and effect.port == port]
        seen = [SaMad.parse(mad) for mad in mads if mad[1] == 3 and mad[3] == Method.REPORT]
        assert all(report.attribute == SaAttribute.NOTICE for report in seen)
        return [Notice.parse(report.data[:80]) for report in seen]

    def test_ports_that_go_and_come(self, lab: Lab) -> None:
        for trap in (64, 65):
            assert self.subscribe(lab, trap).status == 0
        gid = lab.subnet.port("h2/1").gid
        lab.after(Cut("h2/1"))
        assert [(notice.trap, notice.gid) for notice in self.reports(lab)] == [(65, gid)]
        lab.after(Mend("h2/1"))
        assert [(notice.trap, notice.gid) for notice in self.reports(lab)] == [(64, gid)]
        (notice,) = self.reports(lab)
        assert notice.issuer_gid == lab.subnet.port("s1/0").gid
        assert self.reports(lab, "h1/2") == []

    def test_groups_that_are_made_and_end(self, lab: Lab) -> None:
        self.subscribe(lab, 66)
        self.subscribe(lab, 67)
        lab.create("h3/1", MGID)
        assert [(notice.trap, notice.gid) for notice in self.reports(lab)] == [(66, MGID)]
        lab.leave("h3/1", MGID)
        assert [(notice.trap, notice.gid) for notice in self.reports(lab)] == [(67, MGID)]
        lab.create("h3/1", MGID)
        lab.after(Cut("h3/1"))
        assert [notice.trap for notice in self.reports(lab)] == [67]

    def test_all_traps_at_once_and_no_more(self, lab: Lab) -> None:
        self.subscribe(lab, 0xFFFF)
        self.subscribe(lab, 0xFFFF)  # twice is once
        lab.create("h3/1", MGID)
        assert len(self.reports(lab)) == 1
        assert self.subscribe(lab, 0xFFFF, subscribe=False).status == 0
        lab.leave("h3/1", MGID)
        assert self.reports(lab) == []
        assert self.subscribe(lab, 0xFFFF, subscribe=False).status == SaStatus.INVALID

    def test_an_answered_report_is_the_end_of_it(self, lab: Lab) -> None:
        self.subscribe(lab, 66)
        lab.create("h3/1", MGID)
        (mad,) = [effect.mad for effect in lab.seen if isinstance(effect, MadArrived) and effect.port == "h1/1"]
        answer = replace(SaMad.parse(mad.mad), method=Method.REPORT_RESP).pack()
        lab.seen.clear()
        lab.do(SendMad("h1/1", ManagementDatagram(mad.destination_lid, mad.source_lid, 1, 1, answer)))
        lab.run_until_quiescent()
        assert lab.seen == []

    def test_a_subscriber_that_vanished_is_forgotten(self, lab: Lab) -> None:
        self.subscribe(lab, 65, port="h2/1")
        lab.after(Cut("h2/1"))
        lab.after(Mend("h2/1"))
        lab.after(Cut("h3/1"))
        assert self.reports(lab, "h2/1") == []


class TestRecords:
    def test_nodes(self, lab: Lab) -> None:
        found = [NodeRecord.parse(raw) for raw in table(lab, SaAttribute.NODE_RECORD)]
        assert len(found) == 2 + 6  # switches, and ports of hosts
        named = {record.description.text: record for record in found}
        assert named["s2"].info.node_type == 2
        assert named["s2"].lid == lab.subnet.port("s2/0").lid
        lid = lab.subnet.port("h2/2").lid
        (raw,) = table(lab, SaAttribute.NODE_RECORD, NodeRecordMask.LID, lid.to_bytes(2, "big"))
        record = NodeRecord.parse(raw)
        assert (record.description.text, record.info.local_port) == ("h2", 2)
        assert record.info.port_guid == lab.subnet.port("h2/2").guid

    def test_ports(self, lab: Lab) -> None:
        lid = lab.subnet.port("s2/0").lid
        data = lid.to_bytes(2, "big")
        found = [
            PortInfoRecord.parse(raw) for raw in table(lab, SaAttribute.PORT_INFO_RECORD, PortInfoRecordMask.LID, data)
        ]
        assert [record.port for record in found] == list(range(9))
        assert [record.info.state for record in found] == [4, 4, 4, 4, 1, 1, 1, 4, 4]
        mask = PortInfoRecordMask.LID | PortInfoRecordMask.PORT
        answer = lab.ask("h1/1", SaMad(Method.GET, SaAttribute.PORT_INFO_RECORD, mask, data + b"\7"))
        assert PortInfoRecord.parse(answer.data).port == 7

    def test_links(self, lab: Lab) -> None:
        s1, s2 = lab.subnet.port("s1/0").lid, lab.subnet.port("s2/0").lid
        mask = LinkRecordMask.FROM_LID | LinkRecordMask.TO_LID
        raw = table(lab, SaAttribute.LINK_RECORD, mask, LinkRecord(s1, 0, 0, s2).pack())
        assert [LinkRecord.parse(record) for record in raw] == [LinkRecord(s1, 7, 7, s2), LinkRecord(s1, 8, 8, s2)]
        assert len(table(lab, SaAttribute.LINK_RECORD)) == 2 * 8

    def test_class_port_info(self, lab: Lab) -> None:
        answer = lab.ask("h1/1", SaMad(Method.GET, SaAttribute.CLASS_PORT_INFO))
        info = ClassPortInfo.parse(answer.data)
        assert info.class_version == 2
        assert info.capability_mask2 & 1 << 12

    def test_a_long_table_comes_in_segments(self, lab: Lab) -> None:
        answer = lab.ask("h1/1", SaMad(Method.GET_TABLE, SaAttribute.NODE_RECORD))
        assert answer.rmpp == Rmpp(RmppType.DATA, RmppFlags.ACTIVE | RmppFlags.FIRST, 1, 8 * 112 + 5 * 20, version=1)
        assert answer.record_bytes == 112

    def test_an_aborted_table_stops(self, lab: Lab) -> None:
        answer = lab.ask("h1/1", SaMad(Method.GET_TABLE, SaAttribute.NODE_RECORD))
        own = lab.subnet.port("h1/1")
        for kind in (RmppType.ABORT, RmppType.ACK):
            lab.seen.clear()
            mad = replace(answer, rmpp=Rmpp(kind, RmppFlags.ACTIVE, 1, 5, version=1)).pack()
            lab.do(SendMad("h1/1", ManagementDatagram(own.lid, own.sm_lid, 1, 1, mad)))
            lab.run_until_quiescent(5)
            assert lab.seen == []


@pytest.mark.parametrize(
    ("method", "attribute", "status"),
    [
        (Method.GET, 0x99, Status.BAD_ATTRIBUTE),
        (Method.SET, SaAttribute.PATH_RECORD, Status.BAD_ATTRIBUTE),
        (Method.DELETE, SaAttribute.NODE_RECORD, Status.BAD_ATTRIBUTE),
        (Method.GET_TABLE, SaAttribute.CLASS_PORT_INFO, Status.BAD_ATTRIBUTE),
        (Method.GET_MULTI, SaAttribute.PATH_RECORD, Status.BAD_METHOD),
        (Method.GET, SaAttribute.NODE_RECORD, SaStatus.TOO_MANY_RECORDS),
    ],
)
def test_wrong_questions(lab: Lab, method: int, attribute: int, status: int) -> None:
    answer = lab.ask("h1/1", SaMad(method, attribute))
    assert answer.status == status
    assert answer.method & 0x80


def test_a_question_takes_its_time() -> None:
    lab = two_switches(Lab(timing=Timing(hop_ns=1000, agent_ns=1000, sa_ns=7 * MS))).start()
    before = lab.now
    own = lab.subnet.port("h1/1")
    mad = SaMad(Method.GET, SaAttribute.CLASS_PORT_INFO).pack()
    lab.do(SendMad("h1/1", ManagementDatagram(own.lid, own.sm_lid, 1, 1, mad)))
    lab.seen.clear()
    while not any(isinstance(effect, MadArrived) for effect in lab.seen):
        at = lab.subnet.deadline()
        assert at is not None
        lab.now = at
        lab.seen += lab.subnet.tick(at)
    assert lab.now - before == 7 * MS + 2 * 1000  # and one hop there, one back
