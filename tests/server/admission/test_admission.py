from collections.abc import Sequence
from math import inf
from typing import Any

import pytest

from holdfast.core.call import FAILED, IGNORED, OK, Call
from holdfast.core.clock import VirtualClock
from holdfast.core.context import Criticality
from holdfast.core.errors import BulkheadFull, CircuitOpen, ConfigError, DeadlineExceeded, Overloaded, RateLimited
from holdfast.server.admission.admission import Admission, Ticket
from holdfast.server.admission.connections import CLIENTS_LIMIT
from holdfast.server.admission.gates import OTHERS
from holdfast.server.admission.settings import read_admission, read_routes

PROXY = "10.0.0.1"
CLIENT = "192.0.2.1"


class Door:
    """An admission, and requests to it at a time that stands still unless it is moved."""

    def __init__(self, *routes: dict[str, Any], **settings: Any) -> None:
        self.clock = VirtualClock()
        settings.setdefault("trusted_proxies", ["10.0.0.0/8"])
        settings.setdefault("queue", False)  # with it the process's limit is no gate
        self.admission = Admission(read_admission(settings), read_routes(routes), clock=self.clock)
        self.client = self.admission.connect(CLIENT)
        self.proxy = self.admission.connect(PROXY)

    @property
    def now(self) -> float:
        return self.clock.now()

    def change(self, *routes: dict[str, Any], **settings: Any) -> None:
        settings.setdefault("trusted_proxies", ["10.0.0.0/8"])
        settings.setdefault("queue", False)
        self.admission.update(read_admission(settings), read_routes(routes))

    def enter(self, request: str = "GET /a", peer: Any = None, arrived: float = 0.0, **headers: str) -> Ticket:
        method, path = request.split()
        lines = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        return self.admission.enter(method, path, "x.org", lines, peer or self.client, self.now, arrived)

    def gate(self, name: str, route: str = "/a") -> Any:
        return next(gate for of, gate in self.admission._gates.each() if of == route and gate.name == name)


def test_a_request_holds_its_permits_until_its_ticket_is_given_back() -> None:
    door = Door({"match": "/a", "bulkhead": 1})
    ticket = door.enter()
    with pytest.raises(BulkheadFull) as caught:
        door.enter()
    assert caught.value.operation == "/a"
    ticket.exit(OK, door.now)
    door.enter()


def test_the_second_exit_does_nothing() -> None:
    door = Door({"match": "/a", "bulkhead": 2}, clients={"connections": 5})
    first = door.enter(peer=door.proxy, x_forwarded_for=CLIENT)
    door.enter(peer=door.proxy, x_forwarded_for=CLIENT)
    first.exit(OK, door.now)
    first.exit(FAILED, door.now + 1)
    assert door.gate("bulkhead").in_flight == 1
    assert door.admission.connections.held(CLIENT) == 2  # the connection, and the other request
    assert first.call.verdict is OK


def test_a_rate_limit_counts_what_a_gate_further_in_refuses() -> None:
    limits = {"rate_limit": "2/h"}, {"bulkhead": 1}
    for policies, passing in ((limits, RateLimited), (limits[::-1], BulkheadFull)):
        door = Door({"match": "/a", "policies": list(policies)})
        ticket = door.enter()
        with pytest.raises(BulkheadFull):
            door.enter()
        with pytest.raises(passing):  # both tokens are gone only when the rate limit comes first
            door.enter()
        ticket.exit(OK, door.now)
        if passing is BulkheadFull:
            door.enter()


def test_each_request_goes_through_the_gates_of_its_own_route() -> None:
    door = Door({"match": "/a", "bulkhead": 1}, {"match": "/b", "bulkhead": 1})
    assert door.enter("GET /a").route == "/a"
    assert door.enter("GET /b").route == "/b"
    assert door.enter("GET /c").route == OTHERS
    for path in ("/a", "//a/", "/b"):
        with pytest.raises(BulkheadFull):
            door.enter(f"GET {path}")


def test_all_routes_and_all_other_requests_share_the_limit_of_the_process() -> None:
    limit = {"initial": 2, "minimum": 1, "priorities": False, "algorithm": "gradient2"}
    door = Door({"match": "/a"}, {"match": "/stream", "concurrency": False}, concurrency=limit)
    first = door.enter("GET /a")
    door.enter("GET /elsewhere")
    with pytest.raises(Overloaded):
        door.enter("GET /a")
    assert door.enter("GET /stream").route == "/stream"
    first.exit(OK, door.now)
    door.enter("GET /a")


def test_a_refusal_further_in_gives_back_what_was_entered() -> None:
    door = Door({"match": "/a", "bulkhead": 1}, concurrency=True)
    door.enter()
    limit = door.gate("adaptive_limit", "")
    with pytest.raises(BulkheadFull):
        door.enter()
    assert limit.in_flight == 1
    assert limit.snapshot()["completed"] == 0
    assert (door.admission.admitted, door.admission.refused) == (1, 1)


def test_gates_are_left_in_reverse_with_verdict_and_time() -> None:
    door = Door({"match": "/a", "policies": ["bulkhead", "breaker", {"bulkhead": {"name": "inner"}}]})
    left: list[tuple[str, object, float]] = []

    def watch(name: str) -> None:
        gate = door.gate(name)
        exit = type(gate).exit  # noqa: A001

        def leave(call: Call, token: Any) -> None:
            left.append((name, call.verdict, call.now))
            exit(gate, call, token)

        gate.exit = leave

    for name in ("bulkhead", "breaker", "inner"):
        watch(name)
    door.change({"match": "/a", "policies": ["bulkhead", "breaker", {"bulkhead": {"name": "inner"}}]})
    ticket = door.enter()
    ticket.exit(FAILED, door.now + 3)
    at = door.now + 3
    assert left == [("inner", FAILED, at), ("breaker", FAILED, at), ("bulkhead", FAILED, at)]


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt])
def test_what_one_gate_raises_does_not_keep_the_others_held(kind: type[BaseException]) -> None:
    policies = ["bulkhead", {"bulkhead": {"name": "b"}}, {"bulkhead": {"name": "c"}}]
    door = Door({"match": "/a", "policies": policies}, clients={"connections": 3})

    def fail(call: Call, token: Any) -> None:
        raise kind("out of order")

    door.gate("b").exit = fail
    door.change({"match": "/a", "policies": policies}, clients={"connections": 3})
    ticket = door.enter(peer=door.proxy, x_forwarded_for="192.0.2.9")
    with pytest.raises(kind, match="out of order"):
        ticket.exit(OK, door.now)
    assert door.gate("c").in_flight == 0
    assert door.gate("bulkhead").in_flight == 0
    assert door.admission.connections.held("192.0.2.9") == 0


def test_an_interrupt_at_a_gate_gives_back_what_was_entered() -> None:
    door = Door({"match": "/a", "bulkhead": 3, "rate_limit": "9/s"}, concurrency=True)

    def interrupted(call: Call) -> None:
        raise KeyboardInterrupt

    door.gate("bulkhead").enter = interrupted
    door.change({"match": "/a", "bulkhead": 3, "rate_limit": "9/s"}, concurrency=True)
    with pytest.raises(KeyboardInterrupt):
        door.enter()
    assert door.gate("adaptive_limit", "").in_flight == 0
    assert door.admission.refused == 0


def test_failures_open_the_breaker_of_their_route_only() -> None:
    breaker = {"min_calls": 2}
    door = Door({"match": "/a", "breaker": breaker}, {"match": "/b", "breaker": breaker})
    for _ in range(2):
        door.enter("GET /a").exit(FAILED, door.now)
        door.enter("GET /b").exit(IGNORED, door.now)
    with pytest.raises(CircuitOpen):
        door.enter("GET /a")
    door.enter("GET /b")


def test_a_route_gives_a_request_so_much_time() -> None:
    door = Door({"match": "/a", "timeout": "2s"})
    assert door.enter("GET /a").deadline == door.now + 2
    assert door.enter("GET /b").deadline == inf


def test_a_trusted_peer_may_ask_for_less_time_and_not_for_more() -> None:
    door = Door({"match": "/a", "timeout": "2s"})
    assert door.enter(peer=door.proxy, holdfast_timeout_ms="500").deadline == door.now + 0.5
    assert door.enter(peer=door.proxy, grpc_timeout="9S").deadline == door.now + 2
    assert door.enter("GET /b", peer=door.proxy, grpc_timeout="9S").deadline == door.now + 9
    assert door.enter(holdfast_timeout_ms="500").deadline == door.now + 2


def test_a_request_whose_time_is_over_is_not_let_in() -> None:
    door = Door({"match": "/a", "rate_limit": {"rate": "1/s", "burst": 1}})
    with pytest.raises(DeadlineExceeded) as caught:
        door.enter(peer=door.proxy, holdfast_timeout_ms="0")
    assert caught.value.operation == "/a"
    assert door.admission.refused == 1
    door.enter()  # and has taken nothing


def test_criticality_and_colour_come_from_the_route_and_trusted_peers() -> None:
    door = Door({"match": "/a", "criticality": "critical"}, {"match": "/b"})

    def levels(request: str, peer: Any, asked: str) -> Criticality:
        ticket = door.enter(request, peer, holdfast_criticality=asked)
        assert ticket.call.criticality is ticket.context.criticality
        return ticket.context.criticality

    assert levels("GET /a", door.proxy, "sheddable") is Criticality.SHEDDABLE
    assert levels("GET /a", door.proxy, "critical_plus") is Criticality.CRITICAL
    assert levels("GET /b", door.proxy, "critical_plus") is Criticality.CRITICAL_PLUS
    assert levels("GET /a", door.client, "sheddable") is Criticality.CRITICAL
    assert levels("GET /b", door.client, "critical_plus") is Criticality.CRITICAL
    ticket = door.enter(peer=door.proxy, holdfast_colour="test")
    assert (ticket.context.colour, ticket.call.colour) == ("test", "test")
    assert door.enter(holdfast_colour="test").context.colour == ""


def test_junk_from_trusted_peers_is_counted() -> None:
    door = Door()
    door.enter(peer=door.proxy, grpc_timeout="soon")
    door.enter(grpc_timeout="soon")
    assert door.admission.snapshot()["junk"] == 1


def test_the_least_critical_are_refused_first() -> None:
    limit = {"initial": 10, "algorithm": "gradient2"}
    door = Door({"match": "/low", "criticality": "sheddable"}, {"match": "/high"}, concurrency=limit)
    admitted = {"/low": 0, "/high": 0}
    for path in admitted:
        for _ in range(20):
            try:
                door.enter(f"GET {path}")
            except Overloaded:
                break
            admitted[path] += 1
    assert 0 < admitted["/low"] < 10
    assert admitted["/high"] > 0


def test_what_has_waited_too_long_is_refused() -> None:
    door = Door(concurrency={"target": "20ms"})
    with pytest.raises(Overloaded, match="waited too long"):
        door.enter(arrived=door.now - 1)
    door.enter(arrived=door.now - 0.001)


def test_each_client_has_a_rate_of_its_own_in_front_of_all_else() -> None:
    door = Door({"match": "/a", "rate_limit": "100/s"}, clients={"rate": "1/s"})
    door.enter(peer=door.proxy, x_forwarded_for="192.0.2.7")
    with pytest.raises(RateLimited) as caught:
        door.enter("GET /b", peer=door.proxy, x_forwarded_for="192.0.2.7")
    assert (caught.value.policy, caught.value.operation) == ("clients", OTHERS)
    with pytest.raises(RateLimited):  # the address that it claims is no way out
        door.enter(peer=door.proxy, x_forwarded_for="6.6.6.6, 192.0.2.7")
    door.enter(peer=door.proxy, x_forwarded_for="192.0.2.8")
    door.enter(x_forwarded_for="192.0.2.7")
    with pytest.raises(RateLimited):
        door.enter(x_forwarded_for="192.0.2.99")
    door.clock.advance(1.0)
    door.enter()


def test_a_rate_may_go_by_a_header_or_a_tenant() -> None:
    door = Door(
        {"match": "/a", "rate_limit": {"rate": "1/s", "key": "header:x-api-key"}},
        {"match": "/b", "rate_limit": {"rate": "1/s", "key": "tenant"}},
        tenant="X-Team",
    )
    door.enter("GET /a", x_api_key="1")
    door.enter("GET /a", x_api_key="2")
    with pytest.raises(RateLimited):
        door.enter("GET /a", x_api_key="1")
    door.enter("GET /b", peer=door.proxy, x_team="1")
    door.enter("GET /b", peer=door.proxy, x_team="2")
    with pytest.raises(RateLimited):
        door.enter("GET /b", peer=door.proxy, x_team="2")
    door.enter("GET /b", x_team="3")
    with pytest.raises(RateLimited):
        door.enter("GET /b", x_team="4")


def test_a_client_has_so_many_connections() -> None:
    door = Door(clients={"connections": 2})
    second = door.admission.connect(CLIENT)
    with pytest.raises(BulkheadFull) as caught:
        door.admission.connect(CLIENT)
    assert caught.value.snapshot == {"limit": 2}
    door.admission.connect("192.0.2.2")
    door.admission.disconnect(second)
    door.admission.disconnect(second)
    door.admission.connect(CLIENT)
    with pytest.raises(BulkheadFull):
        door.admission.connect(CLIENT)


def test_proxies_and_sockets_may_have_any_number_of_connections() -> None:
    door = Door(clients={"connections": 1})
    for _ in range(10):
        door.admission.connect(PROXY)
        door.admission.connect(None)
    assert door.admission.connections.held(PROXY) == 0


def test_behind_a_proxy_requests_under_way_are_counted() -> None:
    door = Door(clients={"connections": 2})
    tickets = [door.enter(peer=door.proxy, x_forwarded_for="192.0.2.7") for _ in range(2)]
    with pytest.raises(BulkheadFull) as caught:
        door.enter(peer=door.proxy, x_forwarded_for="192.0.2.7")
    assert (caught.value.policy, caught.value.operation) == ("clients", OTHERS)
    door.enter(peer=door.proxy, x_forwarded_for="192.0.2.8")
    for _ in range(5):
        door.enter(peer=door.proxy)  # the proxy itself, which may look after the health of the service
    tickets[0].exit(OK, door.now)
    door.enter(peer=door.proxy, x_forwarded_for="192.0.2.7")
    assert door.admission.connections.limit == 2
    assert len(door.admission.connections) <= CLIENTS_LIMIT


def test_new_settings_hold_from_the_next_request_on() -> None:
    door = Door({"match": "/a", "bulkhead": 1})
    old = door.enter()
    door.change({"match": "/a", "bulkhead": 2})
    door.enter()
    with pytest.raises(BulkheadFull):
        door.enter()
    old.exit(OK, door.now)
    door.enter()


def test_requests_leave_the_gates_that_they_have_entered() -> None:
    door = Door({"match": "/a", "bulkhead": 1})
    ticket = door.enter()
    gate = door.gate("bulkhead")
    door.change()
    ticket.exit(OK, door.now)
    assert gate.in_flight == 0
    door.change({"match": "/a", "bulkhead": 1})
    assert door.gate("bulkhead") is not gate


def test_connections_are_believed_as_the_settings_say_now() -> None:
    door = Door(trusted_proxies=[], clients={"connections": 5})
    peer = door.admission.connect(PROXY)
    assert door.enter(peer=peer, x_forwarded_for="192.0.2.7").client == PROXY
    door.change(clients={"connections": 5})
    assert door.enter(peer=peer, x_forwarded_for="192.0.2.7").client == "192.0.2.7"
    assert door.admission.connections.held(PROXY) == 2  # this connection, and the first one of the door
    door.admission.disconnect(peer)
    assert door.admission.connections.held(PROXY) == 1
    door.change(trusted_proxies=[])
    assert door.enter(peer=door.proxy, x_forwarded_for="192.0.2.7").client == PROXY


def test_settings_that_do_not_fit_change_nothing() -> None:
    door = Door({"match": "/a", "bulkhead": 1})
    admission = door.admission
    before = (admission.table, admission.settings, door.gate("bulkhead"))
    ambiguous = [*read_routes([{"match": "/a", "bulkhead": 9}]), *read_routes([{"match": "/{x}", "name": "x"}])]
    ambiguous += read_routes([{"match": "/{y}", "name": "y"}])
    with pytest.raises(ConfigError, match="equally specific"):
        admission.update(read_admission({"clients": {"connections": 1}}), ambiguous)
    assert (admission.table, admission.settings, door.gate("bulkhead")) == before
    assert admission.connections.limit == 0
    assert door.gate("bulkhead").settings.limit == 1


def test_it_tells_what_it_has_counted_by_route_and_gate() -> None:
    door = Door({"match": "/a", "bulkhead": 1}, concurrency=True, clients={"connections": 9})
    door.enter()
    with pytest.raises(BulkheadFull):
        door.enter()
    told = door.admission.snapshot()
    assert (told["admitted"], told["refused"], told["clients"]) == (1, 1, 1)
    assert (told["clients_refused"], told["clients_crowded"]) == (0, 0)
    assert told["gates"]["/a"]["bulkhead"]["refused"] == 1
    assert told["gates"][""]["adaptive_limit"]["in_flight"] == 1


def test_it_explains_which_route_a_request_takes() -> None:
    door = Door({"match": "POST /a"}, {"match": "/{x}"})
    reasons = door.admission.explain("GET", "/a", "x.org")
    assert [reason.pattern.text for reason in reasons if reason.taken] == ["/{x}"]


def test_the_call_says_what_the_request_is() -> None:
    door = Door({"match": "/a", "timeout": "2s"})
    call = door.enter(arrived=door.now - 0.5).call
    assert (call.operation, call.key, call.attempt, call.cost) == ("/a", CLIENT, 1, 1.0)
    assert (call.now, call.arrived, call.verdict) == (door.now, door.now - 0.5, IGNORED)


def test_methods_that_may_be_repeated_are_known() -> None:
    door = Door()
    given: Sequence[tuple[str, bool]] = (("GET", True), ("PUT", True), ("POST", False), ("PATCH", False))
    for method, idempotent in given:
        assert door.enter(f"{method} /a").call.idempotent is idempotent


def test_a_ticket_reads_the_clock_when_it_is_not_told_the_time() -> None:
    door = Door({"match": "/a", "bulkhead": 1})
    ticket = door.enter()
    door.clock.advance(3.0)
    ticket.exit()
    assert ticket.call.now == door.now


def test_the_call_of_a_request_is_not_to_be_called() -> None:
    with pytest.raises(RuntimeError, match="a request is no function"):
        Door().enter().call.fn()
