"""Attempts of one sync call that run at the same time, in threads: the first that is answered wins."""

import threading
from collections.abc import Callable
from contextvars import copy_context
from math import inf
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final

import msgspec

from holdfast.core.call import FAILED, Call, Handler
from holdfast.core.context import Cancellation, current, current_deadline, use_context
from holdfast.core.errors import DeadlineExceeded
from holdfast.resilience.race import Outcome, defeat

if TYPE_CHECKING:
    from holdfast.resilience.hedge import Hedge

IDLE_SECONDS: Final = 30.0
"""A thread that had nothing to do for so long ends."""
SUPERSEDED: Final = "another attempt was answered first"
GIVEN_UP: Final = "nobody waits for it any more"


class Threads:
    """At most ``limit`` threads, started when they are needed. They keep no process alive. Safe from any thread."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.started = 0
        self._idle = 0
        self._closed = False
        self._lock = threading.Lock()
        self._work: SimpleQueue[Callable[[], object] | None] = SimpleQueue()

    def run(self, work: Callable[[], object]) -> bool:
        """Run ``work``, which must not raise, in a thread. False when none is free, and after ``close``."""
        with self._lock:
            if self._closed:
                return False
            if self._idle:
                self._idle -= 1
            elif not self._start():
                return False
        self._work.put(work)
        return True

    @property
    def free(self) -> bool:
        """Whether there is a thread that could run something now."""
        return not self._closed and (self._idle > 0 or self.started < self.limit)

    def close(self) -> None:
        """Let each thread end as soon as it has nothing to do."""
        with self._lock:
            self._closed = True
            for _ in range(self._idle):
                self._work.put(None)

    def _start(self) -> bool:
        if self.started >= self.limit:
            return False
        try:
            threading.Thread(target=self._serve, name="holdfast-hedge", daemon=True).start()
        except RuntimeError:  # the system has no thread to give
            return False
        self.started += 1
        return True

    def _serve(self) -> None:
        while True:
            try:
                work = self._work.get(timeout=IDLE_SECONDS)
            except Empty:
                work = None
            if work is not None:
                work()
                work = None  # else it would keep an attempt and its result alive until the next one
                if not self._rest():
                    return
            elif self._end():
                return

    def _rest(self) -> bool:
        """The work is done: wait for more, unless there are too many threads."""
        with self._lock:
            if self._closed or self.started > self.limit:
                self.started -= 1
                return False
            self._idle += 1
            return True

    def _end(self) -> bool:
        """Nothing came: end, unless work is on its way to each thread that waits."""
        with self._lock:
            if not self._idle:
                return False
            self._idle -= 1
            self.started -= 1
            return True


class ThreadRace:
    """A sync call whose attempts run in threads, while the caller waits for the first that is answered."""

    def __init__(self, policy: "Hedge", call: Call, inner: Handler) -> None:
        self._policy = policy
        self._call = call
        self._inner = inner
        self._began = call.now
        self._begun = 0
        self._under_way: dict[Call, Cancellation] = {}
        self._outcomes: list[Outcome] = []
        self._ended: SimpleQueue[tuple[Call, Outcome]] = SimpleQueue()
        self._hedge_at = inf

    def run(self) -> Any:
        """The outcome of the call; waits until ``call.deadline`` at most. An interrupted wait calls attempts off."""
        first = self._call.copy()
        if not self._start(first):
            self._policy.without_thread += 1
            return self._inner(self._call)
        try:
            outcome = self._wait(first)
        except BaseException:
            self._call_off(GIVEN_UP)
            raise
        self._call_off(SUPERSEDED)
        try:
            return outcome.deliver(self._call)
        finally:
            self._outcomes.clear()
            del outcome  # what is raised knows this frame

    def _wait(self, first: Call) -> Outcome:
        policy, call, clock = self._policy, self._call, self._call.clock
        while self._under_way:
            until = min(self._hedge_at, call.deadline)
            timeout = None if until == inf else min(max(until - clock.now(), 0.0), threading.TIMEOUT_MAX)
            try:
                attempt, outcome = self._ended.get(timeout=timeout)
            except Empty:
                if call.deadline <= self._hedge_at:
                    return self._late()
                self._hedge()
                continue
            del self._under_way[attempt]
            if outcome.answered:
                if attempt is not first:
                    policy.count_win(call)
                policy.learn((outcome.now if attempt is first else clock.now()) - self._began, clock.now())
                return outcome
            self._outcomes.append(outcome)
            if outcome.error is not None and not isinstance(outcome.error, Exception):
                return outcome
            if outcome.failed:
                self._hedge()
        return defeat(self._outcomes, self._begun, policy.name)

    def _late(self) -> Outcome:
        now = self._call.clock.now()
        self._policy.learn(now - self._began, now)
        error = DeadlineExceeded(self._policy.name, "the deadline passed while attempts were under way")
        return Outcome(FAILED, now, None, error)

    def _hedge(self) -> None:
        """Begin another attempt, if there may be one and a thread is free."""
        policy, call = self._policy, self._call
        self._hedge_at = inf
        if self._begun >= policy.attempts or call.clock.now() >= call.deadline:
            return
        if not policy.threads.free:
            policy.without_thread += 1
        elif policy.begin_hedge(call):
            attempt = call.copy()
            attempt.attempt = self._begun
            attempt.again()
            self._start(attempt)

    def _start(self, attempt: Call) -> bool:
        context = copy_context()
        token = Cancellation(current().cancellation)

        def work() -> None:
            self._ended.put((attempt, context.run(self._try, attempt, token)))

        self._under_way[attempt] = token
        if not self._policy.threads.run(work):
            del self._under_way[attempt]
            return False
        self._begun += 1
        if self._begun < self._policy.attempts:
            self._hedge_at = attempt.now + self._policy.delay
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
