"""The bytes of one connection, through the engine's own protocol with admission and routes, on virtual time.

Nothing but the app's own fault is logged, whatever comes; each request gets one answer that a strict reader takes, no
answer or log holds a credential, and when the connection has ended nobody holds anything.
"""

import asyncio
import contextlib
import logging
import re
import socket
from collections.abc import Iterator
from typing import Any, Final

from fuzz.app import INJECTED, OnPurpose, app
from fuzz.heads import HEADER_SIZE, HIDDEN, SECRET, SEEDS, mutate
from fuzz.responses import read_answers
from fuzz.target import Target, hold
from fuzz.wire import Descriptor, Wire
from holdfast.core.clock import VirtualClock
from holdfast.core.drain import Drain
from holdfast.server.admission.admission import Ticket
from holdfast.server.admission.settings import read_admission, read_routes
from holdfast.server.http.engine import HttpEngine
from holdfast.server.http.protocol import HttpProtocol
from holdfast.server.http.settings import HttpSettings

ADMISSIONS: Final = tuple(
    map(
        read_admission,
        (
            {"trusted_proxies": ["10.0.0.0/8", "unix"], "clients": {"rate": "500/s", "connections": 8}},
            {
                "trusted_proxies": ["10.0.0.0/8"],
                "forwarded": "forwarded",
                "queue": False,
                "clients": {"connections": 1},
            },
            {
                "trusted_proxies": ["unix"],
                "concurrency": {"initial": 2, "maximum": 2},
                "max_wait": "40ms",
                "fair_by": "header:x-api-key",
            },
            {"concurrency": False, "clients": {"rate": "5/s", "burst": 3}, "fair_by": "client"},
        ),
    )
)
ROUTES: Final = read_routes(
    [
        {"match": "/keyed", "rate_limit": {"rate": "3/s", "key": "header:x-api-key"}},
        {"match": "/tenant", "rate_limit": {"rate": "2/s", "key": "tenant"}, "timeout": "2s"},
        {"match": "/version", "headers": {"x-version": "2"}, "bulkhead": 1, "criticality": "sheddable"},
        {"match": "/version", "host": "*.example", "breaker": True, "throttle": True},
        {"match": "/long", "timeout": "1s", "bulkhead": 1},
        {"match": "/deaf", "timeout": "100ms", "must_finish": True},
        {"match": "/finish", "must_finish": True, "bulkhead": 2},
        {"match": "/stream", "concurrency": False, "bulkhead": 2},
        {"match": "/broken", "policies": [{"breaker": {}}, {"bulkhead": 1}, {"timeout": "200ms"}]},
        {"match": "/boom", "breaker": True},
        {"match": "/never", "rate_limit": "1/h"},
        {"match": "GET /ws", "bulkhead": 1},
    ]
)
SETTINGS: Final = HttpSettings(
    max_header_size=2048, max_body_size=4096, header_timeout=2.0, body_timeout=1.0, keep_alive=30.0, stream_grace=0.2
)
PEERS: Final[tuple[tuple[str, int] | str, ...]] = (("10.0.0.1", 4000), ("192.0.2.7", 4000), ("2001:db8::7", 4000), "")
SETTLED: Final = 120
"""Looks until all requests must be answered, ``LOOK`` seconds apart: twice what the slowest one may take."""
LOOK: Final = 0.5
TICK: Final = 0.5
LOGGERS: Final = ("holdfast", "uvicorn", "asyncio", "websockets")

_HIDDEN = re.compile(rb"(?im)^(?:%b):[^\r\n]*" % b"|".join(HIDDEN))


class Log(logging.Handler):
    """All that is said during one input."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def text(self) -> str:
        return "\n".join(logging.Formatter().format(record) for record in self.records)

    def check(self) -> int:
        """How often the app has failed. Raises ``Broken`` when anybody else has."""
        failed = 0
        for record in self.records:
            error = record.exc_info[1] if record.exc_info else None
            if record.levelno < logging.WARNING:
                continue
            hold(isinstance(error, OnPurpose), f"{record.name} says: {logging.Formatter().format(record)}")
            failed += 1
        return failed


@contextlib.contextmanager
def listening() -> Iterator[Log]:
    """What is logged goes to one place, and nowhere else."""
    log = Log()
    kept = []
    for name in LOGGERS:
        logger = logging.getLogger(name)
        kept.append((logger, logger.level, logger.propagate))
        logger.setLevel(logging.INFO)
        logger.propagate = False
        logger.addHandler(log)
    try:
        yield log
    finally:
        for logger, level, propagate in kept:
            logger.removeHandler(log)
            logger.setLevel(level)
            logger.propagate = propagate


class Counting(HttpProtocol):
    """The engine's own protocol, and how many requests have begun on it."""

    begun = 0

    def on_message_begin(self) -> None:
        self.begun += 1
        super().on_message_begin()


class Plan:
    """How a stream is sent: what the bytes before it say."""

    def __init__(self, how: bytes) -> None:
        one, cut, three = how.ljust(HEADER_SIZE, b"\0")[:HEADER_SIZE]
        self.admission = ADMISSIONS[one & 3]
        self.peer = PEERS[one >> 2 & 3]
        self.end = ("waits", "resets", "half closes", "drains")[one >> 4 & 3]
        self.slow = bool(one & 64)
        self.quick = bool(one & 128)  # the loop does not turn between two pieces
        self.size = cut or 1 << 20
        self.exempt = ["/health"] if three & 1 else []
        self.connections = (1, 1, 2, 3)[three >> 2 & 3]  # which all send the same, in turns


def run(data: bytes) -> None:
    """One connection from its first byte to its end."""
    clock = VirtualClock()
    pair = socket.socketpair()
    try:
        with listening() as log:
            clock.run(_serve(Plan(data[:HEADER_SIZE]), data[HEADER_SIZE:], clock, pair, log))
    finally:
        for end in pair:
            end.close()


async def _serve(
    plan: Plan, stream: bytes, clock: VirtualClock, pair: tuple[socket.socket, socket.socket], log: Log
) -> None:
    loop = asyncio.get_running_loop()
    failures: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: failures.append(context))
    engine = HttpEngine(
        app,
        [],
        SETTINGS,
        drain=Drain(),
        clock=clock,
        tick=TICK,
        admission=plan.admission,
        routes=ROUTES,
        exempt=plan.exempt,
    )
    await engine.start({})
    tickets = _noted(engine)
    wires = [_connect(engine, plan, pair, loop) for _ in range(plan.connections)]
    deaf: set[Wire] = set()
    for start in range(0, len(stream), plan.size):
        for wire in wires:
            if wire not in deaf and not await wire.send(stream[start : start + plan.size]):
                deaf.add(wire)
        if not plan.quick:
            await asyncio.sleep(0)
    await _end(plan, wires, engine)
    failures_answered = sum(_look_at_answers(wire, stream) for wire in wires)
    for wire in wires:
        wire.reset()
    await _until_quiet(engine)
    _check_empty(engine)
    hold(all(ticket._ended for ticket in tickets), "a ticket is held")
    await engine.stop()
    await asyncio.sleep(0)
    left = asyncio.all_tasks() - {asyncio.current_task()}
    hold(not left, f"tasks are left: {left}")
    hold(not failures, f"the loop was told of {failures}")
    failed = log.check()
    hold(failures_answered <= failed, "a 500 that no fault of the app explains")
    if SECRET not in _HIDDEN.sub(b"", stream):
        hold(not any(SECRET in wire.written for wire in wires), "an answer holds a credential")
        hold(SECRET.decode() not in log.text, "the log holds a credential")


def _look_at_answers(wire: Wire, stream: bytes) -> int:
    """Each is well-formed and there is one for a request at most; how many tell of a fault."""
    answers = read_answers(bytes(wire.written), head_requests=b"HEAD" in stream)
    hold(all(answer.whole for answer in answers[:-1]), "an answer follows one that is cut off")
    is_open = not wire.is_closing()
    hold(not is_open or not answers or answers[-1].whole, "an answer is cut off, and its connection is open")
    finals = sum(answer.status >= 200 or answer.status in (0, 101) for answer in answers)
    protocol = wire.first
    assert isinstance(protocol, Counting)
    # A client with too many connections is told so before it asks for anything.
    hold(finals <= max(protocol.begun, 1), f"{finals} answers to {protocol.begun} requests")
    if is_open and wire.get_protocol() is protocol and not (protocol.busy or protocol.ending):
        hold(finals == protocol.begun, f"{finals} answers to {protocol.begun} requests, and the connection rests")
    hold(not any(INJECTED in name for answer in answers for name in answer.headers), "a header was put in")
    return sum(answer.status == 500 for answer in answers)


def _connect(
    engine: HttpEngine, plan: Plan, pair: tuple[socket.socket, socket.socket], loop: asyncio.AbstractEventLoop
) -> Wire:
    protocol = Counting(engine._config, engine.state, 0, loop)
    wire = Wire(loop, Descriptor(plan.peer, pair), slow=plan.slow)
    wire.set_protocol(protocol)
    protocol.connection_made(wire)
    return wire


def _noted(engine: HttpEngine) -> list[Ticket]:
    """All tickets that are given out from now on."""
    tickets: list[Ticket] = []
    admission = engine.state.entrance.admission
    enter = admission.enter

    def note(*arguments: Any) -> Ticket:
        ticket = enter(*arguments)
        tickets.append(ticket)
        return ticket

    admission.enter = note  # type: ignore[method-assign, assignment]
    return tickets


async def _end(plan: Plan, wires: list[Wire], engine: HttpEngine) -> None:
    if plan.end == "resets":
        for wire in wires:
            wire.reset()
    elif plan.end == "half closes":
        for wire in wires:
            wire.half_close()
    elif plan.end == "drains":
        await engine.drain(2.0, migrate=False, idle_grace=0.2)
    await _until_quiet(engine)


async def _until_quiet(engine: HttpEngine) -> None:
    """Until every request has ended, or for as long as that may take: an upload without its end ends by its time-out, a
    WebSocket not at all."""
    await asyncio.sleep(0)
    for _ in range(SETTLED):
        if not (engine.state.in_flight or any(getattr(one, "in_message", False) for one in engine.state.connections)):
            break
        await asyncio.sleep(LOOK)


def _check_empty(engine: HttpEngine) -> None:
    """Nobody is connected: then nothing is held."""
    state = engine.state
    entrance = state.entrance
    hold(not state.connections, "a connection is left")
    hold(not state.in_flight, f"{state.in_flight} requests are left")
    hold(not entrance.starter.running, f"{entrance.starter.running} handlers are counted")
    hold(not any(entrance.alarms._slots.values()), "an alarm is left")
    connections = entrance.admission.connections
    hold(not len(connections) and not connections.leaving, "connections are counted")
    for route, gates in entrance.admission.snapshot()["gates"].items():
        for name, gate in gates.items():
            hold(not gate.get("in_flight", 0), f"{name} of {route or 'all'} holds {gate}")


TARGET: Final = Target(
    "connection", "the bytes of a connection, through the protocol, admission and routes", SEEDS, run, mutate
)
