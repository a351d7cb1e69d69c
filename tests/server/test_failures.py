"""What a client is told of an exception that comes out of the app, and what the log is."""

import asyncio
import logging
from typing import Any

import msgspec
import pytest

from holdfast.core.codes import Code
from holdfast.core.errors import CircuitOpen, DeadlineExceeded, RateLimited
from holdfast.core.errortable import ErrorTable
from holdfast.core.failure import ServiceError
from server.engineroom import Response, answer, run, serving


class OutOfStock(Exception): ...


def failing(error: BaseException, *, begun: bool = False, **options: Any) -> tuple[Response, int]:
    """The answer, and how many failures of the app were counted."""
    found: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise error

    async def main() -> None:
        async with serving(app, **options) as room:
            client = await room.connect()
            found.append(await client.get("/orders?secret=5"))
            found.append(room.state.failed)

    run(main)
    return found[0], found[1]


@pytest.mark.parametrize(
    ("error", "status", "code", "reason", "retry_after"),
    [
        (
            ServiceError(Code.NOT_FOUND, "no such order", reason="ORDER_UNKNOWN"),
            404,
            "not_found",
            "ORDER_UNKNOWN",
            None,
        ),
        (RateLimited("api", "too many", 2.2), 429, "resource_exhausted", "RATE_LIMITED", "3"),
        (CircuitOpen("stock", "50 % failed", 4.0), 503, "unavailable", "CIRCUIT_OPEN", "4"),
        (DeadlineExceeded(), 504, "deadline_exceeded", "DEADLINE_EXCEEDED", None),
    ],
    ids=["service", "rate", "circuit", "deadline"],
)
def test_holdfasts_own_errors_are_answered_as_what_they_are(
    error: Exception, status: int, code: str, reason: str, retry_after: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "holdfast.request"):
        response, failed = failing(error)
    body = msgspec.json.decode(response.body)
    assert (response.status, body["status"], body["code"], body["reason"]) == (status, status, code, reason)
    assert response.headers.get("retry-after") == retry_after
    assert response.headers["content-type"] == "application/problem+json"
    assert body["request_id"] == response.headers["x-request-id"]
    (record,) = caplog.records
    assert (record.levelno, record.exc_info) == (logging.INFO, None)
    assert body["request_id"] in record.getMessage()
    assert failed == 0


def test_a_fault_of_the_app_is_logged_with_its_traceback_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    response, failed = failing(ValueError("password is 12345"))
    body = msgspec.json.decode(response.body)
    assert (response.status, body["code"]) == (500, "internal")
    assert b"12345" not in response.body
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert failed == 1


def test_an_error_that_blames_the_service_on_purpose_keeps_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    error = ServiceError(Code.INTERNAL, "The warehouse has burnt down.")
    error.__cause__ = ValueError("smoke in aisle 7")
    response, failed = failing(error)
    assert msgspec.json.decode(response.body)["detail"] == "The warehouse has burnt down."
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "smoke in aisle 7" in caplog.text
    assert failed == 1


def test_a_cancellation_that_the_app_makes_is_a_fault_of_its_own() -> None:
    response, failed = failing(asyncio.CancelledError())
    assert (response.status, failed) == (500, 1)


def test_the_apps_own_errors_are_answered_by_the_table() -> None:
    table = ErrorTable({OutOfStock: "failed_precondition"})
    response, failed = failing(OutOfStock("of books"), errors=table)
    body = msgspec.json.decode(response.body)
    assert (response.status, body["code"], body["reason"]) == (400, "failed_precondition", "OUT_OF_STOCK")
    assert failed == 0


def test_an_answer_that_has_begun_is_not_changed() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, b"done")
        raise RateLimited("api", "too many")

    async def main() -> None:
        async with serving(app) as room:
            client = await room.connect()
            assert (await client.get()).body == b"done"

    run(main)
