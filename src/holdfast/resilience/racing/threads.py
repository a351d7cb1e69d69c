"""Attempts of one sync call that run at the same time, in threads: the first that is answered wins."""

import contextlib
import functools
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from math import inf
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from holdfast.core.call import FAILED, IGNORED, Call, Handler
from holdfast.core.context import Cancellation, current, current_deadline, use_context
from holdfast.core.errors import DeadlineExceeded
from holdfast.resilience.racing.tasks import Outcome, defeat, unwanted

if TYPE_CHECKING:
    from holdfast.resilience.hedge import Hedge

IDLE_SECONDS: Final = 30.0
"""A thread that had nothing to do for so long ends."""
SIGNAL_SECONDS: Final = 1.0
"""How long a wait lasts at a stretch: a signal that came the moment before it is handled only after it."""
SUPERSEDED: Final = "another attempt was answered first"
GIVEN_UP: Final = "nobody waits for it any more"

_known: Final["weakref.WeakSet[Threads]"] = weakref.WeakSet()
"""Those whose threads are missing in a child process."""

Work: TypeAlias = Callable[[], Callable[[], object] | None]


class Worker:
    """A thread of the pool. Whoever gives it ``work`` rings its bell."""

    __slots__ = ("bell", "work")

    def __init__(self, work: Work) -> None:
        self.work: Work | None = work
        self.bell = threading.Lock()
        self.bell.acquire()


class Threads:
    """At most ``limit`` threads, started when they are needed. They keep no process alive. Safe from any thread.

    A forked process begins with none, and starts its own.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.started = 0
        self._idle: list[Worker] = []
        self._closed = False
        self._lock = threading.Lock()
        _known.add(self)
        _watch_forks()

    def run(self, work: Work) -> bool:
        """Run ``work``, which must not raise, in a thread. False when none is free, and after ``close``.

        What it returns is called, if it is anything, once the thread counts as free again: so that whoever hears of
        the end there finds this thread, and does not start another.
        """
        with self._lock:
            if self._closed:
                return False
            if self._idle:
                # The one that has been idle for the shortest time, so that those which are too many come to their end.
                worker = self._idle.pop()
                worker.work = work
                worker.bell.release()
                return True
            if self.started >= self.limit:
                return False
            self.started += 1
        # Outside the lock: a start waits for the new thread's first turn.
        return self._start(work)

    @property
    def free(self) -> bool:
        """Whether there is a thread that could run something now."""
        return not self._closed and (bool(self._idle) or self.started < self.limit)

    def close(self) -> None:
        """Let each thread end as soon as it has nothing to do."""
        with self._lock:
            self._closed = True
            for worker in self._idle:
                worker.bell.release()
            self.started -= len(self._idle)
            self._idle.clear()

    def forget(self) -> None:
        """After a fork: the threads have stayed in the other process, and so has whoever held the lock."""
        self._lock = threading.Lock()
        self._idle = []
        self.started = 0

    def _start(self, work: Work) -> bool:
        try:
            threading.Thread(target=self._serve, args=(Worker(work),), name="holdfast-hedge", daemon=True).start()
        except RuntimeError:  # the system has no thread to give
            with self._lock:
                self.started -= 1
            return False
        return True

    def _serve(self, worker: Worker) -> None:
        while worker.work is not None:
            announce = worker.work()
            worker.work = None  # else it would keep an attempt and its result alive until the next one
            rests = self._rest(worker)
            if announce is not None:
                announce()
                announce = None
            if not rests:
                return
            if not worker.bell.acquire(timeout=IDLE_SECONDS) and self._end(worker):
                return
            # Work that came in the very moment in which the time was over has left the bell rung.
            worker.bell.acquire(blocking=False)

    def _rest(self, worker: Worker) -> bool:
        """The work is done: wait for more, unless there are too many threads."""
        with self._lock:
            if self._closed or self.started > self.limit:
                self.started -= 1
                return False
            self._idle.append(worker)
            return True

    def _end(self, worker: Worker) -> bool:
        """Nothing came in time: end, unless it has come by now."""
        with self._lock:
            if worker not in self._idle:
                return False
            self._idle.remove(worker)
            self.started -= 1
            return True


@functools.cache
def _watch_forks() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_forget)


def _forget() -> None:
    for threads in tuple(_known):
        threads.forget()


class Inbox:
    """Where attempts put their outcomes, for one thread that waits.

    Not a ``queue.SimpleQueue``: its ``get`` may wait past its timeout, for ever, on CPython 3.11 and 3.12.
    """

    def __init__(self) -> None:
        self._items: deque[tuple[Call, Outcome]] = deque()
        self._bell = threading.Lock()
        self._bell.acquire()
        self._closed = False

    def put(self, attempt: Call, outcome: Outcome) -> None:
        """Leave an outcome. Safe from any thread."""
        self._items.append((attempt, outcome))
        if self._closed:
            self._items.clear()
            return
        with contextlib.suppress(RuntimeError):  # somebody else has rung, and nobody has come yet
            self._bell.release()

    def get(self, seconds: float) -> tuple[Call, Outcome] | None:
        """The next outcome. None when there is none within ``seconds``."""
        end = time.monotonic() + seconds
        while not self._items:
            left = end - time.monotonic()
            if left <= 0:
                return None
            # Rung, perhaps for one that was taken already: look again.
            self._bell.acquire(timeout=min(left, SIGNAL_SECONDS))
        return self._items.popleft()

    def close(self) -> None:
        """Nobody waits any more. An error that was kept here would keep itself, through its frames."""
        self._closed = True
        self._items.clear()


class ThreadRace:
    """A sync call whose attempts run in threads, while the caller waits for the first that is answered."""

    def __init__(self, policy: "Hedge", call: Call, inner: Handler, delay: float) -> None:
        self._policy = policy
        self._delay = delay
        self._call = call
        self._inner = inner
        self._began = call.now
        self._quantile = policy.recent
        self._begun = 0
        self._under_way: dict[Call, Cancellation] = {}
        self._outcomes: list[Outcome] = []
        self._inbox = Inbox()
        self._hedge_at = inf
        self._last = False

    def run(self) -> Any:
        """The outcome of the call; waits until ``call.deadline`` at most. An interrupted wait calls attempts off."""
        first = self._call.copy()
        try:
            outcome = self._begin(first)
            if outcome is None:
                self._policy.without_thread += 1
                return self._policy.watched(self._inner, self._call)
            self._call_off(SUPERSEDED if outcome.answered else GIVEN_UP)
            return outcome.deliver(self._call)
        finally:
            self._call_off(GIVEN_UP)
            self._inbox.close()
            self._outcomes.clear()
            outcome = None  # what is raised knows this frame

    def _begin(self, first: Call) -> Outcome | None:
        """The outcome of the call; None when no thread is free."""
        if self._began >= self._call.deadline:
            return Outcome(IGNORED, self._began, None, self._refusal("the deadline had passed before the call began"))
        return self._wait(first) if self._start(first) else None

    def _wait(self, first: Call) -> Outcome:
        policy, call, clock = self._policy, self._call, self._call.clock
        while self._under_way:
            until = min(self._hedge_at, call.deadline)
            found = self._inbox.get(until - clock.now())
            if found is None:
                if call.deadline <= self._hedge_at:
                    return self._late()
                self._hedge()
                continue
            attempt, outcome = found
            del found, self._under_way[attempt]
            if outcome.answered:
                if attempt is not first:
                    policy.count_win(call)
                took = (outcome.now if attempt is first else clock.now()) - self._began
                policy.learn(self._quantile, took, clock.now())
                return outcome
            self._outcomes.append(outcome)
            if outcome.error is not None and not isinstance(outcome.error, Exception):
                return outcome
            if attempt is first and isinstance(outcome.error, DeadlineExceeded) and outcome.verdict is FAILED:
                policy.learn_cut(self._quantile, outcome.now - self._began, outcome.now)
            if outcome.failed and outcome.asks_to_wait(clock.wall()):
                self._last = True
                self._hedge_at = inf
            elif outcome.failed:
                self._hedge()
        return defeat(self._outcomes, self._begun, policy.name)

    def _late(self) -> Outcome:
        now = self._call.clock.now()
        self._policy.learn_cut(self._quantile, now - self._began, now)
        return Outcome(FAILED, now, None, self._refusal("the deadline passed while attempts were under way"))

    def _refusal(self, reason: str) -> DeadlineExceeded:
        return DeadlineExceeded(self._policy.name, reason, None, self._policy.snapshot(), self._call.operation)

    def _hedge(self) -> None:
        """Begin another attempt, if there may be one and a thread is free."""
        policy, call = self._policy, self._call
        self._hedge_at = inf
        if self._last or self._begun >= policy.attempts or call.clock.now() >= call.deadline or unwanted():
            return
        if not policy.threads.free:
            policy.without_thread += 1
        elif policy.begin_hedge(call, self._delay):
            attempt = call.copy()
            attempt.attempt = call.attempt + self._begun - 1
            attempt.again()
            if not self._start(attempt):
                policy.without_thread += 1

    def _start(self, attempt: Call) -> bool:
        context = copy_context()
        token = Cancellation(current().cancellation)

        def work() -> Callable[[], object]:
            # Not in a variable: an error knows its frame, and that one knows this.
            return functools.partial(self._inbox.put, attempt, context.run(self._try, attempt, token))

        self._under_way[attempt] = token
        if not self._policy.threads.run(work):
            del self._under_way[attempt]
            return False
        self._begun += 1
        if self._begun < self._policy.attempts:
            self._hedge_at = attempt.now + self._delay
        return True

    def _try(self, attempt: Call, token: Cancellation) -> Outcome:
        with use_context(msgspec.structs.replace(current(), cancellation=token), current_deadline()):
            try:
                result = self._inner(attempt)
            except BaseException as error:  # the thread serves others too; it is raised where the caller waits
                return Outcome(attempt.verdict, attempt.now, None, error)
            return Outcome(attempt.verdict, attempt.now, result)

    def _call_off(self, reason: str) -> None:
        for token in self._under_way.values():
            token.cancel(reason)
