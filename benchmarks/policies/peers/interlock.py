"""interlock-cb: a breaker, and a pipeline of strategies around it."""

from importlib import import_module
from typing import Any

from benchmarks.policies.contestant import ATTEMPTS, LONG, SPARE, Contestant, Function, Sizes, is_async


class Interlock(Contestant):
    """The breaker as a decorator, the timeout as its own primitive, the rest through its pipeline."""

    name = "interlock-cb"
    package = "interlock-cb"
    remarks = ("its sync timeout starts a thread for each call; its retry is tenacity's",)

    def __init__(self) -> None:
        self.api = import_module("interlock")
        self.wait_fixed = import_module("tenacity").wait_fixed
        self.refusals = (self.api.InterlockError,)

    def timeout(self, function: Function, sizes: Sizes) -> Function:
        if not is_async(function):
            decorated: Function = self.api.sync_timeout(sizes.seconds)(function)
            return decorated
        timeout = self.api.timeout

        async def bounded() -> Any:
            async with timeout(sizes.seconds):
                return await function()

        return bounded

    def retry(self, function: Function, sizes: Sizes) -> Function:
        return self._finish(self._retry(self.api.Pipeline.builder(), sizes), function)

    def breaker(self, function: Function, sizes: Sizes) -> Function:
        decorated: Function = self._breaker()(function)
        return decorated

    def bulkhead(self, function: Function, sizes: Sizes) -> Function:
        return self._finish(self.api.Pipeline.builder().bulkhead(sizes.slots), function)

    def fallback(self, function: Function, sizes: Sizes) -> Function:
        return self._finish(self.api.Pipeline.builder().fallback(lambda error: SPARE), function)

    def two(self, function: Function, sizes: Sizes) -> Function:
        return self._finish(
            self._retry(self.api.Pipeline.builder(), sizes).circuit_breaker(self._breaker()),
            function,
        )

    def four(self, function: Function, sizes: Sizes) -> Function:
        # The order that its documentation recommends.
        steps = self._retry(self.api.Pipeline.builder(), sizes).circuit_breaker(self._breaker())
        return self._finish(steps.bulkhead(sizes.slots).timeout(sizes.seconds), function)

    def _breaker(self) -> Any:
        return self.api.CircuitBreaker(name="bench", config=self.api.Config(wait_duration_in_open=LONG))

    def _retry(self, builder: Any, sizes: Sizes) -> Any:
        return builder.retry(attempts=ATTEMPTS, wait=self.wait_fixed(sizes.delay))

    def _finish(self, builder: Any, function: Function) -> Function:
        decorated: Function = builder.build()(function)
        return decorated
