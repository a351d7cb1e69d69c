import inspect
import time
import urllib.error
from collections.abc import Iterator
from email.message import Message
from math import inf, nan
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import examples
from holdfast.core.clock import VirtualClock
from holdfast.core.errors import CircuitOpen, RateLimited
from holdfast.core.pipeline import Pipeline
from holdfast.resilience.retry import Retry
from holdfast.resilience.retrying.pushback import PAIRS_LIMIT, TEXT_LIMIT, pushback

WALL = 1_700_000_000.0  # Tue, 14 Nov 2023 22:13:20 GMT


class Folded(dict[str, str]):
    """Headers that fold case, as those of HTTP clients do."""

    def get(self, name: str, default: Any = None) -> Any:
        return next((value for key, value in self.items() if key.lower() == name.lower()), default)


def answered(headers: Any) -> Exception:
    """An error as httpx and requests raise it."""
    error = OSError("503")
    error.response = SimpleNamespace(headers=headers)  # type: ignore[attr-defined]
    return error


def called(*trailers: tuple[str, str | bytes]) -> Exception:
    """An error as grpc raises it."""
    error = OSError("UNAVAILABLE")
    error.trailing_metadata = lambda: trailers or None  # type: ignore[attr-defined]
    return error


def urllib_error(value: str) -> Exception:
    headers = Message()
    headers["Retry-After"] = value
    return urllib.error.HTTPError("http://x", 503, "busy", headers, None)


@pytest.mark.parametrize(
    ("outcome", "seconds"),
    [
        (CircuitOpen("breaker", "open", 2.5), 2.5),
        (RateLimited("limit", "too many"), None),
        (SimpleNamespace(retry_after=3), 3),
        (SimpleNamespace(retry_after=-3), 0),
        (SimpleNamespace(retry_after=nan), None),
        (SimpleNamespace(retry_after=10**400), inf),
        (SimpleNamespace(retry_after=-(10**400)), 0),
        (SimpleNamespace(retry_after=-inf), 0),
        (SimpleNamespace(retry_after=inf), inf),
        (SimpleNamespace(retry_after=True), None),
        (SimpleNamespace(retry_after="3"), None),
        (SimpleNamespace(headers={"Retry-After": "120"}), 120),
        (answered({"Retry-After": "120"}), 120),
        (answered({"retry-after": " 7 "}), 7),
        (answered(Folded({"RETRY-AFTER": "0"})), 0),
        (urllib_error("30"), 30),
        (answered({"Retry-After": "Tue, 14 Nov 2023 22:14:20 GMT"}), 60),
        (answered({"Retry-After": "Tue, 14 Nov 2023 22:13:00 GMT"}), 0),
        (answered({"Retry-After": "soon"}), None),
        (answered({"Retry-After": "-5"}), None),
        (answered({"Retry-After": "1.5"}), None),
        (answered({"Retry-After": "²"}), None),
        (answered({"Retry-After": "9" * TEXT_LIMIT}), float("9" * TEXT_LIMIT)),
        (answered({"Retry-After": "9" * (TEXT_LIMIT + 1)}), inf),
        (answered({"Retry-After": "9" * 400}), inf),
        (answered({"Retry-After": "1e3"}), None),
        (answered({"Retry-After": "nan"}), None),
        (answered({"Retry-After": "inf"}), None),
        (answered({"Retry-After": "+5"}), None),
        (answered({"Retry-After": "0x10"}), None),
        (answered({"Retry-After": "1_000"}), None),
        (answered({"Retry-After": ""}), None),
        (answered({"Retry-After": "\t5 "}), 5),
        (answered({"Retry-After": "\xa05"}), None),
        (answered({"Retry-After": "5\n"}), None),
        (answered({"Retry-After": "٣"}), None),
        (answered({"Retry-After": "5, 7"}), None),
        (answered({"Retry-After": 5}), 5),
        (answered({"Retry-After": True}), None),
        (answered({"Retry-After": 5.0}), None),
        (answered({"Retry-After": ["5"]}), None),
        (answered({"Retry-After": b"5"}), 5),
        (answered({b"retry-after": b"5"}), 5),
        (answered({"RETRY-after": "5"}), 5),
        (answered({3: 3, None: 4, "retry-after": "5"}), 5),
        (answered([("Content-Length", "0"), ("retry-after", "5")]), 5),
        (answered([(b"Retry-After", b"5")]), 5),
        (answered((["Retry-After", "5"],)), 5),
        (answered([None, 3, "ab", ("Retry-After",), ("Retry-After", "5", "6"), ("Retry-After", "7")]), 7),
        (answered([("x", "y")] * (PAIRS_LIMIT - 1) + [("Retry-After", "5")]), 5),
        (answered([("x", "y")] * PAIRS_LIMIT + [("Retry-After", "5")]), None),
        (answered("Retry-After"), None),
        (answered(5), None),
        (answered({"Retry-After": "Sun Nov  6 08:49:37 1994"}), 0),
        (answered({"Retry-After": "Tue Nov 14 22:14:20 2023"}), 60),
        (answered({"Retry-After": "Tuesday, 14-Nov-23 22:14:20 GMT"}), 60),
        (answered({"Retry-After": "Tue, 14 Nov 2023 22:14:20"}), 60),
        (answered({"Retry-After": "Tue, 14 Nov 2023 22:14:20 -0000"}), 60),
        (answered({"Retry-After": "Wed, 15 Nov 2023 00:14:20 +0200"}), 60),
        (answered({"Retry-After": "Tue, 14 Nov 2023 22:14:20 +9999"}), None),
        (answered({"Retry-After": "Tue, 99 Nov 2023 22:14:20 GMT"}), None),
        (answered({"Retry-After": "Tue, 14 Nov 0000 22:14:20 GMT"}), 0),
        (answered({"Retry-After": "Tue, 14 Nov 2023 22:14:20 GMT" + " " * TEXT_LIMIT}), 60),
        (answered({"Retry-After": "Tue, 14 Nov 2023 22:14:20 GMT (" + "x" * TEXT_LIMIT + ")"}), None),
        (answered({}), None),
        (answered(None), None),
        (called(("grpc-status", "14"), ("grpc-retry-pushback-ms", "250")), 0.25),
        (called(("grpc-retry-pushback-ms", b"250")), 0.25),
        (called(("grpc-retry-pushback-ms", "-1")), inf),
        (called(("grpc-retry-pushback-ms", "later")), inf),
        (called(("grpc-retry-pushback-ms", "0")), 0),
        (called(("grpc-retry-pushback-ms", " 5 ")), inf),
        (called(("grpc-retry-pushback-ms", "1e3")), inf),
        (called(("grpc-retry-pushback-ms", "٣")), inf),
        (called(("grpc-retry-pushback-ms", b"\xff")), inf),
        (called(("grpc-retry-pushback-ms", "")), inf),
        (called(("grpc-retry-pushback-ms", "9" * 400)), inf),
        (called(("grpc-retry-pushback-ms", 250)), 0.25),  # type: ignore[arg-type]
        (called(("grpc-retry-pushback-ms", True)), None),  # type: ignore[arg-type]
        (called(None, 3, ("grpc-retry-pushback-ms", "250")), 0.25),  # type: ignore[arg-type]
        (called(*[("x", "y")] * PAIRS_LIMIT, ("grpc-retry-pushback-ms", "250")), None),
        (SimpleNamespace(trailing_metadata=lambda: {"grpc-retry-pushback-ms": "250"}), 0.25),
        (SimpleNamespace(trailing_metadata="no function"), None),
        (called(("grpc-status", "14")), None),
        (called(), None),
        (OSError("no word"), None),
        (503, None),
        (None, None),
    ],
)
def test_who_asks_to_wait_is_heard_whichever_way_it_says_so(outcome: Any, seconds: float | None) -> None:
    assert pushback(outcome, WALL) == seconds


class Odd(Exception):
    """Whoever looks at it gets a different error."""

    def __getattr__(self, name: str) -> Any:
        raise ZeroDivisionError(name)


class OddHeaders(dict[str, str]):
    """Headers that cannot be read."""

    def get(self, *args: Any) -> Any:
        raise LookupError(args)


class OneOdd(Exception):
    """Only some of what it has is odd."""

    response = SimpleNamespace(headers={"Retry-After": "5"})

    @property
    def retry_after(self) -> float:
        raise RuntimeError("not now")

    @property
    def headers(self) -> dict[str, str]:
        raise RecursionError


def fails() -> Any:
    raise OSError("the channel is closed")


def endless() -> Iterator[tuple[str, str]]:
    while True:
        yield "x", "y"


class Endless:
    def __iter__(self) -> Iterator[tuple[str, str]]:
        return endless()


@pytest.mark.parametrize(
    ("outcome", "seconds"),
    [
        (Odd(), None),
        (answered(OddHeaders()), None),
        (OneOdd(), 5),
        (SimpleNamespace(trailing_metadata=fails), None),
        (SimpleNamespace(trailing_metadata=len), None),
        (SimpleNamespace(trailing_metadata=Endless), None),
        (answered(Endless()), None),
        (SimpleNamespace(headers=SimpleNamespace(get=None)), None),
        (SimpleNamespace(headers=SimpleNamespace(get=lambda: 5)), None),
        (SimpleNamespace(retry_after=nan, headers={"Retry-After": "5"}), 5),
        (SimpleNamespace(headers={"Retry-After": "soon"}, response=SimpleNamespace(headers={"Retry-After": "5"})), 5),
    ],
    ids=lambda case: type(case).__name__,
)
def test_nothing_odd_makes_a_failure_another_one(outcome: Any, seconds: float | None) -> None:
    assert pushback(outcome, WALL) == seconds


def test_a_call_fails_with_its_own_error_however_odd_that_is() -> None:
    class OddFailure(Odd, OSError):
        pass

    error = OddFailure()

    def fail() -> None:
        raise error

    clock = VirtualClock()
    retry = Retry(2, jitter="none")
    with pytest.raises(OddFailure) as caught:
        Pipeline("x", retry, clock=clock).call(fail)
    assert caught.value is error
    assert retry.retries == 1


@pytest.mark.parametrize("said", [10**400, "9" * 400])
def test_who_asks_for_longer_than_any_number_gets_no_retry(said: Any) -> None:
    def fail() -> None:
        raise answered({"Retry-After": said})

    retry = Retry(3, retry_after=(lambda error: 10**400) if isinstance(said, int) else None)
    with pytest.raises(OSError, match="503"):
        Pipeline("x", retry, clock=VirtualClock()).call(fail)
    assert retry.gave_up["retry_after"] == 1


def test_a_date_without_a_zone_is_not_the_local_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    time.tzset()
    try:
        assert pushback(answered({"Retry-After": "Tue Nov 14 22:14:20 2023"}), WALL) == 60
    finally:
        monkeypatch.undo()
        time.tzset()


def test_what_can_be_read_once_is_left_to_its_owner() -> None:
    pairs = iter([("Retry-After", "5")])
    assert pushback(answered(pairs), WALL) is None
    assert list(pairs) == [("Retry-After", "5")]


def test_trailers_that_have_to_be_awaited_are_left_alone_without_a_warning() -> None:
    async def trailers() -> list[tuple[str, str]]:
        raise AssertionError("nobody awaits this")

    made: list[Any] = []

    def ask() -> Any:
        made.append(trailers())
        return made[0]

    assert pushback(SimpleNamespace(trailing_metadata=ask), WALL) is None
    assert inspect.getcoroutinestate(made[0]) == inspect.CORO_CLOSED


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.just("Retry-After"), inner, max_size=3)
        ),
        max_leaves=6,
    ),
    st.sampled_from(["retry_after", "headers", "response", "trailing_metadata"]),
)
@settings(max_examples=examples(200), deadline=None)
def test_whatever_is_there_it_says_seconds_or_nothing(value: Any, name: str) -> None:
    for outcome in (
        SimpleNamespace(**{name: value}),
        SimpleNamespace(response=SimpleNamespace(headers=value)),
        SimpleNamespace(headers={"Retry-After": value}),
        SimpleNamespace(trailing_metadata=lambda: value),
    ):
        seconds = pushback(outcome, WALL)
        assert seconds is None or seconds >= 0
