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
        # Reentrant, so that one who comes after it was taken and before the job began goes first.
        self._lock = threading.RLock()
        self._owner: int | None = None
        self._postponed: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque(maxlen=POSTPONED_LIMIT)

    @property
    def mine(self) -> bool:
        """Whether this thread is in the middle of a job."""
        return self._owner == get_ident()

    def run(self, job: Callable[[Unpack[Ts]], R], *args: *Ts) -> R | None:
        """Run ``job`` when it is its turn; in the middle of another one return None, and run it after that."""
        if self.mine:
            self._postponed.append((job, args))
            return None
        with self._lock:
            return self._begin(job, args)

    def look(self, job: Callable[[Unpack[Ts]], R], *args: *Ts) -> R:
        """As ``run``, but at once in the middle of another job, for one that changes nothing."""
        if self.mine:
            return job(*args)
        with self._lock:
            return self._begin(job, args)

    def attempt(self, job: Callable[[Unpack[Ts]], object], *args: *Ts) -> bool:
        """Run ``job`` if nobody has the turn; else return False, and do not run it later either. Never waits."""
        if self.mine or not self._lock.acquire(blocking=False):
            return False
        try:
            self._begin(job, args)
        finally:
            self._lock.release()
        return True

    def _begin(self, job: Callable[[Unpack[Ts]], R], args: tuple[*Ts]) -> R:
        self._owner = get_ident()
        try:
            return job(*args)
        finally:
            if self._postponed:
                self._finish()
            else:
                self._owner = None

    def _finish(self) -> None:
        try:
            for _ in range(POSTPONED_LIMIT):
                if not self._postponed:
                    break
                job, args = self._postponed.popleft()
                job(*args)
        finally:
            self._owner = None
