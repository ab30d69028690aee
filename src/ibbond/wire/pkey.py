"""Partition keys: the default one, the full-member bit, and which two keys may communicate.

Read first: InfiniBand Architecture volume 1, section 10.9.
"""

FULL_MEMBER = 0x8000  # bit 15: full membership; limited members talk to full members only
DEFAULT_PKEY = 0xFFFF


def pkeys_match(one: int, other: int) -> bool:
    """Whether two P_Keys may talk: equal low 15 bits, and not both limited members."""
    return (one ^ other) & 0x7FFF == 0 and bool((one | other) & FULL_MEMBER)
