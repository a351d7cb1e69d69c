"""The gateway: what customers see of the shop, and a live stream of its orders."""

import asyncio
import html
import json
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any, Final

import aiohttp
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route

from holdfast import Cache, Service, current_drain
from shop.upstream import Upstream, open_session
from shop.web import answer, make_app

POLL_SECONDS: Final = 0.25
BEHIND: Final = 100
"""Orders that a slow reader of the stream may be late by; older ones are left out for it."""
READERS: Final = 1000
PAGE_SECONDS: Final = float(os.environ.get("SHOP_PAGE_SECONDS", "0.005"))
"""What the catalogue's page takes to be made; meanwhile the worker does nothing else."""

orders = Upstream("orders", "SHOP_ORDERS_URL", "http://127.0.0.1:8001")
inventory = Upstream("inventory", "SHOP_INVENTORY_URL", "http://127.0.0.1:8002")


class Feed:
    """Hands each new order to everybody who reads the stream."""

    def __init__(self) -> None:
        self._readers: set[asyncio.Queue[dict[str, Any]]] = set()

    def __bool__(self) -> bool:
        return bool(self._readers)

    def publish(self, order: dict[str, Any]) -> None:
        for queue in self._readers:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(order)

    @contextmanager
    def follow(self) -> Iterator[asyncio.Queue[dict[str, Any]]]:
        """A queue of the orders from now on."""
        if len(self._readers) >= READERS:
            raise HTTPException(503, f"{READERS} readers follow the orders already")
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue(BEHIND)
        self._readers.add(queue)
        try:
            yield queue
        finally:
            self._readers.discard(queue)


feed = Feed()


async def list_products(request: Request) -> Response:
    return answer(await inventory.call(http(), "GET", "/products"))


async def show_catalogue(request: Request) -> Response:
    """The products as a page for people."""
    return HTMLResponse(draw_page(await catalogue.acall(fetch_products)))


async def fetch_products() -> list[dict[str, Any]]:
    products: list[dict[str, Any]] = await inventory.call(http(), "GET", "/products")
    return products


def draw_page(products: list[dict[str, Any]]) -> str:
    """HTML. The time that templates would take is only imagined: it holds the event loop, as computing does, and leaves
    the processor to the other services, which in earnest would have one of their own."""
    time.sleep(PAGE_SECONDS)
    rows = (f"<tr><td>{html.escape(one['name'])}<td>{one['price'] / 100:.2f}" for one in products)
    return f"<!doctype html><title>Shop</title><table>{''.join(rows)}</table>\n"


async def place_order(request: Request) -> Response:
    """Passed on as it is: orders checks it. The reference may also come in the header x-order-reference."""
    try:
        wanted = await request.json()
    except ValueError:
        raise HTTPException(422, "the body is not JSON") from None
    if isinstance(wanted, dict) and (reference := request.headers.get("x-order-reference")):
        wanted.setdefault("reference", reference)
    return answer(await orders.call(http(), "POST", "/orders", wanted), 201)


async def show_order(request: Request) -> Response:
    return answer(await orders.call(http(), "GET", f"/orders/{request.path_params['id']}"))


async def events(request: Request) -> Response:
    """Orders as server-sent events, until the reader goes or this worker does."""
    return StreamingResponse(stream_orders(), media_type="text/event-stream", headers={"cache-control": "no-store"})


async def stream_orders() -> AsyncIterator[str]:
    drain = current_drain()
    leaving = asyncio.ensure_future(drain.wait())
    try:
        with feed.follow() as queue:
            yield "retry: 100\n\n"
            while not drain.draining:
                arriving = asyncio.ensure_future(queue.get())
                try:
                    await asyncio.wait({arriving, leaving}, return_when=asyncio.FIRST_COMPLETED)
                    if arriving.done():
                        yield f"event: order\ndata: {json.dumps(arriving.result())}\n\n"
                finally:
                    arriving.cancel()
            # The reader connects again, and reaches a worker that stays.
            yield f"event: goodbye\ndata: {json.dumps(drain.reason)}\n\n"
    finally:
        leaving.cancel()


service = Service(
    "gateway",
    make_app(
        [
            Route("/products", list_products),
            Route("/products/catalogue", show_catalogue),
            Route("/orders", place_order, methods=["POST"]),
            Route("/orders/{id}", show_order),
            Route("/events", events),
        ]
    ),
)
catalogue = service.pipeline("catalogue", Cache(1.0, stale=5.0, stale_if_error=60.0))
"""Thousands look at the same products. ``[pipelines]`` of gateway.toml may say otherwise."""


@service.resource
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with open_session() as opened:
        yield opened


def http() -> aiohttp.ClientSession:
    """The open connections of this worker."""
    opened: aiohttp.ClientSession = service.resources.session
    return opened


@service.background
async def follow_orders(session: aiohttp.ClientSession) -> None:
    """Ask for new orders while somebody wants to hear of them. When orders cannot be asked, it fails, which is
    logged, and Holdfast starts it again a moment later."""
    last: int | None = None
    while not current_drain().draining:
        if feed:
            query = "" if last is None else f"?after={last}"
            news = await orders.call(session, "GET", f"/orders{query}")
            last = news["last"]
            for order in news["orders"]:
                feed.publish(order)
        else:
            last = None
        await asyncio.sleep(POLL_SECONDS)
