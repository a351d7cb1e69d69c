"""What a request is told that the server itself turns down."""

import msgspec
import pytest

from holdfast.core.codes import Code
from holdfast.server.http.refusal import REASONS, Refusal
from server.engineroom import request, run, serving


@pytest.mark.parametrize("status", REASONS)
def test_a_refusal_has_a_code_and_a_reason_of_the_one_error_model(status: int) -> None:
    head, _, body = Refusal(status, "what was wrong").response([(b"date", b"now")]).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"\r\ndate: now\r\n" in head
    assert head.endswith(b"connection: close")
    told = msgspec.json.decode(body)
    assert (told["status"], told["detail"], told["reason"]) == (status, "what was wrong", REASONS[status])
    assert Code(told["code"]) is Code.of_http(status)


def test_a_body_that_is_too_large_is_told_so_in_the_same_words() -> None:
    async def app(scope: object, receive: object, send: object) -> None:
        raise AssertionError("it is not called")

    async def main() -> None:
        async with serving(app, max_body_size=10) as room:
            client = await room.connect()
            await client.send(request("POST", "/", "Content-Length: 11"))
            refused = await client.response()
            assert (refused.status, msgspec.json.decode(refused.body)["reason"]) == (413, "BODY_TOO_LARGE")

    run(main)
