"""FastAPI: endpoints with and without async, a pydantic model as body, a stream."""

import asyncio
import time
from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from frameworks.stock import Order, Product, Stock

app = FastAPI()
stock = Stock()


class NewOrder(BaseModel):
    sku: str
    quantity: int = Field(ge=1)


@app.get("/products/{sku}")
async def product(sku: str) -> Product:
    return stock.find(sku)


@app.post("/orders", status_code=201)
async def order(new: NewOrder) -> Order:
    return stock.sell(new.sku, new.quantity)


@app.get("/report")
def report(seconds: float = 0.5) -> dict[str, float]:
    time.sleep(seconds)  # not async, so FastAPI calls it in a thread
    return {"took": seconds}


@app.get("/export")
async def export(rows: int = 10) -> StreamingResponse:
    async def lines() -> AsyncIterator[str]:
        for number in range(rows):
            yield f"{number}\n"
            await asyncio.sleep(0.1)

    return StreamingResponse(lines(), media_type="text/csv")
