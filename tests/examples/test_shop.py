"""The example shop as real processes, asked over HTTP as a customer would."""

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from holdfast.config.layers import from_file
from holdfast.core.context import Criticality, criticality, deadline_within
from holdfast.lab.shop import SERVICES, Shop, find_source, open_shop
from holdfast.supervisor.configuration import make_schema

pytestmark = pytest.mark.e2e

LIMIT = 20.0
CARD = "4242424242424242"
EMPTY_CARD = "4242424242420000"

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[Shop, Run]]:
    """A shop with one worker a service, and what runs coroutines on its event loop."""
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        shop = runner.run(stack.enter_async_context(open_shop(1)))
        try:
            yield shop, runner.run
        finally:
            runner.run(stack.aclose())


async def ask(shop: Shop, method: str, path: str, body: Any = None, service: str = "gateway") -> tuple[int, Any]:
    url = f"http://{shop[service].address}{path}"
    async with aiohttp.ClientSession() as session, session.request(method, url, json=body) as answer:
        return answer.status, await answer.json(content_type=None)


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    end = time.monotonic() + LIMIT
    while not await condition():
        assert time.monotonic() < end, "it did not happen in time"
        await asyncio.sleep(0.05)


def stored(path: Path, reference: str) -> list[Any]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        return database.execute("SELECT id, amount FROM orders WHERE reference = ?", (reference,)).fetchall()


def test_a_confirmed_order_is_in_the_database_once_and_can_be_read(running: tuple[Shop, Run]) -> None:
    shop, run = running
    order = {"sku": "rope", "quantity": 2, "card": CARD, "reference": "two ropes"}
    status, made = run(ask(shop, "POST", "/orders", order))
    assert (status, made["amount"]) == (201, 5980)
    assert stored(shop.orders_file, "two ropes") == [(made["id"], 5980)]
    status, read = run(ask(shop, "GET", f"/orders/{made['id']}"))
    assert (status, read["sku"], read["quantity"]) == (200, "rope", 2)


def test_the_catalogue_is_a_page_with_every_product(running: tuple[Shop, Run]) -> None:
    shop, run = running

    async def read() -> tuple[int, str, str]:
        url = f"http://{shop['gateway'].address}/products/catalogue"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            return answer.status, answer.content_type, await answer.text()

    status, kind, page = run(read())
    assert (status, kind) == (200, "text/html")
    assert "Fender, blue<td>18.90" in page
    assert page.count("<tr>") == 5


def test_a_declined_card_is_said_clearly_and_the_goods_go_back(running: tuple[Shop, Run]) -> None:
    shop, run = running

    async def stock() -> int:
        _, products = await ask(shop, "GET", "/products")
        found: int = next(int(product["stock"]) for product in products if product["sku"] == "fender")
        return found

    before: int = run(stock())
    order = {"sku": "fender", "quantity": 3, "card": EMPTY_CARD, "reference": "declined"}
    status, problem = run(ask(shop, "POST", "/orders", order))
    assert (status, problem["detail"]) == (402, "the card ending in 0000 was declined")
    assert stored(shop.orders_file, "declined") == []

    async def returned() -> bool:
        return await stock() == before

    run(eventually(returned))


@pytest.mark.parametrize(
    ("order", "status", "detail"),
    [
        ({"sku": "sail", "card": CARD}, 404, "there is no product 'sail'"),
        ({"sku": "rope", "card": CARD, "quantity": 0}, 422, "quantity is 0; order 1 to 100"),
        ({"sku": "rope"}, 422, "Object missing required field `card`"),
        (["rope"], 422, "Expected `object`, got `array`"),
    ],
)
def test_an_order_that_cannot_be_placed_says_why(
    running: tuple[Shop, Run], order: Any, status: int, detail: str
) -> None:
    shop, run = running
    got, problem = run(ask(shop, "POST", "/orders", order))
    assert (got, problem["detail"]) == (status, detail)


def test_the_stream_tells_new_orders_and_ends_with_a_goodbye_when_its_worker_drains(
    running: tuple[Shop, Run],
) -> None:
    shop, run = running

    async def read() -> str:
        text = ""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://{shop['gateway'].address}/events") as answer,
        ):
            assert answer.content_type == "text/event-stream"
            text += (await answer.content.readline()).decode()
            while "event: order" not in text:  # the gateway notes where the orders are at only once somebody reads
                await ask(shop, "POST", "/orders", {"sku": "chain", "card": CARD})
                try:
                    async with asyncio.timeout(0.5):
                        text += (await answer.content.readuntil(b"\n\n")).decode()
                except TimeoutError:
                    continue
            reload = asyncio.create_task(shop.command("gateway", "reload"))
            async for chunk in answer.content:  # raises unless the body ends as it should
                text += chunk.decode()
            assert (await reload).status == 0
        return text

    async def limited() -> str:
        async with asyncio.timeout(LIMIT):
            return await read()

    text = run(limited())
    assert '"sku": "chain"' in text
    assert text.rstrip().rpartition("\n\n")[2].startswith("event: goodbye")


def test_a_payment_service_that_is_away_is_named_to_the_customer_and_nothing_is_stored() -> None:
    async def play() -> tuple[int, Any, list[Any]]:
        async with open_shop(1) as shop:
            assert (await shop.command("payments", "stop")).status == 0
            process = shop["payments"].process
            assert process is not None
            async with asyncio.timeout(LIMIT):
                await process.wait()
            order = {"sku": "rope", "card": CARD, "reference": "unpaid"}
            status, problem = await ask(shop, "POST", "/orders", order)
            return status, problem, stored(shop.orders_file, "unpaid")

    status, problem, rows = asyncio.run(play())
    assert status == 502
    assert "payments could not be asked POST /charges" in problem["detail"]
    assert rows == []


def test_a_busy_service_further_in_is_told_as_busy_and_not_as_broken() -> None:
    async def play() -> tuple[int, Any]:
        async with open_shop(1) as shop:
            view, config = await shop.steady("payments"), shop["payments"].config
            config.write_text(config.read_text().replace("bulkhead = 50", 'rate_limit = { rate = "1/m", burst = 1 }'))

            async def taken() -> bool:
                now = await shop.look("payments")
                return now is not None and {one.configuration for one in now.workers} == {view.configuration + 1}

            await eventually(taken)
            order = {"sku": "rope", "card": CARD}
            assert (await ask(shop, "POST", "/orders", order))[0] == 201
            return await ask(shop, "POST", "/orders", order)

    status, problem = asyncio.run(play())
    assert (status, problem["detail"]) == (503, "orders has too much to do")


@pytest.mark.parametrize("name", SERVICES)
def test_the_settings_of_each_service_are_sound(name: str) -> None:
    schema = make_schema()
    path = find_source() / f"{name}.toml"
    assert schema.read(from_file(path))["run"].service_name == name


def test_the_next_service_hears_of_the_deadline_and_of_how_much_it_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "examples"))
    from shop.upstream import passed_on

    assert passed_on() == {"holdfast-criticality": "critical"}
    with criticality(Criticality.SHEDDABLE), deadline_within(5.0):
        told = passed_on()
    assert told["holdfast-criticality"] == "sheddable"
    assert 0 < int(told["holdfast-timeout-ms"]) <= 5000


def test_no_service_can_be_hung_from_outside_unless_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "examples"))
    monkeypatch.delenv("SHOP_DEBUG", raising=False)
    from shop.web import make_app

    assert make_app([]).routes == []
    monkeypatch.setenv("SHOP_DEBUG", "1")
    assert len(make_app([]).routes) == 1
