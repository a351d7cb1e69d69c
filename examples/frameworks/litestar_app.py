"""Litestar: handlers typed end to end. It answers every exception itself, unless a handler raises it again."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, NoReturn

from litestar import Litestar, Request, get, post
from litestar.response import Stream

from frameworks.stock import Order, OutOfStock, Product, Stock, UnknownProduct

stock = Stock()


@dataclass
class NewOrder:
    sku: str
    quantity: int


@get("/products/{sku:str}")
async def product(sku: str) -> Product:
    return stock.find(sku)


@post("/orders")
async def order(data: NewOrder) -> Order:
    return stock.sell(data.sku, data.quantity)


@get("/report")
async def report(seconds: float = 0.5) -> dict[str, float]:
    await asyncio.sleep(seconds)
    return {"took": seconds}


@get("/export", media_type="text/csv")
async def export(rows: int = 10) -> Stream:
    async def lines() -> AsyncIterator[str]:
        for number in range(rows):
            yield f"{number}\n"
            await asyncio.sleep(0.1)

    return Stream(lines())


def leave(request: Request[Any, Any, Any], error: Exception) -> NoReturn:
    """These are the server's to answer."""
    raise error


app = Litestar(
    [product, order, report, export],
    exception_handlers={OutOfStock: leave, UnknownProduct: leave},
)
