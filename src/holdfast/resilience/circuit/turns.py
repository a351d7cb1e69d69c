"""Jobs that take turns, also when one comes in the middle of another in the same thread."""

import threading
from collections import deque
from collections.abc import Callable
from threading import get_ident
from typing import Any, Final, TypeVar, TypeVarTuple, Unpack

R = TypeVar("R")
Ts = TypeVarTuple("Ts")

POSTPONED_LIMIT: Final = 1024
"""Jobs that wait until the one that they came into is done; the oldest are forgotten."""


class Turns:
    """Runs jobs one after the other. A finalizer or a signal handler cannot hang on that.

    Those run in the middle of other work, perhaps of a job here, in the same thread. They can neither wait for it,
    nor meet a state that is half changed: their own jobs are run right after it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner: int | None = None
        self._postponed: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque(maxlen=POSTPONED_LIMIT)

    @property
    def mine(self) -> bool:
        """Whether this thread is in the middle of a job."""
        return self._owner == get_ident()

    def run(self, job: Callable[[Unpack[Ts]], R], *args: *Ts) -> R | None:
        """Run ``job`` when it is its turn; in the middle of another one return None, and run it after that."""
        me = get_ident()
        if self._owner == me:
            self._postponed.append((job, args))
            return None
        # Nothing can run between taking the lock and owning it, or between owning it no more and giving it back.
        with self._lock:
            self._owner = me
            try:
                return job(*args)
            finally:
                if self._postponed:
                    self._finish()
                else:
                    self._owner = None

    def look(self, job: Callable[[Unpack[Ts]], R], *args: *Ts) -> R:
        """As ``run``, but at once in the middle of another job, for one that changes nothing."""
        me = get_ident()
        if self._owner == me:
            return job(*args)
        with self._lock:
            self._owner = me
            try:
                return job(*args)
            finally:
                if self._postponed:
                    self._finish()
                else:
                    self._owner = None

    def _finish(self) -> None:
        for _ in range(POSTPONED_LIMIT):
            if not self._postponed:
                break
            job, args = self._postponed.popleft()
            job(*args)
        self._owner = None
