import subprocess
import sys
import textwrap
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from holdfast.core.errors import BootError
from holdfast.server.admission.settings import read_routes
from holdfast.service.marks import route
from holdfast.service.routes import condition
from holdfast.service.service import Service


def fresh(name: str = "made") -> Any:
    def made() -> None: ...

    made.__qualname__ = name
    return made


def test_a_service_whose_handlers_have_no_marks_has_no_routes() -> None:
    assert Service("shop").routes_from_code() == []
    assert Service("shop", Starlette(routes=[Route("/orders", fresh())])).routes_from_code() == []


def test_a_route_that_says_its_match_needs_no_table() -> None:
    service = Service("shop")
    function = fresh()
    assert service.route("POST /orders", timeout="2s", rate_limit="50/s")(function) is function
    service.route("GET /orders/{id}", host="shop.example.org", name="order")(function)
    tables = service.routes_from_code()
    assert tables == [
        {"match": "POST /orders", "timeout": "2s", "rate_limit": "50/s"},
        {"match": "GET /orders/{id}", "host": "shop.example.org", "name": "order"},
    ]
    assert [one.label for one in read_routes(tables)] == ["POST /orders", "order"]
    assert tables[0].where == f"{__name__}:made"
    tables[0]["timeout"] = "9s"
    assert service.routes_from_code()[0]["timeout"] == "2s"


def test_a_marked_handler_that_is_in_no_table_is_named() -> None:
    service = Service("shop", Starlette(routes=[Route("/orders", fresh())]))
    service.route(timeout="2s")(fresh("lonely"))
    with pytest.raises(
        BootError, match=rf"route on {__name__}:lonely: none of the 1 routes of the app leads to it; include its router"
    ):
        service.routes_from_code()


def test_an_app_without_a_table_is_told_and_match_helps() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    service = Service("shop", app)
    function = fresh("lonely")
    service.route(timeout="2s")(function)
    with pytest.raises(BootError, match=r'lonely: function shows no routes, or say it: match="PO'):
        service.routes_from_code()
    helped = Service("shop", app)
    helped.route("GET /orders", timeout="2s")(function)
    assert helped.routes_from_code() == [{"match": "GET /orders", "timeout": "2s"}]


def test_all_mistakes_are_told_at_once() -> None:
    service = Service("shop", Starlette())
    for name in ("one", "two"):
        service.route(timeout="2s")(fresh(name))
    with pytest.raises(BootError) as caught:
        service.routes_from_code()
    assert [line.partition(": ")[0] for line in str(caught.value).splitlines()] == [
        f"route on {__name__}:one",
        f"route on {__name__}:two",
    ]


def test_two_marks_on_one_route_are_a_mistake() -> None:
    service = Service("shop")
    service.route("GET /orders/{id}", timeout="2s")(fresh("one"))
    service.route("GET  /orders/{number}", timeout="3s")(fresh("two"))
    with pytest.raises(BootError, match=rf"two: {__name__}:one is marked too, and serves GET  /orders/.number. as wel"):
        service.routes_from_code()
    apart = Service("shop")
    apart.route("GET /orders/{id}", timeout="2s", headers={"x-version": "2"})(fresh("one"))
    apart.route("GET /orders/{id}", timeout="3s", host="a.example.org")(fresh("two"))
    apart.route("GET /orders/{id...}", timeout="3s")(fresh("three"))
    assert len(read_routes(apart.routes_from_code())) == 3


def test_one_handler_of_several_paths_has_a_route_for_each_under_names_that_differ() -> None:
    function = fresh()
    route(timeout="2s", name="orders")(function)
    service = Service("shop", Starlette(routes=[Route("/a", function), Route("/b", function), Route("/b/", function)]))
    tables = service.routes_from_code()
    assert [(one["match"], one["name"]) for one in tables] == [
        ("GET /a", "orders GET /a"),
        ("GET /b", "orders GET /b"),
    ]
    assert len(read_routes(tables)) == 2


def test_a_mark_with_a_match_goes_before_the_table() -> None:
    function = fresh()
    route("GET /from/code", timeout="2s")(function)
    service = Service("shop", Starlette(routes=[Route("/a", function), Route("/b", function)]))
    assert service.routes_from_code() == [{"match": "GET /from/code", "timeout": "2s"}]


@pytest.fixture
def module() -> Iterator[types.ModuleType]:
    made = types.ModuleType("shop_of_test_routes")
    sys.modules[made.__name__] = made
    yield made
    del sys.modules[made.__name__]


def test_a_mark_in_a_module_that_nobody_routes_is_named(module: types.ModuleType) -> None:
    class Views:
        @route(timeout="2s")
        def get(self) -> None: ...

    class Other:
        """Of another module: it would be told there."""

        @route(timeout="2s")
        def get(self) -> None: ...

    route(timeout="2s")(Other)
    Views.__module__ = module.__name__
    module.lonely = route(timeout="2s")(fresh("lonely"))  # type: ignore[attr-defined]
    module.Views = Views  # type: ignore[attr-defined]
    module.Other = Other  # type: ignore[attr-defined]
    module.proxy = Proxy()  # type: ignore[attr-defined]
    with pytest.raises(BootError) as caught:
        Service("shop", Starlette(routes=[Route("/a", fresh())])).routes_from_code()
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert "lonely" in lines[0]
    assert "Views.get" in lines[1]


class Proxy:
    """Stands in for something that is not there yet, as Flask's ``request`` does."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError("nobody may look at me")


class Lazy(types.ModuleType):
    """Is loaded by whoever asks it for anything."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError("nobody may load me")


def test_a_lazy_module_is_not_loaded_to_look_for_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shop_of_test_routes_lazy", Lazy("shop_of_test_routes_lazy"))
    service = Service("shop")
    service.route("GET /", timeout="2s")(fresh())
    assert len(service.routes_from_code()) == 1


def test_a_mark_with_a_match_in_a_module_is_found_without_a_table(module: types.ModuleType) -> None:
    module.lonely = route("GET /lonely", timeout="2s")(fresh("lonely"))  # type: ignore[attr-defined]
    assert Service("shop").routes_from_code() == [{"match": "GET /lonely", "timeout": "2s"}]


def test_a_service_without_marks_does_not_pay_for_them(tmp_path: Path) -> None:
    text = """
        import sys
        import holdfast
        service = holdfast.Service("shop")
        assert service.routes_from_code() == []
        heavy = {"service.marks", "service.tables", "service.pipelines", "config.live", "resilience.catalog"}
        assert not heavy & {name.removeprefix("holdfast.") for name in sys.modules}
        assert holdfast.route(timeout="2s")(lambda: None)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(text)], cwd=tmp_path, check=True, timeout=30)


def test_no_framework_is_imported_that_the_app_does_not_use(tmp_path: Path) -> None:
    text = """
        import sys
        import holdfast
        from starlette.applications import Starlette
        from starlette.routing import Route
        @holdfast.route(timeout="2s")
        def view(request): ...
        service = holdfast.Service("shop", Starlette(routes=[Route("/a", view)]))
        assert service.routes_from_code() == [{"match": "GET /a", "timeout": "2s"}]
        assert not {"flask", "django", "litestar", "fastapi", "holdfast.server"} & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(text)], cwd=tmp_path, check=True, timeout=30)


def test_entries_for_the_same_requests_have_the_same_condition() -> None:
    one = condition({"match": "PUT|POST  /a/{id}/{rest...}", "host": "A.example.org", "headers": {"X-V": "2"}})
    assert one == condition({"match": "POST|PUT /a/{number}/{r...}", "host": "a.example.org", "headers": {"x-v": "2"}})
    others: list[dict[str, Any]] = [
        {"match": "/a/{id}"},
        {"match": "GET /a/{id}"},
        {"match": "/a/{id...}"},
        {"match": "/a/{id}", "host": "h"},
        {"match": 5, "headers": "x"},
        {},
    ]
    assert len({condition(other) for other in others}) == len(others)
