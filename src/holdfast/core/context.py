"""What belongs to the call at hand and travels with it: deadline, cancellation, criticality, colour, baggage.

The deadline is a ``contextvars`` variable of its own, since every time limit sets it; the rest is one immutable
value in another. Tasks and ``asyncio.to_thread`` copy both: a thread sees exactly the context of the code that
started it; threads started by hand begin with an empty one. Time is monotonic seconds; functions take ``now``
so that tests hand in a virtual clock's.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from enum import IntEnum
from math import inf
from types import MappingProxyType
from typing import Final

import msgspec

from holdfast.core.clock import SYSTEM
from holdfast.core.errors import CallCancelled, DeadlineExceeded

BAGGAGE_ENTRIES: Final = 64
"""How many entries baggage may have; the least that W3C Baggage asks everybody to pass on."""
BAGGAGE_BYTES: Final = 8192
"""How long all keys and values may be in UTF-8, from the same source."""


class Cancellation:
    """Says that nobody wants the work any more. Safe from any thread.

    It is cancelled as soon as it, or the ``parent`` it was made under, is.
    """

    __slots__ = ("_lock", "_parent", "_reason")

    def __init__(self, parent: "Cancellation | None" = None) -> None:
        self._lock = threading.Lock()
        self._parent = parent
        self._reason: str | None = None

    def cancel(self, reason: str = "cancelled") -> None:
        """Call the work off. The first reason stays."""
        with self._lock:
            if self._reason is None:
                self._reason = reason

    @property
    def cancelled(self) -> bool:
        """Whether it, or a parent, was cancelled."""
        return self._found() is not None

    @property
    def reason(self) -> str:
        """Why; empty while not cancelled."""
        return self._found() or ""

    def raise_if_cancelled(self) -> None:
        """Raises ``CallCancelled`` with the reason, once cancelled."""
        reason = self._found()
        if reason is not None:
            raise CallCancelled(reason)

    def _found(self) -> str | None:
        token: Cancellation | None = self
        while token is not None:
            if token._reason is not None:
                return token._reason
            token = token._parent
        return None


class Criticality(IntEnum):
    """How much a call matters when not all can be served; the lowest are refused first.

    The four classes of Google's "Handling Overload" (Site Reliability Engineering, chapter 21).
    """

    SHEDDABLE = 0
    SHEDDABLE_PLUS = 1
    CRITICAL = 2
    CRITICAL_PLUS = 3


class Context(msgspec.Struct, frozen=True):
    """The ambient facts of a call, beside its deadline. ``colour`` marks traffic of an experiment; empty is real."""

    cancellation: Cancellation | None = None
    criticality: Criticality = Criticality.CRITICAL
    colour: str = ""
    baggage: Mapping[str, str] = MappingProxyType({})


EMPTY: Final = Context()

_context: ContextVar[Context] = ContextVar("holdfast_context", default=EMPTY)
_deadline: ContextVar[float] = ContextVar("holdfast_deadline", default=inf)

# Bare, without a function around them, for the path that every call takes.
set_deadline: Final = _deadline.set
reset_deadline: Final = _deadline.reset
current_deadline: Final = _deadline.get
"""The deadline of the code that calls, absolute monotonic seconds; ``inf`` when there is none."""
set_context: Final = _context.set
current: Final = _context.get
"""The context of the code that calls."""


def remaining(now: float | None = None) -> float:
    """Seconds until the deadline: ``inf`` without one, 0.0 once it has passed."""
    deadline = _deadline.get()
    if deadline == inf:
        return inf
    return max(0.0, deadline - _time(now))


def check(now: float | None = None) -> None:
    """Raises ``CallCancelled`` when the call was called off, ``DeadlineExceeded`` when its time is over."""
    context = _context.get()
    if context.cancellation is not None:
        context.cancellation.raise_if_cancelled()
    deadline = _deadline.get()
    if deadline != inf and _time(now) >= deadline:
        raise DeadlineExceeded


@contextmanager
def use_context(context: Context, deadline: float = inf) -> Iterator[Context]:
    """Make both the current ones inside the block, whatever was outside: for the edge of a service."""
    with use_deadline(deadline), _changed(context):
        yield context


@contextmanager
def use_deadline(deadline: float) -> Iterator[float]:
    """Make ``deadline`` the current one inside the block, also when the outer one is nearer."""
    token = _deadline.set(deadline)
    try:
        yield deadline
    finally:
        _deadline.reset(token)


@contextmanager
def deadline_within(seconds: float, *, now: float | None = None) -> Iterator[float]:
    """Give the block at most ``seconds``; an outer deadline that is nearer stays. Yields the deadline.

    It interrupts nothing: ``check`` and ``remaining`` tell. ``ValueError`` when negative or not a number.
    """
    if not seconds >= 0:
        raise ValueError(f"a deadline within {seconds!r} s makes no sense; give 0 or more seconds")
    outer = _deadline.get()
    with use_deadline(outer if seconds == inf else min(outer, _time(now) + seconds)) as inner:
        yield inner


@contextmanager
def cancellation_scope() -> Iterator[Cancellation]:
    """A new token for the block, cancelled also when the outer one is."""
    outer = _context.get()
    token = Cancellation(outer.cancellation)
    with _changed(msgspec.structs.replace(outer, cancellation=token)):
        yield token


@contextmanager
def criticality(level: Criticality) -> Iterator[Context]:
    """Calls made inside the block have this criticality."""
    with _changed(msgspec.structs.replace(_context.get(), criticality=Criticality(level))) as inner:
        yield inner


@contextmanager
def colour(name: str) -> Iterator[Context]:
    """Calls made inside the block belong to the experiment ``name``, such as a load test; empty is real traffic."""
    with _changed(msgspec.structs.replace(_context.get(), colour=name)) as inner:
        yield inner


@contextmanager
def baggage(items: Mapping[str, str] | None = None, /, **more: str) -> Iterator[Context]:
    """Add entries to the baggage of the block; an inner entry hides an outer one of the same name.

    Raises ``TypeError`` unless keys and values are text, and ``ValueError`` past ``BAGGAGE_ENTRIES`` or
    ``BAGGAGE_BYTES``.
    """
    outer = _context.get()
    merged = {**outer.baggage, **(items or {}), **more}
    _check_baggage(merged)
    with _changed(msgspec.structs.replace(outer, baggage=MappingProxyType(merged))) as inner:
        yield inner


@contextmanager
def _changed(context: Context) -> Iterator[Context]:
    token = _context.set(context)
    try:
        yield context
    finally:
        _context.reset(token)


def _check_baggage(merged: Mapping[str, object]) -> None:
    if len(merged) > BAGGAGE_ENTRIES:
        raise ValueError(f"baggage would have {len(merged)} entries; {BAGGAGE_ENTRIES} is the limit")
    length = 0
    for key, value in merged.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"baggage {key!r} is {value!r}; keys and values are text")
        length += len(key.encode()) + len(value.encode())
    if length > BAGGAGE_BYTES:
        raise ValueError(f"baggage would be {length} bytes long; {BAGGAGE_BYTES} is the limit")


def _time(now: float | None) -> float:
    return SYSTEM.now() if now is None else now
