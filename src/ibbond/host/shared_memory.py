"""Memory of another process, mapped without keeping a descriptor for each region.

Read first: mmap(2), memfd_create(2) on seals. Python's own mmap keeps a duplicate of the descriptor for as long as the
mapping lives; programs in hosts could use up what the lab has by registering memory. Left out: who may map what.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import weakref

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
FAILED = ctypes.c_void_p(-1).value


def map_memfd(descriptor: int, max_bytes: int) -> memoryview:
    """All of a memfd, to be read and written. It is unmapped when the last reference to the view is dropped.

    It must be sealed against shrinking, for to touch what is no longer there would kill this process. ValueError says
    what is wrong with it, OSError why it cannot be mapped.
    """
    if not fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
        raise ValueError("it is not sealed against shrinking")
    size = os.fstat(descriptor).st_size
    if not 0 < size <= max_bytes:
        raise ValueError(f"it has {size} bytes, not 1 to {max_bytes}")
    address = _libc.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, descriptor, 0)
    if address == FAILED:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    memory = (ctypes.c_char * size).from_address(address)
    weakref.finalize(memory, _libc.munmap, address, size).atexit = False
    return memoryview(memory).cast("B")
