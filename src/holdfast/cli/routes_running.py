"""``holdfast routes --running``: what the workers of a running service have counted, as one table."""

import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import click

from holdfast.cli.answers import ask, print_json
from holdfast.cli.table import show_table
from holdfast.cli.target import find
from holdfast.supervisor.counts import AskedWorker, GateNow, QueueNow, RouteSum, ServiceCounts
from holdfast.telemetry.requests import BOUNDS

REFRESH: Final = 1.0
"""Seconds between two looks of ``--watch``."""
COLUMNS: Final = ("route", "requests", "in flight", "waiting", "p50", "p99", "4xx", "5xx", "refused by", "gates")
ALWAYS: Final = frozenset(("route", "requests", "in flight", "p50", "p99"))
"""Columns that are there also when they have nothing to say."""


def show_running(name: str | None, control: Path | None, timeout: float, as_json: bool, watch: bool) -> None:
    """Ask the service, and print its table or one line of JSON; with ``watch`` until interrupted."""
    path = find(name, control)
    try:
        while True:
            counts = ask(path, timeout, ServiceCounts, "routes")
            if as_json:
                print_json(counts)
            else:
                if watch and sys.stdout.isatty():
                    click.clear()
                print_counts(counts)
            if not watch:
                return
            time.sleep(REFRESH)
    except KeyboardInterrupt:
        return


def print_counts(counts: ServiceCounts) -> None:
    """Print them as a table."""
    for line in header(counts):
        click.echo(line)
    click.echo()
    rows = [row(route) for route in counts.routes]
    used = [at for at, column in enumerate(COLUMNS) if column in ALWAYS or any(cells[at] for cells in rows)]
    show_table([COLUMNS[at] for at in used], [[cells[at] for at in used] for cells in rows])
    if counts.left_out:
        click.echo(f"and {counts.left_out} routes for which a worker's message had no room")


def header(counts: ServiceCounts) -> list[str]:
    """What is true of the whole service, one fact a line."""
    asked = [worker for worker in counts.workers if not worker.missing]
    lines = [f"{counts.name}: {len(asked)} of {_number(len(counts.workers), 'worker')} counted"]
    queues = [worker.queue for worker in asked if worker.queue is not None]
    if queues:
        lines.append(f"queue    {_queue(queues)}")
    if gates := _gates(counts.gates):
        lines.append(f"gates    {gates}")
    lines += _pressure(asked)
    for worker in counts.workers:
        if worker.missing:
            lines.append(f"missing  worker {worker.slot} (process {worker.pid}): {worker.missing}")
    return lines


def row(route: RouteSum) -> tuple[str, ...]:
    """One line of the table, in the order of ``COLUMNS``."""
    return (
        route.name,
        f"{route.requests:,}",
        str(route.in_flight),
        str(route.waiting or ""),
        _seconds(route.p50),
        _seconds(route.p99),
        _count(route.classes.get("4xx", 0)),
        _count(route.classes.get("5xx", 0)),
        ", ".join(f"{who} {number:,}" for who, number in sorted(route.refused.items(), key=lambda one: -one[1])),
        _gates(route.gates),
    )


def _queue(queues: Sequence[QueueNow]) -> str:
    limits = [queue.limit for queue in queues if queue.limit is not None]
    if limits:
        allowed = f" of {sum(limits):g} that may ({', '.join(dict.fromkeys(queue.governor for queue in queues))})"
        if len(limits) < len(queues):
            allowed += f" in {len(limits)} of {_number(len(queues), 'worker')}"
    else:
        allowed = ", as many as come"
    waiting, running = sum(queue.waiting for queue in queues), sum(queue.running for queue in queues)
    text = f"{waiting} wait, {running} run{allowed}; {sum(queue.refused for queue in queues):,} refused"
    overloaded = sum(queue.overloaded for queue in queues)
    return f"{text}; overloaded in {overloaded} of {_number(len(queues), 'worker')}" if overloaded else text


def _pressure(workers: Sequence[AskedWorker]) -> list[str]:
    """The workers are in one cgroup, so the highest figure is that of all, or the newest one."""
    lines = []
    memory = [one.pressure.memory for one in workers if one.pressure.memory is not None]
    if memory:
        refused = [one.pressure.refused_below for one in workers if one.pressure.refused_below is not None]
        told = f"; requests less than {refused[0]} are refused" if refused else ""
        lines.append(f"memory   {max(memory):.0%} of what the cgroup allows is in use{told}")
    throttled = max((one.pressure.throttled or 0.0 for one in workers), default=0.0)
    if throttled:
        lines.append(f"cpu      the cgroup has withheld it in {throttled:.0%} of the periods since the last look")
    return lines


def _gates(gates: Iterable[GateNow]) -> str:
    return ", ".join(filter(None, map(_gate, gates)))


def _gate(gate: GateNow) -> str:
    """What there is to be said of its state; empty for a rate limit, which has none but its refusals."""
    name = gate.name
    if gate.limit is not None:
        return f"{name} {gate.in_flight}/{gate.limit:g}"
    if gate.states:
        one = len(gate.states) == 1
        return f"{name} {' '.join(state if one else f'{number} {state}' for state, number in gate.states.items())}"
    return f"{name} {gate.share:.0%}" if gate.share else ""


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds >= BOUNDS[-1]:
        return f"> {BOUNDS[-1]:g} s"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.{1 if seconds < 0.01 else 0}f} ms"


def _count(number: int) -> str:
    return f"{number:,}" if number else ""


def _number(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
