"""Headers of responses that are remembered, and those that must not be."""

from collections.abc import Iterator
from typing import Any

import pytest

from holdfast.server.http import response
from server.engineroom import request, run, serving


class Text(bytes):
    """A kind of bytes."""


@pytest.fixture(autouse=True)
def _known() -> Iterator[None]:
    """Nothing is remembered of other tests."""
    response._known.clear()
    yield
    response._known.clear()


async def heads(*lists: list[tuple[Any, Any]], version: str = "1.1", method: str = "GET", status: int = 200) -> Any:
    """The heads of the answers with these headers, one after the other, each on a connection of its own."""
    found: list[str] = []
    left = list(lists)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": left.pop(0)})
        await send({"type": "http.response.body", "body": b"" if method == "HEAD" else b"abc"})

    async with serving(app) as room:
        while left:
            client = await room.connect()
            await client.send(request(method, "/", "Connection: close", version=version))
            found.append((await client.rest()).decode("latin-1"))
    return found


def fields(answer: str) -> list[str]:
    """Of one answer, without what the server adds."""
    lines = answer.partition("\r\n\r\n")[0].split("\r\n")[1:]
    return [line for line in lines if line.partition(":")[0] not in ("date", "x-request-id")]


LENGTH = (b"content-length", b"3")
SOUND: list[list[tuple[Any, Any]]] = [
    [(b"X-One", b"a"), LENGTH],
    [(b"x-one", b"a"), (b"x-one", b"a"), LENGTH],
    [(bytearray(b"x-one"), bytearray(b"a")), LENGTH],
    [(memoryview(b"x-one"), memoryview(b"a")), LENGTH],
    [(b"x-one", memoryview(bytearray(b"a"))), LENGTH],
    [(Text(b"x-one"), Text(b"a")), LENGTH],
    [(b"set-cookie", b"a=b"), (b"Set-Cookie", b"a=c"), LENGTH],
    [(b"Content-Type", b"text/plain"), LENGTH],
    [(b"x-one", b"a" * 5000), LENGTH],
]


@pytest.mark.parametrize("headers", SOUND, ids=range(len(SOUND)))
def test_an_answer_is_the_same_the_second_time(headers: list[tuple[Any, Any]]) -> None:
    async def main() -> None:
        wanted = [f"{bytes(name).lower().decode()}: {bytes(value).decode()}" for name, value in headers]
        for answer in await heads(headers, headers, [*headers, (b"x-one", b"b")], headers):
            assert answer.startswith("HTTP/1.1 200 OK\r\n")
            assert [line for line in fields(answer) if line not in ("x-one: b", "connection: close")] == wanted

    run(main)


WRONG: list[list[tuple[Any, Any]]] = [
    [(b"x-one", b"a\r\nx-two: b"), LENGTH],
    [(b"x-one\r\nx-two", b"a"), LENGTH],
    [LENGTH, LENGTH],
    [LENGTH, (b"Content-Length", b"3")],
    [(b"Content-Length", b"3"), LENGTH],
    [LENGTH, (b"transfer-encoding", b"chunked")],
    [(b"transfer-encoding", b"chunked"), LENGTH],
    [(b"content-length", b"3 ")],
    [(b"content-length", b"+3")],
    [(b"content-length", b"")],
]


@pytest.mark.parametrize("headers", WRONG, ids=range(len(WRONG)))
def test_what_is_wrong_the_first_time_is_wrong_the_second_time(headers: list[tuple[Any, Any]]) -> None:
    async def main() -> None:
        answers = await heads([(b"x-one", b"a"), LENGTH], headers, [(b"x-one", b"a"), LENGTH], headers)
        for answer in answers[1::2]:
            assert answer.startswith("HTTP/1.1 500 ")
            assert "x-two" not in answer

    run(main)


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_content_types_the_same_one_counts_each_time(order: int) -> None:
    async def main() -> None:
        types = [(b"content-type", b"text/event-stream"), (b"content-type", b"text/html")][::order]
        kinds: list[bool] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            headers = types if scope["path"] == "/two" else types[-1:] if order == 1 else types[:1]
            await send({"type": "http.response.start", "status": 200, "headers": [*headers, LENGTH]})
            (cycle,) = room.state.entrance.cycles.values()
            kinds.append(cycle.event_stream)
            await send({"type": "http.response.body", "body": b"abc"})

        async with serving(app) as room:
            client = await room.connect()
            for path in ("/two", "/html", "/two"):
                await client.get(path)
        assert kinds == [True, False, True]

    run(main)


def test_framing_holds_for_each_answer_by_itself() -> None:
    async def main() -> None:
        plain = [(b"x-one", b"a")]
        closes = [(b"x-one", b"a"), (b"connection", b"close")]
        own = [(b"x-one", b"a"), (b"x-request-id", b"mine"), LENGTH]
        for _ in range(2):
            assert "transfer-encoding: chunked" in (await heads(plain))[0]
            assert "transfer-encoding" not in (await heads(plain, version="1.0"))[0]
            assert "transfer-encoding" not in (await heads(plain, method="HEAD"))[0]
            assert "transfer-encoding" not in (await heads(plain, status=204))[0]
            assert "transfer-encoding" not in (await heads(plain, status=304))[0]
            assert (await heads(closes))[0].count("connection: close") == 1
            (answer,) = await heads(own)
            assert answer.count("x-request-id: mine") == answer.count("x-request-id") == 1
            assert (await heads([LENGTH], method="HEAD"))[0].endswith("\r\n\r\n")

    run(main)


def test_what_is_remembered_is_bounded_and_nobodys_own() -> None:
    async def main() -> None:
        many = [[(b"x-%d" % number, b"a"), LENGTH] for number in range(response._KNOWN_LIMIT + 20)]
        await heads(
            *many[:20], [(b"Set-Cookie", b"session=1"), (b"x-long", b"a" * 100), (b"x-own", Text(b"a")), LENGTH]
        )
        assert {name for name, _ in response._known} == {name for [(name, _), _] in many[:20]}
        await heads(*many)
        assert 0 < len(response._known) <= response._KNOWN_LIMIT

    run(main)
