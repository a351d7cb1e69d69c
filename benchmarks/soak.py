"""Reloads a service again and again, and looks whether the supervisor grows.

``python -m benchmarks.soak --reloads 1000``. Prints
a table and, with ``--json``, one JSON document. Ends with status 1 when something grew beyond its bound.
"""

import argparse
import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import NamedTuple

import psutil

from holdfast.lab.load import Load
from holdfast.lab.process import LoadProcess

APPS = Path(__file__).resolve().parent / "apps"
WARM_UP = 10
"""Reloads before the first sample that counts: caches fill, and lists that are bounded come to their bound."""
MAX_KIB_A_RELOAD = 4.0
"""Growth of the supervisor's memory that is put down to the allocator. 1000 reloads would be 4 MiB."""
MAX_KIB_OF_NOISE = 1024.0
"""What memory may differ between two samples without anything having leaked."""
SETTLE = 10.0
"""Seconds for old workers to end before a sample is taken."""
START_WITHIN = 30.0


class Sample(NamedTuple):
    """The supervisor after so many reloads."""

    reloads: int
    descriptors: int
    processes: int
    memory: int
    threads: int


class Growth(NamedTuple):
    """What changed from the first sample that counts to the last. Memory is KiB a reload, by the median slope."""

    descriptors: int
    processes: int
    memory: float
    threads: int

    def complaints(self, reloads: int) -> list[str]:
        """What grew beyond its bound in so many reloads."""
        allowed = max(MAX_KIB_A_RELOAD, MAX_KIB_OF_NOISE / max(1, reloads))
        found = [
            f"{name} grew by {value}"
            for name, value in (("descriptors", self.descriptors), ("processes", self.processes))
            if value > 0
        ]
        if self.memory > allowed:
            found.append(f"memory grew by {self.memory:.2f} KiB a reload, over {allowed:.2f}")
        return found


def sample(pid: int, reloads: int, workers: int) -> Sample:
    """Look at the supervisor, once its old workers have ended or SETTLE is over."""
    process = psutil.Process(pid)
    deadline = time.monotonic() + SETTLE
    while len(process.children(recursive=True)) > workers and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.1)  # the connection of the command that asked is closed by now
    return Sample(
        reloads,
        process.num_fds(),
        len(process.children(recursive=True)),
        process.memory_info().rss,
        process.num_threads(),
    )


def growth(samples: list[Sample]) -> Growth:
    """The trend. Memory by Theil and Sen: the median of all slopes between two samples, which one odd sample, such as
    an arena that the allocator took, does not move."""
    first, last = samples[0], samples[-1]
    slopes = [
        (later.memory - earlier.memory) / 1024 / (later.reloads - earlier.reloads)
        for index, earlier in enumerate(samples)
        for later in samples[index + 1 :]
    ]
    return Growth(
        last.descriptors - first.descriptors,
        last.processes - first.processes,
        median(slopes) if slopes else 0.0,
        last.threads - first.threads,
    )


def soak(pid: int, reload: Callable[[], object], reloads: int, *, workers: int, every: int = 5) -> list[Sample]:
    """Reload so many times after the warm-up, and look ``every`` so many. ``reload`` raises when it is refused."""
    for _ in range(WARM_UP):
        reload()
    samples = [sample(pid, 0, workers)]
    for number in range(1, reloads + 1):
        reload()
        if number % every == 0 or number == reloads:
            samples.append(sample(pid, number, workers))
    return samples


def order(control: Path, op: str) -> dict[str, object]:
    """One command to the control socket. Raises RuntimeError with the reason of a refusal."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(60.0)
        sock.connect(str(control))
        sock.sendall(json.dumps({"op": op}).encode() + b"\n")
        with sock.makefile("rb") as lines:
            answer = json.loads(lines.readline() or b"{}")
    if "result" not in answer:
        raise RuntimeError(f"{op} was refused: {answer.get('error')}")
    result: dict[str, object] = answer["result"]
    return result


def _serve(stack: ExitStack, directory: Path) -> tuple[int, Path, str]:
    control = directory / "control"
    arguments = ["plain:app", "--workers", "1", "--bind", "127.0.0.1:0", "--control", str(control), "--name", "soak"]
    log = stack.enter_context((directory / "log").open("ab"))
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "holdfast", "run", *arguments, "--log-level", "warning"],
        cwd=APPS,
        stdout=log,
        stderr=log,
    )
    stack.callback(process.wait, 10)
    stack.callback(process.send_signal, signal.SIGQUIT)
    deadline = time.monotonic() + START_WITHIN
    while True:
        try:
            status = order(control, "status")
        except OSError:
            status = {}
        if status.get("state") == "serving":
            addresses = status["addresses"]
            assert isinstance(addresses, list)
            return process.pid, control, str(addresses[0]).partition("://")[2]
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the service did not start:\n{(directory / 'log').read_text()}")
        time.sleep(0.05)


def main() -> int:
    """Run it. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reloads", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=50.0, help="requests a second beside it")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    options = parser.parse_args()
    began = time.monotonic()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="holdfast-soak-")))
        pid, control, address = _serve(stack, directory)
        load = stack.enter_context(
            LoadProcess(Load(addresses=(address,), connections=5, rate=options.rate, duration=86400))
        )
        every = max(1, options.reloads // 25)
        samples = soak(pid, lambda: order(control, "reload"), options.reloads, workers=1, every=every)
        report = load.stop()
    trend = growth(samples)
    complaints = trend.complaints(options.reloads)
    if report.failures:
        complaints.append(f"requests were lost: {report.failures}")
    seconds = round(time.monotonic() - began, 1)
    if options.json:
        print(
            json.dumps(
                {
                    "reloads": options.reloads,
                    "seconds": seconds,
                    "growth": trend._asdict(),
                    "samples": [one._asdict() for one in samples],
                    "load": report.summary(),
                    "complaints": complaints,
                }
            )
        )
    else:
        print(f"{'reloads':>8} {'descriptors':>12} {'processes':>10} {'threads':>8} {'memory MiB':>11}")
        for one in samples:
            line = f"{one.reloads:>8} {one.descriptors:>12} {one.processes:>10} {one.threads:>8}"
            print(f"{line} {one.memory / 1048576:>11.2f}")
        print(f"\n{options.reloads} reloads in {seconds} s, {report.requests} requests, {report.failed} lost")
        print(
            f"growth: {trend.descriptors:+d} descriptors, {trend.processes:+d} processes, "
            f"{trend.memory:+.2f} KiB of memory a reload"
        )
        print("\n".join(complaints) or "nothing grew beyond its bound")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
