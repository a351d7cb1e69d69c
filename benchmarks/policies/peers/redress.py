"""redress: retries by class of error, with a breaker."""

from functools import partial
from importlib import import_module
from typing import Any

from benchmarks.policies.contestant import ATTEMPTS, LONG, Contestant, Function, Sizes, is_async


class Redress(Contestant):
    """``@retry`` is its decorator; a policy with a breaker has ``call``."""

    name = "redress"
    package = "redress"
    remarks = ("its timeout is a setting of its retry, not a policy; a policy is called as policy.call(function)",)

    def __init__(self) -> None:
        self.api = import_module("redress")
        self.refusals = (self.api.CircuitOpenError,)

    def retry(self, function: Function, sizes: Sizes) -> Function:
        decorated: Function = self.api.retry(**self._retry(sizes))(function)
        return decorated

    def breaker(self, function: Function, sizes: Sizes) -> Function:
        policy = self.api.AsyncPolicy if is_async(function) else self.api.Policy
        return partial(policy(circuit_breaker=self._breaker()).call, function)

    def two(self, function: Function, sizes: Sizes) -> Function:
        api = self.api
        policy, retry = (api.AsyncPolicy, api.AsyncRetry) if is_async(function) else (api.Policy, api.Retry)
        return partial(policy(retry=retry(**self._retry(sizes)), circuit_breaker=self._breaker()).call, function)

    def _breaker(self) -> Any:
        return self.api.CircuitBreaker(recovery_timeout_s=LONG)

    def _retry(self, sizes: Sizes) -> dict[str, Any]:
        return {
            "classifier": self.api.default_classifier,
            "strategy": self.api.decorrelated_jitter(max_s=sizes.delay),
            "max_attempts": ATTEMPTS,
        }
