"""What a refused client is told: status, when to come back, what is left of its rate, and a problem's body.

What is told of a refusal is the error table's word, as of any error. To it come ``RateLimit`` and
``RateLimit-Policy`` of draft-ietf-httpapi-ratelimit-headers-10, which names each limit and has room for several. The
three fields ``RateLimit-Limit``, ``-Remaining`` and ``-Reset`` of the first drafts are gone from it, and mean
different things to different servers; what all clients understand is in ``Retry-After`` (RFC 9110, 10.2.3).
"""

import re
from collections.abc import Iterable
from http import HTTPStatus
from math import ceil, inf
from typing import Any, Final, TypeAlias

from holdfast.core.codes import Code
from holdfast.core.errorrule import ErrorRule
from holdfast.core.errors import BulkheadFull, RateLimited, Rejected
from holdfast.core.errortable import ErrorTable
from holdfast.core.failure import RETRY_AFTER_LIMIT, rounded_up
from holdfast.service.problem import problem_of

NUMBER_LIMIT: Final = 999_999_999_999_999
"""The greatest integer of a structured field (RFC 9651)."""
NAME_LIMIT: Final = 64
"""Characters of a limit's name that a client is told."""
READY_LIMIT: Final = 256
"""Answers, and policies of rates, that are kept ready. They are the server's own words, so there are not many."""
RETRIED: Final = frozenset((429, 503))
"""Refusals that pass, so that every client is told when to come back, ..."""
RETRY_AFTER: Final = b"1"
"""... in so many seconds where the policy does not know."""

NONE_LEFT: Final = 0.99
"""Of a rate limit less than this is left when it has nothing left for anybody."""

Ready: TypeAlias = tuple[int, bytes, bytes]
"""Status, all of the head that is known before the moment, and body."""

_UNSAFE: Final = re.compile(r"[^ !#-\[\]-~]|%")
_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}


class Answers:
    """Makes answers to refusals, and keeps ready what is the same each time. Belongs to one thread."""

    def __init__(self, table: ErrorTable | None = None, often: Iterable[Rejected] = ()) -> None:
        """``often`` are refusals that are given again and again, the very same objects: an overload's."""
        self._table = table or ErrorTable()
        self._ready: dict[tuple[int, Code, str, str], Ready] = {}
        self._rates: dict[tuple[str, float, float], tuple[bytes, bytes]] = {}
        self._alike: dict[tuple[Any, ...], tuple[ErrorRule | None, Ready]] = {}
        self._quota: Any = None
        self._often: dict[Rejected, Ready] = {}
        for error in often:
            self._often[error] = self._made(error)

    def answer(
        self, error: Rejected, *, lines: bytes = b"", head: bool = False, close: bool = False
    ) -> tuple[int, bytes]:
        """Status and the whole response to a request that ``error`` has refused, ready for the wire (HTTP/1.1).

        ``lines`` are headers of every response, as they are on the wire. ``head`` leaves the body out, as a HEAD wants
        it. ``close`` says that the connection ends with it: when the request's body will not be read.
        """
        status, start, body = self._often.get(error) or self._known(error)
        end = b"connection: close\r\n\r\n" if close else b"\r\n"
        return status, b"%b%b%b%b" % (start, lines, end, b"" if head else body)

    def rate_fields(self, error: Rejected) -> list[tuple[bytes, bytes]]:
        """``ratelimit-policy`` and ``ratelimit``, as ASGI has headers; nothing for what is no rate limit's refusal."""
        facts = error.snapshot
        if "remaining" not in facts or "period" not in facts:
            return []
        key = error.policy, facts["limit"], facts["period"]
        ready = self._rates.get(key)
        if ready is None:
            ready = _rate(*key)
            if len(self._rates) >= READY_LIMIT:
                self._rates.clear()
            self._rates[key] = ready
        policy, name = ready
        left = b"%b;r=%d" % (name, _whole(facts["remaining"]))
        wait = error.retry_after
        if wait is not None and 0.0 <= wait < inf:
            seconds = rounded_up(wait) if wait <= RETRY_AFTER_LIMIT else wait
            left += b";t=%d" % max(_whole(seconds), 1)
        return [(b"ratelimit-policy", policy), (b"ratelimit", left)]

    def _known(self, error: Rejected) -> Ready:
        """What is the same for all who are refused by a rate limit in the same moment, or nearly so."""
        arguments = error.args
        facts = arguments[3] if len(arguments) > 3 else None
        if type(facts) is not tuple or facts[0] is not (self._quota or self._find_quota(error)):
            return self._made(error)
        if not facts[2] < NONE_LEFT:
            return self._made(error)
        wait = arguments[2]
        if wait is None or not 0.0 <= wait <= RETRY_AFTER_LIMIT:
            return self._made(error)
        key = type(error), arguments[0], rounded_up(wait), facts[0], facts[1]
        ready = self._alike.get(key)
        if ready is None or ready[0] is not self._table.plain_rule(type(error)):
            ready = self._table.plain_rule(type(error)), self._made(error)
            if len(self._alike) >= READY_LIMIT:
                self._alike.clear()
            if ready[0] is not None:
                self._alike[key] = ready
        return ready[1]

    def _find_quota(self, error: Rejected) -> Any:
        """What a rate limit's refusals tell their facts by: those of other policies may depend on anything."""
        if isinstance(error, RateLimited):
            from holdfast.resilience.rates.token_bucket import quota  # there already, where there is a rate limit

            self._quota = quota
        return self._quota

    def _made(self, error: Rejected) -> Ready:
        """Status, its line with the problem's headers and those of rates, and the problem's body."""
        status, start, body = self._head_and_body(error)
        return status, start + b"".join(b"%b: %b\r\n" % field for field in self.rate_fields(error)), body

    def _head_and_body(self, error: Rejected) -> Ready:
        failure = self._table.failure_of(error)
        if failure.retry_after is not None or failure.details:
            status, headers, body = problem_of(failure)
            return status, _head(status, headers), body
        # An overload's refusals are those that have no hint, and those that have to be cheap.
        key = failure.status, failure.code, failure.reason, failure.message
        ready = self._ready.get(key)
        if ready is None:
            status, headers, body = problem_of(failure)
            if status in RETRIED:
                headers.append((b"retry-after", RETRY_AFTER))
            ready = status, _head(status, headers), body
            if len(self._ready) >= READY_LIMIT:
                self._ready.clear()
            self._ready[key] = ready
        return ready


def too_many_connections(limit: int, operation: str = "") -> BulkheadFull:
    """The refusal of a client that has as many connections open as it may have."""
    return BulkheadFull("clients", f"this client has {limit} connections open", None, {"limit": limit}, operation)


def _head(status: int, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    lines = b"".join(b"%b: %b\r\n" % header for header in headers)
    return b"HTTP/1.1 %d %b\r\n%b" % (status, _PHRASES.get(status, "").encode(), lines)


def _rate(policy: str, limit: float, period: float) -> tuple[bytes, bytes]:
    name = b'"%b"' % _UNSAFE.sub("_", policy[:NAME_LIMIT]).encode()
    return b"%b;q=%d;w=%d" % (name, _whole(limit), max(_whole(period), 1)), name


def _whole(number: float) -> int:
    return min(ceil(number), NUMBER_LIMIT) if number < inf else NUMBER_LIMIT
