import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.applications import Starlette

from holdfast.core.clock import VirtualClock
from holdfast.core.drain import Drain, current_drain
from holdfast.core.errors import BootError, ConfigError, Draining
from holdfast.service.interface import ASGIApp, Receive, Scope, Send
from holdfast.service.lifecycle import Lifecycle, Limits
from holdfast.service.report import StopReport
from holdfast.service.service import Service


def lifespan_app(
    startup: Callable[[Scope, Send], Awaitable[None]] | None = None,
    serving: Callable[[], Awaitable[None]] | None = None,
    shutdown: Callable[[Send], Awaitable[None]] | None = None,
) -> ASGIApp:
    """An application whose lifespan does what it is told."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "lifespan"
        assert (await receive())["type"] == "lifespan.startup"
        if startup is not None:
            await startup(scope, send)
        await send({"type": "lifespan.startup.complete"})
        if serving is not None:
            await serving()
        assert (await receive())["type"] == "lifespan.shutdown"
        if shutdown is not None:
            await shutdown(send)
        await send({"type": "lifespan.shutdown.complete"})

    return app


def lived(target: Any, seconds: float = 1.0, **options: Any) -> tuple[Lifecycle, StopReport]:
    """Start ``target``, let ``seconds`` pass, stop it."""
    clock = VirtualClock()

    async def main() -> tuple[Lifecycle, StopReport]:
        lifecycle = Lifecycle(target, clock=clock, **options)
        await lifecycle.start()
        await asyncio.sleep(seconds)
        return lifecycle, await lifecycle.stop()

    return clock.run(main())


def test_everything_starts_in_order_and_ends_in_reverse() -> None:
    events: list[str] = []

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, str]]:
        events.append(f"app starts with {service.resources.db}")
        yield {"pool": "the pool"}
        events.append("app ends")

    service = Service("orders", Starlette(lifespan=lifespan))

    @service.resource
    async def db(config: str) -> AsyncIterator[str]:
        events.append(f"db opens with {config}")
        yield "the database"
        events.append("db closes")

    @service.resource
    async def config() -> AsyncIterator[str]:
        events.append("config opens")
        yield "the config"
        events.append("config closes")

    @service.background
    async def loop(db: str) -> None:
        events.append(f"loop runs with {db}")
        try:
            await asyncio.sleep(1000)
        finally:
            events.append("loop ends")

    @service.check("db")
    async def db_answers(db: str) -> bool:
        return db == "the database"

    async def work() -> None:
        await asyncio.sleep(2)
        events.append("work is done")

    clock = VirtualClock()

    async def main() -> StopReport:
        lifecycle = Lifecycle(service, clock=clock)
        assert not lifecycle.health.report().ready
        await lifecycle.start()
        await lifecycle.first_checks(10)
        assert lifecycle.health.report().ready
        assert lifecycle.state == {"db": "the database", "config": "the config", "pool": "the pool"}
        service.spawn(work(), "work")
        report = await lifecycle.stop()
        assert not lifecycle.health.report().ready
        with pytest.raises(Draining):
            service.spawn(work())
        return report

    report = clock.run(main())
    assert events == [
        "config opens",
        "db opens with the config",
        "app starts with the database",
        "loop runs with the database",
        "loop ends",
        "work is done",
        "app ends",
        "db closes",
        "config closes",
    ]
    assert report.clean
    assert [step.name for step in report.steps] == ["lifespan", "resource db", "resource config"]
    assert report.spawned.finished == ("work",)
    assert report.background.cancelled == ("loop",)


def test_an_application_without_lifespan_is_served_all_the_same() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"

    _, report = lived(app)
    assert report.clean
    assert report.steps == ()
    with pytest.raises(BootError, match="start-up failed: AssertionError") as failed:
        lived(app, lifespan="on")
    assert "assert scope" in failed.value.detail


def test_an_error_after_the_startup_message_is_shown_with_its_stack(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(scope: Scope, send: Send) -> None:
        raise ConnectionError("database is away")

    lived(lifespan_app(broken))
    assert "ConnectionError: database is away" in caplog.text


def refuse(text: str) -> None:
    raise ConnectionError(text)


def test_startup_failed_carries_the_applications_own_words() -> None:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        refuse("database is away")
        yield

    with pytest.raises(BootError, match="start-up failed: ConnectionError: database is away") as failed:
        lived(Starlette(lifespan=lifespan))
    assert 'refuse("database is away")' in failed.value.detail


def test_sys_exit_in_a_lifespan_is_a_failed_start() -> None:
    async def leaves(scope: Scope, send: Send) -> None:
        raise SystemExit(3)

    with pytest.raises(BootError, match="SystemExit 3"):
        lived(lifespan_app(leaves))


def test_a_startup_that_hangs_says_where() -> None:
    async def hangs(scope: Scope, send: Send) -> None:
        await asyncio.sleep(1000)

    with pytest.raises(BootError, match=r"longer than 3 s; it waited at .*in .*hangs"):
        lived(lifespan_app(hangs), limits=Limits(startup=3))


def test_a_lifespan_that_dies_while_serving_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def dies() -> None:
        raise ValueError("bad")

    _, report = lived(lifespan_app(serving=dies))
    assert "lifespan ended while it is being served" in caplog.text
    assert [(step.name, step.outcome) for step in report.steps] == [("lifespan", "failed")]


@pytest.mark.parametrize(
    ("kind", "outcome", "detail"),
    [
        ("raises", "failed", "ValueError: bad"),
        ("says so", "failed", "ValueError: could not flush"),
        ("hangs", "overran", "not over within 4 s"),
    ],
)
def test_a_shutdown_that_goes_wrong_is_reported_and_resources_close(kind: str, outcome: str, detail: str) -> None:
    closed = []

    async def shutdown(send: Send) -> None:
        if kind == "raises":
            raise ValueError("bad")
        if kind == "hangs":
            await asyncio.sleep(1000)
        await send({"type": "lifespan.shutdown.failed", "message": "could not flush"})
        raise ValueError("could not flush")  # as Starlette does

    service = Service("orders", lifespan_app(shutdown=shutdown))

    @service.resource
    async def db() -> AsyncIterator[None]:
        yield
        closed.append("db")

    _, report = lived(service, limits=Limits(shutdown=4))
    step = report.steps[0]
    assert (step.name, step.outcome) == ("lifespan", outcome)
    assert detail in step.detail
    assert not report.clean
    assert report.problems
    assert closed == ["db"]


def test_a_failed_application_start_closes_the_resources_and_ends_nothing_twice() -> None:
    events = []

    async def says_no(scope: Scope, send: Send) -> None:
        await send({"type": "lifespan.startup.failed", "message": "no licence"})

    service = Service("orders", lifespan_app(says_no))

    @service.resource
    async def db() -> AsyncIterator[None]:
        events.append("opened")
        yield
        events.append("closed")

    for _ in range(2):  # a service whose start failed may be started again
        with pytest.raises(BootError, match="no licence"):
            lived(service)
    assert events == ["opened", "closed", "opened", "closed"]


def test_a_cancelled_start_leaves_nothing_open() -> None:
    events = []

    async def hangs(scope: Scope, send: Send) -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            events.append("app cancelled")

    service = Service("orders", lifespan_app(hangs))

    @service.resource
    async def db() -> AsyncIterator[None]:
        yield
        events.append("db closed")

    async def main() -> None:
        start = asyncio.create_task(Lifecycle(service).start())
        await asyncio.sleep(1)
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
        assert asyncio.all_tasks() == {asyncio.current_task()}

    VirtualClock().run(main())
    assert events == ["app cancelled", "db closed"]


def test_everything_started_sees_the_workers_drain() -> None:
    drain = Drain()
    seen: list[Drain] = []

    async def startup(scope: Scope, send: Send) -> None:
        seen.append(current_drain())

    service = Service("orders", lifespan_app(startup))

    @service.background(restart="never")
    async def loop() -> None:
        seen.append(current_drain())

    lived(service, drain=drain)
    assert seen == [drain, drain]
    assert drain.draining


def test_a_critical_check_that_fails_is_a_failed_boot() -> None:
    service = Service("orders")

    @service.check("db")
    async def db() -> None:
        raise ConnectionError("refused")

    async def main() -> None:
        lifecycle = Lifecycle(service, clock=clock)
        await lifecycle.start()
        with pytest.raises(BootError, match="not healthy within 3 s: db: ConnectionError: refused"):
            await lifecycle.first_checks(3)
        await lifecycle.stop()

    clock = VirtualClock()
    clock.run(main())


def test_a_wsgi_application_needs_its_bridge() -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        return []

    async def bridged(scope: Scope, receive: Receive, send: Send) -> None:
        raise NotImplementedError

    with pytest.raises(BootError, match="WSGIBridge"):
        Lifecycle(app)
    assert Lifecycle(app, wsgi=lambda _: bridged).app is bridged


def test_limits_are_above_zero() -> None:
    with pytest.raises(ConfigError, match="limits shutdown: got 0, expected seconds above zero"):
        Limits(shutdown=0)


def test_one_service_is_run_once_at_a_time() -> None:
    async def main() -> None:
        service = Service("orders")
        lifecycle = Lifecycle(service)
        await lifecycle.start()
        second = Lifecycle(service)
        with pytest.raises(BootError, match="runs already"):
            await second.start()
        await second.stop()
        assert await service.spawn(asyncio.sleep(1, "still open")) == "still open"
        await lifecycle.stop()
        again = Lifecycle(service)
        await again.start()
        await again.stop()

    VirtualClock().run(main())
