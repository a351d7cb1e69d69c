"""hyx: a decorator for each policy, asyncio only."""

from importlib import import_module
from typing import Any

from benchmarks.policies.contestant import ATTEMPTS, LONG, SPARE, Contestant, Function, Mode, Sizes


class Hyx(Contestant):
    """Stacks are decorators on top of each other."""

    name = "hyx"
    package = "hyx"
    modes = (Mode.ASYNC,)
    other_mode = "asyncio only"

    def __init__(self) -> None:
        self._timeout = import_module("hyx.timeout").timeout
        self._retry = import_module("hyx.retry").retry
        self._breaker = import_module("hyx.circuitbreaker").consecutive_breaker
        self._tokens = import_module("hyx.ratelimit").tokenbucket
        self._bulkhead = import_module("hyx.bulkhead").bulkhead
        self._fallback = import_module("hyx.fallback").fallback
        self.refusals = (import_module("hyx.common.exceptions").HyxError,)

    def timeout(self, function: Function, sizes: Sizes) -> Function:
        decorated: Function = self._timeout(sizes.seconds)(function)
        return decorated

    def retry(self, function: Function, sizes: Sizes) -> Function:
        decorated: Function = self._retry(attempts=ATTEMPTS, backoff=sizes.delay)(function)
        return decorated

    def breaker(self, function: Function, sizes: Sizes) -> Function:
        decorated: Function = self._breaker(recovery_time_secs=LONG)(function)
        return decorated

    def ratelimit(self, function: Function, sizes: Sizes) -> Function:
        decorated: Function = self._tokens(sizes.rate, sizes.period)(function)
        return decorated

    def bulkhead(self, function: Function, sizes: Sizes) -> Function:
        # It counts those that run and those that wait together: no queue is a capacity of no more than the slots.
        decorated: Function = self._bulkhead(sizes.slots, sizes.slots)(function)
        return decorated

    def fallback(self, function: Function, sizes: Sizes) -> Function:
        async def spare(error: BaseException, *args: Any, **kwargs: Any) -> int:
            return SPARE

        decorated: Function = self._fallback(spare)(function)
        return decorated

    def two(self, function: Function, sizes: Sizes) -> Function:
        return self.retry(self.breaker(function, sizes), sizes)

    def four(self, function: Function, sizes: Sizes) -> Function:
        return self.timeout(self.two(self.bulkhead(function, sizes), sizes), sizes)

    def five(self, function: Function, sizes: Sizes) -> Function:
        return self.timeout(self.two(self.ratelimit(self.bulkhead(function, sizes), sizes), sizes), sizes)
