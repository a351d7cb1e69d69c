"""Whatever comes, and in whatever order: in the end nothing is held, and nobody has had more than the settings say."""

import contextlib
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from effort import examples
from holdfast.core.call import FAILED, IGNORED, OK, Verdict
from holdfast.core.clock import VirtualClock
from holdfast.core.errors import BulkheadFull, Rejected
from holdfast.resilience.adaptive import AdaptiveLimit
from holdfast.resilience.bulkhead import Bulkhead
from holdfast.server.admission.admission import Admission, Peer, Ticket
from holdfast.server.admission.settings import read_admission, read_routes

PATHS = ("/a", "/b", "/c")
CLIENTS = ("192.0.2.1", "192.0.2.2", "10.0.0.1", None)


def routes(limits: tuple[int, int], rate: bool) -> list[dict[str, Any]]:
    found = [{"match": path, "bulkhead": limit} for path, limit in zip(PATHS, limits, strict=False) if limit]
    if rate:
        found.append({"match": "/c", "rate_limit": {"rate": "2/s", "key": "client"}, "timeout": "1s"})
    return found


class Crowd(RuleBasedStateMachine):
    @initialize()
    def open(self) -> None:
        self.clock = VirtualClock()
        self.admission = Admission(read_admission(), clock=self.clock)
        self.limit = 0
        self.peers: list[Peer] = []
        self.tickets: list[Ticket] = []
        self.gone: list[Any] = []
        """Gates that the settings have dropped while requests were in them."""

    @rule(
        limits=st.tuples(st.integers(0, 3), st.integers(0, 3)),
        rate=st.booleans(),
        concurrency=st.booleans(),
        connections=st.integers(0, 3),
        trusted=st.booleans(),
    )
    def change(self, limits: tuple[int, int], rate: bool, concurrency: bool, connections: int, trusted: bool) -> None:
        before = {gate for _, gate in self.admission._gates.each()}
        data = {
            "trusted_proxies": ["10.0.0.0/8"] if trusted else [],
            "queue": False,
            "concurrency": concurrency,
            "clients": {"connections": connections},
        }
        self.admission.update(read_admission(data), read_routes(routes(limits, rate)))
        self.gone += before - {gate for _, gate in self.admission._gates.each()}
        self.limit = connections

    @rule(address=st.sampled_from(CLIENTS))
    def connect(self, address: str | None) -> None:
        try:
            self.peers.append(self.admission.connect(address))
        except BulkheadFull:
            key = address or ""
            assert self.limit
            assert self.admission.connections.held(key) >= self.limit

    @rule(number=st.integers(0, 50), twice=st.booleans())
    def disconnect(self, number: int, twice: bool) -> None:
        if self.peers:
            peer = self.peers.pop(number % len(self.peers))
            self.admission.disconnect(peer)
            if twice:
                self.admission.disconnect(peer)

    @rule(
        number=st.integers(0, 50),
        path=st.sampled_from((*PATHS, "/d")),
        client=st.sampled_from((b"192.0.2.1", b"192.0.2.9", b"junk")),
        left=st.sampled_from((b"0", b"500", b"x")),
    )
    def enter(self, number: int, path: str, client: bytes, left: bytes) -> None:
        if not self.peers:
            return
        peer = self.peers[number % len(self.peers)]
        headers = [(b"x-forwarded-for", client), (b"holdfast-timeout-ms", left)]
        in_all = self.admission.admitted + self.admission.refused
        with contextlib.suppress(Rejected):
            self.tickets.append(self.admission.enter("GET", path, "", headers, peer, self.clock.now()))
        assert self.admission.admitted + self.admission.refused == in_all + 1

    @rule(number=st.integers(0, 50), verdict=st.sampled_from((OK, FAILED, IGNORED)), twice=st.booleans())
    def leave(self, number: int, verdict: Verdict, twice: bool) -> None:
        if self.tickets:
            ticket = self.tickets.pop(number % len(self.tickets))
            ticket.exit(verdict, self.clock.now())
            if twice:
                ticket.exit(verdict, self.clock.now())

    @rule(seconds=st.floats(0.01, 3.0))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @invariant()
    def what_is_held_is_what_is_under_way(self) -> None:
        for _, gate in self.admission._gates.each():
            if isinstance(gate, Bulkhead | AdaptiveLimit):
                leaves = [leave for ticket in self.tickets for leave, _ in ticket._held]
                assert gate.in_flight == leaves.count(gate.exit)
        counted = len([peer for peer in self.peers if peer.counted]) + len([t for t in self.tickets if t._counted])
        connections = self.admission.connections
        assert sum(connections._counts.values()) == counted
        assert len(connections) <= counted

    def teardown(self) -> None:
        for ticket in self.tickets:
            ticket.exit(OK, self.clock.now())
        for peer in self.peers:
            self.admission.disconnect(peer)
        assert len(self.admission.connections) == 0
        for gate in [*(gate for _, gate in self.admission._gates.each()), *self.gone]:
            assert getattr(gate, "in_flight", 0) == 0


TestCrowd = Crowd.TestCase
TestCrowd.settings = settings(max_examples=examples(60), stateful_step_count=40, deadline=None)
