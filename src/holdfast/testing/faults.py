"""Calls that fail, or take long, because a test says so."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from holdfast.core.call import FAILED, AsyncHandler, Call, Handler
from holdfast.core.errors import DeadlineExceeded
from holdfast.core.pipeline import Pipeline, pipeline_of
from holdfast.core.policy import Policy
from holdfast.core.settings import PolicySettings
from holdfast.testing.clocks import InstantClock

ALWAYS: Final = 1 << 62
"""More calls than a test makes."""


class _Planned(Policy[PolicySettings]):
    """The innermost policy: what the dependency itself would have done, as far as the others can tell."""

    kind = "planned"

    def __init__(
        self,
        pipeline: Pipeline,
        errors: tuple[BaseException | type[BaseException], ...],
        times: int,
        seconds: float,
    ) -> None:
        self.pipeline = pipeline
        self.errors = errors
        self.left = times
        self.seconds = seconds
        self.begun = 0
        super().__init__(PolicySettings())

    def wrap(self, inner: Handler) -> Handler:
        def run(call: Call) -> Any:
            number = self._take()
            if number is None:
                return inner(call)
            call.clock.pause(self._seconds_of(call))
            self._fail(call, number)
            return inner(call)

        return run

    def wrap_async(self, inner: AsyncHandler) -> AsyncHandler:
        async def run(call: Call) -> Any:
            number = self._take()
            if number is None:
                return await inner(call)
            if self.seconds > 0:
                await call.clock.sleep(self._seconds_of(call))
            self._fail(call, number)
            return await inner(call)

        return run

    def _take(self) -> int | None:
        """The number of this attempt; None when enough have failed."""
        with self.lock:
            if self.left <= 0:
                return None
            self.left -= 1
            self.begun += 1
            return self.begun - 1

    def _seconds_of(self, call: Call) -> float:
        # On an instant clock nothing takes time, so no timer will end what goes on past its deadline.
        left = call.deadline - call.clock.now()
        return min(self.seconds, left) if isinstance(call.clock, InstantClock) else self.seconds

    def _fail(self, call: Call, number: int) -> None:
        if isinstance(call.clock, InstantClock) and call.clock.now() >= call.deadline:
            call.now = call.clock.now()
            call.verdict = FAILED
            raise DeadlineExceeded("slowed", "took longer than its deadline allowed")
        if not self.errors:
            return
        try:
            raise self.errors[number % len(self.errors)]
        except BaseException as error:
            call.now = call.clock.now()
            call.verdict = self.pipeline.classifier.of_error(error, call)
            raise


@contextmanager
def failing(
    target: "Pipeline | Callable[..., Any]", *errors: BaseException | type[BaseException], times: int = ALWAYS
) -> Iterator[None]:
    """The first ``times`` attempts in the block raise ``errors`` in turn, in place of calling the function.

    ``target`` is a pipeline, or a function decorated with one. To its policies it is as if the function raised them.
    """
    if not errors:
        raise TypeError("failing() needs the exceptions to raise, such as failing(fetch, OSError)")
    with _planned(target, errors, times, 0.0):
        yield


@contextmanager
def slowed(target: "Pipeline | Callable[..., Any]", seconds: float, *, times: int = ALWAYS) -> Iterator[None]:
    """The first ``times`` attempts in the block take ``seconds`` more, by the pipeline's clock."""
    with _planned(target, (), times, seconds):
        yield


@contextmanager
def fresh(target: "Pipeline | Callable[..., Any]") -> Iterator[None]:
    """In the block, the policies of ``target`` know nothing yet: budgets are full, breakers closed, caches empty.

    What they learn there is forgotten. Pipelines live as long as their module, so tests would disturb each other.
    """
    pipeline = target if isinstance(target, Pipeline) else pipeline_of(target)
    before = pipeline.policies
    pipeline.replace(*(type(policy).from_settings(policy.settings) for policy in before))
    try:
        yield
    finally:
        pipeline.replace(*before)


@contextmanager
def _planned(
    target: "Pipeline | Callable[..., Any]",
    errors: tuple[BaseException | type[BaseException], ...],
    times: int,
    seconds: float,
) -> Iterator[None]:
    pipeline = target if isinstance(target, Pipeline) else pipeline_of(target)
    planned = _Planned(pipeline, errors, times, seconds)
    pipeline.replace(*pipeline.policies, planned)
    try:
        yield
    finally:
        pipeline.replace(*(policy for policy in pipeline.policies if policy is not planned))
