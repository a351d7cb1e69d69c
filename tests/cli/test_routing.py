"""What is told of routes is what admission does."""

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.cli.routing import Routing, target
from holdfast.core.errors import ConfigError
from holdfast.core.errortable import ErrorTable
from holdfast.server.admission.gates import Gates
from holdfast.server.admission.routes import RouteTable
from holdfast.server.admission.settings import read_admission, read_routes


def routing(routes: list[dict[str, Any]], admission: Any = None, errors: Any = None) -> Routing:
    read = read_routes(routes)
    places = [f"a.toml:{number}" for number in range(len(read))]
    return Routing(read_admission(admission or {}), read, places, ErrorTable(errors or {}))


ADMISSION = {"concurrency": {"target": "20ms"}, "clients": {"rate": "100/s", "burst": 200}}
ALONE = {**ADMISSION, "queue": False}
"""The limit of handlers as a gate, for who wants no queue."""
ROUTES: list[dict[str, Any]] = [
    {"match": "/a", "rate_limit": "5/s", "throttle": True, "breaker": True, "bulkhead": 3, "timeout": "2s"},
    {"match": "/b", "policies": [{"bulkhead": 3}, "concurrency", {"rate_limit": "5/s"}, {"timeout": "1s"}]},
    {"match": "/c", "concurrency": False, "bulkhead": {"limit": 2, "name": "few"}},
    {"match": "/d"},
]


@pytest.mark.parametrize("admission", [{}, ADMISSION, {"clients": {"rate": "1/s"}}, {"concurrency": True}])
@pytest.mark.parametrize("queue", [True, False])
def test_the_gates_told_are_those_that_admission_enters_in_their_order(admission: Any, queue: bool) -> None:
    admission = {**admission, "queue": queue}
    told = routing(ROUTES, admission)
    prepared = Gates().prepare(read_admission(admission), read_routes(ROUTES))
    entered = {lane.name: [(type(gate).kind, gate.name) for gate in lane.gates] for lane in prepared.lanes}
    entered["others"] = [(type(gate).kind, gate.name) for gate in prepared.others.gates]
    kinds = {"clients": "rate_limit", "concurrency": "adaptive_limit"}
    names = {"concurrency": "adaptive_limit"}
    for row in (*told.rows, told.others):
        gates = [(kinds.get(gate.kind, gate.kind), names.get(gate.name, gate.name)) for gate in row.gates]
        assert gates == entered[row.name]
    # Who counts for the limit of handlers waits for its turn in the queue.
    waits = {lane.name: lane.limited and queue for lane in (*prepared.lanes, prepared.others)}
    assert {row.name: row.queued for row in (*told.rows, told.others)} == waits


@pytest.mark.parametrize(
    ("concurrency", "text"),
    [
        ({}, "queue(fair_by=tenant)"),
        ({"concurrency": False}, "queue(fair_by=tenant, concurrency=false)"),
        ({"concurrency": True}, "queue(fair_by=tenant, concurrency={target=50ms})"),
        (
            {"concurrency": {"algorithm": "vegas", "maximum": 9}, "fair_by": "client"},
            "queue(fair_by=client, concurrency={target=50ms, algorithm=vegas, maximum=9})",
        ),
    ],
)
def test_with_a_queue_the_limit_of_handlers_is_part_of_it(concurrency: Any, text: str) -> None:
    told = routing([{"match": "/a"}, {"match": "/b", "concurrency": False}], concurrency)
    assert str(told.queue) == text
    assert told.others.gates == ()
    assert str(told.explain("GET", "/a").queue) == text
    assert told.explain("GET", "/b").queue is None
    assert str(told.explain("GET", "/c").queue) == text
    alone = routing([{"match": "/a"}], {**concurrency, "queue": False})
    assert alone.explain("GET", "/a").queue is None


def test_a_gate_is_told_with_what_it_allows() -> None:
    tiers = {"rate": "5/s", "burst": 9, "key": "header:X-Key", "tier": "key", "tiers": {"free": "1/s"}}
    told = routing([{"match": "/", "rate_limit": tiers, "breaker": {"open": "3s"}, "bulkhead": 20}], ALONE)
    assert [str(gate) for gate in told.rows[0].gates] == [
        "clients(100/s, burst=200)",
        "rate_limit(5/s, burst=9, key=header:x-key, tiers={free=1/s}, tier=key)",
        "concurrency(target=20ms)",
        "breaker(failure_rate=0.5, open=3s)",
        "bulkhead(20)",
    ]


def test_a_gate_with_a_name_of_its_own_is_told_by_it() -> None:
    told = routing([{"match": "/", "bulkhead": {"limit": 2, "name": "few", "observe": True}}])
    assert [str(gate) for gate in told.rows[0].gates] == ["bulkhead:few(2, observe=true)"]


def test_each_gate_says_with_what_it_refuses() -> None:
    told = routing(ROUTES[:1], ALONE)
    assert {gate.kind: (gate.status, gate.reason) for gate in told.rows[0].gates} == {
        "clients": (429, "RATE_LIMITED"),
        "rate_limit": (429, "RATE_LIMITED"),
        "concurrency": (503, "OVERLOADED"),
        "throttle": (503, "OVERLOADED"),
        "breaker": (503, "CIRCUIT_OPEN"),
        "bulkhead": (503, "BULKHEAD_FULL"),
    }
    assert told.explain("GET", "/a").late.startswith("504 ")


def test_the_table_of_errors_has_the_last_word_on_statuses() -> None:
    told = routing(ROUTES[:1], ADMISSION, {"holdfast.core.errors:BulkheadFull": 429})
    assert told.rows[0].gates[-1].status == 429


def test_the_most_specific_comes_first() -> None:
    told = routing(
        [
            {"match": "*"},
            {"match": "/{all...}"},
            {"match": "/orders/{id}"},
            {"match": "GET /orders/{id}"},
            {"match": "GET /orders/{id}", "headers": {"x": "*"}, "name": "x"},
            {"match": "/orders/new"},
            {"match": "/{any}", "host": "*.example.org"},
            {"match": "/{any}", "host": "a.example.org"},
        ]
    )
    assert [(row.host, row.match, bool(row.headers)) for row in told.rows] == [
        ("a.example.org", "/{any}", False),
        ("*.example.org", "/{any}", False),
        ("", "/orders/new", False),
        ("", "GET /orders/{id}", True),
        ("", "GET /orders/{id}", False),
        ("", "/orders/{id}", False),
        ("", "/{all...}", False),
        ("", "*", False),
    ]


SEGMENTS = st.sampled_from(["orders", "new", "{id}", "{rest...}"])
PATHS = st.lists(SEGMENTS, max_size=3).filter(
    lambda parts: "{rest...}" not in parts[:-1] and parts.count("{id}") < 2  # the names of one pattern differ
)
MATCHES = st.tuples(st.sampled_from(["", "GET ", "POST ", "GET|POST "]), PATHS)


@settings(max_examples=150)
@given(st.lists(MATCHES, max_size=6, unique_by=str), st.sampled_from(["GET", "HEAD", "POST", "PUT"]), PATHS)
def test_the_route_that_is_explained_is_the_one_that_the_engine_takes(
    matches: list[tuple[str, list[str]]], method: str, path: list[str]
) -> None:
    tables = [{"match": f"{methods}/{'/'.join(parts)}"} for methods, parts in matches]
    try:
        read = read_routes(tables)
    except ConfigError:  # two that cannot be told apart: no configuration has them
        return
    table = RouteTable((route.pattern(), route.label) for route in read)
    asked = "/" + "/".join(part.strip("{}.") for part in path)
    found = routing(tables).explain(method, asked)
    assert (found.route.name if found.fits else None) == table.match(method, asked)
    assert len(found.others) + found.fits == len(tables)
    fitting = [why.fits for why in found.others]
    assert fitting == sorted(fitting, reverse=True)


def test_why_the_others_are_not_taken_is_told() -> None:
    told = routing(
        [
            {"match": "GET /orders/{id}"},
            {"match": "/orders/{path...}"},
            {"match": "POST /orders/{id}"},
            {"match": "GET /orders/{id}", "headers": {"x-version": "2"}, "name": "v2"},
            {"match": "GET /orders/{id}", "host": "b.example", "name": "b"},
        ]
    )
    found = told.explain("GET", "/orders/7", "a.example:80", [(b"x-version", b"1")])
    assert (found.fits, found.route.match, found.why) == (True, "GET /orders/{id}", "the most specific that fits")
    assert [(why.route, why.fits, why.why) for why in found.others] == [
        ("/orders/{path...}", True, "GET /orders/{id} has the more specific path"),
        ("b", False, "the host is not b.example"),
        ("v2", False, "the header x-version is not 2"),
        ("POST /orders/{id}", False, "the method is not POST"),
    ]


def test_what_no_route_fits_passes_the_gates_of_the_process() -> None:
    found = routing([{"match": "POST /orders"}], ALONE).explain("GET", "/")
    assert (found.fits, found.route.name, found.route.timeout) == (False, "others", "")
    assert [gate.kind for gate in found.route.gates] == ["clients", "concurrency"]


@pytest.mark.parametrize(
    ("given", "host", "path", "name"),
    [
        ("/orders/7?x=1#top", "", "/orders/7", ""),
        ("/%6frders", "a", "/orders", "a"),
        ("https://u:p@shop.example:8443/orders/7?x", "", "/orders/7", "shop.example:8443"),
        ("https://shop.example", "other.example", "/", "other.example"),
    ],
)
def test_a_path_may_be_an_address_as_people_have_it(given: str, host: str, path: str, name: str) -> None:
    assert target(given, host) == (path, name)


def test_routes_of_different_names_keep_their_order_however_they_are_written() -> None:
    tables = [{"match": f"/{name}"} for name in "dbca"]
    expected = [row.match for row in routing(tables).rows]
    random.Random(3).shuffle(tables)
    assert [row.match for row in routing(tables).rows] == expected
