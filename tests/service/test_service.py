import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn

from holdfast.core.clock import VirtualClock
from holdfast.core.drain import current_drain
from holdfast.core.errors import BootError, ConfigError
from holdfast.service.interface import Message, Receive, Scope, Send
from holdfast.service.lifecycle import Lifecycle
from holdfast.service.service import Service


async def state_app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the state that the request's scope holds."""
    assert scope["type"] == "http"
    text = ",".join(sorted(scope.get("state", {}))) + f" {current_drain().draining}"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": text.encode()})


def called(app: Any, scope: dict[str, Any]) -> list[Message]:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    VirtualClock().run(app(scope, receive, send))
    return sent


def test_under_a_plain_server_its_lifespan_starts_and_ends_everything() -> None:
    events: list[str] = []
    service = Service("orders", state_app, health_routes=True)

    @service.resource
    async def db() -> AsyncIterator[str]:
        events.append("opened")
        yield "the database"
        events.append("closed")

    async def fetch(port: int, path: str) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer

    async def main() -> None:
        server = uvicorn.Server(uvicorn.Config(service, port=0, log_config=None, lifespan="on", loop="asyncio"))
        serving = asyncio.create_task(server.serve())
        async with asyncio.timeout(10):
            while not server.started:
                assert not serving.done()
                await asyncio.sleep(0.01)
            port = server.servers[0].sockets[0].getsockname()[1]
            assert (await fetch(port, "/")).count(b"db False") == 1
            assert b"200 OK" in await fetch(port, "/readyz")
            assert service.resources.db == "the database"
            server.should_exit = True
            with contextlib.suppress(asyncio.CancelledError):
                await serving

    asyncio.run(main())
    assert events == ["opened", "closed"]


def refuse(text: str) -> str:
    raise ConnectionError(text)


def test_a_failed_start_is_told_to_the_server() -> None:
    service = Service("orders", state_app)

    @service.resource
    async def db() -> AsyncIterator[str]:
        yield refuse("refused")

    sent = called(service, {"type": "lifespan"})
    assert [message["type"] for message in sent] == ["lifespan.startup.failed"]
    assert "resource 'db' failed to start: ConnectionError: refused" in sent[0]["message"]


def test_without_a_lifespan_requests_are_answered_all_the_same() -> None:
    assert called(Service("orders", state_app), {"type": "http"})[1]["body"] == b" False"


def test_a_service_without_an_application_answers_404() -> None:
    service = Service("worker")
    assert called(service, {"type": "http"})[0]["status"] == 404
    assert called(service, {"type": "websocket"})[0]["type"] == "websocket.close"


def test_declarations_are_read_with_their_settings() -> None:
    service = Service("orders")

    @service.resource(name="db", start_timeout="2s", stop_timeout=3)
    async def open_db() -> AsyncIterator[None]:
        yield

    @service.background(restart="on-failure", backoff="1s", max_backoff="1m", stable_after=0)
    async def loop() -> None: ...

    @service.every("500ms", jitter="100ms", timeout="5s", name="tick")
    async def run() -> None: ...

    @service.check("db", critical=False, every="1m", timeout="2s")
    def check() -> None: ...

    db = service.declared_resources[0]
    assert (db.name, db.start_timeout, db.stop_timeout) == ("db", 2.0, 3.0)
    first, second = service.declared_background
    assert (first.name, second.name) == ("loop", "tick")
    assert getattr(first, "max_backoff", None) == 60.0
    assert getattr(second, "interval", None) == 0.5
    declared = service.declared_checks[0]
    assert (declared.name, declared.critical, declared.every, declared.timeout) == ("db", False, 60.0, 2.0)


async def loop_function() -> None: ...


def test_wrong_declarations_are_refused_at_once() -> None:
    service = Service("orders")
    with pytest.raises(ConfigError, match="every 'loop_function' interval: got 'soon', expected a duration above"):
        service.every("soon")(loop_function)
    with pytest.raises(ConfigError, match="interval: got 0"):
        service.every(0)(loop_function)
    with pytest.raises(ConfigError, match=r"write @service\.every"):
        service.every(loop_function)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="expected a name"):
        service.background(lambda: None)
    with pytest.raises(ConfigError, match="an async function; write async def"):
        service.background(name="x")(lambda: None)
    with pytest.raises(ConfigError, match=r"write @service\.check"):
        service.check(loop_function)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="parameter named after a resource"):
        service.check("x")(lambda *args: None)
    service.background(loop_function)
    with pytest.raises(ConfigError, match="'loop_function', expected a name of its own"):
        service.background(loop_function)
    with pytest.raises(ConfigError, match="Service name"):
        Service("")


def test_a_need_that_nobody_declares_stops_the_start() -> None:
    service = Service("orders")

    @service.resource
    async def database() -> AsyncIterator[None]:
        yield

    @service.every("1s")
    async def sweep(databas: Any) -> None: ...

    with pytest.raises(BootError, match=r"every 'sweep' needs the resource 'databas'.*did you mean 'database'\?"):
        VirtualClock().run(Lifecycle(service).start())


def test_nothing_can_be_declared_while_it_runs() -> None:
    service = Service("orders")

    async def main() -> None:
        lifecycle = Lifecycle(service)
        await lifecycle.start()
        with pytest.raises(RuntimeError, match="declare it before"):
            service.background(loop_function)
        await lifecycle.stop()

    VirtualClock().run(main())
