"""The texts of the files that every device has in /sys/class/net/DEVICE, rendered and read back.

Read first: `net/core/net-sysfs.c` of Linux. Left out: files of queues and of single drivers; those of IPoIB, but for
what `mode` takes, are with the sysfs view, bonding's in `sysfs_text`.
"""

from __future__ import annotations

import errno
import re
from dataclasses import fields

from ibbond.errors import Refused
from ibbond.netdev.device import Device, Statistics
from ibbond.wire.hwaddr import parse_address_text

NUMBER = re.compile(r"\+?(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)\n?")

MAX_DIGITS = 22  # of 64 bits in octal
LEADING = re.compile(r"[ \t\n\v\f\r]*\+?(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)")

DEVICE_FILES: dict[str, int] = {
    "addr_assign_type": 0o444,
    "addr_len": 0o444,
    "address": 0o444,
    "broadcast": 0o444,
    "carrier": 0o644,
    "dev_id": 0o444,
    "dormant": 0o444,
    "duplex": 0o444,
    "flags": 0o644,
    "ifindex": 0o444,
    "iflink": 0o444,
    "mtu": 0o644,
    "operstate": 0o444,
    "speed": 0o444,
    "tx_queue_len": 0o644,
    "type": 0o444,
}
"""The files that we show, and their modes."""
COUNTED: tuple[str, ...] = tuple(field.name for field in fields(Statistics))
NEVER_HAPPENS = (
    *("collisions", "rx_compressed", "rx_crc_errors", "rx_fifo_errors", "rx_frame_errors", "rx_length_errors"),
    *("rx_missed_errors", "rx_nohandler", "rx_over_errors", "tx_aborted_errors", "tx_carrier_errors"),
    *("tx_compressed", "tx_fifo_errors", "tx_heartbeat_errors", "tx_window_errors"),
)
STATISTICS: tuple[str, ...] = (*COUNTED, *NEVER_HAPPENS)
"""The files of the directory `statistics`, all 0444; those of what cannot happen to our devices are 0."""


def read_device(device: Device, name: str) -> str:
    """The text of one file. Refused: ENOENT, or EINVAL for what a device does not report now."""
    match name:
        case "addr_assign_type":
            return f"{device.address_origin:d}\n"
        case "addr_len":
            return f"{device.addr_len}\n"
        case "address":
            return render_address(device.address)
        case "broadcast":
            return render_address(device.broadcast)
        case "carrier":
            if not device.up:
                raise _silent(device, "carrier", "it is down", "Set it up first")
            return f"{device.carrier:d}\n"
        case "dev_id":
            return "0x0\n"
        case "dormant":
            if not device.up:
                raise _silent(device, "dormant", "it is down", "Set it up first")
            return "0\n"
        case "duplex":
            duplex = device.driver.duplex(device) if device.up else None
            if duplex is None and not device.up:
                raise _silent(device, "duplex", "it is down", "Set it up first")
            return f"{duplex or 'unknown'}\n"
        case "flags":
            return f"{device.flags:#x}\n"
        case "ifindex" | "iflink":
            return f"{device.ifindex}\n"
        case "mtu":
            return f"{device.mtu}\n"
        case "operstate":
            return f"{operstate(device)}\n"
        case "speed":
            if not device.up:
                raise _silent(device, "speed", "it is down", "Set it up first")
            speed = device.driver.speed(device)
            return f"{-1 if speed is None else speed}\n"
        case "tx_queue_len":
            return f"{device.tx_queue_len}\n"
        case "type":
            return f"{device.type}\n"
        case _:
            raise _no_file(device, name)


def read_statistic(device: Device, name: str) -> str:
    """The text of statistics/NAME. Refused (ENOENT) for a counter that we do not keep."""
    if name not in STATISTICS:
        raise _no_file(device, f"statistics/{name}")
    return f"{getattr(device.statistics, name) if name in COUNTED else 0}\n"


def operstate(device: Device) -> str:
    """What `operstate` says; devices without a carrier of their own (loopback, TUN) say `unknown` while up."""
    if not device.up or not device.carrier:
        return "down"
    return "unknown" if device.driver.kind in ("loopback", "tun") else "up"


def parse_number(text: str) -> int:
    """What is written to a file of a number (`kstrtoul`, any base): `1500`, `0x5dc`. Refused (EINVAL, ERANGE)."""
    match = NUMBER.fullmatch(text)
    if match is None:
        raise Refused(f"cannot take {text!r}", why="it is not a number", fix="Write a number", code=errno.EINVAL)
    digits = match[1]
    if len(digits.lstrip("0xX")) > MAX_DIGITS:
        raise Refused(
            f"cannot take {text!r}", why="it does not fit in 64 bits", fix="Write a smaller number", code=errno.ERANGE
        )
    return int(digits, 8 if digits[0] == "0" and digits.isdigit() else 0)


def scan_number(text: str) -> int | None:
    """The number at the start of a text (`sscanf("%i")`), whatever follows: `0x8001zz`; None if there is no number."""
    match = LEADING.match(text)
    return parse_number(match[1]) if match is not None else None


def parse_transport_mode(text: str) -> bool:
    """What is written to an IPoIB device's `mode`, newline included (`ipoib_set_mode`): whether connected."""
    if text not in ("connected\n", "datagram\n"):
        raise Refused(
            f"cannot take {text!r} as an IPoIB mode",
            why="the accepted words are connected and datagram, each followed by a newline",
            fix="Write one of them with echo",
        )
    return text == "connected\n"


def render_address(address: bytes) -> str:
    """A hardware address of any length, as `address` shows it."""
    return f"{address.hex(':')}\n"


def parse_address(text: str) -> bytes:
    """A hardware address of any length from its file, also one of no bytes. Raises `Malformed`."""
    return parse_address_text(text) if text.strip() else b""


def _silent(device: Device, name: str, why: str, fix: str) -> Refused:
    return Refused(f"cannot read {name} of {device.name}", why=why, fix=fix, code=errno.EINVAL)


def _no_file(device: Device, name: str) -> Refused:
    return Refused(
        f"cannot open {device.name}/{name}",
        why="there is no such file",
        fix="List the directory to see its files",
        code=errno.ENOENT,
    )
