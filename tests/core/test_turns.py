import functools
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from holdfast.core import turns
from holdfast.core.turns import POSTPONED_LIMIT, Turns
from resilience.interruption import ends_although_interrupted


@pytest.fixture
def switching_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_a_job_in_the_middle_of_another_is_run_right_after_it() -> None:
    taking = Turns()
    done: list[str] = []

    def outer() -> str:
        assert taking.mine
        assert taking.run(done.append, "inner") is None
        done.append("outer")
        return "result"

    assert not taking.mine
    assert taking.run(outer) == "result"
    assert done == ["outer", "inner"]
    assert not taking.mine


def test_a_look_is_not_put_off() -> None:
    taking = Turns()
    assert taking.run(lambda: taking.look(lambda: 5)) == 5
    assert taking.look(lambda: 7) == 7


def test_a_job_that_fails_gives_the_turn_back_and_what_was_put_off_is_run() -> None:
    taking = Turns()
    done: list[int] = []

    def fail() -> None:
        taking.run(done.append, 1)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        taking.run(fail)
    assert done == [1]
    assert taking.run(lambda: 5) == 5


def test_of_more_jobs_than_may_wait_the_oldest_are_forgotten() -> None:
    taking = Turns()
    done: list[int] = []

    def flood() -> None:
        for number in range(POSTPONED_LIMIT + 5):
            taking.run(done.append, number)

    taking.run(flood)
    assert done == list(range(5, POSTPONED_LIMIT + 5))


def test_a_put_off_job_that_fails_does_not_keep_the_turn() -> None:
    taking = Turns()

    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        taking.run(lambda: taking.run(fail))
    assert not taking.mine
    assert taking.run(lambda: 5) == 5


def test_an_attempt_is_made_at_once_or_never() -> None:
    taking = Turns()
    done: list[int] = []
    assert taking.attempt(done.append, 1)
    taking.run(lambda: done.append(int(taking.attempt(done.append, 2))))
    assert done == [1, 0]
    with ThreadPoolExecutor(1) as pool:
        other = taking.run(lambda: pool.submit(taking.attempt, done.append, 3).result(30))
    assert other is False
    assert done == [1, 0]
    assert not taking.mine


def test_an_attempt_that_fails_gives_the_turn_back() -> None:
    taking = Turns()
    with pytest.raises(ZeroDivisionError):
        taking.attempt(lambda: 1 // 0)
    assert not taking.mine
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(taking.run, lambda: 5).result(30) == 5


@pytest.mark.parametrize("way", ["run", "look", "attempt"])
def test_who_comes_at_any_line_of_another_is_served_and_waits_for_nobody(way: str) -> None:
    for line in range(1, 30):
        taking = Turns()
        done: list[str] = []
        comes: list[str] = []

        def interrupt(taking: Turns = taking, done: list[str] = done, comes: list[str] = comes) -> None:
            comes.append("one")
            taking.run(done.append, "one")
            assert taking.look(lambda: 5) == 5
            taking.attempt(comes.append, "attempted")

        work = functools.partial(getattr(taking, way), done.append, "job")
        assert ends_although_interrupted(turns, work, interrupt, only=line), line
        assert not taking.mine
        # Tracing can come between two lines that are one step to everybody else: then it is run with the next job.
        taking.run(done.append, "last")
        assert sorted(done) == ["job", "last", *["one"] * comes.count("one")]
        if not comes:
            assert line > 5
            return
    raise AssertionError("too many lines")


@pytest.mark.usefixtures("switching_often")
def test_jobs_of_threads_never_overlap() -> None:
    taking = Turns()
    inside = 0
    most = 0

    def job() -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside, len(str(inside)))
        inside -= 1

    def work() -> None:
        for _ in range(300):
            taking.run(job)

    with ThreadPoolExecutor(8) as pool:
        for result in [pool.submit(work) for _ in range(8)]:
            result.result(20)
    assert (inside, most) == (0, 1)
    assert not taking.mine
