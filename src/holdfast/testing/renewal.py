"""Policies that know nothing yet."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar, cast

import msgspec

from holdfast.core.pipeline import Pipeline
from holdfast.core.policy import Policy
from holdfast.resilience.retrying.budget import RetryBudget
from holdfast.testing.stage import Extra, Target, pipeline_under

T = TypeVar("T")


@contextmanager
def fresh(*targets: Target) -> Iterator[None]:
    """In the block, the policies of ``targets`` know nothing yet: budgets are full, breakers closed, caches empty.

    What they learn there is forgotten. Pipelines live as long as their module, so tests would disturb each other.
    The new policies have the settings of the old ones, and tell those who listen to them; ``pipeline.find`` finds
    the new ones. What ``targets`` share, a breaker or a ``RetryBudget``, they share in the block too; a pipeline that
    is not named goes on with the old one. ``TypeError`` without targets, and for a policy whose constructor
    ``accepts`` no settings.
    """
    if not targets:
        raise TypeError("fresh() needs the pipelines, or functions, whose policies are to be new")
    renewal = _Renewal()
    with ExitStack() as stack:
        for pipeline in {id(pipeline): pipeline for pipeline in map(pipeline_under, targets)}.values():
            stack.enter_context(_renewed(pipeline, renewal))
        yield


@contextmanager
def _renewed(pipeline: Pipeline, renewal: "_Renewal") -> Iterator[None]:
    old = pipeline.policies
    new = tuple(renewal.policy(policy) for policy in old)
    pipeline.replace(*new)
    try:
        yield
    finally:
        back = dict(zip(map(id, new), old, strict=True))
        # Not simply ``old``: what else has come and gone meanwhile is not ours to undo.
        pipeline.replace(*(back.get(id(policy), policy) for policy in pipeline.policies))


class _Renewal:
    """Makes each thing anew once, so that what was shared stays shared."""

    def __init__(self) -> None:
        self._made: dict[int, tuple[object, object]] = {}  # the old one is kept, or its id could be another's

    def policy(self, policy: Policy[Any]) -> Policy[Any]:
        return policy if isinstance(policy, Extra) else self._once(policy, self._made_anew)

    def _made_anew(self, policy: Policy[Any]) -> Policy[Any]:
        policy.settings_type()  # says so when it has none
        settings = policy.settings
        budgets = {
            name: self._once(value, lambda budget: RetryBudget.from_settings(budget.settings))
            for name, value in msgspec.structs.asdict(settings).items()
            if isinstance(value, RetryBudget)
        }
        new = type(policy).from_settings(msgspec.structs.replace(settings, **budgets) if budgets else settings)
        if policy.listeners.active:
            new.listeners.subscribe(lambda event: policy.listeners.emit(lambda: event))
        return new

    def _once(self, old: T, make: Callable[[T], T]) -> T:
        if id(old) not in self._made:
            self._made[id(old)] = old, make(old)
        return cast("T", self._made[id(old)][1])
