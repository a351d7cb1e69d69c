"""One logical call on its way through the policies, and what became of it."""

import copy
from collections.abc import Awaitable, Callable, Hashable
from enum import IntEnum
from math import inf
from numbers import Real
from typing import Any, Final, TypeAlias

import msgspec

from holdfast.core.clock import SYSTEM, Clock
from holdfast.core.context import Criticality, current_deadline


class Verdict(IntEnum):
    """What an attempt says about the health of the dependency.

    IGNORED says nothing: it was refused before it got there, or the caller gave up.
    """

    IGNORED = 0
    OK = 1
    FAILED = 2


IGNORED: Final = Verdict.IGNORED
OK: Final = Verdict.OK
FAILED: Final = Verdict.FAILED


class Call(msgspec.Struct, eq=False):
    """One logical call. It belongs to the task or thread that makes it; policies read it and stamp it.

    ``now`` is monotonic seconds, stamped when the call (or its next attempt) begins and again when the attempt
    ends: gates take their time from it and never read a clock. ``deadline`` is absolute in the same seconds.
    ``verdict`` is IGNORED until the dependency itself has answered. ``cost`` is what a rate limit takes.
    ``arrived`` is when the request was there to be read, for gates that judge queueing; 0.0 when unknown.
    """

    # Positional when it is made, once a call: the order is part of the hot path.
    fn: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    operation: str
    clock: Clock
    now: float
    deadline: float = inf
    attempt: int = 1
    verdict: Verdict = IGNORED
    key: Hashable = None
    cost: float = 1.0
    idempotent: bool = True
    criticality: Criticality | None = None
    colour: str | None = None
    arrived: float = 0.0

    def again(self) -> None:
        """Begin another attempt: for whoever runs what is further in a second time."""
        self.attempt += 1
        self.verdict = IGNORED
        self.now = self.clock.now()
        self.deadline = current_deadline()

    def copy(self) -> "Call":
        """One for an attempt that runs at the same time as this one."""
        return copy.copy(self)


_FITS: Final[dict[str, tuple[tuple[type, ...], str]]] = {
    "operation": ((str,), "text"),
    "cost": ((float, int, Real), "a number"),
    "idempotent": ((bool,), "True or False"),
    "criticality": ((Criticality, type(None)), "a Criticality, such as Criticality.SHEDDABLE"),
    "colour": ((str, type(None)), "text, or None"),
    "arrived": ((float, int, Real), "seconds by the pipeline's clock"),
}


def check_field(name: str, value: object) -> None:
    """``TypeError`` when ``value`` is nothing that the field ``name`` of a call can be."""
    kinds, expected = _FITS.get(name, ((object,), ""))
    if not isinstance(value, kinds) or (isinstance(value, bool) and Real in kinds):
        raise TypeError(f"a call cannot have {name}={value!r}; give {expected}")


Handler: TypeAlias = Callable[[Call], Any]
AsyncHandler: TypeAlias = Callable[[Call], Awaitable[Any]]


def bare_call(operation: str = "", *, clock: Clock = SYSTEM, now: float | None = None, **fields: Any) -> Call:
    """A call of nothing, for a ``with`` block or a test. ``fields`` are those of ``Call``."""
    return Call(_nothing, (), {}, operation, clock, clock.now() if now is None else now, **fields)


def _nothing() -> None:
    return None
