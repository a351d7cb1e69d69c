"""What a contestant is: a library, seen as one method for each policy that it has."""

import inspect
from collections.abc import Callable
from enum import StrEnum
from typing import Any, ClassVar, NamedTuple, TypeAlias

Function: TypeAlias = Callable[[], Any]
"""A def or an async def without arguments."""

ANSWER = 1
"""What the measured function returns at once."""
SPARE = 2
"""What a fallback returns."""
LONG = 3600.0
"""Seconds that an open breaker stays open: the measurement of refusals must not meet a probe."""
ATTEMPTS = 3
HAS_NONE = "has none"
"""The usual reason for an empty place."""


class Mode(StrEnum):
    """How a function is called."""

    SYNC = "sync"
    ASYNC = "async"


class Sizes(NamedTuple):
    """How large the policies are. Seconds, calls a period, calls at once; the share of calls that get a fault."""

    seconds: float = 2.0
    delay: float = 0.1
    rate: int = 1_000_000_000
    unit: str = "second"
    slots: int = 25
    share: float = 1e-12

    @property
    def period(self) -> float:
        """``unit`` in seconds."""
        return {"second": 1.0, "hour": 3600.0}[self.unit]


ROOMY = Sizes()
"""Nothing is refused. The delay before a retry plays no part while calls succeed."""


class Absent(Exception):
    """The contestant has no such thing. Its text is the reason that is printed."""


class Refused(Exception):
    """Raised around limiters that answer with true or false, so that every refusal is an exception."""


class Contestant:
    """One library. A method is named as the row it is measured in: it takes a function and puts the policy around it.

    A policy that the library does not have is a method that is not there. Making a contestant imports the library:
    ``ImportError`` when it is not installed.
    """

    name: ClassVar[str]
    package: ClassVar[str]
    """Its name on PyPI."""
    modes: ClassVar[tuple[Mode, ...]] = (Mode.SYNC, Mode.ASYNC)
    other_mode: ClassVar[str] = ""
    """Why it has only one mode."""
    waits: ClassVar[bool] = False
    """Its rate limit lets the caller wait, and cannot be told to refuse."""
    interrupts: ClassVar[bool] = True
    """Its timeout gives up a sync call that takes too long; else the call is told what it has left."""
    wears_out: ClassVar[int | None] = None
    """After so many refusals what it built is replaced, because each one makes the next one slower."""
    refusals: tuple[type[Exception], ...] = ()
    """What it raises when it refuses a call or gives it up."""
    remarks: ClassVar[tuple[str, ...]] = ()
    """What a reader should know about how it was measured."""

    def policy(self, method: str, mode: Mode) -> Callable[[Function, Sizes], Function]:
        """The method of that name. Raises ``Absent`` when it has none for ``mode``."""
        found: Callable[[Function, Sizes], Function] | None = getattr(self, method, None)
        if mode not in self.modes:
            raise Absent(self.other_mode)
        if found is None:
            raise Absent(HAS_NONE)
        return found

    def remaining(self) -> float:
        """Seconds that the call around this has left, told by a timeout that does not interrupt."""
        raise NotImplementedError

    def close(self) -> None:
        """End what runs in the background."""


def is_async(function: Function) -> bool:
    return inspect.iscoroutinefunction(function)
