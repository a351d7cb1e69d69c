"""One service in five frameworks, none of which knows Holdfast, under one and the same settings file."""

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from e2e.harness import Running, request, wait_for

pytestmark = pytest.mark.e2e

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
FRAMEWORKS = ("fastapi", "starlette", "litestar", "django", "flask")
BURST = 10
"""Orders that one customer may place at once; the next ones come back every six seconds."""
STREAMS = 2
ENDLESS = 10_000
"""Rows of a stream that would go on for a quarter of an hour."""
JSON = {"content-type": "application/json"}
LIMIT = 30.0


@pytest.fixture(scope="module", params=FRAMEWORKS)
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One of them, for all tests of this file."""
    directory = tmp_path_factory.mktemp(request.param)
    settings = ["--config", str(EXAMPLES / "frameworks" / "holdfast.toml"), "--app-dir", str(EXAMPLES)]
    made = Running(directory, f"frameworks.{request.param}_app:app", *settings)
    try:
        yield made.wait_serving(LIMIT)
    finally:
        made.end()


def order(running: Running, customer: str, sku: str = "rope", quantity: int = 1) -> tuple[int, dict[str, str], Any]:
    body = json.dumps({"sku": sku, "quantity": quantity}).encode()
    headers = {**JSON, "x-customer": customer}
    status, answered, content = request(running.address, "/orders", method="POST", headers=headers, body=body)
    return status, answered, json.loads(content)


@contextmanager
def stream(running: Running, rows: int) -> Iterator[http.client.HTTPResponse]:
    """A response whose first row has been read. Leaving it ends the connection."""
    connection = http.client.HTTPConnection(running.address, timeout=LIMIT)
    try:
        connection.request("GET", f"/export?rows={rows}")
        answer = connection.getresponse()
        assert (answer.status, answer.readline()) == (200, b"0\n")
        yield answer
    finally:
        connection.close()


def test_it_answers_with_a_value_with_a_body_and_with_a_stream(running: Running) -> None:
    status, _, body = request(running.address, "/products/rope")
    assert (status, json.loads(body)) == (200, {"sku": "rope", "price": 2990})
    status, _, made = order(running, "somebody", quantity=2)
    assert (status, made["sku"], made["quantity"]) == (201, "rope", 2)
    assert request(running.address, "/export?rows=3")[::2] == (200, b"0\n1\n2\n")


def test_a_customer_with_too_many_orders_is_told_when_to_come_back_and_others_are_served(running: Running) -> None:
    answers = []
    for _ in range(4 * BURST):
        answers.append(order(running, "greedy"))
        if answers[-1][0] != 201:
            break
    status, headers, problem = answers[-1]
    assert status == 429
    assert len(answers) > BURST
    assert headers["content-type"] == "application/problem+json"
    assert 1 <= int(headers["retry-after"]) <= 6
    assert headers["ratelimit-policy"].endswith(";q=10;w=60")
    assert ";r=0;t=" in headers["ratelimit"]
    assert (problem["status"], problem["code"], problem["reason"]) == (429, "resource_exhausted", "RATE_LIMITED")
    assert order(running, "modest")[0] == 201


def test_a_report_that_takes_too_long_is_answered_504_while_it_still_works(running: Running) -> None:
    began = time.monotonic()
    status, headers, body = request(running.address, "/report?seconds=6.0")
    assert status == 504
    assert time.monotonic() - began < 6.0
    assert headers["content-type"] == "application/problem+json"
    assert json.loads(body)["code"] == "deadline_exceeded"
    assert request(running.address, "/report?seconds=0.01")[0] == 200


def test_a_stream_holds_its_place_to_its_end_or_to_that_of_its_client(running: Running) -> None:
    def free() -> bool:
        return request(running.address, "/export?rows=1")[0] == 200

    with ExitStack() as stack:
        for _ in range(STREAMS - 1):
            stack.enter_context(stream(running, ENDLESS))
        with stream(running, 20) as short:
            status, headers, body = request(running.address, "/export?rows=1")
            assert (status, json.loads(body)["reason"]) == (503, "BULKHEAD_FULL")
            assert headers["content-type"] == "application/problem+json"
            assert short.read().endswith(b"19\n")
        wait_for(free, LIMIT, "a stream that has come to its end leaves its place")
        stack.enter_context(stream(running, ENDLESS))
        assert not free()
    wait_for(free, LIMIT, "a stream whose client has gone leaves its place")


def test_its_own_exceptions_are_answered_as_the_file_says(running: Running) -> None:
    status, headers, problem = order(running, "wholesale", "fender", 100)
    assert (status, problem["code"], problem["reason"]) == (409, "failed_precondition", "OUT_OF_STOCK")
    assert problem["detail"] == "There are 3 of fender left."
    assert headers["content-type"] == "application/problem+json"
    status, _, body = request(running.address, "/products/anchor")
    assert (status, json.loads(body)["reason"]) == (404, "UNKNOWN_PRODUCT")
    assert "Traceback" not in running.log


def test_a_reload_keeps_it_serving(running: Running) -> None:
    statuses: list[int] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            statuses.append(request(running.address, "/products/rope")[0])

    asking = threading.Thread(target=ask, daemon=True)
    old = running.pids()
    asking.start()
    try:
        assert running.reload()["ok"]
        assert not running.pids() & old
        reached = len(statuses)
        wait_for(lambda: len(statuses) > reached + 10, LIMIT, "the new worker answers")
    finally:
        over.set()
        asking.join(LIMIT)
    assert set(statuses) == {200}
