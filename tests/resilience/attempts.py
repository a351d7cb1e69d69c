"""A function that does what a list says, and ways to call it, for the tests of retries."""

from collections.abc import Callable
from typing import Any

from holdfast.core.classify import DEFAULT, Classifier
from holdfast.core.clock import VirtualClock
from holdfast.core.pipeline import Pipeline
from holdfast.core.policy import Policy

START = 1000.0


class Script:
    """Returns or raises one outcome after the other, the last one again and again; keeps the time of each call."""

    def __init__(self, clock: VirtualClock, *outcomes: Any, takes: float = 0.0) -> None:
        self.clock = clock
        self.outcomes = outcomes
        self.takes = takes
        self.times: list[float] = []

    def __call__(self) -> Any:
        outcome = self.outcomes[min(len(self.times), len(self.outcomes) - 1)]
        self.times.append(self.clock.now() - START)
        self.clock.pause(self.takes)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


class Form:
    """Runs scripts on a virtual clock, as sync functions or as coroutine functions."""

    def __init__(self, name: str) -> None:
        self.asynchronous = name == "async"
        self.clock = VirtualClock(start=START)

    def script(self, *outcomes: Any, takes: float = 0.0) -> Script:
        return Script(self.clock, *outcomes, takes=takes)

    def pipeline(self, *policies: Policy[Any], classify: Classifier = DEFAULT) -> Pipeline:
        return Pipeline("orders", *policies, clock=self.clock, classify=classify)

    def run(self, pipeline: Pipeline, script: Callable[[], Any], **fields: Any) -> Any:
        async def awaited() -> Any:
            return script()

        caller = pipeline.bind(**fields) if fields else pipeline
        if self.asynchronous:
            return self.clock.run(caller(awaited)())
        return caller(script)()

    def caught(self, pipeline: Pipeline, script: Callable[[], Any], **fields: Any) -> Exception:
        """The error that comes out."""
        try:
            result = self.run(pipeline, script, **fields)
        except Exception as error:
            return error
        raise AssertionError(f"it returned {result!r}")


def notes(error: BaseException) -> list[str]:
    return list(getattr(error, "__notes__", ()))
