import asyncio
import threading
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from holdfast.core.clock import VirtualClock
from holdfast.core.drain import Drain
from holdfast.service.declaration import Needs
from holdfast.service.health import REASON_LENGTH, Check, Health, HealthReport, describe
from holdfast.service.interface import Message, Receive, Scope, Send
from holdfast.service.probes import HealthRoutes, answer

NONE = Needs((), ())


def watched(check: Check | list[Check], look: Callable[[Health, VirtualClock], Any], drain: Drain | None = None) -> Any:
    """What ``look`` returns while the checks run, on virtual time."""
    clock = VirtualClock()

    async def main() -> Any:
        health = Health(drain or Drain(), clock)
        health.start(check if isinstance(check, list) else [check], {"db": "the database"})
        health.started = True
        try:
            return await look(health, clock)
        finally:
            await health.stop()

    return clock.run(main())


def answers(results: list[Any]) -> Callable[[], Any]:
    """A check that gives ``results`` in turn, the last one for ever; exceptions are raised."""

    async def check() -> Any:
        result = results.pop(0) if len(results) > 1 else results[0]
        if isinstance(result, BaseException):
            raise result
        return result

    return check


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (None, ""),
        (True, ""),
        (False, "it returned False"),
        ("fine", "it returned a str, not None or True"),
        (ConnectionError("refused"), "ConnectionError: refused"),
        (SystemExit(2), "TaskExitError: SystemExit 2 ends this task only"),
    ],
)
def test_the_result_of_a_check_decides(result: Any, reason: str) -> None:
    async def look(health: Health, _: VirtualClock) -> HealthReport:
        await asyncio.sleep(1)
        return health.report()

    report = watched(Check("db", answers([result]), NONE), look)
    assert report.checks[0].reason == reason
    assert report.status == ("fail" if reason else "pass")
    assert report.ready is (not reason)


def test_a_failing_check_that_is_not_critical_only_warns() -> None:
    async def look(health: Health, _: VirtualClock) -> HealthReport:
        await asyncio.sleep(1)
        return health.report()

    report = watched([Check("cache", answers([False]), NONE, critical=False), Check("db", answers([True]), NONE)], look)
    assert report.status == "warn"
    assert report.ready


def test_a_check_runs_once_a_period_however_many_ask() -> None:
    runs: list[float] = []

    async def check(db: str) -> None:
        assert db == "the database"
        runs.append(asyncio.get_running_loop().time())

    async def look(health: Health, clock: VirtualClock) -> None:
        for _ in range(1000):
            assert health.report() is not None
            await asyncio.sleep(0.02)

    watched(Check("db", check, Needs(("db",), ()), every=5.0), look)
    assert [run - runs[0] for run in runs] == pytest.approx([0, 5, 10, 15])


def test_a_check_that_hangs_is_timed_out_and_recovers() -> None:
    hanging = [True]

    async def check() -> None:
        if hanging:
            await asyncio.sleep(1000)

    async def look(health: Health, _: VirtualClock) -> None:
        await asyncio.sleep(1.5)
        assert health.report().checks[0].reason == "timed out: no answer in 1 s"
        hanging.clear()
        await asyncio.sleep(5)
        assert health.report().status == "pass"

    watched(Check("db", check, NONE, every=5.0, timeout=1.0), look)


def test_a_sync_check_that_hangs_is_not_started_twice() -> None:
    release = threading.Event()
    threads: list[threading.Thread] = []

    def check() -> None:
        threads.append(threading.current_thread())
        release.wait(20)

    async def main() -> None:
        health = Health(Drain())
        health.start([Check("db", check, NONE, every=0.01, timeout=0.01)], {})
        states = [health._states["db"]]
        seen: set[str] = set()
        async with asyncio.timeout(10):
            while len(seen) < 5:  # five periods have gone by
                seen.add(states[0].report(0).reason)
                await asyncio.sleep(0.001)
        assert len(threads) == 1
        assert health.report().checks[0].reason.startswith("timed out: no answer in")
        release.set()
        await health.first_checks(10)
        await health.stop()

    asyncio.run(main())
    assert threads[0].daemon
    assert threads[0] is not threading.main_thread()


@pytest.mark.parametrize("error", [StopIteration(), SystemExit(3), OSError("refused")])
def test_a_sync_check_may_raise_what_it_likes(error: BaseException) -> None:
    def check() -> None:
        raise error

    async def look(health: Health, _: VirtualClock) -> str:
        await asyncio.sleep(0.5)
        return health.report().checks[0].reason

    assert type(error).__name__ in watched(Check("db", check, NONE, timeout=100.0), look)


def test_a_result_that_is_too_old_is_a_failure() -> None:
    async def look(health: Health, clock: VirtualClock) -> None:
        await asyncio.sleep(0.1)
        assert health.report().ready
        clock.advance(3 * 5 + 1)  # as when the event loop was blocked
        report = health.report()
        assert report.checks[0].reason == "stale"
        assert not report.ready

    watched(Check("db", answers([None]), NONE, every=5.0, timeout=1.0), look)


def test_the_first_checks_are_waited_for_and_tried_soon_again() -> None:
    async def look(health: Health, clock: VirtualClock) -> float:
        began = clock.now()
        await health.first_checks(60)
        return clock.now() - began

    took = watched(Check("db", answers([OSError("no"), OSError("no"), OSError("no"), None]), NONE, every=30.0), look)
    assert took == pytest.approx(0.25 + 0.5 + 1.0)


def test_first_checks_that_never_pass_are_named() -> None:
    async def look(health: Health, _: VirtualClock) -> None:
        with pytest.raises(TimeoutError, match="not healthy within 7 s: db: OSError: refused"):
            await health.first_checks(7)

    watched(
        [Check("db", answers([OSError("refused")]), NONE), Check("x", answers([False]), NONE, critical=False)], look
    )


def test_a_draining_or_starting_worker_is_not_ready() -> None:
    drain = Drain()
    health = Health(drain)
    assert not health.report().ready
    assert health.report().why == "starting"
    health.started = True
    assert health.report().ready
    drain.begin("test")
    assert not health.report().ready
    assert health.report().why == "draining"


def test_a_reason_is_one_short_line_with_the_usual_secrets_masked() -> None:
    assert describe(OSError("postgres://ann:hunter2@db/x is away\nmore")) == "OSError: postgres://ann:***@db/x is away"
    assert "hunter2" not in describe(OSError("login failed, password=hunter2"))
    assert len(describe(OSError("x" * 1000))) == REASON_LENGTH

    class MuteError(Exception):
        def __str__(self) -> str:
            raise ValueError

    assert describe(MuteError()) == "MuteError"


def asked(report: HealthReport, path: str, method: str = "GET", query: bytes = b"", **more: Any) -> list[Message]:
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "passed on"})

    async def receive() -> Message:
        raise AssertionError("a probe reads no body")

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "path": path, "method": method, "query_string": query, **more}
    asyncio.run(HealthRoutes(app, lambda: report)(scope, receive, send))
    return sent


HEALTHY = HealthReport("pass", started=True, draining=False)


def test_the_routes_answer_their_paths_and_pass_the_rest_on() -> None:
    for path in ("/livez", "/readyz", "/startupz"):
        start, body = asked(HEALTHY, path)
        assert start["status"] == 200
        assert (b"cache-control", b"no-store") in start["headers"]
        assert body["body"] == b"ok\n"
        assert asked(HEALTHY, path, "HEAD")[1]["body"] == b""
        assert asked(HEALTHY, path, "POST")[0]["status"] == 405
    assert asked(HEALTHY, "/api/readyz", root_path="/api")[0]["status"] == 200
    assert asked(HEALTHY, "/readyzz") == [{"type": "passed on"}]


def test_each_probe_asks_its_own_question() -> None:
    def status(report: HealthReport) -> tuple[int, int, int]:
        return (
            answer("livez", report).status,
            answer("startupz", report).status,
            answer("readyz", report).status,
        )

    assert status(HealthReport("pass", started=False, draining=False)) == (200, 503, 503)
    assert status(HealthReport("warn", started=True, draining=False)) == (200, 200, 200)
    assert status(HealthReport("fail", started=True, draining=False)) == (200, 200, 503)
    assert status(HealthReport("pass", started=True, draining=True)) == (200, 200, 503)


def test_verbose_shows_each_check_but_no_message_in_public() -> None:
    async def look(health: Health, _: VirtualClock) -> HealthReport:
        await asyncio.sleep(1)
        return health.report()

    report = watched(Check("db", answers([OSError("10.0.0.7 refused")]), NONE), look)
    start, body = asked(report, "/readyz", query=b"verbose")
    assert start["status"] == 503
    shown = msgspec.json.decode(body["body"])
    assert shown["status"] == "fail"
    assert shown["checks"][0]["name"] == "db"
    assert shown["checks"][0]["reason"] == "OSError"
    assert shown["checks"][0]["age"] == pytest.approx(0.25)
    assert b"10.0.0.7 refused" in answer("readyz", report, verbose=True).body
    assert answer("readyz", report).body == b"failing db\n"
