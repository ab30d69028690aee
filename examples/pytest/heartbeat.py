#!/usr/bin/env python3
"""heartbeat: a small program with no relation to ibbond, whose tests need two hosts with InfiniBand bonds.

heartbeat.py serve ADDRESS            answer beats until killed
heartbeat.py beat ADDRESS SECONDS     send ten beats a second and count the answers; exit 1 if the last is too old
"""

import socket
import sys
import time

PORT, INTERVAL, LATE = 7400, 0.1, 2.0


def serve(address: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((address, PORT))
        print("ready", flush=True)
        while True:
            beat, sender = sock.recvfrom(64)
            sock.sendto(beat, sender)


def beat(address: str, seconds: float) -> int:
    sent, answered, last = 0, 0, time.monotonic()
    until = last + seconds
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(INTERVAL)
        while time.monotonic() < until:
            sent += 1
            began = time.monotonic()
            try:
                sock.sendto(str(sent).encode(), (address, PORT))
                sock.recv(64)  # perhaps the answer to an earlier beat
                answered, last = answered + 1, time.monotonic()
            except OSError:
                pass
            time.sleep(max(0.0, began + INTERVAL - time.monotonic()))
    print(f"{answered} of {sent} answered")
    return 0 if time.monotonic() - last < LATE else 1


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    sys.exit(beat(sys.argv[2], float(sys.argv[3])))
