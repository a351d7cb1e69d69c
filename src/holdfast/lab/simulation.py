"""An overload laboratory: one event loop, its clients and a gate, simulated on plain numbers. Not public yet.

The server is one Python event loop. A turn of it is what uvloop and asyncio do:

1. run every handler that is ready, in the order in which they became so; each holds the loop for its CPU time;
2. look which sockets have something to read, and parse all of that, in the order of arrival. Each request meets
   the gate when it is parsed. An admitted one becomes a handler for the next turn. A refused one costs the loop
   ``refusal`` seconds, at once: parsing it, and writing the refusal.

What arrives during a turn waits in its socket's buffer, unseen, until the turn is over: with a long turn the
gate's own view of a call is only half of what the client sees. So a gate in front of CPU-bound handlers sees
batches, and nothing in flight when a batch begins. Admitted requests are parsed for free (their CPU time
includes it). With ``gate_in_handler`` the gate is asked when the handler begins, as a middleware is.

A handler may then wait for a backend that works on ``parallel`` calls at once and lets others queue: more in
flight raise the throughput up to that knee, and only the latency beyond it. Its answer needs the loop for nothing.

Clients arrive in a Poisson process (open loop: they do not wait for each other) at a multiple of the capacity. An
answer after ``deadline`` seconds is no use to them, and the server does not know that they have gone. With
``retry`` they send again what was refused or late, as ``Retry`` does, with one budget for all of them. A policy
that ``expires`` drops what is past its deadline when its handler would begin, at the price of a refusal.

Everything is drawn from one seeded generator: the same arguments give the same result.
"""

import heapq
import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import inf
from types import MappingProxyType
from typing import Any, Final, Protocol, TypeAlias

import msgspec

from holdfast.core.call import FAILED, OK, bare_call
from holdfast.core.context import Criticality
from holdfast.core.errors import Rejected
from holdfast.core.policy import Gate
from holdfast.lab.outcome import GOOD, LATE, REFUSED, Outcome, Result
from holdfast.resilience.retry import RetrySettings
from holdfast.resilience.retrying.backoff import next_delay
from holdfast.resilience.retrying.budget import RetryBudget, RetryBudgetSettings

REQUESTS_LIMIT: Final = 5_000_000
"""Attempts in one simulation, retries included."""

Draw: TypeAlias = Callable[[random.Random], float]
"""Draws a duration in seconds."""
Mix: TypeAlias = Mapping[Criticality, float]
ALL_ALIKE: Final[Mix] = MappingProxyType({Criticality.CRITICAL: 1.0})


def fixed(mean: float) -> Draw:
    """Always the same."""
    return lambda _: mean


def exponential(mean: float) -> Draw:
    """Exponentially distributed."""
    return lambda rng: rng.expovariate(1 / mean)


def bimodal(mean: float) -> Draw:
    """Nine of ten take half the mean, the tenth takes 5.5 times the mean."""
    return lambda rng: mean / 2 if rng.random() < 0.9 else mean * 5.5


class Server(msgspec.Struct, frozen=True):
    """``cpu`` seconds of the loop for each call, ``refusal`` for each refused one; see the module.

    ``capacity`` is calls a second. ``wait`` is what the backend takes for a call once it works on it.
    """

    capacity: float = 500.0
    cpu: Draw = fixed(0.002)
    refusal: float = 0.0001
    wait: Draw | None = None
    parallel: int = 1
    gate_in_handler: bool = False


class Clients(msgspec.Struct, frozen=True):
    """Who asks. ``mix`` is the share of each criticality; calls are spread evenly over ``users`` users."""

    deadline: float = 0.2
    mix: Mix = ALL_ALIKE
    users: int = 200
    retry: RetrySettings | None = None


PLAIN_SERVER: Final = Server()
PLAIN_CLIENTS: Final = Clients()


class Request:
    """One attempt."""

    __slots__ = (
        "arrived",
        "attempt",
        "born",
        "call",
        "cpu",
        "criticality",
        "deadline",
        "settled",
        "token",
        "user",
        "wait",
    )

    def __init__(self, arrived: float, born: float, attempt: int, criticality: Criticality, user: int) -> None:
        self.arrived = arrived
        self.born = born
        self.attempt = attempt
        self.criticality = criticality
        self.user = user
        self.deadline = inf
        self.cpu = 0.0
        self.wait = 0.0
        self.settled = False
        self.call: Any = None
        self.token: Any = None


class Door(Protocol):
    """What decides who comes in. ``parsed`` is when the request was read; ``late`` whether nobody waits any more."""

    expires: bool

    def admit(self, request: Request, now: float, parsed: float) -> bool: ...

    def finish(self, request: Request, now: float, late: bool) -> None: ...


class OpenDoor:
    """Lets everybody in; with ``expires`` drops what is past its deadline before it begins."""

    def __init__(self, *, expires: bool = False) -> None:
        self.expires = expires

    def admit(self, request: Request, now: float, parsed: float) -> bool:
        return True

    def finish(self, request: Request, now: float, late: bool) -> None:
        return None


class GateDoor:
    """A real gate. It does not know the clients' deadline unless ``tells_deadline``."""

    expires = False

    def __init__(self, gate: Gate[Any], *, tells_deadline: bool = False) -> None:
        self.gate = gate
        self.tells_deadline = tells_deadline

    def admit(self, request: Request, now: float, parsed: float) -> bool:
        request.call = bare_call(
            "simulated",
            now=now,
            key=f"user-{request.user}",
            criticality=request.criticality,
            deadline=request.deadline if self.tells_deadline else inf,
            arrived=parsed if parsed < now else 0.0,
        )
        try:
            request.token = self.gate.enter(request.call)
        except Rejected:
            return False
        return True

    def finish(self, request: Request, now: float, late: bool) -> None:
        request.call.now = now
        request.call.verdict = FAILED if late and self.tells_deadline else OK
        self.gate.exit(request.call, request.token)


class Simulation:
    """One run. ``phases`` are (seconds, multiple of the capacity). ``busy`` is the CPU time used so far, in seconds."""

    def __init__(
        self,
        phases: Sequence[tuple[float, float]],
        server: Server = PLAIN_SERVER,
        clients: Clients = PLAIN_CLIENTS,
        seed: int = 1,
    ) -> None:
        self.busy = 0.0
        self._phases = phases
        self._server = server
        self._clients = clients
        self._rng = random.Random(seed)  # noqa: S311 - reproducible, not secret
        self._result = Result(server.capacity)
        self._now = 0.0
        self._made = 0
        self._fresh = self._arrivals()
        self._next = next(self._fresh, inf)
        self._again: list[tuple[float, int, Request]] = []
        self._waiting: deque[Request] = deque()
        self._backend: list[tuple[float, int, Request]] = []
        self._slots = [0.0] * server.parallel
        self._retry = clients.retry
        self._budget = _budget(clients.retry) if clients.retry is not None else None
        self._classes = list(clients.mix)
        self._shares = list(clients.mix.values())

    def run(self, door: Door) -> Result:
        """Everything that happens, up to the last answer."""
        ready: deque[tuple[float, Request]] = deque()
        while True:
            for _ in range(len(ready)):
                parsed, request = ready.popleft()
                self._handle(door, request, parsed)
            upcoming = self._upcoming()
            if not ready and upcoming == inf:
                return self._result
            self._now = max(self._now, upcoming)
            self._read(door, ready)

    def _handle(self, door: Door, request: Request, parsed: float) -> None:
        server = self._server
        if server.gate_in_handler and not door.admit(request, self._now, parsed):
            self._spend(server.refusal)
            self._failed(request, self._now, REFUSED)
        elif door.expires and request.deadline <= self._now:
            self._spend(server.refusal)
            door.finish(request, self._now, True)
            self._failed(request, self._now, LATE)
        else:
            self._spend(request.cpu)
            if server.wait is None:
                self._answer(door, request, self._now)
            else:
                begins = max(self._now, heapq.heappop(self._slots))
                heapq.heappush(self._slots, begins + request.wait)
                self._made += 1
                heapq.heappush(self._backend, (begins + request.wait, self._made, request))

    def _read(self, door: Door, ready: deque[tuple[float, Request]]) -> None:
        now = self._now
        while self._backend and self._backend[0][0] <= now:
            self._answer(door, heapq.heappop(self._backend)[2], now)
        while self._waiting and self._waiting[0].deadline <= now:
            self._failed(self._waiting[0], self._waiting[0].deadline, LATE)
            self._waiting.popleft()
        while (request := self._arrived(now)) is not None:
            if self._retry is not None and request.deadline > now:
                self._waiting.append(request)
            elif self._retry is not None:
                self._failed(request, request.deadline, LATE)  # given up in the socket's buffer; still to be read
            if self._server.gate_in_handler or door.admit(request, self._now, self._now):
                ready.append((self._now, request))
            else:
                self._spend(self._server.refusal)
                self._failed(request, self._now, REFUSED)

    def _spend(self, seconds: float) -> None:
        self._now += seconds
        self.busy += seconds

    def _answer(self, door: Door, request: Request, now: float) -> None:
        late = now > request.deadline
        door.finish(request, now, late)
        self._result.served.append((now, now - request.arrived))
        if late:
            self._failed(request, request.deadline, LATE)
        elif not request.settled:
            self._settle(request, now, GOOD)

    def _failed(self, request: Request, now: float, kind: str) -> None:
        if request.settled:
            return
        retry = self._retry
        if retry is None or request.attempt >= retry.attempts or not self._may_retry(now):
            self._settle(request, now, kind)
            return
        request.settled = True
        assert callable(retry.backoff)
        at = now + next_delay(request.attempt, retry.backoff, retry.jitter, self._rng.random)
        self._made += 1
        again = self._request(at, request.born, request.attempt + 1, request.criticality, request.user)
        heapq.heappush(self._again, (at, self._made, again))

    def _may_retry(self, now: float) -> bool:
        return self._budget is None or self._budget.try_spend(now)

    def _settle(self, request: Request, now: float, kind: str) -> None:
        request.settled = True
        self._result.outcomes.append(Outcome(request.born, now, kind, request.criticality, request.user))

    def _upcoming(self) -> float:
        return min(
            self._next,
            self._again[0][0] if self._again else inf,
            self._backend[0][0] if self._backend else inf,
            self._waiting[0].deadline if self._waiting else inf,
        )

    def _arrived(self, now: float) -> Request | None:
        again = self._again[0][0] if self._again else inf
        if min(self._next, again) > now:
            return None
        if again < self._next:
            return heapq.heappop(self._again)[2]
        arrived, self._next = self._next, next(self._fresh, inf)
        if self._budget is not None:
            self._budget.begin(arrived)
        classes = self._classes
        criticality = classes[0] if len(classes) == 1 else self._rng.choices(classes, self._shares)[0]
        return self._request(arrived, arrived, 1, criticality, self._rng.randrange(self._clients.users))

    def _request(self, arrived: float, born: float, attempt: int, criticality: Criticality, user: int) -> Request:
        self._made += 1
        if self._made > REQUESTS_LIMIT:
            raise RuntimeError(f"a simulation ends after {REQUESTS_LIMIT} requests; make it shorter or slower")
        request = Request(arrived, born, attempt, criticality, user)
        request.deadline = arrived + self._clients.deadline
        request.cpu = self._server.cpu(self._rng)
        request.wait = self._server.wait(self._rng) if self._server.wait is not None else 0.0
        return request

    def _arrivals(self) -> Iterator[float]:
        begin = 0.0
        for seconds, load in self._phases:
            at = begin
            while load > 0 and (at := at + self._rng.expovariate(load * self._server.capacity)) < begin + seconds:
                yield at
            begin += seconds


def _budget(retry: RetrySettings) -> RetryBudget | None:
    settings = retry.budget
    if isinstance(settings, RetryBudgetSettings):
        return RetryBudget.from_settings(settings)
    return settings if isinstance(settings, RetryBudget) else None
