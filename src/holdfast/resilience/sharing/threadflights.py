"""Executions that several callers share, in threads. ``flights`` has the same for tasks.

A thread cannot be interrupted, so the execution runs in the thread of the first caller, with its deadline and
context. When it fails for reasons that are that caller's own, one of those who wait begins again.
"""

import os
import sys
import threading
from collections.abc import Callable, Hashable
from math import inf
from threading import get_ident
from types import TracebackType
from typing import Any, Final, TypeAlias

import msgspec

from holdfast.core.call import FAILED, IGNORED, Call, Verdict
from holdfast.core.context import Criticality, current
from holdfast.core.errors import CallCancelled, DeadlineExceeded
from holdfast.resilience.sharing.flights import criticality_of
from holdfast.resilience.sharing.twin import twin
from holdfast.resilience.sharing.waiting import INSIDE, Running, begin_wait, end_wait

ROUNDS: Final = 3
"""Executions that a call waits for although each ended for its caller's own reasons; then it runs unshared."""
TRIES: Final = 1000
"""Executions that may end, or be begun by somebody else, just as a call is about to join or begin one."""
SLICE: Final = 1.0
"""Seconds after which whoever waits looks whether the thread it waits for is still there."""

BUSY: Final = object()
"""What ``lead`` returns when somebody else is at it."""
_MISSED: Final = object()
_PRIVATE: Final = object()


class ThreadFlight(msgspec.Struct, eq=False):
    """One shared execution.

    ``forgotten``: nobody may join it any more, and its result is out of date. ``replaced``: its place in the table is
    somebody's to change, who has set this; nobody else may. ``model`` is a copy of ``error`` for those who wait.
    """

    criticality: Criticality
    deadline: float
    leader: int
    running: Running = msgspec.field(default_factory=Running)
    forgotten: bool = False
    replaced: bool = False
    ended: bool = False
    followers: int = 0
    event: threading.Event | None = None
    result: Any = None
    error: BaseException | None = None
    model: BaseException | None = None
    traceback: TracebackType | None = None
    verdict: Verdict = IGNORED


Work: TypeAlias = Callable[[Call, ThreadFlight], Any]


class ThreadFlights:
    """The shared executions of all threads, by key. No lock: see docs/adr/0002 for what is one step."""

    def __init__(self) -> None:
        self.led = 0
        self.joined = 0
        self.under_way = 0  # executions that have not ended
        self._process = os.getpid()
        self._flights: dict[Hashable, ThreadFlight] = {}
        self.find = self._flights.get  # the execution under way for a key, without a function around it

    def join(self, call: Call, key: Hashable, found: ThreadFlight | None, work: Work, name: str) -> Any:
        """The result of ``work`` for ``key``, from the execution ``found`` or from a new one in this thread.

        ``call.verdict`` becomes that of the execution. A call that matters more than the execution under way begins
        another, which later ones join. ``DeadlineExceeded`` when ``call.deadline`` comes before somebody else's
        execution is done.
        """
        if found is None:
            criticality = call.criticality
            if criticality is None:
                criticality = current().criticality
            mine = ThreadFlight(criticality, call.deadline, get_ident())
            try:
                found = self._flights.setdefault(key, mine)
                if found is mine:
                    return self._lead(call, key, mine, work)
            except BaseException:  # a signal's handler may raise also before ``_lead`` is ready for it
                mine.ended = True
                raise
        return self._join(call, key, found, work, name)

    def lead(self, call: Call, key: Hashable, work: Work) -> Any:
        """As ``join``, but ``BUSY`` when there is an execution under way."""
        mine = ThreadFlight(criticality_of(call), call.deadline, get_ident())
        try:
            found = self._flights.setdefault(key, mine)
            if found is mine:
                return self._lead(call, key, mine, work)
        except BaseException:
            mine.ended = True
            raise
        if found.ended and not found.replaced:  # it was interrupted before it could leave
            found.replaced = True
            self._flights.pop(key, None)
        return BUSY

    def forget(self, key: Hashable) -> bool:
        """Let later calls for ``key`` begin anew; those that wait go on waiting. True if there was an execution."""
        flight = self._flights.get(key)
        if flight is None or flight.forgotten:
            return False
        flight.forgotten = True
        return True

    def forget_all(self) -> None:
        """As ``forget``, for each key."""
        for flight in tuple(self._flights.values()):
            flight.forgotten = True

    def _join(self, call: Call, key: Hashable, flight: ThreadFlight | None, work: Work, name: str) -> Any:
        if os.getpid() != self._process:
            self._after_fork()
        criticality = criticality_of(call)
        ident = get_ident()
        rounds = 0
        for _ in range(TRIES):
            if flight is None or flight.ended or flight.forgotten or flight.criticality < criticality:
                mine = ThreadFlight(criticality, call.deadline, ident)
                try:
                    if self._replace(key, flight, mine):
                        return self._lead(call, key, mine, work)
                except BaseException:
                    mine.ended = True
                    raise
            elif rounds == ROUNDS or flight.leader == ident or not begin_wait(flight.running):
                break  # whoever leads and asks for what it makes would wait for itself
            else:
                try:
                    outcome = self._follow(call, flight, name)
                finally:
                    end_wait(flight.running)
                if outcome is not _MISSED and outcome is not _PRIVATE:
                    return outcome
                rounds += outcome is _PRIVATE
            flight = self._flights.get(key)
        # Forgotten from the beginning: nobody can find it to say that its result is out of date.
        return work(call, ThreadFlight(criticality, call.deadline, ident, forgotten=True))

    def _after_fork(self) -> None:
        """Nobody is at what other threads had begun before this process was forked off; they are not here."""
        self._process = os.getpid()
        ident = get_ident()
        left = [flight for flight in tuple(self._flights.values()) if flight.leader != ident]
        for flight in left:
            flight.forgotten = True
        self.under_way = max(0, self.under_way - len(left))

    def _replace(self, key: Hashable, flight: ThreadFlight | None, mine: ThreadFlight) -> bool:
        """Put ``mine`` where ``flight`` is; false when somebody else has that place or has just left it."""
        if flight is None:
            return self._flights.setdefault(key, mine) is mine
        if flight.replaced:
            return False
        # One step with the line above. What follows may not be: keys can have a hash written in Python.
        flight.replaced = True
        try:
            self._flights[key] = mine
        except BaseException:
            flight.replaced = False
            raise
        return True

    def _lead(self, call: Call, key: Hashable, flight: ThreadFlight, work: Work) -> Any:
        self.led += 1
        self.under_way += 1
        outer = INSIDE.get()
        token = INSIDE.set(flight.running)
        if outer is not None:
            outer.awaits.append(flight.running)
        try:
            flight.result = result = work(call, flight)
        except BaseException as error:
            flight.error = error
            flight.traceback = error.__traceback__
            raise
        finally:
            # Nothing before this can be interrupted: else those who wait would go on waiting.
            flight.verdict = call.verdict
            flight.ended = flight.running.ended = True
            self.under_way -= 1
            INSIDE.reset(token)
            if outer is not None:
                outer.awaits.remove(flight.running)
            self._end(key, flight)
        return result

    def _end(self, key: Hashable, flight: ThreadFlight) -> None:
        if not flight.followers:
            flight.error = flight.traceback = None
        elif flight.error is not None:
            flight.model = twin(flight.error)  # before the caller can change it
        try:
            if not flight.replaced:
                flight.replaced = True  # one step with the line above, see _replace
                self._flights.pop(key, None)
        except BaseException:
            flight.replaced = False  # it is still there: the next one takes its place
            raise
        finally:
            event = flight.event
            if event is not None:
                event.set()

    def _follow(self, call: Call, flight: ThreadFlight, name: str) -> Any:
        """Wait for the execution, and take part in its outcome.

        ``_MISSED`` when it has just ended; ``_PRIVATE`` when its outcome is for its own caller only.
        """
        event = threading.Event()
        if flight.ended:  # one step with what follows
            return _MISSED
        if flight.event is None:
            flight.event = event
        flight.followers += 1
        event = flight.event
        self.joined += 1
        try:
            if not _wait(call, flight, event, name):
                flight.forgotten = True
                return _PRIVATE
            return _outcome(call, flight)
        finally:
            _leave(flight)


def _leave(flight: ThreadFlight) -> None:
    flight.followers -= 1
    if flight.ended and not flight.followers:
        flight.error = flight.model = flight.traceback = None  # its frames hold the flight


def _wait(call: Call, flight: ThreadFlight, event: threading.Event, name: str) -> bool:
    """Return when the execution has ended; false when its thread is not there any more."""
    left = inf if call.deadline == inf else call.deadline - call.clock.now()
    while left > 0:
        if event.wait(min(left, SLICE)) or flight.ended:
            return True
        if flight.leader not in sys._current_frames():  # unlike ``threading`` it knows of all threads
            return False
        left = inf if call.deadline == inf else call.deadline - call.clock.now()
    call.now = call.clock.now()
    call.verdict = FAILED
    raise DeadlineExceeded(
        name, "the deadline passed while the call waited for a shared execution", None, None, call.operation
    )


def _outcome(call: Call, flight: ThreadFlight) -> Any:
    error = flight.error
    if error is None:
        call.now = call.clock.now()
        call.verdict = flight.verdict
        return flight.result
    if _is_private(error, call, flight):
        return _PRIVATE
    call.now = call.clock.now()
    call.verdict = flight.verdict
    try:
        made = None if flight.model is None else twin(flight.model, flight.traceback)
        raise made or error.with_traceback(flight.traceback)
    finally:
        del error, flight, made


def _is_private(error: BaseException, call: Call, flight: ThreadFlight) -> bool:
    """Whether ``error`` has to do with the caller that led, and not with what was asked for."""
    if isinstance(error, CallCancelled) or not isinstance(error, Exception):
        return True
    return isinstance(error, TimeoutError) and flight.deadline < call.deadline and call.clock.now() >= flight.deadline
