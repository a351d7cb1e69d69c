"""What is done to a server while it is under load, and what that cost. Each scene gives one row of figures."""

import contextlib
import os
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from benchmarks.peers import Peer, Server

from holdfast.lab.load import Load
from holdfast.lab.process import LoadProcess, ProxyProcess
from holdfast.lab.report import Report

CONNECTIONS = 50
WARM_UP = 1.0
RTT = 0.004
RELOAD_WITHIN = 30.0
EXIT_WITHIN = 15.0
WATCH = 5.0
"""Seconds a killed worker has to be replaced."""
BROKEN_WATCH = 10.0
"""Seconds a server is watched after a bad deploy: granian replaces a worker every 3.5 s and ends after the second."""
LONGEST = 3600.0
STREAMS = 8

Row = dict[str, Any]
Mode = Literal["keepalive", "think", "connect"]


class Kind(NamedTuple):
    """One of the four loads."""

    letter: str
    text: str
    mode: Mode
    proxied: bool = False


KINDS = {
    kind.letter: kind
    for kind in (
        Kind("A", "keep-alive, back to back", "keepalive"),
        Kind("B", "keep-alive, 20 ms think time", "think"),
        Kind("C", "a new connection per request", "connect"),
        Kind("D", "B through a proxy with 4 ms RTT", "think", proxied=True),
    )
}


@contextlib.contextmanager
def loaded(server: Server, kind: Kind) -> Iterator[LoadProcess]:
    """A load on the server, warmed up."""
    with contextlib.ExitStack() as stack:
        address = server.address
        if kind.proxied:
            address = stack.enter_context(ProxyProcess(address, rtt=RTT)).address
        settings = Load(
            addresses=(address,), mode=kind.mode, connections=CONNECTIONS, duration=LONGEST, expect_body=b"ok"
        )
        load = stack.enter_context(LoadProcess(settings))
        time.sleep(WARM_UP)
        yield load


def reloads(peer: Peer, kind: Kind, *, times: int, baseline: float, app: str = "plain:app") -> Row:
    """Reload so many times; compare with the time before in the same run."""
    took: list[float] = []
    missed = 0
    with Server(peer, app) as server, loaded(server, kind) as load:
        load.mark("baseline")
        time.sleep(baseline)
        load.mark("reloads")
        for number in range(times):
            load.mark(f"reload {number + 1}")
            before = server.worker_pids()
            server.reload()
            seconds = server.await_reload(before, RELOAD_WITHIN)
            if seconds is None:
                missed += 1
                if not server.alive():
                    break
            else:
                took.append(seconds)
            # A worker that is only forked is not yet one that serves.
            time.sleep(peer.settle + (2.0 if app.startswith("slow") else 0.0))
        report = load.stop()
        note = "" if not missed else f"{missed} of {times} reloads did not complete"
        if not server.alive():
            note = "the server ended"
    return {
        **_row("slow boot" if app.startswith("slow") else "reload", peer, kind, report, "reloads"),
        "reloads": times,
        "reload_seconds": [round(seconds, 2) for seconds in took],
        "baseline": report.between("baseline", "reloads").summary(),
        "kept": report.between("baseline").kept,
        "by_reload": [_losses(report, number, times) for number in range(1, times + 1) if _has(report, number)],
        "note": note,
    }


def broken_deploy(peer: Peer, kind: Kind) -> Row:
    """Deploy a version that does not import, then a good one."""
    with tempfile.TemporaryDirectory() as scratch:
        flag = Path(scratch) / "broken"
        with (
            Server(peer, "deploy:app", environment={"BENCH_BROKEN": str(flag)}) as server,
            loaded(server, kind) as load,
        ):
            load.mark("broken")
            flag.touch()
            before = server.worker_pids()
            server.reload()
            time.sleep(BROKEN_WATCH)
            load.mark("mended")
            flag.unlink()
            serving = server.answers()
            kept = len(before & server.worker_pids())
            if server.alive():
                server.reload()
                recovered = server.await_reload(before, RELOAD_WITHIN) is not None
                time.sleep(peer.settle)
                recovered = recovered and server.answers()
            else:
                recovered = False
                report = load.stop()
    return {
        **_row("broken deploy", peer, kind, report, "broken"),
        "serving": serving,
        "old_workers_kept": kept,
        "next_deploy_worked": recovered,
        "note": ("serves on" if serving else "the server ended")
        + (", next deploy works" if recovered else ", next deploy fails"),
    }


def final_stop(peer: Peer, kind: Kind) -> Row:
    """SIGTERM under load. Refusals after the end are clean; everything else is a loss."""
    with Server(peer, "plain:app") as server, loaded(server, kind) as load:
        load.mark("term")
        server.process.terminate()
        seconds = server.await_exit(EXIT_WITHIN)
        time.sleep(0.3)
        report = load.stop()
    part = report.between("term")
    refused = part.failures.get("refused", 0)
    return {
        **_row("SIGTERM", peer, kind, report, "term"),
        "failed": part.failed - refused,
        "refused": refused,
        "exit_seconds": seconds,
        "note": f"exit after {seconds:.1f} s" if seconds is not None else f"still there after {EXIT_WITHIN:.0f} s",
    }


def killed_worker(peer: Peer, kind: Kind) -> Row:
    """kill -9 of one worker of two."""
    with Server(peer, "pid:app") as server, loaded(server, kind) as load:
        before = server.worker_pids()
        load.mark("kill")
        os.kill(min(before), signal.SIGKILL)
        back = server.await_newcomer(before, WATCH)
        time.sleep(2.0)
        report = load.stop()
        alive = server.alive()
    note = f"its replacement serves after {back:.2f} s" if back is not None else "not replaced"
    return {
        **_row("kill -9 of a worker", peer, kind, report, "kill"),
        "replaced_seconds": back,
        "note": note if alive else "the server ended",
    }


def open_streams(peer: Peer) -> Row:
    """SIGTERM while event streams are open: when does it end, and how do the streams?"""
    with Server(peer, "stream:app") as server, contextlib.ExitStack() as stack:
        links = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=5.0))
            for _ in range(STREAMS)
        ]
        for link in links:
            link.sendall(b"GET /stream HTTP/1.1\r\nhost: bench\r\n\r\n")
            if not link.recv(65536).startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"{peer.name} does not stream")
        server.process.terminate()
        seconds = server.await_exit(EXIT_WITHIN)
        ends = [_end_of(link) for link in links]
    counted = {end: ends.count(end) for end in sorted(set(ends))}
    ending = f"exit after {seconds:.1f} s" if seconds is not None else f"still there after {EXIT_WITHIN:.0f} s"
    return {
        "group": "streams open at SIGTERM",
        "server": peer.name,
        "load": f"{STREAMS} streams",
        "exit_seconds": seconds,
        "streams": counted,
        "note": f"{ending}; " + ", ".join(f"{count} {end}" for end, count in counted.items()),
    }


def _end_of(link: socket.socket) -> str:
    """Read what has come, and how it ended. Never waits: the streams are looked at as of one moment."""
    link.setblocking(False)
    tail = b""
    try:
        while data := link.recv(65536):
            tail = (tail + data)[-16:]
    except BlockingIOError:
        return "open"
    except ConnectionError:
        return "reset"
    return "ended whole" if tail.endswith(b"0\r\n\r\n") else "cut"


def _row(group: str, peer: Peer, kind: Kind, report: Report, first: str) -> Row:
    # To the very end: a request that hangs is only counted, as a timeout, while the load stops.
    part = report.between(first)
    return {"group": group, "server": peer.name, "load": kind.letter, **part.summary()}


def _has(report: Report, number: int) -> bool:
    return f"reload {number}" in report.marks()


def _losses(report: Report, number: int, times: int) -> Row:
    following = f"reload {number + 1}" if number < times and _has(report, number + 1) else None
    part = report.between(f"reload {number}", following)
    return {"failed": part.failed, "worst_ms": round(part.worst * 1e3, 1), "gap_ms": round(part.gap * 1e3, 1)}
