"""What the four services have in common towards HTTP: errors as problem details, and bodies that are checked."""

import asyncio
import os
import time
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from holdfast.service.problem import problem

T = TypeVar("T")

MAX_HANG = 60.0


def make_app(routes: Sequence[BaseRoute]) -> Starlette:
    """An application with these routes. With SHOP_DEBUG=1 in the environment there is also POST /debug/hang."""
    debug = [Route("/debug/hang", hang, methods=["POST"])] if os.environ.get("SHOP_DEBUG") == "1" else []
    return Starlette(routes=[*routes, *debug], exception_handlers={HTTPException: refuse})


async def refuse(request: Request, error: Exception) -> Response:
    """An HTTPException as problem details (RFC 9457)."""
    assert isinstance(error, HTTPException)
    status, headers, body = problem(error.status_code, detail=error.detail)
    return Response(body, status, headers={name.decode(): value.decode() for name, value in headers})


async def read_body(request: Request, shape: type[T]) -> T:
    """The JSON body as ``shape``. Raises HTTPException 422 that says what is wrong with it."""
    try:
        return msgspec.json.decode(await request.body(), type=shape)
    except msgspec.DecodeError as error:  # ValidationError is one of these
        raise HTTPException(422, str(error)) from None


def answer(content: Any, status: int = 200) -> JSONResponse:
    """A JSON response."""
    return JSONResponse(content, status)


async def hang(request: Request) -> Response:
    """The mistake that this whole demo survives: a blocking call on the event loop."""
    seconds = min(float(request.query_params.get("seconds", "30")), MAX_HANG)
    await asyncio.sleep(0)
    time.sleep(seconds)  # noqa: ASYNC251 - it blocks on purpose
    return answer({"hung": seconds})
