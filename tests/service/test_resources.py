import asyncio
import contextvars
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.clock import VirtualClock
from holdfast.core.errors import BootError, ConfigError
from holdfast.service.declaration import Needs
from holdfast.service.resources import OpenResources, Resource, Resources, declare, order


def made(name: str, needs: tuple[str, ...], events: list[str], fail: str = "") -> Resource:
    @asynccontextmanager
    async def opener(**values: Any) -> AsyncIterator[str]:
        assert set(values) == set(needs)
        events.append(f"open {name}")
        if fail == "open":
            raise ConnectionError(f"{name} is away")
        yield name
        events.append(f"close {name}")
        if fail == "close":
            raise ConnectionError(f"{name} went away")

    return Resource(name, opener, Needs(needs, ()), 1.0, 1.0)


@st.composite
def acyclic(draw: st.DrawFn) -> dict[str, tuple[str, ...]]:
    names = [f"r{number}" for number in range(draw(st.integers(1, 8)))]
    graph = {}
    for position, name in enumerate(names):
        chosen = draw(st.sets(st.sampled_from(names[:position]))) if position else set()
        graph[name] = tuple(sorted(chosen))
    return {name: graph[name] for name in draw(st.permutations(names))}


@given(acyclic(), st.data())
def test_whatever_is_declared_opens_after_its_needs_and_closes_in_reverse(
    graph: dict[str, tuple[str, ...]], data: st.DataObject
) -> None:
    events: list[str] = []
    broken = data.draw(st.sampled_from([None, *graph]))
    bad_close = data.draw(st.sets(st.sampled_from(sorted(graph))))

    def failing(name: str) -> str:
        return "open" if name == broken else "close" if name in bad_close else ""

    resources = [made(name, needs, events, failing(name)) for name, needs in graph.items()]

    async def main() -> None:
        opened = OpenResources(clock)
        if broken is None:
            await opened.start(resources)
            assert set(opened.values) == set(graph)
            steps = await opened.stop()
            assert {step.name for step in steps if step.outcome == "failed"} == {f"resource {n}" for n in bad_close}
        else:
            with pytest.raises(BootError, match=repr(broken)):
                await opened.start(resources)
        assert not opened.values

    clock = VirtualClock()
    clock.run(main())
    opened = [event.removeprefix("open ") for event in events if event.startswith("open ")]
    closed = [event.removeprefix("close ") for event in events if event.startswith("close ")]
    for name in opened:
        assert all(opened.index(need) < opened.index(name) for need in graph[name])
    assert closed == [name for name in reversed(opened) if name != broken]
    if broken is not None:
        assert opened[-1] == broken
    else:
        assert set(opened) == set(graph)


def test_a_circle_of_needs_is_spelled_out() -> None:
    resources = [made("a", ("b",), []), made("b", ("c",), []), made("c", ("a",), [])]
    with pytest.raises(BootError, match=r"circle: (a needs b needs c needs a|b needs c.*|c needs a.*)"):
        order(resources)


def test_an_unknown_need_offers_the_nearest_name() -> None:
    with pytest.raises(BootError, match=r"'orders' needs the resource 'databse'.*did you mean 'database'\?"):
        order([made("database", (), []), made("orders", ("databse",), [])])


def test_a_start_that_takes_too_long_names_the_resource_and_the_place() -> None:
    cancelled = []

    async def slow() -> AsyncIterator[int]:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise
        yield 1

    async def main() -> None:
        with pytest.raises(BootError, match=r"'slow' did not start within 2 s; it waited at .*test_resources.py.*slow"):
            await OpenResources().start([declare(slow, "slow", 2.0)])

    VirtualClock().run(main())
    assert cancelled == [True]


def test_a_close_that_hangs_is_reported_and_the_others_close() -> None:
    closed = []

    async def stubborn() -> AsyncIterator[int]:
        yield 1
        while True:
            try:
                await asyncio.sleep(5)
                break
            except asyncio.CancelledError:
                closed.append("refused to be cancelled")

    async def slow() -> AsyncIterator[int]:
        yield 1
        await asyncio.sleep(100)

    async def good() -> AsyncIterator[int]:
        yield 1
        closed.append("good")

    async def main() -> list[tuple[str, str]]:
        opened = OpenResources(clock)
        await opened.start([declare(good, "good"), declare(slow, "slow", 1, 3), declare(stubborn, "stubborn", 1, 1)])
        steps = await opened.stop()
        assert [round(step.seconds) for step in steps] == [3, 3, 0]
        return [(step.name, step.outcome) for step in steps]

    clock = VirtualClock()
    assert clock.run(main()) == [
        ("resource stubborn", "stuck"),
        ("resource slow", "overran"),
        ("resource good", "done"),
    ]
    assert "good" in closed


def test_a_cancelled_start_closes_what_is_open() -> None:
    events: list[str] = []

    async def hangs(a: str) -> AsyncIterator[int]:
        await asyncio.sleep(1000)
        yield 1

    async def main() -> None:
        resources = [made("a", (), events), declare(hangs, "hangs", 500.0)]
        start = asyncio.create_task(OpenResources().start(resources))
        await asyncio.sleep(1)
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start

    VirtualClock().run(main())
    assert events == ["open a", "close a"]


def test_a_resource_is_entered_and_left_in_the_same_task_and_context() -> None:
    variable = contextvars.ContextVar("variable", default="outside")
    seen: list[Any] = []

    async def db() -> AsyncIterator[int]:
        token = variable.set("inside")
        seen.append(asyncio.current_task())
        yield 1
        seen.append(asyncio.current_task())
        variable.reset(token)

    async def main() -> None:
        opened = OpenResources()
        await opened.start([declare(db, "db")])
        assert variable.get() == "outside"
        assert [step.outcome for step in await opened.stop()] == ["done"]

    VirtualClock().run(main())
    assert seen[0] is seen[1]


def test_a_resource_that_dies_while_serving_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def pool() -> AsyncIterator[int]:
        async with asyncio.TaskGroup() as group:
            group.create_task(dies())
            yield 1

    async def dies() -> None:
        await asyncio.sleep(1)
        raise ConnectionError("gone")

    async def main() -> None:
        opened = OpenResources()
        await opened.start([declare(pool, "pool")])
        await asyncio.sleep(2)
        assert [step.outcome for step in await opened.stop()] == ["failed"]

    VirtualClock().run(main())
    assert "resource pool ended while the service still runs" in caplog.text
    assert "ConnectionError: gone" in caplog.text


def test_sys_exit_in_a_resource_is_a_failed_start() -> None:
    async def leaves() -> AsyncIterator[Any]:
        yield sys.exit(3)

    async def main() -> None:
        with pytest.raises(BootError, match=r"'leaves' failed to start.*SystemExit 3"):
            await OpenResources().start([declare(leaves, "leaves")])

    VirtualClock().run(main())


def test_a_function_that_opens_nothing_is_refused() -> None:
    async def plain() -> int:
        return 1

    with pytest.raises(ConfigError, match="one yield"):
        declare(plain, "plain")
    with pytest.raises(ConfigError, match="identifier"):
        declare(plain, "two words")

    async def main() -> None:
        with pytest.raises(BootError, match="returned int, which is no async context manager"):
            await OpenResources().start([declare(lambda: 5, "five")])

    VirtualClock().run(main())


def test_a_default_makes_a_need_optional() -> None:
    async def cache(db: str = "none") -> AsyncIterator[str]:
        yield f"cache on {db}"

    async def main(*more: Resource) -> str:
        opened = OpenResources()
        await opened.start([declare(cache, "cache"), *more])
        value: str = opened.values["cache"]
        await opened.stop()
        return value

    assert VirtualClock().run(main()) == "cache on none"
    assert VirtualClock().run(main(made("db", (), []))) == "cache on db"


def test_the_view_names_what_is_open() -> None:
    view = Resources({"database": 1})
    assert view.database == view["database"] == 1
    assert list(view) == ["database"]
    with pytest.raises(AttributeError, match=r"no resource 'databse' is open; did you mean 'database'\?"):
        _ = view.databse
    with pytest.raises(KeyError, match="there are none"):
        Resources({})["db"]
