"""Health checks: run in the background, each on its own schedule, and answered from what they last said.

A probe never runs a check. So a thousand probes a second cost the database nothing, and a probe is never
slow. A check that hangs is timed out and not started again while it still runs. A result that is too old
is a failure.

A reason is the check's own exception: type and first line of its message, at most ``REASON_LENGTH``
characters, without causes and stack, passwords in URLs and ``password=...`` masked. Masking knows only
the usual shapes; that is why ``HealthRoutes``, which may face the public, shows only the type unless told
otherwise.
"""

import asyncio
import logging
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor, Future
from contextvars import copy_context
from typing import Any, Final, Literal, ParamSpec, TypeVar

import msgspec

from holdfast.core.clock import SYSTEM, Clock
from holdfast.core.drain import Drain
from holdfast.service.declaration import Needs, is_async
from holdfast.service.tasks import CANCEL_SECONDS, cancel, contained

P = ParamSpec("P")
T = TypeVar("T")
Status = Literal["pass", "warn", "fail"]

STALE_PERIODS: Final = 3
"""A result older than this many periods and a timeout is stale."""
FIRST_RETRY: Final = 0.25
"""Seconds until a check that has never passed is tried again; doubles up to its period. Shortens the boot."""
REASON_LENGTH: Final = 200
"""Characters of a reason."""

_SECRETS: Final = (
    (re.compile(r"(\w://[^\s:/@]*):[^\s@]+@"), r"\1:***@"),
    (
        re.compile(r"(?i)\b(password|passwd|pwd|secret|token|api[_-]?key|authorization)(\s*[=:]\s*)\S+"),
        r"\1\2***",
    ),
)

log: Final = logging.getLogger("holdfast.service")


class Check(msgspec.Struct, frozen=True):
    """A declaration. ``function`` is sync (run in a thread) or async; None or True is ok, anything else
    is not.
    """

    name: str
    function: Callable[..., Any]
    needs: Needs
    critical: bool = True
    every: float = 5.0
    timeout: float = 1.0


class CheckReport(msgspec.Struct, frozen=True):
    """What one check last said. ``age`` and ``duration`` are seconds; ``age`` is None before the first
    result.
    """

    name: str
    critical: bool
    status: Literal["pass", "fail"]
    reason: str
    age: float | None
    duration: float | None


class HealthReport(msgspec.Struct, frozen=True):
    """The health of one worker. ``fail``: a critical check fails; ``warn``: only others do."""

    status: Status
    started: bool
    draining: bool
    checks: tuple[CheckReport, ...] = ()

    @property
    def ready(self) -> bool:
        """Whether it should get requests: started, not draining, and every critical check passes."""
        return self.started and not self.draining and self.status != "fail"

    @property
    def why(self) -> str:
        """One line that says what is wrong; empty when all is well."""
        parts = [] if self.started else ["starting"]
        parts += ["draining"] if self.draining else []
        parts += [f"{check.name}: {check.reason}" for check in self.checks if check.status == "fail"]
        return "; ".join(parts)


class Health:
    """Runs the checks and answers from their results. Belongs to one event loop; ``report`` never waits."""

    def __init__(self, drain: Drain, clock: Clock = SYSTEM) -> None:
        self.started = False
        self.leaving = False
        """Set while the worker is on its way out of the balancer, though it serves on: it counts as draining."""
        self._drain = drain
        self._clock = clock
        self._states: dict[str, _State] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._changed = asyncio.Event()

    def start(self, checks: Iterable[Check], resources: Mapping[str, Any]) -> None:
        """Start a task for each check, with the resources that its parameters name."""
        for check in checks:
            state = _State(check, check.needs.arguments(resources), self._clock)
            self._states[check.name] = state
            self._tasks.append(asyncio.create_task(self._repeat(state), name=f"check {check.name}"))

    async def stop(self, within: float = CANCEL_SECONDS) -> None:
        """Cancel the checks and wait up to ``within`` seconds. A hung thread is left behind; it is a
        daemon.
        """
        flights = [state.flight for state in self._states.values() if state.flight is not None]
        for flight in flights:
            flight.cancel()
        await cancel([*self._tasks, *(flight for flight in flights if isinstance(flight, asyncio.Task))], within)
        self._tasks.clear()

    async def first_checks(self, timeout: float) -> None:
        """Return once every critical check has passed. ``TimeoutError`` naming those that have not in
        time.
        """
        try:
            async with asyncio.timeout(timeout):
                while self._failing():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            failing = "; ".join(f"{check.name}: {check.reason}" for check in self._failing())
            raise TimeoutError(f"not healthy within {timeout:g} s: {failing}") from None

    def _failing(self) -> list[CheckReport]:
        return [check for check in self.report().checks if check.critical and check.status == "fail"]

    def report(self) -> HealthReport:
        """The state of this moment, without running anything."""
        now = self._clock.now()
        checks = tuple(state.report(now) for state in self._states.values())
        failing = [check for check in checks if check.status == "fail"]
        status: Status = "pass"
        if failing:
            status = "fail" if any(check.critical for check in failing) else "warn"
        return HealthReport(status, self.started, self.leaving or self._drain.draining, checks)

    async def _repeat(self, state: "_State") -> None:
        retry = FIRST_RETRY
        while True:
            began = self._clock.now()
            await state.run()
            self._changed.set()
            pause = state.check.every
            if not state.passed_once:
                pause = min(retry, pause)
                retry *= 2
            await self._clock.sleep(began + pause - self._clock.now())


class _State:
    """One check, its latest result, and the run of it that may still be under way."""

    def __init__(self, check: Check, arguments: dict[str, Any], clock: Clock) -> None:
        self.check = check
        self.passed_once = False
        self.flight: asyncio.Future[Any] | None = None
        self._arguments = arguments
        self._clock = clock
        self._reason = "it has not run yet"
        self._passed = False
        self._at: float | None = None
        self._duration: float | None = None
        self._began = 0.0

    def report(self, now: float) -> CheckReport:
        check = self.check
        age = None if self._at is None else max(0.0, now - self._at)
        passed, reason = self._passed, self._reason
        if age is not None and age > STALE_PERIODS * check.every + check.timeout:
            passed, reason = False, "stale"
        status: Literal["pass", "fail"] = "pass" if passed else "fail"
        return CheckReport(check.name, check.critical, status, reason, age, self._duration)

    async def run(self) -> None:
        """Run it once, within its timeout; but if the last run still hangs, only say so."""
        if self.flight is None or self.flight.done():
            self._began = self._clock.now()
            self.flight = self._launch()
        flight = self.flight
        await asyncio.wait({flight}, timeout=self.check.timeout)
        now = self._clock.now()
        if not flight.done():
            if isinstance(flight, asyncio.Task):
                flight.cancel()  # a thread cannot be ended: it goes on, and is not doubled
            self._store(False, f"timed out: no answer in {now - self._began:g} s", now)
        elif flight.cancelled():
            self._store(False, "cancelled from inside", now)
        elif (exc := flight.exception()) is not None:
            self._store(False, describe(exc), now)
        else:
            answer = flight.result()
            passed = answer is None or answer is True
            shown = "False" if answer is False else f"a {type(answer).__name__}, not None or True"
            self._store(passed, "" if passed else f"it returned {shown}", now)

    def _launch(self) -> "asyncio.Future[Any]":
        function = self.check.function
        name = f"check {self.check.name}"
        flight: asyncio.Future[Any]
        if is_async(function):
            flight = asyncio.create_task(contained(function(**self._arguments)), name=f"{name} run")
        else:
            context = copy_context()
            loop = asyncio.get_running_loop()
            flight = loop.run_in_executor(_Daemon(name), lambda: context.run(self._call, function))
        # A run that ends after its timeout has no reader any more; asyncio would complain about its error.
        flight.add_done_callback(lambda done: done.cancelled() or done.exception())
        return flight

    def _call(self, function: Callable[..., Any]) -> Any:
        try:
            return function(**self._arguments)
        except (StopIteration, SystemExit, KeyboardInterrupt) as exc:
            # A future cannot hold the first, and would hand the others to the whole loop.
            raise RuntimeError(describe(exc)) from exc

    def _store(self, passed: bool, reason: str, now: float) -> None:
        if passed != self._passed or self._at is None:
            level = logging.INFO if passed else logging.WARNING
            log.log(level, "check %s %s", self.check.name, "passes" if passed else f"fails: {reason}")
        self._passed, self._reason, self._at = passed, reason, now
        self._duration = now - self._began
        self.passed_once = self.passed_once or passed


class _Daemon(Executor):
    """One thread for one call. A pool would be used up by checks that hang, and keep the process from
    ending.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()

        def work() -> None:
            try:
                result = fn(*args, **kwargs)
            except BaseException as exc:  # it belongs to the future, as in concurrent.futures itself
                future.set_exception(exc)
            else:
                future.set_result(result)

        threading.Thread(target=work, name=self._name, daemon=True).start()
        return future


def describe(exc: BaseException) -> str:
    """The type and the first line of the message of ``exc``, shortened, with the usual secrets masked."""
    try:
        message = str(exc).strip()
    except Exception:  # an application's own __str__ may fail; the type still says something
        message = ""
    line = message.splitlines()[0] if message else ""
    for pattern, masked in _SECRETS:
        line = pattern.sub(masked, line)
    text = f"{type(exc).__name__}: {line}" if line else type(exc).__name__
    return text if len(text) <= REASON_LENGTH else f"{text[: REASON_LENGTH - 3]}..."
