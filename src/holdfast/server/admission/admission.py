"""One request's way through admission: its route, its client, its deadline, the gates, and out again."""

from collections.abc import Callable, Sequence
from math import inf
from typing import Any, Final, NoReturn, TypeAlias

from holdfast.core.call import IGNORED, OK, Call, Verdict
from holdfast.core.clock import SYSTEM, Clock
from holdfast.core.context import EMPTY, Context, Criticality
from holdfast.core.errors import DeadlineExceeded, Rejected
from holdfast.server.admission.answers import too_many_connections
from holdfast.server.admission.connections import Connections
from holdfast.server.admission.deadlines import Hearing, clamp
from holdfast.server.admission.gates import Gates, Lane
from holdfast.server.admission.identity import Arrival, Trust
from holdfast.server.admission.patterns import Headers
from holdfast.server.admission.pressure import Pressure, refusal
from holdfast.server.admission.routes import Reason, RouteTable
from holdfast.server.admission.settings import AdmissionSettings, RouteSettings

Leave: TypeAlias = Callable[[Call, Any], None]

CONTEXTS: Final = {level: Context(criticality=level) for level in Criticality} | {EMPTY.criticality: EMPTY}
"""Those of requests without a colour: made once."""


class Peer:
    """The other end of one connection. ``key`` is what it is counted by, ``trusted`` whether it is believed."""

    __slots__ = ("address", "counted", "key", "trust", "trusted")

    def __init__(self, address: str | None, trust: Trust) -> None:
        self.address = address
        self.counted: str | None = None
        self.trust = trust
        self.key, self.trusted = trust.peer(address)

    def renew(self, trust: Trust) -> None:
        """Be believed as ``trust`` says; what has been counted stays counted."""
        self.trust = trust
        self.key, self.trusted = trust.peer(self.address)


class Ticket:
    """One admitted request. ``exit`` must be called once, when its response has ended, whatever the end was.

    ``call`` has its deadline (absolute, ``inf`` when there is none) and its criticality; ``context`` is what is to
    be current while it is worked on. ``client`` is the client's key and ``route`` the name of its route. With
    ``must_finish`` its handler goes on when the client has gone; without ``limited`` it does not count for the limit
    of handlers that run at a time.
    """

    __slots__ = ("_admission", "_counted", "_ended", "_held", "call", "client", "context", "limited", "must_finish")

    def __init__(
        self,
        admission: "Admission",
        call: Call,
        context: Context,
        client: str,
        held: list[tuple[Leave, Any]],
        must_finish: bool,
        limited: bool,
    ) -> None:
        self._admission = admission
        self._counted: str | None = None
        self._ended = False
        self._held = held
        self.call = call
        self.client = client
        self.context = context
        self.must_finish = must_finish
        self.limited = limited

    @property
    def route(self) -> str:
        """The name of its route."""
        return self.call.operation

    @property
    def deadline(self) -> float:
        """When it should have been answered; ``inf`` for never."""
        return self.call.deadline

    def exit(self, verdict: Verdict = OK, now: float | None = None) -> None:
        """Leave the gates, the innermost first. A second time does nothing.

        What one of them raises does not keep it from leaving the others, and comes out afterwards.
        """
        if self._ended:
            return
        self._ended = True
        if not self._held and self._counted is None:
            return
        call = self.call
        call.now = call.clock.now() if now is None else now
        call.verdict = verdict
        try:
            _leave(call, self._held)
        finally:
            if self._counted is not None:
                self._admission.connections.give_back(self._counted)


class Admission:
    """Lets requests in or refuses them. Belongs to one event loop; the gates may be shared with others.

    It waits for nothing and reads no clock: times are arguments, monotonic seconds of ``clock``.
    """

    def __init__(
        self, settings: AdmissionSettings, routes: Sequence[RouteSettings] = (), *, clock: Clock = SYSTEM
    ) -> None:
        self.clock = clock
        self.hearing = Hearing()
        self.connections = Connections()
        self.admitted = 0
        self.refused = 0
        self.least = 0
        """Requests of a class below it are refused."""
        self.pressure = Pressure()
        self._gates = Gates(clock)
        self.update(settings, routes)

    def update(self, settings: AdmissionSettings, routes: Sequence[RouteSettings] = ()) -> None:
        """Go by these from the next request on. ``ConfigError`` when they do not fit, and then nothing has changed.

        What stays keeps its state, see ``Gates.prepare``. Requests under way go on under what they have entered.
        """
        trust = Trust(settings.trusted_proxies, settings.forwarded)
        prepared = self._gates.prepare(settings, routes)
        table = RouteTable(
            (route.pattern(), (lane, _steps(lane))) for route, lane in zip(routes, prepared.lanes, strict=True)
        )
        self._gates.commit(prepared)
        self.lanes = (*prepared.lanes, prepared.others)
        self.settings = settings
        self.table = table
        self.connections.limit = settings.per_client.connections
        self._trust = trust
        self.pressure.use(settings.relief)
        self._tenant = settings.tenant.lower().encode()
        self._others = prepared.others, _steps(prepared.others)

    def look(self, now: float) -> None:
        """See whether memory is short. To be called a few times a second; most of the time it does nothing."""
        self.least = self.pressure.look(now)

    def connect(self, address: str | None) -> Peer:
        """A connection was accepted from ``address``, the peer's IP address, None on a Unix socket.

        Raises ``BulkheadFull`` when this client has as many open as it may have. A trusted proxy may have any
        number: then its clients' requests are counted, in ``enter``.
        """
        peer = Peer(address, self._trust)
        if not peer.trusted and address is not None:
            peer.counted = self.connections.take(peer.key)
            if peer.counted is None:
                raise too_many_connections(self.connections.limit)
        return peer

    def disconnect(self, peer: Peer) -> None:
        """That connection has ended. A second time does nothing."""
        counted, peer.counted = peer.counted, None
        if counted is not None:
            self.connections.give_back(counted)

    def enter(
        self,
        method: str,
        path: str,
        host: str,
        headers: Headers,
        peer: Peer,
        now: float,
        arrived: float = 0.0,
    ) -> Ticket:
        """Let a request in whose headers are complete, or raise ``Rejected``: then it holds nothing.

        ``path`` is decoded, without the root path; ``host`` is the Host header's, ``arrived`` when the request was
        there to be read, 0.0 when that is not known. A rate limit that has let it pass has counted it, also when a
        gate further in refuses it. For want of memory, see ``look``, it is refused before all gates.
        """
        lane, steps = self.table.match(method, path, host, headers) or self._others
        if peer.trust is not self._trust:
            peer.renew(self._trust)
        client = peer.key
        trusted = peer.trusted
        seconds = lane.seconds
        deadline = inf if seconds is None else now + seconds
        criticality = lane.criticality
        colour = None
        if trusted:
            client = peer.trust.client(client, headers)
            told = self.hearing.listen(headers)
            if told is not None:
                deadline = min(deadline, now + told.seconds)
                colour = told.colour
                criticality = clamp(told.criticality, criticality)
        if criticality is None:
            criticality = Criticality.CRITICAL
        if self.least and criticality < self.least:
            self.refused += 1
            raise refusal(lane.name)
        context = CONTEXTS[criticality] if colour is None else Context(criticality=criticality, colour=colour)
        # By position, as in a generated function: the order is that of ``Call``.
        arrival = (Arrival(client, trusted, headers, self._tenant),)
        call = Call(
            _request,
            arrival,
            {},
            lane.name,
            self.clock,
            now,
            deadline,
            1,
            IGNORED,
            client,
            1.0,
            method in IDEMPOTENT,
            criticality,
            colour,
            arrived,
        )
        held: list[tuple[Leave, Any]] = []
        ticket = Ticket(self, call, context, client, held, lane.must_finish, lane.limited)
        try:
            if deadline <= now:
                raise DeadlineExceeded("deadline", "its time was over when it came", None, None, lane.name)
            if trusted and client != peer.key and self.connections.limit:
                self._count(ticket, client)
            for enter, leave in steps:
                token = enter(call)
                if leave is not None:
                    held.append((leave, token))
        except BaseException as error:
            if isinstance(error, Rejected):
                self.refused += 1
            ticket.exit(IGNORED, now)
            raise
        self.admitted += 1
        return ticket

    def explain(self, method: str, path: str, host: str = "", headers: Headers = ()) -> list[Reason]:
        """What each route says to such a request, the most specific first."""
        return self.table.explain(method, path, host, headers)

    def snapshot(self) -> dict[str, Any]:
        """Counters, and the state of every gate by its route; those of the process have an empty name."""
        gates: dict[str, dict[str, Any]] = {}
        for route, gate in self._gates.each():
            gates.setdefault(route, {})[gate.name] = gate.snapshot()
        return {
            "admitted": self.admitted,
            "refused": self.refused,
            "junk": self.hearing.junk,
            "clients": len(self.connections),
            "clients_refused": self.connections.refused,
            "clients_crowded": self.connections.crowded,
            "gates": gates,
        }

    def _count(self, ticket: Ticket, client: str) -> None:
        ticket._counted = self.connections.take(client)
        if ticket._counted is None:
            raise too_many_connections(self.connections.limit, ticket.route)


IDEMPOTENT: Final = frozenset(("GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"))
"""Methods that may be repeated (RFC 9110, 9.2.2)."""


def _steps(lane: Lane) -> tuple[tuple[Callable[[Call], Any], Leave | None], ...]:
    """What is called on the way in and on the way out, looked up once."""
    if not lane.gates:  # the usual case; their class need not be imported then
        return ()
    from holdfast.core.policy import Gate

    return tuple((gate.enter, None if type(gate).exit is Gate.exit else gate.exit) for gate in lane.gates)


def _leave(call: Call, held: list[tuple[Leave, Any]]) -> None:
    while held:
        leave, token = held.pop()
        try:
            leave(call, token)
        except BaseException:  # whatever happens in one, an interrupt perhaps, the others are left too
            _leave(call, held)
            raise


def _request() -> NoReturn:
    raise RuntimeError("a request is no function: the call only says what it is")
