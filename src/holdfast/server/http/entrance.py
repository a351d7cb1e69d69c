"""What a request meets before the app: its ticket, its turn, or the answer in the app's place."""

import asyncio
from collections.abc import Callable, Hashable, Sequence
from math import inf
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from holdfast.core.clock import Clock
from holdfast.core.context import Criticality
from holdfast.core.errors import DeadlineExceeded, Overloaded
from holdfast.core.errortable import ErrorTable
from holdfast.server.admission.admission import Admission, Peer
from holdfast.server.admission.answers import Answers
from holdfast.server.admission.concurrency import Concurrency
from holdfast.server.admission.patterns import Headers
from holdfast.server.admission.settings import AdmissionSettings, RouteSettings
from holdfast.server.admission.starter import Starter
from holdfast.server.http.alarms import Alarms
from holdfast.server.http.cycle import LATE, Cycle
from holdfast.telemetry.requestid import RequestIds
from holdfast.telemetry.requests import RequestCounters

if TYPE_CHECKING:
    from holdfast.server.admission.chosen import Chosen
    from holdfast.server.http.protocol import HttpProtocol
    from holdfast.telemetry.access import AccessLog

Client: TypeAlias = tuple[str, int] | None
"""Address and port as ASGI has them."""

Over: TypeAlias = tuple[float, float, str, str, bytes, int, Client, str, str, int, str]
"""When, after how many seconds, method, path, query, status, client, request id, route, bytes sent, why refused."""
Handled: TypeAlias = tuple[Any, str, float, float, bool, bool]
"""Endpoint, path, seconds, when, whether others waited for its place, whether its deadline had passed."""

SHED: Final = Overloaded("queue", "the service has more to do than it can", 1.0)
"""The refusal of a request that has waited for too long: one for all, since it has to be cheap."""
DRAINED: Final = Overloaded("drain", "this worker ends before the request's turn", 1.0)
OFTEN: Final = (SHED, DRAINED)

GATHERED: Final = 64
"""Ends of requests that are told to counters, log and limit at once. To tell of each at its end takes twice as long:
by then what tells of it has left the processor's caches."""
KIND_PARTS: Final = 2
"""Parts of a path that tell requests apart where no framework does. What follows is a number or a name, most often."""


class Entrance:
    """Admission, the queue and the refusals of one engine. Belongs to one event loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        admission: AdmissionSettings,
        routes: Sequence[RouteSettings],
        errors: ErrorTable,
        exempt: frozenset[str],
        access: "AccessLog | None",
    ) -> None:
        """``exempt`` are paths of health probes, which are neither counted nor refused nor logged."""
        self._loop = loop
        self.admission = Admission(admission, routes, clock=clock)
        self._trust = self.admission.connect(None).trust
        self.answers = Answers(errors, OFTEN)
        self.exempt = exempt
        self.cycles: dict[asyncio.Task[None], Cycle] = {}
        """Requests whose app has not returned. WebSockets are in ``EngineState.tasks``."""
        self.access = access
        self._at_once = access is not None and access.at_once
        self._counters = RequestCounters()
        self._over: list[Over] = []
        self._handled: list[Handled] = []
        self._unsaid: list[HttpProtocol] = []
        self.ids = RequestIds()
        self.now: Callable[[], float] = clock.now
        self.alarms = Alarms(loop, self.now)
        self.starter: Starter[Cycle] = Starter(
            loop,
            classes=len(Criticality),
            start=self._start,
            refuse=self._shed,
            wanted=_wanted,
            limit=inf,
        )
        self.queue = admission.queue
        self.fair_key = admission.fair_key
        self._concurrency = admission.concurrency
        self._governor = _governor(admission)
        self._limit(inf if self._governor is None else self._governor.limit)
        self.starter.patience = float(admission.max_wait)
        self._draining = False

    def configure(
        self, admission: AdmissionSettings, routes: Sequence[RouteSettings], errors: ErrorTable | None = None
    ) -> None:
        """Go by these from the next request on. ``ConfigError`` when they do not fit, and then nothing has changed."""
        self.admission.update(admission, routes)
        self._trust = self.admission.connect(None).trust
        if (admission.queue, admission.concurrency) != (self.queue, self._concurrency):
            self._concurrency = admission.concurrency
            self._governor = _governor(admission)
            self._handled.clear()
            self._limit(inf if self._governor is None else self._governor.limit)
        self.queue = admission.queue
        self.fair_key = admission.fair_key
        self.starter.patience = float(admission.max_wait)
        if errors is not None:
            self.answers = Answers(errors, OFTEN)

    def believes(self, peer: Peer) -> bool:
        """Whether ``peer`` is a proxy that is trusted, by the settings of now."""
        if peer.trust is not self._trust:
            peer.renew(self._trust)
        return peer.trusted

    def claimed(self, peer: Peer, client: Client, scheme: str, headers: Headers) -> tuple[Client, str]:
        """Client and scheme of a request that ``peer``, which is believed, has passed on."""
        own = "" if peer.address is None else peer.address
        address = peer.trust.address(own, headers)
        return client if address == own else (address, 0), peer.trust.scheme(headers) or scheme

    def account(
        self, scope: Any, method: str, status: int, began: float, route: str, sent: int = -1, reason: str = ""
    ) -> None:
        """A request is over: it will be counted, and have its line. ``reason``: the policy that refused it.

        A line that goes through ``logging`` is written at once, in the context of its request.
        """
        over = self._over
        now = self.now()
        over.append(
            (
                now,
                now - began,
                method,
                scope["path"],
                scope["query_string"],
                status,
                scope["client"],
                scope["request_id"],
                route,
                sent,
                reason,
            )
        )
        if len(over) >= GATHERED or self._at_once:
            self._settle()

    @property
    def counters(self) -> RequestCounters:
        """How many requests there were, up to now."""
        self._settle()
        return self._counters

    def flush(self) -> None:
        """Write the lines of what is over. Does not wait. To be called every so often."""
        self._settle()
        access = self.access
        if access is not None:
            access.flush()
            self._at_once = access.at_once

    def close(self) -> None:
        """Write all lines; waits for a reader that is behind, but not for long."""
        self._settle()
        if self.access is not None:
            self.access.close()

    def _settle(self) -> None:
        over, self._over = self._over, []
        counters = self._counters
        for _, seconds, _, _, _, status, _, _, route, _, reason in over:
            if reason:
                counters.refuse(route, reason)
            else:
                counters.count(route, status, seconds)
        access = self.access
        if over and access is not None and access.enabled:
            began = access.wall() - self.now()
            for now, seconds, method, path, query, status, client, request_id, route, sent, reason in over:
                try:
                    name = f"{client[0]}:{client[1]}" if client else ""
                except Exception:  # an app may put anything into its scope: the other lines here are not its own
                    name = ""
                access.write(
                    method, path, query, status, seconds, name, request_id, route, sent, reason, at=began + now
                )

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn."""
        return len(self.starter.queue)

    def submit(self, cycle: Cycle) -> None:
        """Call the app for ``cycle``, now or in its turn; or answer in its place."""
        ticket = cycle.ticket
        if cycle.refusal is not None:
            cycle.turn_away(cycle.refusal)
        elif ticket is None:
            self._begin(cycle, self._ended)
        else:
            deadline = ticket.call.deadline
            if deadline < inf:
                now = self.now()
                if now >= deadline:
                    cycle.turn_away(DeadlineExceeded("deadline", LATE, None, None, ticket.route))
                    return
                cycle.alarm = self.alarms.set(cycle, deadline, now)
            if self.queue and ticket.limited:
                if not self.starter.take(cycle):
                    self.starter.wait(cycle, rank=ticket.context.criticality, key=self.fair_key(ticket.call))
            else:
                self._begin(cycle, self._ended)

    def say_later(self, protocol: "HttpProtocol", answer: bytes) -> None:
        """Write a refusal at the end of this turn of the loop, after all that is there has been read.

        A client that is answered at once asks again at once, and keeps the loop at looking for single requests: in a
        flood each of them took 33 us of CPU in place of 27 (64 connections that come back at once).
        """
        if not self._unsaid:
            self._loop.call_soon(self._say)
        protocol.unsaid = answer
        self._unsaid.append(protocol)

    def _say(self) -> None:
        unsaid, self._unsaid = self._unsaid, []
        for protocol in unsaid:
            protocol.say()

    def snapshot(self) -> dict[str, Any]:
        """The queue, and how many handlers may run, as plain values."""
        return {**self.starter.snapshot(), "concurrency": self._governor.snapshot() if self._governor else None}

    def clear(self) -> None:
        """Refuse what waits: the worker ends."""
        self._draining = True
        self.starter.clear()
        self.alarms.close()

    def _start(self, cycle: Cycle) -> None:
        cycle.started = self.now()
        cycle.task = task = self._loop.create_task(cycle.run(cycle.protocol.app))
        self.cycles[task] = cycle
        task.add_done_callback(self._done)

    def _begin(self, cycle: Cycle, ended: Callable[[asyncio.Task[None]], object]) -> None:
        cycle.task = task = self._loop.create_task(cycle.run(cycle.protocol.app))
        self.cycles[task] = cycle
        task.add_done_callback(ended)

    def _done(self, task: "asyncio.Task[None]") -> None:
        cycle = self._ended(task)
        now = self.now()
        seconds = now - cycle.started
        starter = self.starter
        governor = self._governor
        # A stream takes as long as its client wants, and who has left did not wait for the end.
        if governor is not None and not cycle.event_stream and (cycle.late or not cycle.disconnected):
            handled = self._handled
            scope = cycle.scope
            handled.append((scope.get("endpoint"), scope["path"], seconds, now, starter.full, cycle.late))
            if now >= governor.due or len(handled) >= GATHERED:
                self._learn(governor)
        starter.done(seconds)

    def _learn(self, governor: "Concurrency | Chosen") -> None:
        handled, self._handled = self._handled, []
        ended = governor.ended
        looked = False
        for endpoint, path, seconds, now, full, late in handled:
            looked |= ended(_kind(endpoint, path), seconds, now, full=full, late=late)
        if looked:
            self._limit(governor.limit)

    def _limit(self, limit: float) -> None:
        if limit < inf:  # streams last, and hold nothing up
            limit = max(1, round(limit)) + sum(cycle.event_stream for cycle in self.cycles.values())
        self.starter.limit = limit

    def _ended(self, task: "asyncio.Task[None]") -> Cycle:
        cycle = self.cycles.pop(task)
        if cycle.ticket is not None:  # a task that is cancelled before its first step runs no ``finally`` either
            cycle.end()
        return cycle

    def _shed(self, cycle: Cycle) -> None:
        cycle.turn_away(DRAINED if self._draining else SHED)


def _governor(settings: AdmissionSettings) -> "Concurrency | Chosen | None":
    """What finds out how many handlers may run at a time. Without a queue nobody could wait for that."""
    if not settings.queue or settings.concurrency is False:
        return None
    if settings.limit is None:
        return Concurrency()
    from holdfast.server.admission.chosen import Chosen  # with all algorithms: most services choose none

    return Chosen(settings.limit)


def _kind(endpoint: Any, path: str) -> Hashable:
    """What requests are alike: those for one endpoint, where the framework tells, or for the same place."""
    if endpoint is None:
        return tuple(path.split("/", KIND_PARTS + 1)[1 : KIND_PARTS + 1])
    try:
        hash(endpoint)
    except Exception:  # it is the app's own object, and the other ends here are not its own
        return id(endpoint)
    return cast("Hashable", endpoint)


def _wanted(cycle: Cycle) -> bool:
    """Whether somebody waits for its answer still."""
    return not (cycle.disconnected or cycle.response_complete)
