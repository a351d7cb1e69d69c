"""What the other side says about coming back: ``retry_after`` of a refusal, Retry-After of HTTP, pushback of gRPC."""

from collections.abc import Iterator, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from itertools import islice
from math import inf, isnan
from types import CoroutineType
from typing import Any, Final

HEADER: Final = "Retry-After"
"""RFC 9110, 10.2.3: seconds, or a date."""
TRAILER: Final = "grpc-retry-pushback-ms"
"""gRPC proposal A6: milliseconds; anything that is no whole number from 0 up means never."""
PAIRS_LIMIT: Final = 128
"""Headers or trailers that are looked at, where they have to be looked at one by one."""
TEXT_LIMIT: Final = 64
"""Characters of a value that is looked at; no date is longer. A number of more digits is longer than any wait."""


def pushback(outcome: Any, wall: float) -> float | None:
    """Seconds after which whoever made ``outcome``, an error or a result, wants to be asked again.

    None when nobody said anything, or nothing that makes sense; ``inf`` for never. ``wall`` is the time now, in
    Unix seconds. Looked at are, duck-typed: the attribute ``retry_after`` (seconds), the headers of ``outcome`` or
    of its ``response`` (aiohttp, httpx, requests, urllib; also as pairs, as bytes, in any case), and
    ``trailing_metadata()`` (grpc). Never raises, however odd these are.
    """
    for look in (_own_word, _header_of_outcome, _header_of_response, _trailer):
        try:
            seconds = look(outcome, wall)
        except Exception:  # noqa: S112 - foreign objects may raise anything; the call has its own failure to tell
            continue
        if seconds is not None:
            return seconds
    return None


def _own_word(outcome: Any, wall: float) -> float | None:
    said = getattr(outcome, "retry_after", None)
    if not isinstance(said, int | float) or isinstance(said, bool):
        return None
    try:
        seconds = float(said)
    except OverflowError:  # a whole number beyond all floats
        return inf if said > 0 else 0.0
    return None if isnan(seconds) else max(0.0, seconds)


def _header_of_outcome(outcome: Any, wall: float) -> float | None:
    return _seconds(_header(getattr(outcome, "headers", None)), wall)


def _header_of_response(outcome: Any, wall: float) -> float | None:
    return _header_of_outcome(getattr(outcome, "response", None), wall)


def _trailer(outcome: Any, wall: float) -> float | None:
    ask = getattr(outcome, "trailing_metadata", None)
    text = _text(_find(ask(), TRAILER)) if callable(ask) else None
    if text is None:
        return None
    return int(text) / 1000 if len(text) <= TEXT_LIMIT and _is_whole(text) else inf


def _header(headers: Any) -> str | None:
    get = getattr(headers, "get", None)
    # Most header mappings fold case, and are quick to ask; plain dicts and pairs do not.
    value = get(HEADER) if callable(get) else None
    return _text(_find(headers, HEADER.lower()) if value is None else value)


def _seconds(header: str | None, wall: float) -> float | None:
    if header is None:
        return None
    text = header.strip(" \t")
    if _is_whole(text):
        return float(text) if len(text) <= TEXT_LIMIT else inf
    if len(text) > TEXT_LIMIT:
        return None
    date = parsedate_to_datetime(text)
    if date.tzinfo is None:  # asctime's form has no zone, and all dates of HTTP are in UTC
        date = date.replace(tzinfo=UTC)
    return max(0.0, date.timestamp() - wall)


def _find(pairs: Any, name: str) -> Any:
    """What stands under ``name``, which is in lower case, in a mapping or in pairs. None when nothing does."""
    if isinstance(pairs, CoroutineType):  # that of a call of grpc.aio: nobody waits for it here
        pairs.close()
        return None
    for pair in islice(_items(pairs), PAIRS_LIMIT):
        if isinstance(pair, tuple | list) and len(pair) == 2:
            key, value = pair
            text = _text(key)
            if text is not None and text.lower() == name:
                return value
    return None


def _items(pairs: Any) -> Iterator[Any]:
    if isinstance(pairs, Mapping):
        return iter(pairs.items())
    # To read what can be read once only would take it from its owner.
    return iter(()) if pairs is None or isinstance(pairs, Iterator) else iter(pairs)


def _text(value: Any) -> str | None:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) else None


def _is_whole(text: str) -> bool:
    return text.isascii() and text.isdigit()
