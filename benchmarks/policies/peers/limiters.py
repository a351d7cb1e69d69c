"""The libraries that limit rates and do nothing else. Those that answer with true or false are put into a function."""

from importlib import import_module
from typing import Any

from benchmarks.policies.contestant import Contestant, Function, Mode, Refused, Sizes, is_async


class Limits(Contestant):
    """Fixed windows: the cheapest of its three; it has no token bucket."""

    name = "limits"
    package = "limits"
    remarks = ("its fixed window, the cheapest of its strategies: it has no token bucket",)
    refusals = (Refused,)

    def __init__(self) -> None:
        self.api = import_module("limits")
        self.sync = (import_module("limits.strategies"), import_module("limits.storage"))
        self.aio = (import_module("limits.aio.strategies"), import_module("limits.aio.storage"))

    def ratelimit(self, function: Function, sizes: Sizes) -> Function:
        strategies, storage = self.aio if is_async(function) else self.sync
        hit = strategies.FixedWindowRateLimiter(storage.MemoryStorage()).hit
        item = self.api.parse(f"{sizes.rate}/{sizes.unit}")

        def limited() -> Any:
            if not hit(item, "bench"):
                raise Refused
            return function()

        async def limited_async() -> Any:
            if not await hit(item, "bench"):
                raise Refused
            return await function()

        return limited_async if is_async(function) else limited


class Throttled(Contestant):
    """Token bucket, its default, as a decorator."""

    name = "throttled-py"
    package = "throttled-py"

    def __init__(self) -> None:
        self.sync = import_module("throttled")
        self.aio = import_module("throttled.asyncio")
        self.refusals = (import_module("throttled.exceptions").LimitedError,)

    def ratelimit(self, function: Function, sizes: Sizes) -> Function:
        api = self.aio if is_async(function) else self.sync
        quota = f"{sizes.rate} per {sizes.unit} burst {sizes.rate}"
        decorated: Function = api.Throttled(key="bench", quota=quota, store=api.MemoryStore())(function)
        return decorated


class Aiolimiter(Contestant):
    """A leaky bucket that lets its callers wait."""

    name = "aiolimiter"
    package = "aiolimiter"
    modes = (Mode.ASYNC,)
    other_mode = "asyncio only"
    waits = True

    def __init__(self) -> None:
        self.api = import_module("aiolimiter")

    def ratelimit(self, function: Function, sizes: Sizes) -> Function:
        limiter = self.api.AsyncLimiter(sizes.rate, sizes.period)

        async def limited() -> Any:
            async with limiter:
                return await function()

        return limited


class PyrateLimiter(Contestant):
    """Its token bucket, told not to wait; its decorator always waits."""

    name = "pyrate-limiter"
    package = "pyrate-limiter"
    remarks = ("its token bucket, asked without waiting: its decorator waits",)
    refusals = (Refused,)

    def __init__(self) -> None:
        self.api = import_module("pyrate_limiter")
        self._made: list[Any] = []

    def ratelimit(self, function: Function, sizes: Sizes) -> Function:
        limiter = self.api.limiter_factory.create_token_bucket_limiter(
            rate_per_duration=sizes.rate, duration=int(sizes.period * 1000), burst=sizes.rate
        )
        self._made.append(limiter)

        def limited() -> Any:
            if not limiter.try_acquire("bench", blocking=False):
                raise Refused
            return function()

        async def limited_async() -> Any:
            if not await limiter.try_acquire_async("bench", blocking=False):
                raise Refused
            return await function()

        return limited_async if is_async(function) else limited

    def close(self) -> None:
        for limiter in self._made:
            limiter.close()
