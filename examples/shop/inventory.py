"""Inventory: what there is to buy, and how much of it. Stock is in SQLite, shared by all workers."""

import os
import secrets
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from holdfast import Service
from shop.database import Database, open_database
from shop.web import answer, make_app, read_body

PRODUCTS = (
    ("anchor", "Anchor, galvanised, 10 kg", 8900),
    ("chain", "Chain, 8 mm, per metre", 640),
    ("shackle", "Bow shackle, 10 mm", 1250),
    ("rope", "Mooring line, 14 mm, 10 m", 2990),
    ("fender", "Fender, blue", 1890),
)
FULL = 1000
LOW = 500

SCHEMA = """
CREATE TABLE IF NOT EXISTS products (sku TEXT PRIMARY KEY, name TEXT, price INTEGER, stock INTEGER CHECK (stock >= 0));
CREATE TABLE IF NOT EXISTS reservations (id TEXT PRIMARY KEY, sku TEXT, quantity INTEGER);
"""


class Reservation(msgspec.Struct, forbid_unknown_fields=True):
    """What somebody wants to have put aside."""

    sku: str
    quantity: int = 1


async def list_products(request: Request) -> Response:
    rows = await db().read("SELECT sku, name, price, stock FROM products ORDER BY sku")
    return answer(rows)


async def reserve(request: Request) -> Response:
    """Take from stock: 201 with the price, 404 for an unknown product, 409 when there is not enough of it."""
    wanted = await read_body(request, Reservation)
    if not 1 <= wanted.quantity <= 100:
        raise HTTPException(422, f"quantity is {wanted.quantity}; order 1 to 100")
    key = secrets.token_hex(8)

    def take(connection: sqlite3.Connection) -> tuple[int, int] | None:
        row = connection.execute("SELECT price, stock FROM products WHERE sku = ?", (wanted.sku,)).fetchone()
        if row is not None and row["stock"] >= wanted.quantity:
            connection.execute("UPDATE products SET stock = stock - ? WHERE sku = ?", (wanted.quantity, wanted.sku))
            connection.execute("INSERT INTO reservations VALUES (?, ?, ?)", (key, wanted.sku, wanted.quantity))
        return None if row is None else (row["price"], row["stock"])

    found = await db().write(take)
    if found is None:
        raise HTTPException(404, f"there is no product {wanted.sku!r}")
    price, stock = found
    if stock < wanted.quantity:
        raise HTTPException(409, f"only {stock} of {wanted.sku!r} are left, {wanted.quantity} were wanted")
    return answer({"id": key, "price": price}, 201)


async def release(request: Request) -> Response:
    """Put a reservation back. Doing it twice does no harm."""
    key = request.path_params["id"]

    def put_back(connection: sqlite3.Connection) -> None:
        gone = connection.execute("DELETE FROM reservations WHERE id = ? RETURNING sku, quantity", (key,)).fetchall()
        for sku, quantity in gone:
            connection.execute("UPDATE products SET stock = stock + ? WHERE sku = ?", (quantity, sku))

    await db().write(put_back)
    return answer({"id": key})


service = Service(
    "inventory",
    make_app(
        [
            Route("/products", list_products),
            Route("/reservations", reserve, methods=["POST"]),
            Route("/reservations/{id}", release, methods=["DELETE"]),
        ]
    ),
)


@service.resource
async def database() -> AsyncIterator[Database]:
    path = Path(os.environ.get("SHOP_DATA", "data")) / "inventory.db"
    async with open_database(path, SCHEMA) as opened:
        rows = [(*product, FULL) for product in PRODUCTS]
        await opened.write(lambda c: c.executemany("INSERT OR IGNORE INTO products VALUES (?, ?, ?, ?)", rows))
        yield opened


def db() -> Database:
    """The open database of this worker."""
    opened: Database = service.resources.database
    return opened


@service.check("database", every="5s", timeout="2s")
async def database_answers(database: Database) -> None:
    await database.read("SELECT 1")


@service.every("1s", jitter="200ms", timeout="5s")
async def restock(database: Database) -> None:
    """The lorry comes often in this harbour: a load that goes on for hours must not run out of goods."""
    await database.write(lambda c: c.execute("UPDATE products SET stock = ? WHERE stock < ?", (FULL, LOW)))
