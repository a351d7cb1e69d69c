"""The threads of hedged sync calls, and processes: forks, and the end."""

import subprocess
import sys
import threading
from collections.abc import Callable
from math import inf

import pytest

from holdfast.core.call import OK, bare_call
from holdfast.resilience.racing.tasks import Outcome
from holdfast.resilience.racing.threads import SIGNAL_SECONDS, Inbox, Threads

PATIENCE = 30.0

FORK = """
import os, signal, threading, time
from holdfast.core.pipeline import Pipeline
from holdfast.resilience.hedge import Hedge

hedge = Hedge(60.0, threads=1)
pipeline = Pipeline("x", hedge)
assert pipeline.call(int) == 0
while not hedge.threads._idle:
    time.sleep(0)
lock = hedge.threads._lock
lock.acquire()  # as if another thread held it
child = os.fork()
if child == 0:
    signal.alarm(20)
    assert pipeline.call(threading.current_thread) is not threading.current_thread()
    assert hedge.threads.started == 1
    os._exit(7)
lock.release()
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert pipeline.call(int) == 0
"""

STUCK = """
import atexit, threading
from holdfast.core.pipeline import Pipeline
from holdfast.resilience.hedge import Hedge

begun = []

def fn():
    begun.append(1)
    if len(begun) == 1:
        threading.Event().wait()
    return len(begun)

pipeline = Pipeline("x", Hedge(0.001))
assert pipeline.call(fn) == 2
atexit.register(lambda: print(pipeline.call(fn)))
"""


def output(program: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


def test_a_forked_process_starts_threads_of_its_own() -> None:
    assert output(FORK) == ""


def test_a_loser_that_never_ends_keeps_no_process_alive_and_calls_work_until_the_end() -> None:
    assert output(STUCK) == "3\n"


def test_a_thread_that_the_system_refuses_leaves_its_place_free(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = Threads(1)
    done = threading.Event()
    start = threading.Thread.start

    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    assert not threads.run(lambda: None)
    assert threads.started == 0
    monkeypatch.setattr(threading.Thread, "start", start)
    assert threads.run(done.set)
    assert done.wait(PATIENCE)
    threads.close()


def test_others_are_served_while_a_thread_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = Threads(2)
    done = threading.Event()
    start = threading.Thread.start

    def slow(thread: threading.Thread) -> None:
        assert not threads._lock.locked()
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", slow)
    assert threads.run(done.set)
    assert done.wait(PATIENCE)
    threads.close()


class DeafBell:
    """A bell on which a wait does not hear what comes the moment before it, as with a signal."""

    def __init__(self, come: Callable[[], None]) -> None:
        self.waited: list[float] = []
        self._come = come

    def acquire(self, timeout: float) -> bool:
        self.waited.append(timeout)
        self._come()
        return False


def test_a_wait_lasts_a_second_at_a_stretch_so_that_no_signal_is_left_lying() -> None:
    inbox = Inbox()
    outcome = Outcome(OK, 0.0)
    bell = DeafBell(lambda: inbox._items.append((bare_call(), outcome)))
    inbox._bell = bell  # type: ignore[assignment]
    found = inbox.get(inf)
    assert found is not None
    assert found[1] is outcome
    assert bell.waited == [SIGNAL_SECONDS]


def test_the_thread_that_has_been_idle_for_the_shortest_time_is_used_first_and_none_is_free_once_it_is_closed() -> None:
    threads = Threads(2)
    release = threading.Semaphore(0)
    ended = threading.Semaphore(0)

    def work() -> Callable[[], None]:
        release.acquire(timeout=PATIENCE)
        return ended.release

    assert [threads.run(work), threads.run(work), threads.free] == [True, True, False]
    for _ in range(2):
        release.release()
        assert ended.acquire(timeout=PATIENCE)
    first, second = threads._idle
    assert [threads.free, threads.run(work)] == [True, True]
    assert threads._idle == [first]
    release.release()
    assert ended.acquire(timeout=PATIENCE)
    assert threads._idle == [first, second]
    threads.close()
    assert [threads.free, threads.run(work)] == [False, False]


def test_threads_beyond_a_lowered_limit_end_with_their_work() -> None:
    threads = Threads(2)
    release = threading.Semaphore(0)
    ended = threading.Semaphore(0)

    def work() -> Callable[[], None]:
        release.acquire(timeout=PATIENCE)
        return ended.release

    assert threads.run(work)
    assert threads.run(work)
    threads.limit = 1
    for _ in range(2):
        release.release()
        assert ended.acquire(timeout=PATIENCE)
    assert (threads.started, len(threads._idle)) == (1, 1)
    threads.close()
