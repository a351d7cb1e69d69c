"""Orders: reserves the goods, charges the card, keeps the order. What it answered with 201 is in the database."""

import os
import secrets
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from holdfast import Service
from shop.database import Database, open_database
from shop.upstream import Upstream, open_session
from shop.web import answer, make_app, read_body

PAGE = 100
"""Orders in one answer of the list."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS orders (
  number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE, reference TEXT, sku TEXT, quantity INTEGER,
  amount INTEGER, charge TEXT, placed REAL
);
CREATE INDEX IF NOT EXISTS orders_by_reference ON orders (reference);
"""

inventory = Upstream("inventory", "SHOP_INVENTORY_URL", "http://127.0.0.1:8002")
payments = Upstream("payments", "SHOP_PAYMENTS_URL", "http://127.0.0.1:8003")


class NewOrder(msgspec.Struct, forbid_unknown_fields=True):
    """What a customer sends. ``reference`` is the customer's own name for the order; nothing is made of it."""

    sku: str
    card: str
    quantity: int = 1
    reference: str = ""


async def place(request: Request) -> Response:
    """Place an order: 201 with the order once it is stored; otherwise the goods go back and the error is told."""
    wanted = await read_body(request, NewOrder)
    session, key = http(), secrets.token_hex(8)
    goods = {"sku": wanted.sku, "quantity": wanted.quantity}
    reserved = await inventory.call(session, "POST", "/reservations", goods)
    amount = reserved["price"] * wanted.quantity
    try:
        paid = await payments.call(session, "POST", "/charges", {"order": key, "amount": amount, "card": wanted.card})
    except HTTPException:
        # The customer need not wait for it, and the service does not stop before it is done.
        service.spawn(release(session, reserved["id"]), f"release {reserved['id']}")
        raise
    order = {"id": key, "reference": wanted.reference, **goods, "amount": amount, "charge": paid["id"]}
    await db().write(lambda connection: store(connection, order))
    return answer(order, 201)


def store(connection: sqlite3.Connection, order: dict[str, Any]) -> None:
    connection.execute(
        "INSERT INTO orders (id, reference, sku, quantity, amount, charge, placed) "
        "VALUES (:id, :reference, :sku, :quantity, :amount, :charge, :placed)",
        {**order, "placed": time.time()},
    )


async def release(session: aiohttp.ClientSession, reservation: str) -> None:
    await inventory.call(session, "DELETE", f"/reservations/{reservation}")


async def show(request: Request) -> Response:
    key = request.path_params["id"]
    rows = await db().read("SELECT * FROM orders WHERE id = ?", key)
    if not rows:
        raise HTTPException(404, f"there is no order {key!r}")
    return answer(rows[0])


async def recent(request: Request) -> Response:
    """Orders after the number ``after``, oldest first; without it, only the number of the last one."""
    after = request.query_params.get("after", "")
    if not after.isdecimal():
        rows = await db().read("SELECT coalesce(max(number), 0) AS last FROM orders")
        return answer({"last": rows[0]["last"], "orders": []})
    rows = await db().read("SELECT * FROM orders WHERE number > ? ORDER BY number LIMIT ?", int(after), PAGE)
    return answer({"last": rows[-1]["number"] if rows else int(after), "orders": rows})


service = Service(
    "orders",
    make_app([Route("/orders", place, methods=["POST"]), Route("/orders", recent), Route("/orders/{id}", show)]),
)


@service.resource
async def database() -> AsyncIterator[Database]:
    async with open_database(Path(os.environ.get("SHOP_DATA", "data")) / "orders.db", SCHEMA) as opened:
        yield opened


@service.resource
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with open_session() as opened:
        yield opened


def db() -> Database:
    """The open database of this worker."""
    opened: Database = service.resources.database
    return opened


def http() -> aiohttp.ClientSession:
    """The open connections of this worker."""
    opened: aiohttp.ClientSession = service.resources.session
    return opened


@service.check("database", every="5s", timeout="2s")
async def database_answers(database: Database) -> None:
    await database.read("SELECT 1")
