"""How an application learns that its worker is going away.

::

    async def stream(send):
        drain = current_drain()
        while not drain.draining:
            ...
"""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Final


class Drain:
    """Happens at most once, and stays. Everything may be used from any thread, ``wait`` on any event loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiters: set[asyncio.Future[None]] = set()
        self._reason: str | None = None

    @property
    def draining(self) -> bool:
        """Whether the worker is going away."""
        return self._reason is not None

    @property
    def reason(self) -> str:
        """Why; empty while not draining."""
        return self._reason or ""

    def begin(self, reason: str) -> None:
        """Tell everybody. The first reason stays. Not for a raw ``signal`` handler: it takes a lock."""
        with self._lock:
            if self._reason is not None:
                return
            self._reason = reason
            waiters = tuple(self._waiters)
        for waiter in waiters:
            with suppress(RuntimeError):  # the waiter's loop is closed: nobody waits there any more
                waiter.get_loop().call_soon_threadsafe(_wake, waiter)

    async def wait(self) -> None:
        """Return once draining, at once when it is so already. A cancelled wait leaves nothing behind."""
        waiter = asyncio.get_running_loop().create_future()
        with self._lock:
            if self._reason is not None:
                return
            self._waiters.add(waiter)
        try:
            await waiter
        finally:
            with self._lock:
                self._waiters.discard(waiter)


class _NeverDrain(Drain):
    def begin(self, reason: str) -> None:
        raise RuntimeError(f"no drain is in use here, so none can begin ({reason!r}); enter use_drain(Drain()) first")


_NEVER: Final[Drain] = _NeverDrain()

_drain: ContextVar[Drain] = ContextVar("holdfast_drain", default=_NEVER)


def current_drain() -> Drain:
    """The drain of the worker that runs this code; outside of a worker, one that never begins."""
    return _drain.get()


@contextmanager
def use_drain(drain: Drain) -> Iterator[Drain]:
    """Make ``drain`` the current one inside the block, and in every task and callback that is made in it."""
    token = _drain.set(drain)
    try:
        yield drain
    finally:
        _drain.reset(token)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
