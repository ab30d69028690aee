"""A program in a lab host that tries to make the lab wait: run inside a host, `python stalling_client.py STORY USER`.

Read first: userfaultfd(2), fuse(4), unix(7) on SCM_RIGHTS, socket(7) on SO_LINGER. Its pages never come, and its files
never finish to close. Prints "trying" and the process to be killed before it can end, then how the attempt ended.
"""

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import socket
import stat
import struct
import sys
import tempfile
import threading

CLONE_NEWNS, CLONE_NEWUSER, MS_REC, MS_PRIVATE = 0x20000, 0x10000000, 0x4000, 0x40000
PAGE = mmap.PAGESIZE
UVERBS = "/dev/infiniband/uverbs0"
HEADER = struct.Struct("=IIQQIIIHH")  # fuse_in_header
INIT, GETATTR, OPEN = 26, 3, 14
UNANSWERED = (2, 15, 16, 25, 36, 42)  # FORGET, READ, WRITE, FLUSH, INTERRUPT, BATCH_FORGET
libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), what)
    return result


def serve_nothing(device: int) -> None:
    """A file system of one file, whose reads and closes are never answered."""
    while raw := os.read(device, 1 << 17):
        _, operation, number, *_ = HEADER.unpack_from(raw)
        answers = {
            INIT: struct.pack("=IIIIHHIIHHII24x", 7, 31, 65536, 0, 12, 9, 65536, 1, 0, 0, 0, 0),
            GETATTR: struct.pack("=Q8xQQQ36xII12xI4x", 60, 1, 65536, 128, 0o100666, 1, 4096),
            OPEN: struct.pack("=QII", 1, 0, 0),
        }
        if operation not in UNANSWERED:
            answer = answers.get(operation, b"")
            code = 0 if operation in answers else -errno.ENOSYS
            os.write(device, struct.pack("=IiQ", 16 + len(answer), code, number) + answer)


def hung_file() -> int:
    """A file on FUSE in a mount namespace of this process; a child serves it."""
    user, group = os.geteuid(), os.getegid()
    check(libc.unshare(CLONE_NEWNS | (CLONE_NEWUSER if user else 0)), "unshare")
    if user:
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    check(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None), "private mounts")
    descriptor, place = tempfile.mkstemp(prefix="ibbond-stalling.", dir="/tmp")
    os.close(descriptor)
    device = os.open(DEVICE, os.O_RDWR)
    options = f"fd={device},rootmode=100666,user_id=0,group_id=0".encode()
    check(libc.mount(b"hung", place.encode(), b"fuse", 0, options), "fuse")
    global server
    server = os.fork()
    if server == 0:
        os.closerange(0, 3)
        serve_nothing(device)
        os._exit(0)
    os.close(device)
    return os.open(place, os.O_RDWR)


def address_of(memory: mmap.mmap) -> int:
    keep.append(memory)
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def hung_page() -> int:
    """The address of a page of that file, which a fault waits for."""
    memory = mmap.mmap(hung_file(), 4 * PAGE)
    return address_of(memory)


def page_of_userfaultfd() -> int:
    """The address of a page that this process itself would have to deliver."""
    handle = check(libc.syscall(323, os.O_CLOEXEC), "userfaultfd")
    fcntl.ioctl(handle, 0xC018AA3F, bytearray(struct.pack("=QQQ", 0xAA, 0, 0)))  # UFFDIO_API
    address = address_of(mmap.mmap(-1, 4 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    fcntl.ioctl(handle, 0xC020AA00, bytearray(struct.pack("=QQQQ", address, 4 * PAGE, 1, 0)))  # UFFDIO_REGISTER
    return address


def write_from(address: int) -> str:
    device = os.open(UVERBS, os.O_RDWR | os.O_CLOEXEC)
    print("trying", server, flush=True)
    if libc.write(device, ctypes.c_void_p(address), 24) >= 0:
        return "written"
    return errno.errorcode[ctypes.get_errno()]


def open_from(address: int) -> str:
    print("trying", server, flush=True)
    found = libc.open(ctypes.c_void_p(address), os.O_RDWR | os.O_CLOEXEC)
    return "opened" if found >= 0 else errno.errorcode[ctypes.get_errno()]


def lingering() -> int:
    """A TCP socket that waits a minute when it is closed, because its peer does not read."""
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    server.bind(("127.0.0.1", 0))
    server.listen(1)
    sock = socket.socket()
    sock.connect(server.getsockname())
    keep.append(server)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 60))
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            sock.send(bytes(1 << 16))
    return sock.detach()


def hand_over(name: bytes, kind: socket.SocketKind, descriptors: list[int]) -> str:
    """Send them to a socket of the lab, which then has the last copies."""
    sock = socket.socket(socket.AF_UNIX, kind)
    sock.connect(name)
    print("trying", server, flush=True)
    outcome = ["sent"]

    def send() -> None:
        for descriptor in descriptors:
            try:
                socket.send_fds(sock, [b"{}"], [descriptor])
            except OSError as problem:
                outcome[0] = errno.errorcode[problem.errno or 0]
                return
            libc.close(descriptor)

    sender = threading.Thread(target=send, daemon=True)  # closing the last copy waits, here as well
    sender.start()
    sender.join(2)
    return outcome[0]


DEVICE = "/dev/fuse" if sys.argv[2] == "0" else f"/tmp/ibbond-stalling.{os.getpid()}"
keep: list[object] = []
server = 0  # process that serves our file
STORIES = {
    "fuse-write": lambda: write_from(hung_page()),
    "fuse-open": lambda: open_from(hung_page()),
    "userfaultfd-write": lambda: write_from(page_of_userfaultfd()),
    "fuse-rdma": lambda: hand_over(b"\0ibbond-rdma", socket.SOCK_SEQPACKET, [hung_file()]),
    "linger-rdma": lambda: hand_over(b"\0ibbond-rdma", socket.SOCK_SEQPACKET, [lingering() for _ in range(5)]),
    "linger-umad": lambda: hand_over(b"\0sim:ctl\0", socket.SOCK_DGRAM, [lingering() for _ in range(5)]),
}


def main() -> None:
    story, user = sys.argv[1], int(sys.argv[2])
    if user:
        os.mknod(DEVICE, stat.S_IFCHR, os.makedev(10, 229))  # as /dev/fuse of most distributions is
        os.chmod(DEVICE, 0o666)
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
        libc.prctl(4, 1)  # PR_SET_DUMPABLE, to be mapped into a user namespace
    print(STORIES[story](), flush=True)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
