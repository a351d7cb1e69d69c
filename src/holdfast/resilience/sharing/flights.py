"""Executions that several callers share, in tasks. ``resilience/threadflights`` has the same for threads.

The execution has a task of its own, so that it belongs to all who wait and goes on when the first of them is
cancelled. It ends early only when the last one has gone. One that asks for what it makes itself, also through others
(see ``waiting``), does not wait for that: it runs the call unshared.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from functools import partial
from math import inf
from types import TracebackType
from typing import Any, Final, TypeAlias

import msgspec

from holdfast.core.call import FAILED, IGNORED, Call
from holdfast.core.context import Criticality, current, set_deadline, use_context
from holdfast.core.errors import DeadlineExceeded, Rejected
from holdfast.resilience.sharing.twin import twin
from holdfast.resilience.sharing.waiting import INSIDE, Running, begin_wait, end_wait

ENDING_LIMIT: Final = 1000
"""Executions that everybody has left and that have not ended yet. Past it calls run unshared, in their caller."""


class Flight:
    """One shared execution.

    ``call`` is the one that runs, ``criticality`` what it counts as. ``forgotten``: nobody may join it any more,
    and its result is out of date. ``kept``: it goes on when nobody waits, until it is ``expired``. ``ended`` says
    that ``result`` or ``error`` stand. ``model`` is a copy of ``error`` that no caller has had in hand yet.
    """

    # Defaults, so that making one is cheap.
    forgotten = False
    kept = False
    expired = False
    abandoned = False
    ended = False
    cancelled = False
    delivered = False
    result: Any = None
    error: BaseException | None = None
    model: BaseException | None = None
    traceback: TracebackType | None = None
    task: "asyncio.Task[None] | None" = None

    def __init__(self, call: Call, criticality: Criticality) -> None:
        self.call = call
        self.criticality = criticality
        self.running = Running()
        self.waiters: dict[asyncio.Future[None], None] = {}  # in the order in which they came


Work: TypeAlias = Callable[[Call, Flight], Awaitable[Any]]
Table: TypeAlias = dict[Hashable, Flight]


def criticality_of(call: Call) -> Criticality:
    """How much ``call`` matters: its own word, else that of the code around it."""
    return current().criticality if call.criticality is None else call.criticality


class Flights:
    """The shared executions of each event loop, by key. ``forget`` is safe from any thread, the rest is the loop's."""

    def __init__(self) -> None:
        self.led = 0
        self.joined = 0
        self.abandoned = 0
        self._by_loop: dict[asyncio.AbstractEventLoop, Table] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._ending: set[asyncio.Task[Any]] = set()

    @property
    def under_way(self) -> int:
        """Executions that have not ended, of all loops."""
        return len(self._tasks)

    async def join(self, call: Call, key: Hashable, work: Work, name: str) -> Any:
        """The result of ``work`` for ``key``, from the execution under way or from a new one.

        The execution has the context of the call that began it, but no deadline and no cancellation token of any
        caller. ``call.verdict`` becomes that of the execution. A call that matters more than the execution under
        way begins another, which later ones join. ``DeadlineExceeded`` when ``call.deadline`` comes first, or the end
        that was set to an execution which nobody waited for.
        """
        loop = asyncio.get_running_loop()
        flights = self._by_loop.get(loop)
        if flights is None:
            flights = self._of(loop)
        criticality = criticality_of(call)
        flight = flights.get(key)
        if flight is None or flight.forgotten or flight.criticality < criticality:
            if call.deadline <= call.now:
                raise DeadlineExceeded(
                    name, "the deadline had passed before the call began", None, None, call.operation
                )
            if len(self._ending) >= ENDING_LIMIT:
                return await work(call, _unshared(call, criticality))
            flight = Flight(call.copy(), criticality)
            begin_wait(flight.running)  # before it begins: an eager task may go far at once
            try:
                self._begin(loop, flights, key, flight, work, name)
            except BaseException:  # a task factory of the user's
                end_wait(flight.running)
                raise
            self.led += 1
        elif not begin_wait(flight.running):
            return await work(call, _unshared(call, criticality))
        else:
            self.joined += 1
        try:
            if not flight.ended:
                await self._wait(loop, flights, key, call, flight, name)
            call.now = call.clock.now()
            call.verdict = flight.call.verdict
            if flight.error is not None:
                raise _to_raise(flight)
            if flight.cancelled:
                raise asyncio.CancelledError
            return flight.result
        finally:
            end_wait(flight.running)
            if not flight.waiters:
                flight.error = flight.model = flight.traceback = None  # its frames hold the flight

    def start(self, call: Call, key: Hashable, work: Work, name: str, deadline: float) -> "asyncio.Task[None] | None":
        """Begin an execution that nobody waits for, unless there is one. It is cancelled at ``deadline``."""
        loop = asyncio.get_running_loop()
        flights = self._of(loop)
        flight = flights.get(key)
        if flight is not None and not flight.forgotten:
            return None
        flight = Flight(call.copy(), criticality_of(call))
        flight.kept = True
        self._begin(loop, flights, key, flight, work, name, deadline)
        timer = loop.call_later(max(0.0, deadline - call.clock.now()), self._expire, flights, key, flight)
        assert flight.task is not None
        flight.task.add_done_callback(lambda _: timer.cancel())
        return flight.task

    def forget(self, key: Hashable) -> bool:
        """Let later calls for ``key`` begin anew; those that wait go on waiting. True if there was an execution."""
        found = [flights.get(key) for flights in tuple(self._by_loop.values())]
        to_forget = [flight for flight in found if flight is not None and not flight.forgotten]
        for flight in to_forget:
            flight.forgotten = True
        return bool(to_forget)

    def forget_all(self) -> None:
        """As ``forget``, for each key."""
        for flights in tuple(self._by_loop.values()):
            for flight in tuple(flights.values()):
                flight.forgotten = True

    def _of(self, loop: asyncio.AbstractEventLoop) -> Table:
        flights = self._by_loop.get(loop)
        if flights is None:
            for known in [known for known in tuple(self._by_loop) if known.is_closed()]:
                self._by_loop.pop(known, None)
            # What a closed loop leaves behind never ends, and nobody is told of it.
            for task in tuple(self._tasks):
                if task.get_loop().is_closed():
                    self._tasks.discard(task)
                    self._ending.discard(task)
            flights = self._by_loop[loop] = {}
        return flights

    def _begin(
        self,
        loop: asyncio.AbstractEventLoop,
        flights: Table,
        key: Hashable,
        flight: Flight,
        work: Work,
        name: str,
        deadline: float = inf,
    ) -> None:
        flight.call.verdict = IGNORED
        flight.call.deadline = deadline
        flights[key] = flight
        execution = self._execute(flights, key, flight, work)
        try:
            flight.task = loop.create_task(execution, name=name)
        except BaseException:  # a task factory of the user's
            execution.close()
            del flights[key]
            raise
        self._tasks.add(flight.task)
        # A task that is cancelled before its first step never runs.
        flight.task.add_done_callback(partial(self._end, flights, key, flight))

    async def _execute(self, flights: Table, key: Hashable, flight: Flight, work: Work) -> None:
        INSIDE.set(flight.running)
        context = current()
        call = flight.call
        try:
            if context.cancellation is None:
                set_deadline(call.deadline)  # for good: the task has a context of its own
                flight.result = await work(call, flight)
            else:
                with use_context(msgspec.structs.replace(context, cancellation=None), call.deadline):
                    flight.result = await work(call, flight)
        except (asyncio.CancelledError, KeyboardInterrupt, SystemExit, GeneratorExit):
            flight.cancelled = True
            raise
        except BaseException as error:  # whoever waits raises it
            flight.error = error
            flight.traceback = error.__traceback__
        finally:
            self._end(flights, key, flight)

    def _end(self, flights: Table, key: Hashable, flight: Flight, task: "asyncio.Task[None] | None" = None) -> None:
        if task is not None:
            self._tasks.discard(task)
            self._ending.discard(task)
            flight.cancelled = flight.cancelled or task.cancelled()
            flight.task = None  # a cancelled task holds its error, whose traceback holds the flight
        if flight.ended:
            return
        flight.ended = flight.running.ended = True
        if flights.get(key) is flight:
            del flights[key]
        if flight.error is not None and len(flight.waiters) > 1:
            flight.model = twin(flight.error)  # before the first caller can change it
        for waiter in flight.waiters:
            _wake(waiter)
        if flight.kept and not flight.waiters:
            flight.error = flight.traceback = None  # nobody comes any more, and its frames hold the flight
        if flight.abandoned and flight.error is not None:
            error, flight.error, flight.traceback = flight.error, None, None
            if not isinstance(error, Rejected):  # a refusal is no news
                what = f"{flight.call.operation}: a shared execution failed after everybody had left it"
                asyncio.get_running_loop().call_exception_handler({"message": what, "exception": error})

    async def _wait(
        self, loop: asyncio.AbstractEventLoop, flights: Table, key: Hashable, call: Call, flight: Flight, name: str
    ) -> None:
        """Return when the execution has ended. ``DeadlineExceeded`` at the call's deadline."""
        waiter: asyncio.Future[None] = loop.create_future()
        timer = None
        if call.deadline != inf:
            timer = loop.call_later(max(0.0, call.deadline - call.clock.now()), _wake, waiter)
        flight.waiters[waiter] = None
        try:
            await waiter
            if not flight.ended:
                call.now = call.clock.now()
                call.verdict = FAILED
                late = "a refresh took too long" if flight.expired else "the deadline passed"
                raise DeadlineExceeded(
                    name, f"{late} while the call waited for a shared execution", None, None, call.operation
                )
        except asyncio.CancelledError:
            call.now = call.clock.now()
            call.verdict = FAILED if call.now >= call.deadline else IGNORED
            raise
        finally:
            if timer is not None:
                timer.cancel()
            del flight.waiters[waiter]
            if not (flight.waiters or flight.ended or flight.kept):
                self._abandon(flights, key, call, flight)

    def _abandon(self, flights: Table, key: Hashable, call: Call, flight: Flight) -> None:
        flight.abandoned = flight.forgotten = True
        if flights.get(key) is flight:
            del flights[key]
        self.abandoned += 1
        # So that the classifier can tell a dependency that was too slow from a caller who gave up.
        flight.call.deadline = min(flight.call.deadline, call.deadline)
        task = flight.task
        if task is not None:
            self._ending.add(task)
            task.cancel()

    def _expire(self, flights: Table, key: Hashable, flight: Flight) -> None:
        """The time of an execution that was begun for nobody is over, also for those who have joined it since."""
        flight.expired = flight.forgotten = True
        flight.call.deadline = min(flight.call.deadline, flight.call.clock.now())
        if flights.get(key) is flight:
            del flights[key]
        for waiter in flight.waiters:
            _wake(waiter)
        if flight.task is not None:
            flight.task.cancel()


def _unshared(call: Call, criticality: Criticality) -> Flight:
    flight = Flight(call, criticality)
    flight.forgotten = True  # nobody can find it to say that its result is out of date
    return flight


def _to_raise(flight: Flight) -> BaseException:
    """The error of the execution: itself for the first who asks, for the others what it was then."""
    error = flight.error
    assert error is not None
    if not flight.delivered:
        flight.delivered = True
        return error
    made = None if flight.model is None else twin(flight.model, flight.traceback)
    return made or error.with_traceback(flight.traceback)


def _wake(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)
