"""The CRCs of InfiniBand packets, against the architecture's own sample packet (ICRC) and their algebra (VCRC)."""

from random import Random

import pytest

from ibbond.errors import Malformed
from ibbond.wire.ib import UdPacket, icrc, vcrc

SAMPLE = bytes.fromhex(
    "7012375c000e17d2 0a2024870087b1b3000dec2a 01710a1c015d400238f27a050000000ebb884d85fd5cfba4728bc0690ed40000"
)


def test_icrc_of_the_sample_packet() -> None:
    assert icrc(SAMPLE, has_grh=False).hex() == "9625b75a"


def test_icrc_ignores_what_switches_write() -> None:
    bent = bytes((SAMPLE[0] ^ 0xF0,)) + SAMPLE[1:]  # virtual lane
    assert icrc(bent, has_grh=False) == icrc(SAMPLE, has_grh=False)
    assert icrc(SAMPLE[:-1] + b"\1", has_grh=False) != icrc(SAMPLE, has_grh=False)


def test_icrc_of_a_global_packet_ignores_what_routers_write() -> None:
    packet = UdPacket(5, 6, 1, 2, 3, 0xFFFF, b"payload!", bytes(16), bytes(16), hop_limit=1)
    other = UdPacket(
        9, 8, 1, 2, 3, 0xFFFF, b"payload!", bytes(16), bytes(16), hop_limit=9, traffic_class=7, flow_label=5
    )
    assert packet.pack()[-6:-2] == other.pack()[-6:-2]


def test_vcrc_has_one_residue() -> None:
    """Over a packet and its own VCRC a CRC leaves a constant, whatever the packet."""
    residues = {vcrc(packet + vcrc(packet)) for packet in (SAMPLE, b"", b"\0", SAMPLE[::-1])}
    assert len(residues) == 1


def by_definition(packet: bytes) -> bytes:
    """Bit by bit, as a shift register: polynomial 0x100b, reflected, ones at the beginning and the end."""
    register = 0xFFFF
    for octet in packet:
        register ^= octet
        for _ in range(8):
            register = register >> 1 ^ (0xD008 if register & 1 else 0)
    return (register ^ 0xFFFF).to_bytes(2, "little")


def test_vcrc_is_its_definition() -> None:
    noise = Random(7).randbytes(5000)
    for size in (*range(70), 127, 128, 129, 255, 256, 257, 1023, 1024, 2048, 2094, 4096, 4180, 5000):
        assert vcrc(noise[:size]) == by_definition(noise[:size]), size
        assert vcrc(bytes(size)) == by_definition(bytes(size)), size


@pytest.mark.parametrize("at", [0, 9, 20, -7, -1])
def test_a_bent_packet_is_refused(at: int) -> None:
    raw = bytearray(UdPacket(5, 6, 1, 2, 3, 0xFFFF, b"payload!").pack())
    raw[at] ^= 0x01
    with pytest.raises(Malformed):
        UdPacket.parse(bytes(raw))
