"""What the other side says about coming back: ``retry_after`` of a refusal, Retry-After of HTTP, pushback of gRPC."""

from email.utils import parsedate_to_datetime
from math import inf
from typing import Any, Final

HEADER: Final = "Retry-After"
"""RFC 9110, 10.2.3: seconds, or a date."""
TRAILER: Final = "grpc-retry-pushback-ms"
"""gRPC proposal A6: milliseconds; anything that is no whole number from 0 up means never."""
TRAILERS_LIMIT: Final = 64
"""Trailers that are looked at."""
TEXT_LIMIT: Final = 64
"""Characters of a value that is looked at; no date is longer."""


def pushback(outcome: Any, wall: float) -> float | None:
    """Seconds after which whoever made ``outcome``, an error or a result, wants to be asked again.

    None when nobody said anything, or nothing that makes sense; ``inf`` for never. ``wall`` is the time now, in
    Unix seconds. Looked at are, duck-typed: the attribute ``retry_after`` (seconds), the headers of ``outcome`` or
    of its ``response`` (aiohttp, httpx, requests, urllib), and ``trailing_metadata()`` (grpc).
    """
    seconds = getattr(outcome, "retry_after", None)
    if isinstance(seconds, int | float) and not isinstance(seconds, bool):
        return max(0.0, seconds)
    for holder in (outcome, getattr(outcome, "response", None)):
        header = _header(getattr(holder, "headers", None))
        if header is not None:
            return _seconds(header, wall)
    trailers = getattr(outcome, "trailing_metadata", None)
    return _of_trailers(trailers()) if callable(trailers) else None


def _header(headers: Any) -> str | None:
    get = getattr(headers, "get", None)
    if not callable(get):
        return None
    # Most header mappings fold case; a plain dict does not.
    value = get(HEADER) or get(HEADER.lower())
    return value if isinstance(value, str) else None


def _seconds(header: str, wall: float) -> float | None:
    text = header.strip()
    if len(text) > TEXT_LIMIT:
        return None
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - wall)
    except (ValueError, OverflowError):
        return None


def _of_trailers(trailers: Any) -> float | None:
    for key, value in list(trailers or ())[:TRAILERS_LIMIT]:
        if key == TRAILER:
            text = value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)
            return int(text) / 1000 if len(text) <= TEXT_LIMIT and text.isascii() and text.isdigit() else inf
    return None
