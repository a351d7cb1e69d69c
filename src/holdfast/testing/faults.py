"""Calls that fail, or take long, because a test says so."""

from collections.abc import Iterator
from contextlib import contextmanager
from math import isfinite
from typing import Final

from holdfast.core.call import FAILED, Call
from holdfast.core.errors import DeadlineExceeded
from holdfast.core.pipeline import Pipeline
from holdfast.testing.clocks import InstantClock
from holdfast.testing.stage import Extra, Place, Target, added, pipeline_under

ALWAYS: Final = 1 << 62
"""More calls than a test makes."""

Fault = BaseException | type[BaseException]


@contextmanager
def failing(target: Target, *errors: Fault, times: int = ALWAYS) -> Iterator[None]:
    """The first ``times`` attempts in the block raise ``errors`` in turn, in place of calling the function.

    ``target`` is a pipeline, or a function decorated with one. To its policies it is as if the function raised them.
    A ``guard()`` block counts as an attempt, and is not run. ``TypeError`` for what cannot be raised.
    """
    if not errors:
        raise TypeError("failing() needs the exceptions to raise, such as failing(fetch, OSError)")
    for error in errors:
        _require_exception(error)
    pipeline = pipeline_under(target)
    with added(pipeline, _Fault(pipeline, errors, times)):
        yield


@contextmanager
def slowed(target: Target, seconds: float, *, times: int = ALWAYS) -> Iterator[None]:
    """The first ``times`` attempts in the block take ``seconds`` more, by the pipeline's clock.

    Those that ``failing`` makes fail do so after that. ``ValueError`` unless ``seconds`` is finite, and 0 or more.
    """
    if not (isfinite(seconds) and seconds >= 0):
        raise ValueError(f"nothing takes {seconds!r} s more; give 0 or more seconds")
    with added(pipeline_under(target), _Delay(seconds, times)):
        yield


class _Planned(Extra):
    """What the dependency itself would have done, as far as the others can tell."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.begun = 0
        super().__init__()

    def take(self) -> int | None:
        """The number of this attempt; None when there were enough."""
        with self.lock:
            if self.begun >= self.times:
                return None
            self.begun += 1
            return self.begun - 1


class _Delay(_Planned):
    kind = "slowed"
    place = Place.DELAY
    waits = True

    def __init__(self, seconds: float, times: int) -> None:
        self.seconds = seconds
        super().__init__(times)

    def enter(self, call: Call) -> None:
        if self.take() is not None:
            call.clock.pause(self._seconds_of(call))
            self._ended(call)

    def admit(self, call: Call) -> None:
        self.enter(call)

    async def admit_async(self, call: Call) -> None:
        if self.take() is not None:
            await call.clock.sleep(self._seconds_of(call))
            self._ended(call)

    def _seconds_of(self, call: Call) -> float:
        # On an instant clock nothing takes time, so no timer will end what goes on past its deadline.
        left = call.deadline - call.clock.now()
        return min(self.seconds, left) if isinstance(call.clock, InstantClock) else self.seconds

    def _ended(self, call: Call) -> None:
        call.now = call.clock.now()
        if isinstance(call.clock, InstantClock) and call.now >= call.deadline:
            call.verdict = FAILED
            raise DeadlineExceeded(self.name, "took longer than its deadline allowed")


class _Fault(_Planned):
    kind = "failing"
    place = Place.FAULT

    def __init__(self, pipeline: Pipeline, errors: tuple[Fault, ...], times: int) -> None:
        self.pipeline = pipeline
        self.errors = errors
        super().__init__(times)

    def enter(self, call: Call) -> None:
        number = self.take()
        if number is None:
            return
        planned = self.errors[number % len(self.errors)]
        try:
            # One exception may be raised many times, and would keep the frames of all of them.
            raise planned.with_traceback(None) if isinstance(planned, BaseException) else planned
        except BaseException as error:
            call.now = call.clock.now()
            call.verdict = self.pipeline.classifier.of_error(error, call)
            raise


def _require_exception(error: object) -> None:
    if isinstance(error, type) and issubclass(error, BaseException):
        try:
            error()
        except Exception as wrong:  # whatever its constructor says: policies would take it for the planned fault
            raise TypeError(f"{error.__name__} cannot be raised without arguments; give an instance") from wrong
    elif not isinstance(error, BaseException):
        raise TypeError(f"{error!r} is no exception; give exceptions or their classes, such as OSError")
