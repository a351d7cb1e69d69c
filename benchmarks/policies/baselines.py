"""What the bare function and the standard library's own tools take."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks.policies.contestant import ROOMY, Function, Mode
from benchmarks.policies.rows import trivial


class Baseline(NamedTuple):
    """``make`` gives the function; for async ones inside the event loop. ``raises``: each call does."""

    key: str
    title: str
    mode: Mode
    make: Callable[[], Function]
    raises: tuple[type[Exception], ...] = ()


def _failing() -> int:
    raise ConnectionError("it is down")


async def _failing_async() -> int:
    raise ConnectionError("it is down")


def _under_lock() -> Function:
    lock, answer = threading.Lock(), trivial(Mode.SYNC)

    def locked() -> Any:
        with lock:
            return answer()

    return locked


def _under_timeout() -> Function:
    answer = trivial(Mode.ASYNC)

    async def bounded() -> Any:
        async with asyncio.timeout(ROOMY.seconds):
            return await answer()

    return bounded


def _under_wait_for() -> Function:
    answer = trivial(Mode.ASYNC)

    async def bounded() -> Any:
        return await asyncio.wait_for(answer(), ROOMY.seconds)

    return bounded


def _under_semaphore() -> Function:
    semaphore, answer = asyncio.Semaphore(ROOMY.slots), trivial(Mode.ASYNC)

    async def counted() -> Any:
        async with semaphore:
            return await answer()

    return counted


BASELINES = (
    Baseline("call", "bare call", Mode.SYNC, lambda: trivial(Mode.SYNC)),
    Baseline("raise", "bare call that raises, caught", Mode.SYNC, lambda: _failing, (ConnectionError,)),
    Baseline("lock", "with threading.Lock", Mode.SYNC, _under_lock),
    Baseline("await", "bare await", Mode.ASYNC, lambda: trivial(Mode.ASYNC)),
    Baseline("await raise", "bare await that raises, caught", Mode.ASYNC, lambda: _failing_async, (ConnectionError,)),
    Baseline("asyncio.timeout", "asyncio.timeout", Mode.ASYNC, _under_timeout),
    Baseline("asyncio.wait_for", "asyncio.wait_for", Mode.ASYNC, _under_wait_for),
    Baseline("asyncio.Semaphore", "asyncio.Semaphore", Mode.ASYNC, _under_semaphore),
)
