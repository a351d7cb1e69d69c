"""What requests cost when all of them are protected, on uvicorn, with the usual packages, and under Holdfast.

    python -m benchmarks.http --rounds 7 --seconds 6 --plot

A bare ASGI app and a FastAPI app in five ways, and a refusal: one worker each, the same interpreter, uvicorn, httptools
and uvloop, one CPU for the server with all its processes and one for wrk. Every round measures all, each time in
another order; a ratio is that of one round, and the median over the rounds counts. That of CPU times stands beside
it: it is the steadier one on a machine with other work. Before the first round each way proves that its limits limit,
that its deadline ends a request, and that its log has a line for each.
"""

import argparse
import contextlib
import http.client
import json
import os
import re
import statistics
import subprocess
import sys
import time
import tomllib
import venv
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import psutil
from benchmarks.peers import ROOT, Peer, Place, Server
from benchmarks.throughput import find_wrk

VENV: Final = ROOT / "build" / "http-peers"
PACKAGES: Final = (
    "fastapi",
    "slowapi",
    "prometheus-fastapi-instrumentator",
    "opentelemetry-sdk",
    "opentelemetry-instrumentation-fastapi",
)
SHOWN: Final = ("uvicorn", "httptools", "uvloop", "starlette", *PACKAGES)
CONNECTIONS: Final = 64
WARM_UP: Final = 2
PATIENCE: Final = 20
"""Seconds that wrk waits for an answer: the usual packages leave some waiting for two when the machine is busy."""
SERVER_CPU: Final = 0
CLIENT_CPU: Final = 1
TRIES: Final = 5
"""Requests within which a limit of two a minute must have refused one."""
LOG_WITHIN: Final = 5.0
"""Seconds within which a line must be in the log: they may be written in batches."""

SETTINGS: Final = """
[run]
workers = 1
access_log = true
log_format = "text"

[admission]
clients = { rate = "1000000/s", connections = 1000 }

[[routes]]
match = "/"
timeout = "5s"

[[routes]]
match = "/limited"
rate_limit = { rate = "2/m", key = "client" }

[[routes]]
match = "/slow"
timeout = "100ms"
"""
"""All that Holdfast has for requests. Its limits are reached only by those who try. The queue and the adaptive limit
are there by themselves."""


REFUSING: Final = SETTINGS.replace("1000000/s", "1/m")


class Way(NamedTuple):
    """One way to serve. ``checks`` are the parts of a protection that it has to prove: limit, deadline, log.

    With ``refusing`` all but the first request are to be refused, and what counts is an answer of any kind.
    """

    key: str
    title: str
    app: str
    command: Callable[[Place], list[str]]
    checks: tuple[str, ...] = ()
    refusing: bool = False


class Target(NamedTuple):
    """What the ratio of two ways is to be, at least."""

    way: str
    of: str
    least: float


class Figures(NamedTuple):
    """One measurement. ``rate`` is that of good answers, ``refused`` the share of others; ``cpu`` is in microseconds
    a good answer (a refusal, where all are refused), of all processes of the server; latencies are in ms."""

    rate: float
    refused: float
    cpu: float
    median: float
    p99: float


def _uvicorn(*flags: str) -> Callable[[Place], list[str]]:
    def command(at: Place) -> list[str]:
        start = [str(VENV / "bin" / "uvicorn"), at.app, "--host", "127.0.0.1", "--port", str(at.port)]
        return [*start, "--http", "httptools", "--loop", "uvloop", *flags]

    return command


def _holdfast(at: Place, settings: str = SETTINGS) -> list[str]:
    (at.directory / "holdfast.toml").write_text(settings)
    flags = ["--bind", f"127.0.0.1:{at.port}", "--name", f"bench{at.port}", "--control", str(at.directory / "control")]
    return [str(VENV / "bin" / "holdfast"), "run", at.app, *flags]


_quiet: Final = _uvicorn("--no-access-log", "--log-level", "warning")
WAYS: Final = (
    Way("a", "bare ASGI on uvicorn", "plain:app", _quiet),
    Way("b", "bare ASGI under Holdfast, all on", "plain:app", _holdfast, ("limit", "log")),
    Way("c", "FastAPI on uvicorn", "fastapi_plain:app", _quiet),
    Way("d", "FastAPI, usual packages, on uvicorn", "fastapi_stack:app", _uvicorn(), ("limit", "log", "metrics")),
    Way("e", "FastAPI under Holdfast, all on", "fastapi_plain:app", _holdfast, ("limit", "deadline", "log")),
    Way("f", "Holdfast, refused by a rate limit", "plain:app", partial(_holdfast, settings=REFUSING), ("log",), True),
)
CHEAP: Final = 25.0
"""Microseconds of CPU time that a refusal may cost, with the kernel's part and the line of the log."""
TARGETS: Final = (Target("b", "a", 0.75), Target("e", "c", 0.85), Target("e", "d", 4.0))


def main() -> int:
    """Measure; 1 when a target is missed."""
    options = _parse()
    wrk = find_wrk()
    install()
    ways = [way for way in WAYS if way.key in options.only]
    for way in ways:
        with _serving(way) as server:
            prove(way, server)
    rounds: list[dict[str, Figures]] = []
    for number in range(options.rounds):
        turn = number % len(ways)
        found = {way.key: measure(wrk, way, options.seconds) for way in ways[turn:] + ways[:turn]}
        rounds.append(found)
        shown = ", ".join(f"{way.key} {found[way.key].rate:.0f}/s" for way in ways)
        print(f"round {number + 1}: {shown}", flush=True)
    print()
    print(table(ways, rounds))
    print()
    met = [_verdict(target, rounds) for target in TARGETS if {target.way, target.of} <= set(options.only)]
    if "f" in options.only:
        cost = medians(rounds, "f").cpu
        met.append(cost <= CHEAP)
        print(f"(f) takes {cost:.1f} us of CPU, wanted at most {CHEAP:g}: {'met' if met[-1] else 'MISSED'}")
    if options.json is not None:
        options.json.write_text(json.dumps(report(rounds, options.seconds), indent=1) + "\n")
    if options.plot:
        from benchmarks.http_plot import draw

        draw({way.title: medians(rounds, way.key) for way in ways if not way.refusing})
    return 0 if all(met) else 1


def install() -> None:
    """Make the environment of all five under build/, if it is not there, with what PyPI gives today."""
    mark = VENV / ".installed"
    if mark.exists() and mark.stat().st_mtime > (ROOT / "pyproject.toml").stat().st_mtime:
        return
    print(f"installing the peers into {VENV}", file=sys.stderr)
    venv.create(VENV, with_pip=True, clear=True)
    pip = [str(VENV / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--editable", f"{ROOT}[server]", *PACKAGES], check=True)
    mark.touch()


def versions() -> dict[str, str]:
    """Of Python, and of every package that is measured."""
    ask = f"from importlib.metadata import version as v\nfor p in {('holdfast', *SHOWN)!r}: print(p, v(p))"
    done = subprocess.run([str(VENV / "bin" / "python"), "-c", ask], check=True, capture_output=True, text=True)
    return {"python": sys.version.split()[0], **dict(line.split() for line in done.stdout.splitlines())}


# -- serving


@contextlib.contextmanager
def _pinned(cpu: int) -> Iterator[None]:
    """What is started inside runs on this CPU; anywhere, where there is only one, or a process cannot be bound."""
    if not hasattr(os, "sched_setaffinity") or len(before := os.sched_getaffinity(0)) < 2:
        yield
        return
    os.sched_setaffinity(0, {sorted(before)[cpu]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class _Server(Server):
    def answers(self) -> bool:
        return self.ask("/") is not None


@contextlib.contextmanager
def _serving(way: Way) -> Iterator[Server]:
    with contextlib.ExitStack() as stack:
        with _pinned(SERVER_CPU):
            server = stack.enter_context(_Server(Peer(way.key, (), way.command, settle=0.5), way.app, workers=1))
        yield server


# -- proving


def prove(way: Way, server: Server) -> None:
    """Raises RuntimeError when a part of the protection that ``way`` is measured with is not there."""
    checks: dict[str, Callable[[Server], bool]] = {
        "limit": lambda server: 429 in [_status(server, "/limited") for _ in range(TRIES)],
        "deadline": lambda server: _status(server, "/slow") == 504,
        "log": _logs,
        "metrics": lambda server: b"/limited" in (server.ask("/metrics") or b""),
    }
    for check in way.checks:
        if not checks[check](server):
            raise RuntimeError(f"({way.key}) {way.title}: its {check} does not work. It wrote:\n{server.output()}")


def _status(server: Server, path: str) -> int:
    connection = http.client.HTTPConnection(server.address, timeout=20)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def _logs(server: Server) -> bool:
    _status(server, "/?once")
    deadline = time.monotonic() + LOG_WITHIN
    while time.monotonic() < deadline:
        if "/?once" in server.output():
            return True
        time.sleep(0.05)
    return False


# -- measuring

_RATE: Final = re.compile(r"Requests/sec:\s+([0-9.]+)")
_COUNT: Final = re.compile(r"(\d+) requests in")
_LATENCY: Final = re.compile(r"\s(50|99)%\s+([0-9.]+)(us|ms|s)")
_REFUSED: Final = re.compile(r"Non-2xx or 3xx responses: (\d+)")
_MS: Final = {"us": 0.001, "ms": 1.0, "s": 1000.0}


def measure(wrk: str, way: Way, seconds: int) -> Figures:
    """One measurement of a fresh server that is warmed up. Raises RuntimeError for answers that were not whole."""
    with _serving(way) as server:
        run_wrk(wrk, server.address, WARM_UP)
        before = _cpu(server)
        output = run_wrk(wrk, server.address, seconds)
        spent = _cpu(server) - before
    latency = {percent: float(number) * _MS[unit] for percent, number, unit in _LATENCY.findall(output)}
    rate, count, bad = _RATE.search(output), _COUNT.search(output), _REFUSED.search(output)
    assert rate is not None
    assert count is not None
    total = int(count[1])
    refused = int(bad[1]) / total if bad else 0.0
    good = float(total) if way.refusing else max(1.0, total * (1 - refused))
    return Figures(float(rate[1]) * (1 - refused), refused, spent / good * 1e6, latency["50"], latency["99"])


def run_wrk(wrk: str, address: str, seconds: int) -> str:
    """What wrk says. Raises RuntimeError when a connection failed."""
    command = [
        wrk,
        "-t1",
        f"-c{CONNECTIONS}",
        f"-d{seconds}s",
        "--timeout",
        f"{PATIENCE}s",
        "--latency",
        f"http://{address}/",
    ]
    with _pinned(CLIENT_CPU):
        output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=seconds + 30).stdout
    if "Socket errors" in output or not _RATE.search(output):
        raise RuntimeError(f"wrk did not get whole answers from {address}:\n{output}")
    return output


def _cpu(server: Server) -> float:
    """Seconds of CPU that all its processes have used."""
    total = 0.0
    for process in (server.process, *server.process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


# -- telling


def medians(rounds: list[dict[str, Figures]], key: str) -> Figures:
    """The median of each figure over the rounds."""
    return Figures(*(statistics.median(values) for values in zip(*(one[key] for one in rounds), strict=True)))


def ratio(target: Target, rounds: list[dict[str, Figures]]) -> list[float]:
    """That of each round, sorted."""
    return sorted(one[target.way].rate / one[target.of].rate for one in rounds)


def table(ways: list[Way], rounds: list[dict[str, Figures]]) -> str:
    """The medians, as Markdown."""
    lines = [
        "| | Good answers a second | Refused | CPU a good answer, us | Median, ms | 99 %, ms |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for way in ways:
        one = medians(rounds, way.key)
        figures = f"{one.rate:,.0f} | {one.refused:.1%} | {one.cpu:.1f} | {one.median:.1f} | {one.p99:.1f}"
        lines.append(f"| ({way.key}) {way.title} | {figures} |")
    return "\n".join(lines)


def report(rounds: list[dict[str, Figures]], seconds: int) -> dict[str, Any]:
    """All figures, as plain values."""
    return {
        "cores": os.cpu_count(),
        "connections": CONNECTIONS,
        "seconds": seconds,
        "versions": versions(),
        "settings": tomllib.loads(SETTINGS),
        "rounds": [{key: one._asdict() for key, one in found.items()} for found in rounds],
        "ratios": {f"{t.way}/{t.of}": ratio(t, rounds) for t in TARGETS if {t.way, t.of} <= set(rounds[0])},
    }


def _verdict(target: Target, rounds: list[dict[str, Figures]]) -> bool:
    ratios = ratio(target, rounds)
    found = statistics.median(ratios)
    by_cpu = statistics.median(one[target.of].cpu / one[target.way].cpu for one in rounds)
    met = found >= target.least
    print(
        f"({target.way}) / ({target.of}): {found:.3f} (lowest {ratios[0]:.3f}, highest {ratios[-1]:.3f}; "
        f"by CPU time {by_cpu:.3f}), wanted {target.least:g}: {'met' if met else 'MISSED'}"
    )
    return met


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each way (7)")
    parser.add_argument("--seconds", type=int, default=6, help="length of each (6)")
    parser.add_argument("--only", default="abcdef", metavar="LETTERS", help="the ways to measure (abcdef)")
    parser.add_argument("--plot", action="store_true", help="draw docs/plots/http.svg")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here")
    options = parser.parse_args()
    if options.rounds < 1 or options.seconds < 1:
        parser.error("--rounds and --seconds are at least 1")
    if not set(options.only) <= {way.key for way in WAYS}:
        parser.error("--only takes letters of abcdef")
    return options


if __name__ == "__main__":
    sys.exit(main())
