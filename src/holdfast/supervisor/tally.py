"""What one worker has counted on its routes, taken together when the supervisor asks."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from math import isinf
from typing import Any, Final

import msgspec

from holdfast.core.policy import Gate
from holdfast.server.http.engine import HttpEngine
from holdfast.server.http.entrance import Entrance
from holdfast.supervisor.channel import Counted, Message
from holdfast.supervisor.counts import GateNow, PressureNow, QueueNow, RouteNow, WorkerCounts
from holdfast.telemetry.requests import BOUNDS, CLASSES, RouteCounts

SIZE_LIMIT: Final = 512 * 1024
"""Bytes of routes that are told; a message may have twice as many."""
ROUTES_PER_TURN: Final = 20
"""Routes that are looked at before the loop may go on with other work: each takes some 20 us."""
STATES: Final = 8
"""States of a gate that are told."""
FOUND_OUT: Final = "found out"
NOTHING: Final = RouteCounts(dict.fromkeys(CLASSES, 0), (0,) * (len(BOUNDS) + 1), 0.0, {})


class Tally:
    """Counts what ``engine`` has, for who asks. One count at a time, which is for all who have asked by its end."""

    def __init__(self, engine: HttpEngine) -> None:
        self._engine = engine
        self._asked: dict[int, Callable[[Message], object]] = {}
        self._task: asyncio.Task[None] | None = None

    def answer(self, ticket: int, say: Callable[[Message], object]) -> None:
        """Count in the background; ``say`` takes the answer."""
        self._asked[ticket] = say
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._count(), name="count")

    def close(self) -> None:
        """Answer nobody any more."""
        if self._task is not None:
            self._task.cancel()

    async def _count(self) -> None:
        counts = await take_counts(self._engine)
        asked, self._asked = self._asked, {}
        for ticket, say in asked.items():
            say(Counted(ticket, counts))


async def take_counts(engine: HttpEngine) -> WorkerCounts:
    """What ``engine`` has counted since it began. Lets the loop go on in between, so that figures may be some
    milliseconds apart."""
    entrance = engine.state.entrance
    admission = entrance.admission
    counted = entrance.counters.snapshot().routes
    in_flight, waiting = _under_way(engine)
    *lanes, others = admission.lanes
    shared = others.gates
    own = {lane.name: [gate for gate in lane.gates if gate not in shared] for lane in lanes}
    # Routes of settings that were replaced have counts too, and those that nobody has asked for yet have none.
    names = dict.fromkeys((*own, *counted, *in_flight, *waiting, others.name))
    rows: list[RouteNow] = []
    size = 0
    for number, name in enumerate(name for name in names if name):
        if number % ROUTES_PER_TURN == ROUTES_PER_TURN - 1:
            await asyncio.sleep(0)
        gates = tuple(_gate(gate) for gate in own.get(name, ()))
        row = RouteNow(name, counted.get(name, NOTHING), in_flight[name], waiting[name], gates)
        size += len(msgspec.json.encode(row))
        if size <= SIZE_LIMIT:
            rows.append(row)
    left_out = sum(map(bool, names)) - len(rows)
    pressure = msgspec.convert(admission.pressure.snapshot(), PressureNow)
    return WorkerCounts(tuple(rows), tuple(_gate(gate) for gate in shared), _queue(entrance), pressure, left_out)


def _under_way(engine: HttpEngine) -> tuple[Counter[str], Counter[str]]:
    """How many requests of each route have begun, and how many wait for their turn."""
    state = engine.state
    begun = Counter(_names(cycle.ticket for cycle in state.entrance.cycles.values()))
    waiting: list[Any] = []
    for connection in state.connections:
        cycle = getattr(connection, "active", None)
        if cycle is not None:
            if cycle.task is None and not cycle.response_complete:
                waiting.append(cycle.ticket)
        else:  # a WebSocket, or a connection between two requests
            begun.update(_names([getattr(connection, "ticket", None)]))
    return begun, Counter(_names(waiting))


def _names(tickets: Iterable[Any]) -> Iterable[str]:
    return [ticket.route for ticket in tickets if ticket is not None]


def _queue(entrance: Entrance) -> QueueNow | None:
    if not entrance.queue:
        return None
    told = entrance.snapshot()
    found = told["concurrency"]
    limit = float(told["limit"])
    return QueueNow(
        waiting=told["waiting"],
        running=told["running"],
        limit=None if isinf(limit) else limit,
        governor="" if found is None else found.get("algorithm", FOUND_OUT),
        started=told["started"],
        refused=told["refused"],
        overloaded=told["overloaded"],
        work=told["work"],
        target=told["target"],
    )


def _gate(gate: Gate[Any]) -> GateNow:
    told = gate.snapshot()
    limit = told.get("limit")
    states = {told["state"]: 1} if "state" in told else dict(list(told.get("states", {}).items())[:STATES])
    return GateNow(
        kind=gate.kind,
        name=gate.name,
        in_flight=told.get("in_flight", 0),
        limit=float(limit) if "in_flight" in told and limit is not None else None,
        states={str(state): number for state, number in states.items()},
        share=told.get("probability", 0.0),
    )
