"""The libraries that are breakers and nothing else."""

from datetime import timedelta
from importlib import import_module

from benchmarks.policies.contestant import LONG, Contestant, Function, Mode, Sizes, is_async


class Pybreaker(Contestant):
    """Holds its lock while the function runs."""

    name = "pybreaker"
    package = "pybreaker"
    modes = (Mode.SYNC,)
    other_mode = "async only for Tornado's generator coroutines"

    def __init__(self) -> None:
        self.api = import_module("pybreaker")
        self.refusals = (self.api.CircuitBreakerError,)

    def breaker(self, function: Function, sizes: Sizes) -> Function:
        decorated: Function = self.api.CircuitBreaker(reset_timeout=LONG)(function)
        return decorated


class Aiobreaker(Contestant):
    """A port of pybreaker to asyncio, which kept the sync side."""

    name = "aiobreaker"
    package = "aiobreaker"

    def __init__(self) -> None:
        self.api = import_module("aiobreaker")
        self.refusals = (self.api.CircuitBreakerError,)

    def breaker(self, function: Function, sizes: Sizes) -> Function:
        decorated: Function = self.api.CircuitBreaker(timeout_duration=timedelta(seconds=LONG))(function)
        return decorated


class Purgatory(Contestant):
    """Its decorator looks the breaker up by name at every call."""

    name = "purgatory"
    package = "purgatory"
    wears_out = 100
    remarks = (
        "it raises one and the same exception at each refusal, and its traceback grows: the first 100 are timed",
    )

    def __init__(self) -> None:
        self.api = import_module("purgatory")
        self.refusals = (import_module("purgatory.domain.model").OpenedState,)

    def breaker(self, function: Function, sizes: Sizes) -> Function:
        factory = self.api.AsyncCircuitBreakerFactory if is_async(function) else self.api.SyncCircuitBreakerFactory
        decorated: Function = factory(default_ttl=LONG)("bench")(function)
        return decorated
