"""Addresses as options take them: IPv4 with the kernel's tolerance, IPv6, and six octets.

Read first: `in4_pton` and `mac_pton` of Linux. Left out: InfiniBand's (no option takes one).
"""

import ipaddress
import re

_ETHERNET = re.compile(r"(?:[0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}")
_HEXADECIMAL = "abcdefABCDEF"


def parse_ipv4(text: str) -> bytes | None:
    """Four octets at the start of the text; whatever is not a hexadecimal digit ends them (`in4_pton`)."""
    octets: list[int] = []
    number: int | None = None
    for character in text + "\0":
        if "0" <= character <= "9":
            number = (number or 0) * 10 + int(character)
            if number > 255:
                return None
            continue
        if character in _HEXADECIMAL or number is None:
            return None
        octets.append(number)
        number = None
        if character != ".":
            return bytes(octets) if len(octets) == 4 else None
        if len(octets) == 4:
            return None
    return None


def parse_ipv6(text: str) -> bytes | None:
    try:
        return ipaddress.IPv6Address(text.strip()).packed
    except ValueError:
        return None


def parse_ethernet(text: str) -> bytes | None:
    """Six octets with colons; anything may follow them (`mac_pton`)."""
    found = _ETHERNET.match(text)
    return bytes.fromhex(found.group().replace(":", "")) if found else None
