import asyncio
import contextvars

import pytest

from holdfast.core.clock import SYSTEM, VirtualClock
from holdfast.core.context import baggage, current, current_deadline, deadline_within
from holdfast.core.errors import Draining, Rejected
from holdfast.service import tasks as module
from holdfast.service.tasks import TaskExitError, Tasks


async def nap(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


async def stubborn(seconds: float) -> None:
    end = asyncio.get_running_loop().time() + seconds
    while (left := end - asyncio.get_running_loop().time()) > 0:
        try:
            await asyncio.sleep(left)
        except asyncio.CancelledError:  # what this test is about
            continue


def test_a_spawned_task_gives_its_result_to_whoever_awaits_it() -> None:
    async def main() -> float:
        return await Tasks().spawn(nap(2))

    assert VirtualClock().run(main()) == 2


@pytest.mark.parametrize(
    "error", [ValueError("bad"), SystemExit(3), KeyboardInterrupt(), BaseExceptionGroup("two", [SystemExit(3)])]
)
def test_a_task_that_fails_is_logged_with_its_stack_and_harms_nobody(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails() -> None:
        await asyncio.sleep(1)
        raise error

    async def main() -> float:
        tasks = Tasks()
        neighbour = tasks.spawn(nap(5))
        failing = tasks.spawn(fails(), "sender")
        result = await neighbour
        with pytest.raises(ValueError if isinstance(error, ValueError) else TaskExitError):
            await failing
        assert len(tasks) == 0
        return result

    assert VirtualClock().run(main()) == 5
    assert "spawned task sender failed" in caplog.text
    assert f"in {fails.__name__}" in caplog.text


def test_the_drain_waits_then_cancels_then_names_what_is_stuck(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        tasks = Tasks()
        tasks.spawn(nap(3), "short")
        tasks.spawn(nap(300), "long")
        tasks.spawn(stubborn(100), "deaf")
        tasks.spawn(broken(), "broken")
        began = clock.now()
        report = await tasks.drain(10, 2)
        assert clock.now() - began == pytest.approx(12)
        assert report.finished == ("short",)
        assert report.cancelled == ("long",)
        assert report.stuck == ("deaf",)
        assert report.failed == ("broken",)
        assert not report.clean
        await asyncio.sleep(100)

    async def broken() -> None:
        await asyncio.sleep(1)
        raise ValueError("bad")

    clock = VirtualClock()
    clock.run(main())
    assert "task deaf is stuck at" in caplog.text
    assert "stubborn" in caplog.text


def test_the_drain_is_over_as_soon_as_the_tasks_are_and_waits_for_their_children() -> None:
    async def parent(tasks: Tasks) -> None:
        await asyncio.sleep(1)
        tasks.spawn(nap(1), "child")

    async def main() -> None:
        tasks = Tasks()
        tasks.spawn(parent(tasks), "parent")
        began = clock.now()
        report = await tasks.drain(10)
        assert clock.now() - began == pytest.approx(2)
        assert report.finished == ("child", "parent")
        assert report.clean

    clock = VirtualClock()
    clock.run(main())


def test_after_the_end_a_task_is_refused_and_its_coroutine_closed() -> None:
    async def main() -> None:
        tasks = Tasks()
        await tasks.drain(1)
        with pytest.raises(Draining, match="'late' comes too late"):
            tasks.spawn(nap(1), "late")

    VirtualClock().run(main())


def test_more_tasks_than_the_bound_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SPAWNED", 2)

    async def main() -> None:
        tasks = Tasks()
        first = tasks.spawn(nap(1))
        tasks.spawn(nap(2))
        with pytest.raises(Rejected, match="2 are allowed") as refused:
            tasks.spawn(nap(1))
        assert refused.value.retry_after == 1.0
        await first
        tasks.spawn(nap(1))
        await tasks.drain(5)

    VirtualClock().run(main())


def test_a_task_keeps_the_baggage_of_its_request_but_not_its_deadline() -> None:
    variable = contextvars.ContextVar("variable", default="")

    async def look() -> tuple[bool, str, str]:
        return current_deadline() == float("inf"), current().baggage["tenant"], variable.get()

    async def main() -> tuple[bool, str, str]:
        variable.set("kept")
        with baggage(tenant="acme"), deadline_within(1.0, now=SYSTEM.now()):
            return await Tasks().spawn(look())

    assert VirtualClock().run(main()) == (True, "acme", "kept")


def test_a_task_cancelled_before_its_first_step_leaves_no_warning() -> None:
    async def main() -> None:
        task = Tasks().spawn(nap(1))
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()

    VirtualClock().run(main())


def test_spawning_off_the_loop_says_what_to_do() -> None:
    with pytest.raises(RuntimeError, match="call_soon_threadsafe"):
        Tasks().spawn(nap(1))
    with pytest.raises(TypeError, match="call the async function"):
        Tasks().spawn(nap)  # type: ignore[arg-type]
