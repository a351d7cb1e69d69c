"""A policy turns a handler into a handler. Most are gates: they admit or refuse, learn from the outcome, never wait.

Gates are exact under threads without a lock on the path that every call takes (a lock costs as much as all the
rest of a gate). The rule, see docs/adr/0002: in ``enter`` and ``exit``, once something that may let another
thread run has happened (a call, a jump backwards, the making of a container), no attribute is stored any more.
CPython switches threads at no other point, so what comes before is one step. Work that needs more than one
step takes ``self.lock``. ``tests/core/test_one_step.py`` holds every gate to it.
"""

import contextlib
import functools
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from inspect import iscoroutinefunction
from types import BuiltinMethodType, MethodType
from typing import TYPE_CHECKING, Any, ClassVar, Concatenate, Generic, ParamSpec, TypeVar, cast

from holdfast.core.call import AsyncHandler, Call, Handler
from holdfast.core.errors import Rejected
from holdfast.core.event import Event, Listeners
from holdfast.core.fields import described
from holdfast.core.fuse import Around, Fragment, fuse
from holdfast.core.parameters import changed, documentation, made, signature
from holdfast.core.settings import GateSettings, PolicySettings, Settings, settings_of

if TYPE_CHECKING:
    from holdfast.core.guard import Guard
    from holdfast.core.pipeline import Pipeline

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])
S = TypeVar("S", bound=PolicySettings)
A = TypeVar("A", bound=Settings)
G = TypeVar("G", bound=GateSettings)


class CallRefused(Event, frozen=True):
    """A policy refused a call; with ``observed`` it would have, and let it pass."""

    policy: str
    kind: str
    operation: str
    reason: str
    observed: bool


def accepts(settings: Callable[P, A]) -> Callable[[Callable[[Any, A], None]], Callable[Concatenate[Any, P], None]]:
    """Lets a policy's ``__init__(self, settings)`` be called with the parameters of ``settings`` itself.

    So they are written down once. At most one, the first, may be given by position. A parameter that is none, or
    is missing, is a ``TypeError``; a value that does not fit a ``ConfigError``.
    """
    schema = cast("type[A]", settings)

    def decorate(init: Callable[[Any, A], None]) -> Callable[Concatenate[Any, P], None]:
        @functools.wraps(init)
        def constructed(self: Any, *args: P.args, **kwargs: P.kwargs) -> None:
            init(self, made(type(self).__name__, schema, args, kwargs))

        constructed.accepts = settings  # type: ignore[attr-defined]
        with contextlib.suppress(NameError):  # it names a type that the module defines further down
            constructed.__signature__ = signature(schema)  # type: ignore[attr-defined]
            constructed.__doc__ = init.__doc__ or documentation(schema)
        return cast("Callable[Concatenate[Any, P], None]", constructed)

    return decorate


def _decorator(decorate: F) -> F:
    """``decorate``, which says what is wrong when it is not a function that it gets.

    ``@SingleFlight`` without parentheses makes the function a setting, and the policy is called in its place.
    """

    @functools.wraps(decorate)
    def called(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        if len(args) != 1 or kwargs or not (callable(args[0]) or isinstance(args[0], classmethod)):
            owner = type(self).__name__
            raise TypeError(
                f"{self!r} decorates a function, and cannot be called as one; "
                f"write @{owner}() or @{owner}(...) above the function, with parentheses"
            )
        return decorate(self, args[0])

    return cast("F", called)


class Policy(ABC, Generic[S]):
    """What goes around a call. One object may serve many pipelines, threads and event loops at a time.

    ``kind`` is its name in the catalog, ``settings`` what it works by, ``name`` what refusals and metrics call it.
    Also a decorator: ``@Breaker()`` is a pipeline of one.
    """

    kind: ClassVar[str] = ""
    timed: bool = False
    """Whether ``call.now`` must be stamped when an attempt succeeds; it always is when one raises."""
    idle: bool = False
    """Whether it does nothing under its present settings: then pipelines leave it out, and it costs nothing."""

    def __init__(self, settings: S) -> None:
        self.lock = threading.Lock()
        # For changes of settings and users only, never on a call's way: settings may check themselves under it.
        self._changing = threading.RLock()
        self.listeners = Listeners()
        self.settings = settings
        self.name = settings.name or self.kind
        self._users: weakref.WeakSet[Pipeline] = weakref.WeakSet()
        self.apply(settings)

    @classmethod
    def settings_type(cls) -> type[PolicySettings]:
        """The struct that holds its settings. ``TypeError`` for a class whose constructor ``accepts`` none."""
        found: type[PolicySettings] | None = getattr(cls.__init__, "accepts", None)
        if found is None:
            raise TypeError(f"{cls.__name__}.__init__ is not decorated with accepts(its settings)")
        return found

    @classmethod
    def from_settings(cls, settings: S) -> "Policy[S]":
        """A policy that works by ``settings``."""
        policy = cls.__new__(cls)
        getattr(cls.__init__, "__wrapped__", cls.__init__)(policy, settings)
        return policy

    @abstractmethod
    def wrap(self, inner: Handler) -> Handler:
        """``inner`` with this policy around it."""

    @abstractmethod
    def wrap_async(self, inner: AsyncHandler) -> AsyncHandler:
        """As ``wrap``, for coroutines."""

    def apply(self, settings: S) -> None:
        """Take over ``settings``: derive from them what the hot path reads. The state stays. Must not fail."""

    def update(self, /, *first: Any, **changes: Any) -> None:
        """Change some settings while calls are under way; the state is kept. Safe from any thread.

        The first setting may be given by position, as in the constructor. Raises ``ConfigError`` for values that do
        not fit and ``TypeError`` for names that are none; then nothing has changed.
        """
        with self._changing:
            self.replace_settings(changed(type(self).__name__, self.settings, first, changes))

    def replace_settings(self, settings: S) -> None:
        """As ``update``, with all settings at once."""
        with self._changing:
            before, settings_before = self._folded(), self.settings
            self._take_over(settings)
            try:
                # A function that was decorated is slower once its pipeline has been folded again.
                users = () if _same(self._folded(), before) else tuple(self._users)
            except BaseException:
                self._take_over(settings_before)
                raise
        with contextlib.ExitStack() as each:  # each of them, also when one cannot be folded
            for pipeline in users:
                each.callback(pipeline.compile)

    def _take_over(self, settings: S) -> None:
        with self.lock:
            self.apply(settings)
            self.settings = settings
            self.name = settings.name or self.kind

    def snapshot(self) -> dict[str, Any]:
        """Its state and counters, as plain values. Counters only grow."""
        return {}

    def used_by(self, pipeline: "Pipeline") -> None:
        """Remember (weakly) a pipeline that has to be compiled anew when settings change."""
        with self._changing:
            self._users.add(pipeline)

    def _folded(self) -> tuple[object, ...]:
        """What pipelines have made of it; when it is another one after an update they must do so again."""
        return (object(),)

    def __repr__(self) -> str:
        settings: PolicySettings | None = getattr(self, "settings", None)
        if settings is None:  # its constructor has failed, and a debugger or a traceback shows it
            return f"<{type(self).__name__} without settings>"
        return described(type(self).__name__, settings, settings_of(type(settings)))

    @_decorator
    def __call__(self, fn: Callable[P, R]) -> Callable[P, R]:
        return self._alone(getattr(fn, "__qualname__", ""))(fn)

    def call(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run ``fn`` under this policy."""
        return self._single.call(fn, *args, **kwargs)

    def acall(self, fn: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """Run the coroutine function ``fn`` under this policy."""
        return self._single.acall(fn, *args, **kwargs)

    @functools.cached_property
    def _single(self) -> "Pipeline":
        return self._alone(self.name)

    def _alone(self, name: str) -> "Pipeline":
        from holdfast.core.pipeline import Pipeline

        return Pipeline(name, self)


class Fused(Policy[S]):
    """A policy that is a fragment of a generated function: neighbours of this kind share one frame."""

    @abstractmethod
    def fragment(self, asynchronous: bool) -> Fragment:
        """What it does before, after, or again."""

    def _folded(self) -> tuple[object, ...]:
        now, later = self.fragment(False), self.fragment(True)
        return self.idle, self.timed, type(now), *now, type(later), *later

    def wrap(self, inner: Handler) -> Handler:
        handler: Handler = fuse([self.fragment(False)], inner, asynchronous=False)
        return handler

    def wrap_async(self, inner: AsyncHandler) -> AsyncHandler:
        handler: AsyncHandler = fuse([self.fragment(True)], inner, asynchronous=True)
        return handler


class Gate(Fused[G]):
    """Admits or refuses on the way in, learns on the way out. Written once, it serves sync and async calls.

    ``enter`` returns a token, which ``exit`` gets back with the same call, its ``verdict`` stamped, and ``now`` too
    when the attempt raised or the gate is ``timed``.
    A token of None means that nothing is held: ``exit`` must leave the state as it is. Neither waits, reads a
    clock or runs user code. Every ``enter`` that returned is followed by one ``exit``, whatever happens between.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for method in ("enter", "exit", "admit"):
            if iscoroutinefunction(vars(cls).get(method)):
                raise TypeError(
                    f"{cls.__name__}.{method} is a coroutine function, which nobody would await; "
                    "write it with def, and what has to wait as admit and admit_async, with waits = True"
                )

    waits: bool = False
    """Whether it may wait for its turn, so that ``admit`` and ``admit_async`` are used in place of ``enter``."""

    def __init__(self, settings: G) -> None:
        self.refused = 0
        self.observed = 0
        super().__init__(settings)

    @abstractmethod
    def enter(self, call: Call) -> Any:
        """Admit ``call`` and return a token, or ``return self.refuse(call, RateLimited(...))``, which raises.

        Never keep an error that is raised in a local variable: it would hold itself, through its traceback and
        the frame, until the garbage collector comes, and the call's arguments with it.
        """

    def exit(self, call: Call, token: Any) -> None:
        """The admitted call ended: give back what ``token`` stands for, learn from ``call.verdict``."""

    def admit(self, call: Call) -> Any:
        """As ``enter``, but may block the thread until its turn, never past ``call.deadline``. Restamps ``now``."""
        return self.enter(call)

    async def admit_async(self, call: Call) -> Any:
        """As ``enter``, but may wait for its turn, never past ``call.deadline``. Restamps ``now``.

        A cancelled wait holds nothing.
        """
        return self.enter(call)

    def refuse(self, call: Call, error: Rejected) -> None:
        """Count a refusal and raise ``error``; return None when this gate only observes: then let the call pass."""
        try:
            if not self.spares(call, error.of(call.operation)):
                raise error
        finally:
            del error

    def spares(self, call: Call, error: Rejected) -> bool:
        """Count a refusal. True when this gate only observes: then let the call pass, else raise ``error``.

        For refusals that have to be cheap: each frame that an exception passes through costs as much as a gate. They
        name ``call.operation`` themselves.
        """
        observed = self.settings.observe
        if observed:
            self.observed += 1
        else:
            self.refused += 1
        if self.listeners.active:
            self._tell(call, error, observed)
        return observed

    def counted(self, call: Call, error: Rejected) -> Rejected:
        """``error``, after it has been counted, for a gate that does not only observe: ``raise self.counted(...)``."""
        self.refused += 1
        if self.listeners.active:
            self._tell(call, error, False)
        return error

    def snapshot(self) -> dict[str, Any]:
        return {"refused": self.refused, "observed": self.observed}

    def guard(self, **fields: Any) -> "Guard":
        """A ``with`` or ``async with`` block under this gate; ``fields`` are those of ``Call`` (key, cost, ...)."""
        return self._single.guard(**fields)

    def fragment(self, asynchronous: bool) -> Fragment:
        leave = None if getattr(self.exit, "__func__", None) is Gate.exit else self.exit
        if not self.waits:
            return Around(self.enter, leave)
        return Around(self.admit_async if asynchronous else self.admit, leave, waits=True)

    def _tell(self, call: Call, error: Rejected, observed: bool) -> None:
        at = call.clock.wall()
        self.listeners.emit(lambda: CallRefused(at, self.name, self.kind, call.operation, error.reason, observed))


def _same(parts: tuple[object, ...], others: tuple[object, ...]) -> bool:
    """Whether they are the same objects. Methods are made anew each time they are asked for, and know themselves."""
    return len(parts) == len(others) and all(
        part is other or (isinstance(part, MethodType | BuiltinMethodType) and part == other)
        for part, other in zip(parts, others, strict=True)
    )
