"""Policies on real requests: who gets in, what refusals look like, when places come free, and what time limits do."""

import asyncio
import contextvars
import threading
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from holdfast.core.codes import Code
from holdfast.core.context import Criticality, current, remaining
from holdfast.core.errors import ConfigError
from holdfast.core.failure import ServiceError
from holdfast.server.admission.settings import AdmissionSettings, read_admission, read_routes
from holdfast.server.http.protocol import HttpProtocol
from server.engineroom import LOOPS, UPGRADE, answer, held, request, run, serving, until

HELD = [{"match": "GET /held", "bulkhead": 1}]
LOOPBACK = read_admission({"trusted_proxies": ["127.0.0.1"]})
EMPTY_BODY = (b"content-length", b"0")


class App:
    """Notes what it sees; ``/held`` waits until it is let go."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.paths: list[str] = []
        self.ended: list[str] = []
        self.scopes: list[Any] = []
        self.contexts: list[tuple[Criticality, str, float]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.paths.append(scope["path"])
        self.scopes.append(scope)
        context = current()
        self.contexts.append((context.criticality, context.colour, remaining()))
        try:
            if scope["type"] == "websocket":
                await self.talk(receive, send)
            elif scope["path"] == "/held":
                await self.go.wait()
                await answer(send, b"held")
            elif scope["path"] == "/stream":
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": b"a", "more_body": True})
                await self.go.wait()
                await send({"type": "http.response.body", "body": b"b"})
            elif scope["path"] == "/listens":
                while (await receive())["type"] != "http.disconnect":
                    pass
                self.ended.append("heard")
            elif scope["path"] == "/fails":
                raise ValueError("on purpose")
            else:
                await answer(send, b"here")
        except asyncio.CancelledError:
            self.ended.append("cancelled")
            raise
        else:
            self.ended.append("returned")

    async def talk(self, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        await self.go.wait()
        await send({"type": "websocket.close"})


@pytest.mark.parametrize("loop", LOOPS)
def test_a_rate_limit_refuses_before_the_app_and_says_when_to_come_back(loop: str) -> None:
    async def main() -> None:
        app = App()
        routes = [{"match": "POST /orders", "rate_limit": "2/h", "name": "orders"}]
        async with serving(app, routes=routes) as room:
            client = await room.connect()
            for _ in range(2):
                await client.send(request("POST", "/orders", "Content-Length: 0"))
                assert (await client.response()).status == 200
            await client.send(request("POST", "/orders", "Content-Length: 5") + b"hello")
            refused = await client.response()
            assert refused.status == 429
            assert int(refused.headers["retry-after"]) > 1000
            assert refused.headers["ratelimit-policy"] == '"rate_limit";q=2;w=3600'
            assert refused.headers["ratelimit"].startswith('"rate_limit";r=0;t=')
            assert refused.headers["content-type"] == "application/problem+json"
            assert "date" in refused.headers
            told = msgspec.json.decode(refused.body)
            assert (told["status"], told["code"], told["reason"]) == (429, "resource_exhausted", "RATE_LIMITED")
            assert (await client.get("/orders")).status == 200, "another method, and the connection stayed"
            assert app.paths == ["/orders"] * 3

    run(main, loop)


def test_each_client_has_a_rate_of_its_own_behind_a_trusted_proxy_only() -> None:
    async def main() -> None:
        settings = {"clients": {"rate": "1/h"}}
        trusting = read_admission({**settings, "trusted_proxies": ["127.0.0.1"]})
        for admission, second in ((read_admission(settings), 429), (trusting, 200)):
            async with serving(App(), admission=admission) as room:
                client = await room.connect()
                assert (await client.get("/", "X-Forwarded-For: 203.0.113.1")).status == 200
                assert (await client.get("/", "X-Forwarded-For: 203.0.113.2")).status == second
                assert (await client.get("/", "X-Forwarded-For: 203.0.113.1")).status == 429

    run(main)


def test_the_app_sees_the_address_and_scheme_that_a_trusted_proxy_tells() -> None:
    async def main() -> None:
        for admission, trusted in ((LOOPBACK, True), (AdmissionSettings(), False)):
            app = App()
            async with serving(app, admission=admission) as room:
                client = await room.connect()
                told = ("X-Forwarded-For: 198.51.100.9, 203.0.113.7", "X-Forwarded-Proto: https")
                await client.get("/", *told)
                scope = app.scopes[0]
                assert (scope["client"][0] == "203.0.113.7") is trusted
                assert (scope["scheme"] == "https") is trusted

    run(main)


def test_a_place_is_held_until_the_response_has_ended() -> None:
    async def main() -> None:
        app = App()
        async with serving(app, routes=[{"match": "GET /stream", "bulkhead": 1}]) as room:
            first, second = await room.connect(), await room.connect()
            await first.send(request("GET", "/stream"))
            await until(lambda: app.paths == ["/stream"])
            assert held(room, "GET /stream") == 1
            refused = await second.get("/stream")
            assert (refused.status, refused.headers["retry-after"]) == (503, "1")
            app.go.set()
            assert (await first.response()).body == b"ab"
            await until(lambda: held(room, "GET /stream") == 0)
            assert (await second.get("/stream")).status == 200

    run(main)


def test_a_websocket_holds_its_place_to_the_end_and_is_refused_as_a_request_is() -> None:
    async def main() -> None:
        app = App()
        upgrade = request("GET", "/ws", *UPGRADE)
        async with serving(app, routes=[{"match": "GET /ws", "bulkhead": 1, "criticality": "sheddable"}]) as room:
            first, second = await room.connect(), await room.connect()
            await first.send(upgrade)
            await until(lambda: app.paths == ["/ws"])
            assert held(room, "GET /ws") == 1
            assert app.contexts[0][0] is Criticality.SHEDDABLE
            await second.send(upgrade)
            refused = await second.response()
            assert (refused.status, refused.headers["connection"]) == (503, "close")
            assert await second.ended()
            assert app.paths == ["/ws"]
            app.go.set()
            await until(lambda: held(room, "GET /ws") == 0)

    run(main)


def test_a_websocket_whose_client_leaves_gives_its_place_back() -> None:
    async def main() -> None:
        app = App()
        upgrade = request("GET", "/ws", *UPGRADE)
        admission = read_admission({"clients": {"connections": 1}})
        async with serving(app, admission=admission, routes=[{"match": "GET /ws", "bulkhead": 1}]) as room:
            first = await room.connect()
            await first.send(upgrade)
            await until(lambda: app.paths == ["/ws"])
            assert len(room.state.entrance.admission.connections) == 1
            first.close()
            app.go.set()
            await until(lambda: held(room, "GET /ws") == 0)
            await until(lambda: len(room.state.entrance.admission.connections) == 0)

    run(main)


def test_a_client_may_have_only_so_many_connections() -> None:
    async def main() -> None:
        admission = read_admission({"clients": {"connections": 2}})
        async with serving(App(), admission=admission) as room:
            clients = [await room.connect() for _ in range(2)]
            for client in clients:
                assert (await client.get("/")).status == 200
            third = await room.connect()
            await third.send(request("GET", "/"))
            refused = await third.response()
            assert (refused.status, refused.headers["connection"]) == (503, "close")
            assert await third.ended()
            clients[0].close()
            await until(lambda: room.state.entrance.admission.connections.held("127.0.0.1") == 1)
            fourth = await room.connect()
            assert (await fourth.get("/")).status == 200

    run(main)


@pytest.mark.parametrize("loop", LOOPS)
def test_at_its_deadline_a_handler_is_cancelled_and_504_answered(loop: str) -> None:
    async def main() -> None:
        app = App()
        async with serving(app, routes=[{"match": "GET /held", "timeout": "50ms", "bulkhead": 1}]) as room:
            client = await room.connect()
            late = await client.get("/held")
            assert late.status == 504
            assert msgspec.json.decode(late.body)["reason"] == "DEADLINE_EXCEEDED"
            assert "connection" not in late.headers
            await until(lambda: app.ended == ["cancelled"])
            assert held(room, "GET /held") == 0
            assert 0 < app.contexts[0][2] <= 0.05
            assert (await client.get("/")).status == 200, "the connection stayed"
            assert app.contexts[1][2] == float("inf"), "and its next request has time"

    run(main, loop)


def test_who_ignores_its_cancellation_keeps_its_place_but_not_its_client() -> None:
    async def main() -> None:
        go = asyncio.Event()
        ended: list[str] = []

        async def stubborn(scope: Any, receive: Any, send: Any) -> None:
            while not go.is_set():
                try:
                    await go.wait()
                except asyncio.CancelledError:
                    ended.append("cancelled")
            await answer(send, b"late")
            ended.append((await receive())["type"])

        async with serving(stubborn, routes=[{"match": "*", "timeout": "20ms", "bulkhead": 1}]) as room:
            client = await room.connect()
            assert (await client.get("/")).status == 504
            assert (await client.get("/")).status == 503, "its work goes on, so its place is taken"
            go.set()
            await until(lambda: ended[-1:] == ["http.disconnect"])
            await until(lambda: held(room, "*") == 0)
            assert (await client.get("/")).body == b"late", "which the first one's late answer was not"

    run(main)


def test_a_response_that_is_late_in_its_middle_is_cut_off() -> None:
    async def main() -> None:
        app = App()
        async with serving(app, routes=[{"match": "GET /stream", "timeout": "50ms", "bulkhead": 1}]) as room:
            client = await room.connect()
            await client.send(request("GET", "/stream"))
            with pytest.raises(Exception) as cut:  # noqa: PT011 - the kind is looked at below
                await client.response()
            assert type(cut.value).__name__ == "Truncated"
            await until(lambda: app.ended == ["cancelled"])
            assert held(room, "GET /stream") == 0

    run(main)


def test_work_whose_time_is_over_before_it_begins_is_not_begun() -> None:
    async def main() -> None:
        app = App()
        async with serving(app, admission=LOOPBACK) as room:
            client = await room.connect()
            assert (await client.get("/", "Holdfast-Timeout-Ms: 0")).status == 504
            assert app.paths == []
            await client.send(
                request("GET", "/held") + request("GET", "/late", "Holdfast-Timeout-Ms: 30") + request("GET", "/next")
            )
            await until(lambda: app.paths == ["/held"])
            await asyncio.sleep(0.05)
            app.go.set()
            assert [(await client.response()).status for _ in range(3)] == [200, 504, 200]
            assert app.paths == ["/held", "/next"]

    run(main)


def test_the_headers_of_strangers_say_nothing_about_time_and_importance() -> None:
    async def main() -> None:
        told = ("Holdfast-Timeout-Ms: 1000", "Holdfast-Criticality: sheddable", "Holdfast-Colour: blue")
        for admission, trusted in ((LOOPBACK, True), (AdmissionSettings(), False)):
            app = App()
            async with serving(app, admission=admission) as room:
                client = await room.connect()
                await client.get("/", *told)
                level, colour, left = app.contexts[0]
                assert (level is Criticality.SHEDDABLE) is trusted
                assert (colour == "blue") is trusted
                assert (left <= 1.0) is trusted

    run(main)


@pytest.mark.parametrize("leave", ["close", "reset"])
def test_a_client_that_goes_away_cancels_its_handler(leave: str) -> None:
    async def main() -> None:
        app = App()
        async with serving(app, routes=HELD) as room:
            client = await room.connect()
            await client.send(request("GET", "/held"))
            await until(lambda: app.paths == ["/held"])
            getattr(client, leave)()
            await until(lambda: app.ended == ["cancelled"])
            await until(lambda: held(room, "GET /held") == 0)
            assert room.state.failed == 0

    run(main)


def test_who_must_finish_does_so_when_its_client_has_gone() -> None:
    async def main() -> None:
        app = App()
        async with serving(app, routes=[{**HELD[0], "must_finish": True}]) as room:
            client = await room.connect()
            await client.send(request("GET", "/held"))
            await until(lambda: app.paths == ["/held"])
            client.reset()
            await until(lambda: not room.state.connections)
            assert app.ended == []
            assert held(room, "GET /held") == 1
            app.go.set()
            await until(lambda: app.ended == ["returned"])
            await until(lambda: held(room, "GET /held") == 0)

    run(main)


def test_who_listens_for_the_end_hears_it_instead_of_being_cancelled() -> None:
    async def main() -> None:
        app = App()
        async with serving(app) as room:
            client = await room.connect()
            await client.send(request("GET", "/listens"))
            await until(lambda: app.paths == ["/listens"])
            await asyncio.sleep(0.02)
            client.close()
            await until(lambda: app.ended == ["heard", "returned"])

    run(main)


def test_a_pipelined_request_that_never_begins_gives_its_place_back() -> None:
    async def main() -> None:
        app = App()
        routes = [*HELD, {"match": "POST /second", "bulkhead": 1}]
        async with serving(app, routes=routes) as room:
            client = await room.connect()
            torn = request("POST", "/second", "Transfer-Encoding: chunked") + b"no length\r\n"
            await client.send(request("GET", "/held") + torn)
            await until(lambda: app.paths == ["/held"])
            assert (held(room, "POST /second"), held(room, "GET /held")) == (0, 1)
            app.go.set()
            assert [(await client.response()).status for _ in range(2)] == [200, 400]
            assert app.paths == ["/held"]

    run(main)


def test_an_answer_that_goes_out_at_the_end_of_the_turn_comes_before_whatever_follows_it() -> None:
    async def main() -> None:
        async with serving(App(), routes=[{"match": "GET /once", "rate_limit": "1/h"}]) as room:
            first = await room.connect()
            await first.get("/once")
            again = request("GET", "/once")
            await first.send(again + request("GET", "/") + again + b"nonsense\r\n\r\n")
            assert [(await first.response()).status for _ in range(4)] == [429, 200, 429, 400]
            client = await room.connect()
            await until(lambda: len(room.state.connections) == 1)  # the first one has ended
            (protocol,) = room.state.connections
            assert isinstance(protocol, HttpProtocol)
            last = request("GET", "/once", "Connection: close")
            for part in (again, again + last[:9], last[9:]):  # in one turn of the loop
                protocol.data_received(part)
            found = [(await client.response()).headers.get("connection") for _ in range(3)]
            assert found == [None, None, "close"]
            assert await client.ended()
            await until(lambda: not room.state.connections)
            for end in ("end", "drain_step", "abort"):
                client = await room.connect()
                await until(lambda: len(room.state.connections) == 1)
                (protocol,) = room.state.connections
                assert isinstance(protocol, HttpProtocol)
                protocol.data_received(again)
                assert protocol.unsaid.startswith(b"HTTP/1.1 429")
                if end == "end":
                    protocol.end(linger=False)
                elif end == "drain_step":
                    assert protocol.drain_step()
                else:
                    protocol.transport.abort()
                if end != "abort":
                    assert protocol.unsaid == b""
                    assert (await client.response()).status == 429
                client.reset()
                await until(lambda: not room.state.connections)

    run(main)


def test_refusals_of_pipelined_requests_keep_their_order() -> None:
    async def main() -> None:
        app = App()
        routes = [{"match": "GET /never", "rate_limit": {"rate": "1/h", "burst": 1}}]
        async with serving(app, routes=routes) as room:
            client = await room.connect()
            await client.get("/never")
            await client.send(request("GET", "/held") + request("GET", "/never") + request("GET", "/"))
            await until(lambda: app.paths == ["/never", "/held"])
            app.go.set()
            assert [(await client.response()).status for _ in range(3)] == [200, 429, 200]

    run(main)


def test_a_refused_request_with_a_large_body_ends_its_connection_without_a_reset() -> None:
    async def main() -> None:
        routes = [{"match": "POST /", "rate_limit": {"rate": "1/h", "burst": 1}}]
        async with serving(App(), routes=routes) as room:
            for head in ("Content-Length: 1000000", "Transfer-Encoding: chunked"):
                client = await room.connect()
                if head.startswith("Content"):
                    await client.send(request("POST", "/", "Content-Length: 0"))
                    await client.response()
                await client.send(request("POST", "/", head))
                refused = await client.response()
                assert (refused.status, refused.headers["connection"]) == (429, "close")
                assert await client.ended()

    run(main)


def test_a_failing_app_is_told_to_the_gates() -> None:
    async def main() -> None:
        routes = [{"match": "GET /fails", "breaker": {"min_calls": 2, "window": 2}}]
        async with serving(App(), routes=routes) as room:
            client = await room.connect()
            for _ in range(2):
                assert (await client.get("/fails")).status == 500
            refused = await client.get("/fails")
            assert (refused.status, msgspec.json.decode(refused.body)["reason"]) == (503, "CIRCUIT_OPEN")
            assert int(refused.headers["retry-after"]) >= 1

    run(main)


def test_settings_change_while_requests_are_under_way_and_gates_keep_their_state() -> None:
    async def main() -> None:
        app = App()
        async with serving(app, routes=HELD) as room:
            first, second = await room.connect(), await room.connect()
            await first.send(request("GET", "/held"))
            await until(lambda: app.paths == ["/held"])
            room.engine.configure(AdmissionSettings(), read_routes([{**HELD[0], "bulkhead": 2}]))
            assert held(room, "GET /held") == 1
            await second.send(request("GET", "/held"))
            await until(lambda: len(app.paths) == 2)
            with pytest.raises(ConfigError):
                room.engine.configure(AdmissionSettings(), [read_routes(HELD)[0], read_routes(HELD)[0]])
            room.engine.configure(AdmissionSettings(queue=False), ())
            app.go.set()
            assert [(await client.response()).status for client in (first, second)] == [200, 200]
            assert (await first.get("/held")).status == 200

    run(main)


def test_health_probes_meet_no_policy() -> None:
    async def main() -> None:
        app = App()
        routes = [{"match": "*", "rate_limit": {"rate": "1/h", "burst": 1}}]
        async with serving(app, routes=routes, exempt=["/livez"]) as room:
            client = await room.connect()
            assert [(await client.get("/livez")).status for _ in range(3)] == [200] * 3
            assert [(await client.get("/")).status for _ in range(2)] == [200, 429]

    run(main)


@pytest.mark.parametrize("make", [asyncio.to_thread, None])
def test_work_in_a_thread_sees_the_deadline(make: Callable[..., Any] | None) -> None:
    async def main() -> None:
        seen: list[float] = []

        def look() -> None:
            seen.append(remaining())

        async def app(scope: Any, receive: Any, send: Any) -> None:
            if make is not None:
                await make(look)
            else:
                thread = threading.Thread(target=contextvars.copy_context().run, args=(look,))
                thread.start()
                thread.join()
            await answer(send, b"done")

        async with serving(app, routes=[{"match": "*", "timeout": "5s"}]) as room:
            client = await room.connect()
            assert (await client.get("/")).status == 200
            assert 0 < seen[0] <= 5

    run(main)


def framework(exc: Exception | None, page: bytes = b"<h1>Oh no</h1>") -> Callable[..., Any]:
    """Answers 500 and raises again what went wrong, as Starlette does."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 500, "headers": [(b"x-own", b"1")]})
        await send({"type": "http.response.body", "body": page})
        if exc is not None:
            raise exc

    return app


def test_an_error_that_the_table_knows_is_answered_by_it_though_a_framework_has_answered_500() -> None:
    async def main() -> None:
        async with serving(framework(ServiceError(Code.NOT_FOUND, "no such order"))) as room:
            found = await (await room.connect()).get("/")
            assert (found.status, msgspec.json.decode(found.body)["detail"]) == (404, "no such order")
            assert "x-own" not in found.headers
        async with serving(framework(KeyError("x"))) as room:
            client = await room.connect()
            for _ in range(2):
                found = await client.get("/")
                assert (found.status, found.body, found.headers["x-own"]) == (500, b"<h1>Oh no</h1>", "1")
            assert room.state.failed == 2

    run(main)


def test_a_500_of_the_apps_own_is_not_held_up() -> None:
    async def main() -> None:
        go = asyncio.Event()

        async def lingering(scope: Any, receive: Any, send: Any) -> None:
            await framework(None)(scope, receive, send)
            await go.wait()  # background work

        async def streamed(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 500, "headers": []})
            await send({"type": "http.response.body", "body": b"a", "more_body": True})
            await go.wait()
            await send({"type": "http.response.body", "body": b"b"})

        async with serving(lingering) as room:
            assert (await (await room.connect()).get("/")).body == b"<h1>Oh no</h1>"
        async with serving(streamed) as room:
            client = await room.connect()
            await client.send(request("GET", "/"))
            async with asyncio.timeout(5):
                assert (await client.reader.readuntil(b"1\r\na\r\n")).startswith(b"HTTP/1.1 500")
            go.set()

    run(main)


def test_a_500_with_a_head_that_is_wrong_becomes_one_of_ours() -> None:
    async def main() -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 500, "headers": [(b"bad name", b"1")]})
            await send({"type": "http.response.body", "body": b"x"})

        async with serving(app) as room:
            found = await (await room.connect()).get("/")
            assert (found.status, found.headers["content-type"]) == (500, "application/problem+json")

    run(main)


def test_every_response_has_the_id_of_its_request() -> None:
    async def main() -> None:
        app = App()
        async with serving(app, admission=LOOPBACK) as room:
            client = await room.connect()
            first, second = await client.get("/"), await client.get("/")
            assert first.headers["x-request-id"] == app.scopes[0]["request_id"]
            assert first.headers["x-request-id"] != second.headers["x-request-id"]
            assert (await client.get("/", "X-Request-Id: abc-1")).headers["x-request-id"] == "abc-1"
            assert (await client.get("/", "X-Request-Id: a b")).headers["x-request-id"] != "a b"
            failed = await client.get("/fails", "X-Request-Id: abc-2")
            assert failed.headers["x-request-id"] == msgspec.json.decode(failed.body)["request_id"] == "abc-2"
        async with serving(App()) as room:
            found = await (await room.connect()).get("/", "X-Request-Id: abc-1")
            assert found.headers["x-request-id"] != "abc-1", "strangers do not choose"
        routes = [{"match": "/held", "timeout": "20ms"}, {"match": "/once", "rate_limit": "1/h"}]
        async with serving(App(), admission=LOOPBACK, routes=routes) as room:
            client = await room.connect()
            for path, status in (("/held", 504), ("/once", 200), ("/once", 429)):
                found = await client.get(path, "X-Request-Id: abc-3")
                assert (found.status, found.headers["x-request-id"]) == (status, "abc-3")

    run(main)


def test_an_id_of_the_apps_own_stays_alone() -> None:
    async def main() -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send(
                {"type": "http.response.start", "status": 200, "headers": [(b"X-Request-ID", b"own"), EMPTY_BODY]}
            )
            await send({"type": "http.response.body", "body": b""})

        async with serving(app) as room:
            client = await room.connect()
            await client.send(request("GET", "/"))
            head = await client.reader.readuntil(b"\r\n\r\n")
            assert head.count(b"x-request-id") == 1
            assert b"x-request-id: own\r\n" in head

    run(main)


def test_requests_are_counted_by_route_and_outcome() -> None:
    async def main() -> None:
        app = App()
        routes = [{"match": "GET /once", "rate_limit": "1/h"}, {"match": "GET /fails"}, *HELD]
        async with serving(app, routes=routes, exempt=["/livez"]) as room:
            client = await room.connect()
            for path in ("/once", "/once", "/fails", "/other", "/livez"):
                await client.get(path)
            await client.send(request("GET", "/held"))
            await until(lambda: "/held" in app.paths)
            client.reset()
            counters = room.state.entrance.counters
            await until(lambda: "GET /held" in counters.snapshot().routes)
            found = counters.snapshot().routes
            assert {name: {k: n for k, n in one.classes.items() if n} for name, one in found.items()} == {
                "GET /once": {"2xx": 1},
                "GET /fails": {"5xx": 1},
                "others": {"2xx": 1},
                "GET /held": {"none": 1},
            }
            assert found["GET /once"].refused == {"rate_limit": 1}

    run(main)


def test_every_request_has_one_line_in_the_access_log(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        app = App()
        routes = [{"match": "GET /once", "rate_limit": "1/h"}, {"match": "GET /held", "timeout": "30ms"}]
        async with serving(app, routes=routes, exempt=["/livez"], access_log=True) as room:
            client = await room.connect()
            for path in ("/once?a=b", "/once", "/held", "/livez", "/fails"):
                await client.get(path)

    with caplog.at_level("INFO", logger="holdfast.access"):
        run(main)
    lines = [record for record in caplog.records if record.name == "holdfast.access"]
    assert [(vars(line)["path"], vars(line)["status"]) for line in lines] == [
        ("/once", 200),
        ("/once", 429),
        ("/held", 504),
        ("/fails", 500),
    ]
    assert [vars(line).get("reason") for line in lines] == [None, "rate_limit", "deadline", None]
