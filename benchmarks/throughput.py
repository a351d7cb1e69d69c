"""A bare ASGI app under wrk, one worker, plain uvicorn and Holdfast in turn: what does Holdfast cost?

    python -m benchmarks.throughput --rounds 5 --seconds 8

Both run on the same interpreter and the same uvicorn, httptools and uvloop. The order is A B A B: what else the machine
does falls on both, and each pair gives a ratio of its own.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks import peers
from benchmarks.peers import Peer, Place, Server

CONNECTIONS = 64
WARM_UP = 2
WANTED = 0.95
_RATE = re.compile(r"Requests/sec:\s+([0-9.]+)")
_BAD = re.compile(r"(Socket errors:.*|Non-2xx or 3xx responses:.*)")


def main() -> int:
    """Measure; 1 when the median ratio is below WANTED."""
    options = _parse()
    wrk = find_wrk()
    pair = (Peer("uvicorn", (), _uvicorn, settle=0.5), peers.PEERS["holdfast"])
    rounds: list[dict[str, Any]] = []
    for number in range(1, options.rounds + 1):
        one = {peer.name: _measure(wrk, peer, options.seconds) for peer in pair}
        one["ratio"] = one["holdfast"] / one["uvicorn"]
        rounds.append(one)
        print(
            f"round {number}: uvicorn {one['uvicorn']:.0f}/s, "
            f"holdfast {one['holdfast']:.0f}/s, ratio {one['ratio']:.3f}",
            flush=True,
        )
    medians = {name: statistics.median(one[name] for one in rounds) for name in ("uvicorn", "holdfast", "ratio")}
    ratios = [one["ratio"] for one in rounds]
    print(
        f"median: uvicorn {medians['uvicorn']:.0f}/s, holdfast {medians['holdfast']:.0f}/s, "
        f"ratio {medians['ratio']:.3f} (lowest {min(ratios):.3f}, highest {max(ratios):.3f})"
    )
    if options.json is not None:
        found = {
            "cores": os.cpu_count(),
            "connections": CONNECTIONS,
            "seconds": options.seconds,
            "versions": peers.versions(),
            "rounds": rounds,
            "medians": medians,
        }
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0 if medians["ratio"] >= WANTED else 1


def _uvicorn(at: Place) -> list[str]:
    start = [sys.executable, "-m", "uvicorn", at.app, "--host", "127.0.0.1", "--port", str(at.port)]
    return [*start, "--no-access-log", "--log-level", "warning", "--http", "httptools", "--loop", "uvloop"]


def _measure(wrk: str, peer: Peer, seconds: int) -> float:
    """Requests a second; the server is fresh and warmed up."""
    with Server(peer, "plain:app", workers=1) as server:
        _run_wrk(wrk, server.address, WARM_UP)
        return _run_wrk(wrk, server.address, seconds)


def _run_wrk(wrk: str, address: str, seconds: int) -> float:
    command = [wrk, "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", f"http://{address}/"]
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=seconds + 30).stdout
    rate, bad = _RATE.search(output), _BAD.search(output)
    if rate is None or bad is not None:
        # A rate that counts refusals is not a rate.
        raise RuntimeError(f"wrk did not get whole answers from {address}:\n{output}")
    return float(rate[1])


def find_wrk() -> str:
    """The path of wrk; installed from Debian when that is possible. Raises SystemExit with what to do."""
    found = shutil.which("wrk")
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        print("installing wrk with apt-get", file=sys.stderr)
        subprocess.run(["apt-get", "install", "-y", "-qq", "wrk"], check=False, stdout=subprocess.DEVNULL)
        found = shutil.which("wrk")
    if found is None:
        raise SystemExit("wrk is not installed; install it with: sudo apt-get install -y wrk")
    return found


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="pairs of measurements (5)")
    parser.add_argument("--seconds", type=int, default=8, help="length of each measurement (8)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here")
    options = parser.parse_args()
    if options.rounds < 1 or options.seconds < 1:
        parser.error("--rounds and --seconds are at least 1")
    return options


if __name__ == "__main__":
    sys.exit(main())
