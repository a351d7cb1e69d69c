"""All workers are asked what they have counted, and what they say is added up. One that does not answer is named."""

import operator
from collections.abc import Iterable, Sequence
from typing import Final

from holdfast.supervisor.agreement import answers, tickets
from holdfast.supervisor.channel import Count, Counted
from holdfast.supervisor.counts import AskedWorker, GateNow, RouteNow, RouteSum, ServiceCounts, WorkerCounts
from holdfast.supervisor.process import Worker
from holdfast.telemetry.requests import BOUNDS, RequestCounts, added

ANSWER_LIMIT: Final = 2.0
"""Seconds that a worker has to answer. Whoever watches wants to see those that do."""
ROUTES_LIMIT: Final = 2000
"""Routes that are told: twice what a configuration may have, since workers that drain may have another one."""


async def take_census(name: str, workers: Iterable[Worker]) -> ServiceCounts:
    """Ask all ``workers`` of the service ``name`` that serve or drain. Takes at most ``ANSWER_LIMIT`` seconds."""
    listed = sorted(workers, key=lambda worker: (worker.slot, worker.serial))
    asked = [worker for worker in listed if worker.state in ("ready", "draining") and not worker.hung]
    ticket = next(tickets)
    found: dict[Worker, WorkerCounts | str] = {}
    for worker, answer in zip(asked, await answers(asked, ticket, Count(ticket), ANSWER_LIMIT), strict=True):
        match answer:
            case Counted(_, counts) if counts is not None:
                found[worker] = counts
            case Counted():
                found[worker] = "it does not serve yet"
            case TimeoutError():
                found[worker] = f"no answer within {ANSWER_LIMIT:g} s"
            case _:
                found[worker] = "it is gone"
    counted = [counts for counts in found.values() if isinstance(counts, WorkerCounts)]
    return ServiceCounts(
        name=name,
        routes=_routes([counts.routes for counts in counted]),
        gates=_gates(counts.gates for counts in counted),
        workers=tuple(_asked(worker, found.get(worker)) for worker in listed),
        left_out=max((counts.left_out for counts in counted), default=0),
    )


def quantile(buckets: Sequence[int], share: float) -> float | None:
    """The seconds that ``share`` of the requests did not exceed: exact to the bucket, linear inside of it, as
    Prometheus's ``histogram_quantile``. In the last bucket, which has no upper bound, its lower one. None for none."""
    total = sum(buckets)
    if not total:
        return None
    wanted = share * total
    below = 0
    for number, count in enumerate(buckets[: len(BOUNDS)]):
        if count and below + count >= wanted:
            lower = BOUNDS[number - 1] if number else 0.0
            return lower + (BOUNDS[number] - lower) * (wanted - below) / count
        below += count
    return BOUNDS[-1]


def _asked(worker: Worker, found: WorkerCounts | str | None) -> AskedWorker:
    state = "hung" if worker.hung else worker.state
    if isinstance(found, WorkerCounts):
        return AskedWorker(worker.slot, worker.pid, worker.generation, state, "", found.queue, found.pressure)
    if found is None:
        found = "its event loop is blocked" if worker.hung else f"it is {state}"
    return AskedWorker(worker.slot, worker.pid, worker.generation, state, found)


def _routes(told: Sequence[Sequence[RouteNow]]) -> tuple[RouteSum, ...]:
    counts = added((RequestCounts({row.name: row.counts for row in rows}) for rows in told), routes=ROUTES_LIMIT).routes
    rows_of: dict[str, list[RouteNow]] = {}
    for row in (row for rows in told for row in rows):
        rows_of.setdefault(row.name, []).append(row)
    sums = []
    for name, total in counts.items():
        rows = rows_of.get(name, [])
        requests = sum(total.buckets)
        sums.append(
            RouteSum(
                name=name,
                requests=requests,
                in_flight=sum(row.in_flight for row in rows),
                waiting=sum(row.waiting for row in rows),
                p50=quantile(total.buckets, 0.5),
                p99=quantile(total.buckets, 0.99),
                mean=total.seconds / requests if requests else None,
                classes=total.classes,
                refused=total.refused,
                buckets=total.buckets,
                gates=_gates(row.gates for row in rows),
            )
        )
    return tuple(sums)


def _gates(told: Iterable[Iterable[GateNow]]) -> tuple[GateNow, ...]:
    """Gates of one kind and name as one: each worker has its own, so limits add up, and the worst share counts."""
    sums: dict[tuple[str, str], GateNow] = {}
    for gate in (gate for gates in told for gate in gates):
        mark = gate.kind, gate.name
        sums[mark] = _sum(sums[mark], gate) if mark in sums else gate
    return tuple(sums.values())


def _sum(one: GateNow, other: GateNow) -> GateNow:
    states = dict(one.states)
    for state, number in other.states.items():
        states[state] = states.get(state, 0) + number
    limits = [gate.limit for gate in (one, other) if gate.limit is not None]
    limit = None if not limits else operator.add(*limits) if len(limits) == 2 else limits[0]
    return GateNow(one.kind, one.name, one.in_flight + other.in_flight, limit, states, max(one.share, other.share))
