"""Keys, finalizers and signal handlers that use the limit in the middle of its own work, and keys that misbehave."""

import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType, ModuleType
from typing import Any

import pytest

from holdfast.core.clock import VirtualClock
from holdfast.core.errors import RateLimited
from holdfast.core.pipeline import Pipeline
from holdfast.resilience import ratelimit
from holdfast.resilience.ratelimit import RateLimit
from holdfast.resilience.rates import ALGORITHMS, book, line, table
from holdfast.resilience.rates.line import ThreadBell

PATIENCE = 30.0
EVERY = pytest.mark.parametrize("algorithm", sorted(ALGORITHMS))


def interrupted(work: Callable[[], object], interruption: Callable[[], object], module: ModuleType, at: int) -> bool:
    """Run ``work``, with ``interruption`` at the line of ``module`` that it comes to as number ``at``.

    Whether it came to that line. Fails if it does not end.
    """
    lines = 0

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal lines
        if frame.f_code.co_filename != module.__file__:
            return None
        if event == "line":
            lines += 1
            if lines == at:
                interruption()
        return trace

    def run() -> None:
        sys.settrace(trace)
        try:
            work()
        finally:
            sys.settrace(None)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive(), f"hangs when interrupted at line {at} of {module.__name__}"
    return lines >= at


@pytest.mark.parametrize(
    ("algorithm", "module"),
    [
        *(("token_bucket", module) for module in (ratelimit, book, line, table)),
        *(("sliding_log", module) for module in (ratelimit, book)),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__.rpartition(".")[2],
)
def test_whoever_comes_at_any_line_of_its_work_in_the_same_thread_does_not_hang(
    algorithm: Any, module: ModuleType
) -> None:
    """Uses, waits, returns and changes, at each line. What is given back is there in the end."""
    at = 0
    while True:
        at += 1
        clock = VirtualClock()
        limit = RateLimit("3/h", algorithm=algorithm, max_keys=2, clock=clock)
        held = [limit.reserve(1, key="a") for _ in range(3)]
        used = limit.reserve(1)
        refusals = []

        def interrupt() -> None:
            limit.usage("a")  # noqa: B023 - runs before the next turn
            limit.refund(used)  # noqa: B023
            limit.cancel(held[2])  # noqa: B023
            for key in (None, "a", "c"):
                limit.try_acquire(key=key)  # noqa: B023
                try:
                    limit.acquire(1, 1e6, key=key)  # noqa: B023
                except RateLimited as error:
                    refusals.append(error.reason)  # noqa: B023

        def work() -> None:
            limit.acquire(1, 1e6, key="a")  # noqa: B023
            limit.try_acquire(key="b")  # noqa: B023
            limit.settle(held[0], 0.5)  # noqa: B023

        reached = interrupted(work, interrupt, module, at)
        assert not used.open or not reached
        assert limit.waiting == 0
        if not reached:
            break
    assert at > 5


def test_what_a_finalizer_gives_back_in_the_middle_of_other_work_is_not_lost() -> None:
    clock = VirtualClock()
    limit = RateLimit("1/h", burst=10, clock=clock)
    held = limit.reserve(6)

    class Key:
        def __hash__(self) -> int:
            assert limit._book._turns.mine or limit.refund(held) == 0
            limit.refund(held)
            return 7

    limit._book.reserve(clock.now(), 1, 0.0, Key(), "", clock)
    assert limit.usage()["remaining"] == 10


def test_what_is_refused_in_the_middle_of_other_work_takes_nothing_after_it() -> None:
    clock = VirtualClock()
    limit = RateLimit("3/h", clock=clock)
    assert limit.try_acquire(key="nested")
    got: list[bool] = []

    class Key:
        def __hash__(self) -> int:
            if limit._book._turns.mine:
                got.append(limit.try_acquire(key="new"))
            return 7

    limit._book.reserve(clock.now(), 1, 0.0, Key(), "", clock)
    assert got
    assert not any(got)
    assert limit.snapshot()["keys"] == 2
    assert limit.usage("new")["remaining"] == 3


def test_a_change_that_a_signal_handler_makes_in_the_middle_of_other_work_holds_after_it() -> None:
    clock = VirtualClock()
    limit = RateLimit("1/h", burst=10, clock=clock)
    fn = Pipeline("x", limit, clock=clock)(lambda: 7)
    fn()

    class Key:
        changed = False

        def __hash__(self) -> int:
            if limit._book._turns.mine and not self.changed:
                self.changed = True
                limit.update(algorithm="gcra")
            return 7

    limit._book.reserve(clock.now(), 1, 0.0, Key(), "", clock)
    assert limit._main is limit._book.main
    for _ in range(9):
        assert fn() == 7
    with pytest.raises(RateLimited):
        fn()
    assert limit.usage()["remaining"] == 0


def test_a_key_whose_hash_and_equality_use_the_limit_themselves_is_counted_all_the_same() -> None:
    clock = VirtualClock()
    limit = RateLimit("2/h", per="key")
    pipeline = Pipeline("x", limit, clock=clock)

    class Key:
        def __hash__(self) -> int:
            limit.try_acquire(key="other")
            return 7

        def __eq__(self, other: object) -> bool:
            limit.try_acquire(key="another")
            return isinstance(other, Key)

    passed = 0
    for _ in range(10):
        try:
            passed += pipeline.bind(key=Key()).call(lambda: 1)
        except RateLimited:
            continue
    assert passed == 2
    assert limit.usage("other")["remaining"] == 0


@EVERY
def test_a_key_that_changes_or_fails_does_no_harm_to_others_and_takes_no_room_for_ever(algorithm: Any) -> None:
    class Key:
        kind = 0

        def __hash__(self) -> int:
            if self.kind == 2:
                raise OSError("lost")
            return self.kind

    clock = VirtualClock()
    limit = RateLimit("10/s", algorithm=algorithm, max_keys=10, clock=clock, warm_up=0.001)
    for kind in (1, 2):
        keys = [Key() for _ in range(5)]
        for key in keys:
            assert limit.try_acquire(key=key)
            key.kind = kind
        for number in range(8):
            limit.try_acquire(key=number)
        assert len(limit._book.table) <= 10
    clock.advance(100)
    for number in range(20, 30):
        assert limit.try_acquire(key=number)
    assert {type(key) for key in limit._book.table._meters} == {int}
    assert len(limit._book.table._ring) == len(limit._book.table)


def test_a_bell_may_be_rung_by_a_signal_handler_in_the_thread_that_listens() -> None:
    """It interrupts ``wait`` between any two lines; an Event would be locked by its own thread."""
    bell = ThreadBell()
    for at in range(1, 4):
        interrupted(lambda: bell.wait(0.001), bell.ring, line, at)
    before = signal.signal(signal.SIGALRM, lambda *_: bell.ring())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.001)
        began = time.monotonic()
        bell.wait(PATIENCE)
        assert time.monotonic() - began < PATIENCE
    finally:
        signal.signal(signal.SIGALRM, before)
