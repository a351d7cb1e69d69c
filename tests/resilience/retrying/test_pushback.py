import urllib.error
from email.message import Message
from math import inf, nan
from types import SimpleNamespace
from typing import Any

import pytest

from holdfast.core.errors import CircuitOpen, RateLimited
from holdfast.resilience.retrying.pushback import TEXT_LIMIT, pushback

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
        (SimpleNamespace(retry_after=nan), 0),
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
        (answered({"Retry-After": "9" * (TEXT_LIMIT + 1)}), None),
        (answered({"Retry-After": b"5"}), None),
        (answered({}), None),
        (answered(None), None),
        (called(("grpc-status", "14"), ("grpc-retry-pushback-ms", "250")), 0.25),
        (called(("grpc-retry-pushback-ms", b"250")), 0.25),
        (called(("grpc-retry-pushback-ms", "-1")), inf),
        (called(("grpc-retry-pushback-ms", "later")), inf),
        (called(("grpc-status", "14")), None),
        (called(), None),
        (OSError("no word"), None),
        (503, None),
        (None, None),
    ],
)
def test_who_asks_to_wait_is_heard_whichever_way_it_says_so(outcome: Any, seconds: float | None) -> None:
    assert pushback(outcome, WALL) == seconds
