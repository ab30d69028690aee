"""How long `ibbond watch` takes from a message of the kernel to the printed line.

    python -m benchmarks.watch_latency [COUNT]

The messages are RTM_NEWLINK of a bond with two members, sent through a socket to the same loop that watches a kernel
(`backend.kernel.watch.follow`) in another process; the line comes back through a pipe. What the kernel itself takes
between a change and its message is not in it. Prints milliseconds: median, 99th percentile, maximum.
"""

import os
import signal
import statistics
import sys
import time

from ibbond.abi.netlink_attributes import LinkInfo
from ibbond.backend.kernel.watch import follow
from ibbond.cli.watch import line
from tests.backend.test_kernel_watch import FakeListener, bond, member


def main(count: int) -> None:
    listener = FakeListener()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        with os.fdopen(writer, "w") as out:
            for change in follow(listener, lambda: [LinkInfo.parse(each) for each in (bond(1), member(1), member(2))]):
                out.write(line(change) + "\n")
                out.flush()
        os._exit(0)
    os.close(writer)
    os.read(reader, 4096)
    times = []
    for turn in range(count):
        time.sleep(0.002)
        begin = time.perf_counter()
        listener.send(bond(1 + (turn + 1) % 2))
        assert b"active" in os.read(reader, 4096)
        times.append((time.perf_counter() - begin) * 1000)
    os.kill(child, signal.SIGTERM)
    os.waitpid(child, 0)
    times.sort()
    print(
        f"{count} changes: median {statistics.median(times):.2f} ms, 99 % {times[int(count * 0.99)]:.2f} ms,", end=" "
    )
    print(f"maximum {times[-1]:.2f} ms")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
