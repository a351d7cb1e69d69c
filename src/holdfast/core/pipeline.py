"""Policies in a row, folded once into one handler."""

import functools
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, ParamSpec, TypeVar, cast

from holdfast.core.call import AsyncHandler, Call, Handler, check_field
from holdfast.core.classify import DEFAULT, Classifier
from holdfast.core.clock import SYSTEM, Clock
from holdfast.core.context import current_deadline
from holdfast.core.fuse import Entry, Fragment, Invocation, Version, fuse
from holdfast.core.guard import Guard
from holdfast.core.policy import Fused, Gate, Policy

P = ParamSpec("P")
R = TypeVar("R")

POLICIES_LIMIT: Final = 64
"""Policies in one pipeline."""
FOLDS_LIMIT: Final = 100
"""How often a pipeline is folded again since somebody else changed it meanwhile."""
SHOWN_LIMIT: Final = 8
"""Policies that the ``repr`` of a pipeline shows."""
BOUND: Final = ("operation", "key", "cost", "idempotent", "criticality", "colour", "arrived")
"""The fields of a call that ``bind`` and ``guard`` set; the others are the pipeline's own business."""


class Caller:
    """Calls functions through a pipeline, with some of the call's fields set beforehand."""

    def __init__(self, pipeline: "Pipeline", fields: dict[str, Any]) -> None:
        self._pipeline = pipeline
        self._fields = fields

    def __call__(self, fn: Callable[P, R]) -> Callable[P, R]:
        """``fn`` under the pipeline: a function of the same kind and signature.

        ``TypeError`` for what is no function, and for generator functions: their work is done after they have
        returned. Use ``guard()``.
        """
        import inspect

        if isinstance(fn, classmethod | staticmethod):
            raise TypeError(f"{fn!r} is no function yet; write @{type(fn).__name__} above the pipeline, not below it")
        if not callable(fn):
            raise TypeError(f"{fn!r} cannot be called; decorate a function")
        if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
            raise TypeError(
                f"{fn!r} is a generator function; use 'with pipeline.guard():' around its body, "
                "of a pipeline that has gates only (Breaker, RateLimit, Bulkhead, ...)"
            )
        asynchronous = _is_coroutine_function(fn)
        run = self._long_way(fn, asynchronous)
        if not self._fields:
            run = self._pipeline.entry(fn, run, asynchronous)
        run = functools.update_wrapper(run, fn)
        run.pipeline = self._pipeline  # type: ignore[attr-defined]
        return cast("Callable[P, R]", run)

    def call(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call ``fn`` through the pipeline, in this thread."""
        run = self._pipeline.run  # a local: calling an attribute that is no method is slow
        return cast("R", run(self._made(fn, args, kwargs)))

    async def acall(self, fn: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Await ``fn`` through the pipeline."""
        run = self._pipeline.run_async
        return cast("R", await run(self._made(fn, args, kwargs)))

    def bind(self, **fields: Any) -> "Caller":
        """The same pipeline with fields of ``Call`` set, those in ``BOUND``: ``key``, ``cost``, ``idempotent``, ...

        ``TypeError`` for others, and for a value of the wrong type. A deadline is ambient: ``deadline_within`` sets it.
        """
        wrong = min(fields.keys() - set(BOUND), default=None)
        if wrong is not None:
            hint = (
                "put the call in a deadline_within() block" if wrong == "deadline" else f"there are {', '.join(BOUND)}"
            )
            raise TypeError(f"a call has no field {wrong!r} to bind; {hint}")
        for name, value in fields.items():
            check_field(name, value)
        return Caller(self._pipeline, self._fields | fields)

    def guard(self, **fields: Any) -> Guard:
        """A ``with`` block under the pipeline, which must be of gates only; else ``TypeError``."""
        pipeline = self._pipeline
        gates = [policy for policy in pipeline.policies if isinstance(policy, Gate)]
        if len(gates) != len(pipeline.policies):
            others = ", ".join(policy.name for policy in pipeline.policies if not isinstance(policy, Gate))
            raise TypeError(f"a block cannot be run by {others}; decorate a function, or use call() or acall()")
        return Guard(gates, pipeline.classifier, self.bind(**fields)._made(_block, (), {}, "block"))

    def _made(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], operation: str = "") -> Call:
        pipeline = self._pipeline
        clock = pipeline.clock
        call = Call(fn, args, kwargs, pipeline.name or operation, clock, clock.now(), current_deadline())
        if not call.operation:
            call.operation = _name_of(fn)
        for name, value in self._fields.items():
            setattr(call, name, value)
        return call

    def _long_way(self, fn: Callable[..., Any], asynchronous: bool) -> Callable[..., Any]:
        operation = _name_of(fn)
        if asynchronous:

            async def run_async(*args: Any, **kwargs: Any) -> Any:
                return await self._pipeline.run_async(self._made(fn, args, kwargs, operation))

            return run_async

        def run(*args: Any, **kwargs: Any) -> Any:
            return self._pipeline.run(self._made(fn, args, kwargs, operation))

        return run


class Pipeline(Caller):
    """Policies around a function, the outermost first: reading order is execution order.

    ``name`` is the operation that calls, metrics and refusals carry; by default the function's. Immutable but for
    ``replace``; safe from any thread and event loop. Calls in flight finish on the chain they began on.
    """

    def __init__(
        self,
        name: str = "",
        *policies: Policy[Any],
        classify: Classifier = DEFAULT,
        clock: Clock = SYSTEM,
    ) -> None:
        if not isinstance(name, str):
            raise TypeError(f"the name of a pipeline comes first, and {name!r} is no text; write Pipeline('name', ...)")
        _check_classifier(classify)
        super().__init__(self, {})
        self.name = name
        self.clock = clock
        self.classifier = classify
        self.policies: tuple[Policy[Any], ...] = ()
        self.version = Version()
        self._lock = threading.Lock()
        self.run: Handler
        self.run_async: AsyncHandler
        self.replace(*policies)

    def replace(self, *policies: Policy[Any], classify: Classifier | None = None, clock: Clock | None = None) -> None:
        """Use other policies from the next call on, and perhaps another classifier or clock.

        A policy that stays keeps its state. ``TypeError`` when one is no policy, ``ValueError`` when one stands
        there twice or there are more than ``POLICIES_LIMIT``; then nothing has changed.
        """
        if classify is not None:
            _check_classifier(classify)
        for policy in policies:
            if not isinstance(policy, Policy):
                raise TypeError(f"{policy!r} is no policy; give instances such as Timeout(2.0)")
            if sum(policy is other for other in policies) > 1:
                raise ValueError(f"{policy.name!r} stands twice in pipeline {self.name!r}; make two policies")
        if len(policies) > POLICIES_LIMIT:
            raise ValueError(f"{len(policies)} policies in one pipeline; {POLICIES_LIMIT} is the limit")
        settings = [policy.settings for policy in policies]
        self._fold(policies, classify, clock)
        for policy in policies:
            policy.used_by(self)
        if any(policy.settings is not before for policy, before in zip(policies, settings, strict=True)):
            self.compile()  # an update came before its policy knew of this pipeline

    def entry(self, fn: Callable[..., Any], long_way: Callable[..., Any], asynchronous: bool) -> Any:
        """``fn`` under this pipeline, compiled together with it; ``long_way`` is what it does once that has changed."""
        version = self.version  # first of all: what follows may be of a newer one, and then is not used
        made = Entry(fn, self.name or _name_of(fn), self.clock, version, long_way)
        invocation = _invocation(self.policies, self.classifier, self.clock)
        return _folded(self.policies, invocation, asynchronous=asynchronous, entry=made)

    def compile(self) -> None:
        """Fold the policies again: some are folded differently under other settings."""
        self._fold()

    def find(self, name: str) -> Policy[Any]:
        """The outermost policy of that name or kind. ``LookupError`` when there is none."""
        for policy in self.policies:
            if name in (policy.name, policy.kind):
                return policy
        have = ", ".join(policy.name for policy in self.policies) or "none"
        raise LookupError(f"pipeline {self.name!r} has no policy {name!r}; it has {have}")

    def snapshot(self) -> list[dict[str, Any]]:
        """State and counters of each policy, outermost first."""
        return [{"policy": policy.name, "kind": policy.kind, **policy.snapshot()} for policy in self.policies]

    def __repr__(self) -> str:
        policies = getattr(self, "policies", ())  # without, its constructor has failed, and a traceback shows it
        shown = [repr(getattr(self, "name", "")), *map(repr, policies[:SHOWN_LIMIT])]
        more = len(policies) - SHOWN_LIMIT
        return f"Pipeline({', '.join(shown)}{f', and {more} more' if more > 0 else ''})"

    def _fold(
        self,
        policies: tuple[Policy[Any], ...] | None = None,
        classifier: Classifier | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Fold what is given, and what there is of the rest, into handlers. No lock is held meanwhile."""
        for _ in range(FOLDS_LIMIT):
            version = self.version
            chosen = self.policies if policies is None else policies
            judge = self.classifier if classifier is None else classifier
            time = self.clock if clock is None else clock
            invocation = _invocation(chosen, judge, time)
            run: Handler = _folded(chosen, invocation, asynchronous=False)
            run_async: AsyncHandler = _folded(chosen, invocation, asynchronous=True)
            with self._lock:
                if self.version is version:
                    self.policies, self.classifier, self.clock = chosen, judge, time
                    self.run, self.run_async, self.version = run, run_async, Version()
                    version.current = False
                    return
        raise RuntimeError(f"pipeline {self.name!r} was changed {FOLDS_LIMIT} times while it was folded once")


def _check_classifier(given: object) -> None:
    if not isinstance(given, Classifier):
        example = given.__name__ if isinstance(given, type) else "OSError"
        raise TypeError(f"{given!r} is no classifier; give for example classify=Classifier(record=({example},))")


def _invocation(policies: Sequence[Policy[Any]], classifier: Classifier, clock: Clock) -> Invocation:
    return Invocation(classifier, clock.now, any(policy.timed for policy in policies))


def pipeline_of(fn: Callable[..., Any]) -> Pipeline:
    """The pipeline that ``fn`` was decorated with. ``LookupError`` when it was not."""
    found: Pipeline | None = getattr(fn, "pipeline", None)
    if not isinstance(found, Pipeline):
        raise LookupError(f"{fn!r} is not decorated with a pipeline or a policy")
    return found


def _folded(policies: Sequence[Policy[Any]], inner: Any, *, asynchronous: bool, entry: Entry | None = None) -> Any:
    fragments: list[Fragment] = []
    for policy in reversed(policies):
        if policy.idle:
            continue
        if isinstance(policy, Fused):
            fragments.insert(0, policy.fragment(asynchronous))
            continue
        if fragments or isinstance(inner, Invocation):
            inner = fuse(fragments, inner, asynchronous=asynchronous)
            fragments = []
        inner = policy.wrap_async(inner) if asynchronous else policy.wrap(inner)
    if fragments or isinstance(inner, Invocation) or entry is not None:
        inner = fuse(fragments, inner, asynchronous=asynchronous, entry=entry)
    return inner


def _name_of(fn: Callable[..., Any]) -> str:
    return str(getattr(fn, "__qualname__", None) or repr(fn))


def _is_coroutine_function(fn: Any) -> bool:
    import inspect

    while isinstance(fn, functools.partial):
        fn = fn.func
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(fn, "__call__", None))  # noqa: B004 - a callable object


def _block() -> None:
    """What a guarded block stands for."""
