"""What a test adds to a pipeline for the length of a block."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Any, ClassVar, TypeAlias

from holdfast.core.pipeline import Pipeline, pipeline_of
from holdfast.core.policy import Gate, Policy
from holdfast.core.settings import GateSettings

Target: TypeAlias = Pipeline | Callable[..., Any]
"""A pipeline, or a function decorated with one."""


class Place(IntEnum):
    """Where an extra stands, from the outside in: the order in which a test names them makes no difference."""

    OUTSIDE = 0
    ATTEMPT = 1
    DELAY = 2
    FAULT = 3


class Extra(Gate[GateSettings]):
    """A policy of the test's. A gate, so that ``guard()`` blocks pass through it as calls do."""

    place: ClassVar[Place]

    def __init__(self) -> None:
        super().__init__(GateSettings(name=self.kind))


def pipeline_under(target: Target) -> Pipeline:
    """The pipeline that ``target`` is, or was decorated with. ``LookupError`` when there is none."""
    return target if isinstance(target, Pipeline) else pipeline_of(target)


@contextmanager
def added(pipeline: Pipeline, *extras: Extra) -> Iterator[None]:
    """In the block, ``pipeline`` has these as well. What else changes in it meanwhile stays."""
    policies = pipeline.policies
    for extra in extras:
        policies = _with(policies, extra)
    pipeline.replace(*policies)
    try:
        yield
    finally:
        pipeline.replace(*(policy for policy in pipeline.policies if policy not in extras))


def _with(policies: tuple[Policy[Any], ...], extra: Extra) -> tuple[Policy[Any], ...]:
    if extra.place is Place.OUTSIDE:
        return extra, *policies
    further_in = (n for n, policy in enumerate(policies) if isinstance(policy, Extra) and policy.place > extra.place)
    where = next(further_in, len(policies))
    return *policies[:where], extra, *policies[where:]
