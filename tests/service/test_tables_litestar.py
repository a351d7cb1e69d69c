"""Routes found in the tables of Litestar."""

import sys
import types
from typing import Any

import litestar
import pytest
from litestar.handlers import asgi, websocket

from holdfast.core.errors import BootError
from holdfast.server.admission.settings import read_routes
from holdfast.service.marks import route
from holdfast.service.service import Service


def app_of(*handlers: Any) -> litestar.Litestar:
    return litestar.Litestar(list(handlers), openapi_config=None)


def matches(app: Any) -> list[str]:
    tables = Service("shop", app).routes_from_code()
    read_routes(tables)
    return sorted(table["match"] for table in tables)


def test_routers_controllers_and_parameters_of_litestar() -> None:
    @litestar.get("/orders/{id:int}")
    @route(timeout="2s")
    async def order() -> str:
        return ""

    @route(timeout="2s")
    @litestar.route(["/x", "/y/{rest:path}"], http_method=["GET", "POST"])
    async def both() -> str:
        return ""

    class Carts(litestar.Controller):
        path = "/carts"

        @litestar.post()
        @route(timeout="2s")
        async def create(self) -> str:
            return ""

        @litestar.get()
        async def unmarked(self) -> str:
            return ""

    @websocket("/feed")
    @route(timeout="2s")
    async def feed(socket: litestar.WebSocket[Any, Any, Any]) -> None: ...

    @asgi("/mounted", is_mount=True, copy_scope=True)
    @route(timeout="2s")
    async def mounted(scope: Any, receive: Any, send: Any) -> None: ...

    router = litestar.Router("/api", route_handlers=[order, Carts])
    assert matches(app_of(router, both, feed, mounted)) == [
        "/mounted/{path...}",
        "GET /api/orders/{id}",
        "GET /feed",
        "GET|POST /x",
        "GET|POST /y/{rest...}",
        "POST /api/carts",
    ]


def test_a_handler_of_litestar_that_is_not_registered_is_told() -> None:
    service = Service("shop", app_of())

    @service.route(timeout="2s")
    @litestar.get("/orders")
    async def lonely() -> str:
        return ""

    with pytest.raises(BootError, match="lonely"):
        service.routes_from_code()
    service = Service("shop", app_of(lonely))
    assert service.routes_from_code() == [{"match": "GET /orders", "timeout": "2s"}]


def test_a_handler_of_litestar_that_stands_in_a_module_only_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    @litestar.get("/orders")
    @route(timeout="2s")
    async def forgotten() -> str:
        return ""

    module = types.ModuleType("shop_of_test_tables_litestar")
    module.forgotten = forgotten  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    with pytest.raises(BootError, match=r"forgotten: Litestar shows no routes"):
        Service("shop", app_of()).routes_from_code()
