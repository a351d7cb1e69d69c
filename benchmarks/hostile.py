"""Garbage connections, one after the other by the hundred thousand: does the service go on, and does it grow?

    python -m benchmarks.hostile --connections 1000000 --json hostile.json

A service with two workers is started. One process after the other connects and does one of KINDS; meanwhile an honest
client asks once in 50 ms. Descriptors and memory of every worker are compared with those after a warm-up.
"""

import argparse
import contextlib
import json
import multiprocessing
import random
import socket
import struct
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from e2e.harness import Running, request, service, wait_for

DEFAULT_CONNECTIONS = 1_000_000
WARM_UP = 5000
PROCESSES = 2
ASK_INTERVAL = 0.05
GROWTH = 24 * 1024 * 1024
"""Bytes by which a worker may grow after the warm-up: allocator arenas, not connections."""
RESET = struct.pack("ii", 1, 0)
KINDS: dict[str, bytes | None] = {
    "connect and leave": None,
    "random bytes": None,
    "tls hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x5a" * 200,
    "half a request": b"GET / HTTP/1.1\r\nHost: a\r\nX-Half",
    "half a body": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf",
    "a whole request and no patience": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "bad chunks": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "half a websocket": b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
}


def attack(address: tuple[str, int], count: int, seed: int) -> Counter[str]:
    """Open ``count`` connections in turn; some end with a FIN, some with a reset, some wait for what comes."""
    rng = random.Random(seed)
    done: Counter[str] = Counter()
    names = list(KINDS)
    for number in range(count):
        name = names[number % len(names)]
        data = rng.randbytes(rng.randint(1, 200)) if name == "random bytes" else KINDS[name]
        with socket.socket() as sock:
            sock.settimeout(5)
            try:
                sock.connect(address)
                if data:
                    sock.sendall(data)
                end = rng.randrange(4)
                if end == 0:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                elif end == 1 and name in ("bad chunks", "two lengths", "half a websocket", "tls hello"):
                    sock.recv(1000)
            except ConnectionResetError:
                done["reset"] += 1
            except OSError as exc:
                done[type(exc).__name__] += 1
        done[name] += 1
    return done


def attack_in_processes(running: Running, count: int) -> tuple[Counter[str], list[float]]:
    """What the attackers did, and how long each honest request took meanwhile."""
    host, _, port = running.address.rpartition(":")
    seeds = [random.randrange(1 << 30) for _ in range(PROCESSES)]
    waits: list[float] = []
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        jobs = [pool.apply_async(attack, ((host, int(port)), count // PROCESSES, seed)) for seed in seeds]
        while not all(job.ready() for job in jobs):
            began = time.monotonic()
            assert request(f"{host}:{port}")[0] == 200
            waits.append(time.monotonic() - began)
            time.sleep(ASK_INTERVAL)
        return sum((job.get() for job in jobs), Counter()), waits


def weigh(running: Running) -> dict[int, dict[str, int]]:
    """Descriptors and memory of every worker, once the connections are over."""

    def quiet() -> bool:
        return all(worker["connections"] <= 1 for worker in running.workers())

    wait_for(quiet, 30, "the garbage connections are over")
    found = {}
    for pid in running.pids():
        process = psutil.Process(pid)
        found[pid] = {"fds": process.num_fds(), "rss": process.memory_info().rss}
    return found


def measure(running: Running, count: int) -> dict[str, Any]:
    """Attack with ``count`` connections; ``ok`` says whether nothing grew and nobody died."""
    attack_in_processes(running, WARM_UP)
    before = weigh(running)
    began = time.monotonic()
    done, waits = attack_in_processes(running, count)
    seconds = time.monotonic() - began
    after = weigh(running)
    same = before.keys() == after.keys()
    growth = max((after[pid]["rss"] - before[pid]["rss"] for pid in after if same), default=0)
    descriptors = max((after[pid]["fds"] - before[pid]["fds"] for pid in after if same), default=0)
    return {
        "ok": same and growth < GROWTH and descriptors <= 1 and "Traceback" not in running.log,
        "connections": count,
        "seconds": round(seconds, 1),
        "rate": round(count / seconds),
        "same workers": same,
        "growth of memory in MiB": round(growth / 2**20, 1),
        "growth of descriptors": descriptors,
        "honest requests": len(waits),
        "longest wait in ms": round(max(waits) * 1000, 1),
        "tracebacks": running.log.count("Traceback"),
        "kinds": dict(done),
    }


def main() -> int:
    """Measure; 1 when the service grew or a worker died."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=DEFAULT_CONNECTIONS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as directory,
        service(
            Path(directory), "plain", "--workers", "2", "--header-timeout", "2s", "--body-timeout", "2s"
        ) as running,
    ):
        found = measure(running, options.connections)
    for name, value in found.items():
        print(f"{name}: {value}")
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0 if found["ok"] else 1


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
