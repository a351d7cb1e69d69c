"""Starlette: async endpoints, JSON by hand, a stream."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import asdict

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from frameworks.stock import Stock

stock = Stock()


async def product(request: Request) -> JSONResponse:
    return JSONResponse(asdict(stock.find(request.path_params["sku"])))


async def order(request: Request) -> JSONResponse:
    new = await request.json()
    return JSONResponse(asdict(stock.sell(new["sku"], new["quantity"])), status_code=201)


async def report(request: Request) -> JSONResponse:
    seconds = float(request.query_params.get("seconds", "0.5"))
    await asyncio.sleep(seconds)
    return JSONResponse({"took": seconds})


async def export(request: Request) -> StreamingResponse:
    rows = int(request.query_params.get("rows", "10"))

    async def lines() -> AsyncIterator[str]:
        for number in range(rows):
            yield f"{number}\n"
            await asyncio.sleep(0.1)

    return StreamingResponse(lines(), media_type="text/csv")


app = Starlette(
    routes=[
        Route("/products/{sku}", product),
        Route("/orders", order, methods=["POST"]),
        Route("/report", report),
        Route("/export", export),
    ]
)
