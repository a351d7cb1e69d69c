"""Routes found in the tables of Starlette, FastAPI and Flask. Django and Litestar have files of their own."""

import functools
import random
from typing import Any

import fastapi
import flask
import flask.views
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.convertors import Convertor, register_url_convertor
from starlette.endpoints import HTTPEndpoint
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Host, Match, Mount, Route, Router, WebSocketRoute
from werkzeug.exceptions import HTTPException
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from effort import examples
from holdfast.core.errors import BootError
from holdfast.server.admission.patterns import parse_pattern
from holdfast.server.admission.settings import read_routes
from holdfast.service.marks import route
from holdfast.service.service import Service
from holdfast.service.tables import DEPTH_LIMIT, served


def view(name: str = "view") -> Any:
    async def made(*args: Any, **kwargs: Any) -> None: ...

    made.__qualname__ = made.__name__ = name
    return route(timeout="2s")(made)


def bare() -> Any:
    async def made(*args: Any, **kwargs: Any) -> None: ...

    return made


def matches(app: Any) -> list[str]:
    """What the routes of the marked handlers of ``app`` match, host and all; the server takes them."""
    tables = Service("shop", app).routes_from_code()
    read_routes(tables)
    return [f"{table['host']} {table['match']}" if "host" in table else table["match"] for table in tables]


def trouble(app: Any) -> str:
    with pytest.raises(BootError) as caught:
        matches(app)
    assert 'say it: match="POST /orders/{id}"' in str(caught.value)
    return str(caught.value)


# -- Starlette


def test_paths_methods_and_converters_of_starlette() -> None:
    app = Starlette(
        routes=[
            Route("/", view()),
            Route("/orders", view(), methods=["POST", "PUT"]),
            Route("/orders/{id:int}", view()),
            Route("/files/{name}/{rest:path}", view(), methods=["DELETE"]),
            Route("/plain/", view()),
            WebSocketRoute("/feed/{room}", view()),
            Route("/unmarked", bare()),
        ]
    )
    assert matches(app) == [
        "GET /",
        "POST|PUT /orders",
        "GET /orders/{id}",
        "DELETE /files/{name}/{rest...}",
        "GET /plain",
        "GET /feed/{room}",
    ]


def test_mounts_hosts_and_routers_of_starlette() -> None:
    inner = Starlette(routes=[Route("/{id}", view()), Mount("/deep", routes=[Route("/", view())])])
    app = Starlette(
        routes=[
            Mount("/tenants/{id}", inner),
            Mount("/zip", GZipMiddleware(Router([Route("/a", view())]))),
            Host("api.example.org", Router([Route("/h", view())])),
            Host("{sub}.example.org", Router([Route("/s", view())])),
        ]
    )
    assert matches(app) == [
        "GET /tenants/{id}/{id_2}",
        "GET /tenants/{id}/deep",
        "GET /zip/a",
        "api.example.org GET /h",
        "*.example.org GET /s",
    ]


def test_an_endpoint_that_is_a_class_and_its_methods() -> None:
    @route(timeout="2s")
    class All(HTTPEndpoint):
        async def get(self, request: Any) -> None: ...

    class Some(HTTPEndpoint):
        async def get(self, request: Any) -> None: ...

        @route(timeout="2s")
        async def post(self, request: Any) -> None: ...

    @route(timeout="2s")
    class Both(HTTPEndpoint):
        async def get(self, request: Any) -> None: ...

        @route(timeout="3s")
        async def post(self, request: Any) -> None: ...

    app = Starlette(routes=[Route("/all", All), Route("/some", Some), Route("/both", Both, methods=["GET", "POST"])])
    assert matches(app) == ["/all", "POST /some", "POST /both", "GET /both"]


def test_decorators_around_a_handler_are_seen_through() -> None:
    inner = view()
    wrapped = functools.wraps(inner)(bare())
    partial = functools.partial(view(), 5)
    app = GZipMiddleware(Starlette(routes=[Route("/w", wrapped), Route("/p", partial, methods=["GET"])]))
    assert matches(app) == ["GET /w", "GET /p"]


class TwoSegments(Convertor[str]):
    regex = "[a-z]+/[a-z]+"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


def test_paths_that_no_pattern_says_ask_for_a_match() -> None:
    register_url_convertor("two", TwoSegments())
    assert "in /f/{name}.json a placeholder is not a whole segment" in trouble(
        Starlette(routes=[Route("/f/{name}.json", view())])
    )
    assert "in /f/{rest...}/meta something follows {rest...}" in trouble(
        Starlette(routes=[Route("/f/{rest:path}/meta", view())])
    )
    assert "nobody knows what {pair:two} takes" in trouble(Starlette(routes=[Route("/f/{pair:two}", view())]))
    assert "nobody knows what {pair:two} takes" in trouble(
        Starlette(routes=[Mount("/{pair:two}", routes=[Route("/a", view())])])
    )
    assert "the host api-{name}.example.org has placeholders" in trouble(
        Starlette(routes=[Host("api-{name}.example.org", Router([Route("/a", view())]))])
    )


def test_what_is_in_the_way_of_unmarked_handlers_does_not_matter() -> None:
    assert matches(Starlette(routes=[Route("/f/{name}.json", bare()), Route("/a", view())])) == ["GET /a"]


def test_an_app_that_holds_itself_ends() -> None:
    class Around:
        def __init__(self) -> None:
            self.app: Any = self

    assert served(Around()) == []
    app: Any = Starlette(routes=[Route("/a", view())])
    for _ in range(DEPTH_LIMIT - 1):
        app = GZipMiddleware(app)
    assert matches(app) == ["GET /a"]
    assert served(GZipMiddleware(app)) == []


# -- FastAPI


def test_routers_of_fastapi_with_prefixes() -> None:
    app = fastapi.FastAPI()
    inner = fastapi.APIRouter(prefix="/v1")
    outer = fastapi.APIRouter(prefix="/api")
    inner.post("/orders/{id:int}")(view())
    inner.websocket("/feed")(view())
    outer.include_router(inner)
    app.include_router(outer)
    app.include_router(inner, prefix="/old")
    inner.get("/late")(view())
    app.get("/health")(view())
    sub = fastapi.FastAPI()
    sub.get("/x/{rest:path}")(view())
    app.mount("/sub", sub)
    assert {"POST /api/v1/orders/{id}", "GET /api/v1/feed", "POST /old/v1/orders/{id}", "GET /old/v1/feed"} < set(
        matches(app)
    )
    assert {"GET /health", "GET /sub/x/{rest...}"} < set(matches(app))


def test_the_order_of_decorators_does_not_matter_to_fastapi() -> None:
    app = fastapi.FastAPI()

    @app.get("/above")
    @route(timeout="2s")
    async def above() -> None: ...

    @route(timeout="2s")
    @app.get("/below")
    async def below() -> None: ...

    assert matches(app) == ["GET /above", "GET /below"]


def test_a_router_that_is_not_included_is_told() -> None:
    app = fastapi.FastAPI()
    forgotten = fastapi.APIRouter()
    service = Service("shop", app)
    forgotten.get("/orders")(service.route(timeout="2s")(bare()))
    with pytest.raises(BootError, match="include its router"):
        service.routes_from_code()
    app.include_router(forgotten)
    assert service.routes_from_code() == [{"match": "GET /orders", "timeout": "2s"}]


# -- Flask


def flask_app() -> flask.Flask:
    return flask.Flask("shop", static_folder=None)


def test_rules_of_flask() -> None:
    app = flask_app()
    blueprint = flask.Blueprint("b", "b", url_prefix="/b")
    blueprint.post("/o/<int(min=1):id>/<path:rest>")(view("post"))
    blueprint.get("/f/<name>/")(view("get"))
    blueprint.get("/k/<any(a,b):kind>")(view("kind"))
    app.register_blueprint(blueprint)
    app.route("/m", methods=["GET", "PUT", "OPTIONS"], provide_automatic_options=False)(view("both"))
    app.route("/unmarked")(bare())
    assert sorted(matches(app)) == [
        "GET /b/f/{name}",
        "GET /b/k/{kind}",
        "GET|OPTIONS|PUT /m",
        "POST /b/o/{id}/{rest...}",
    ]


def test_views_of_flask_that_are_classes() -> None:
    app = flask_app()

    class Orders(flask.views.MethodView):
        def get(self) -> None: ...

        @route(timeout="2s")
        def post(self) -> None: ...

    @route(timeout="3s")
    class Items(flask.views.MethodView):
        def get(self) -> None: ...

        @route(timeout="2s")
        def head(self) -> None: ...

    @route(timeout="3s")
    class Each(flask.views.MethodView):
        @route(timeout="2s")
        def get(self) -> None: ...

    app.add_url_rule("/each", view_func=Each.as_view("each"), methods=["GET"])
    app.add_url_rule("/orders", view_func=Orders.as_view("orders"))
    app.add_url_rule("/items", view_func=Items.as_view("items"))
    assert sorted(matches(app)) == ["GET /each", "GET /items", "HEAD /items", "POST /orders"]


def test_paths_of_flask_that_no_pattern_says_ask_for_a_match() -> None:
    app = flask_app()
    app.route("/f<int:x>.json")(view())
    assert "in /f{x}.json a placeholder is not a whole segment" in trouble(app)
    app = flask_app()
    app.config["SERVER_NAME"] = "example.org"
    app.route("/a", subdomain="api")(view())
    assert "it is on the subdomain api" in trouble(app)


def test_hosts_of_flask() -> None:
    app = flask.Flask("shop", static_folder=None, host_matching=True)
    app.route("/a", host="api.example.org")(view("one"))
    app.route("/b", host="<tenant>.example.org")(view("two"))
    assert sorted(matches(app)) == ["*.example.org GET /b", "api.example.org GET /a"]


def test_wsgi_apps_beside_each_other() -> None:
    one, two = flask_app(), flask_app()
    one.route("/a")(view("one"))
    two.route("/b")(view("two"))
    assert matches(DispatcherMiddleware(one, {"/two": two})) == ["GET /two/b", "GET /a"]


# -- what a framework serves is never out of the route's reach

SEGMENTS = st.lists(st.sampled_from(["a", "b.c", "{x}", "{y:int}", "{z}-{w}"]), max_size=3)
PATHS = st.lists(st.sampled_from(["a", "b.c", "7", "x-y", ""]), max_size=5).map(lambda parts: "/" + "/".join(parts))


@settings(max_examples=examples(100), deadline=None)
@given(segments=SEGMENTS, rest=st.booleans(), slash=st.booleans(), mount=st.integers(0, 2), paths=st.lists(PATHS))
def test_each_request_that_starlette_gives_to_a_marked_handler_is_the_routes(
    segments: list[str], rest: bool, slash: bool, mount: int, paths: list[str]
) -> None:
    parts = [part.replace("{", "{" + "pqr"[number]) for number, part in enumerate(segments)]
    tail = ["{rest:path}"] if rest else []
    template = "/" + "/".join([*parts[mount:], *tail]) + ("/" if slash and not rest else "")
    app = Starlette(routes=[Route(template, view())])
    if prefix := "/".join(parts[:mount]):
        app = Starlette(routes=[Mount(f"/{prefix}", app)])
    if any("}-" in part for part in segments):
        trouble(app)
        return
    (match,) = matches(app)
    pattern = parse_pattern(match)
    for path in paths:
        if reaches(app.routes, path):
            assert pattern.has_path(path), (template, path)


def reaches(routes: Any, path: str) -> bool:
    scope = {"type": "http", "path": path, "root_path": "", "method": "GET"}
    for one in routes:
        found, inside = one.matches(scope)
        if found == Match.FULL:
            return not isinstance(one, Mount) or any(
                inner.matches({**scope, **inside})[0] == Match.FULL for inner in one.routes
            )
    return False


def test_each_request_that_flask_gives_to_a_marked_handler_is_the_routes() -> None:
    seed = 20261124
    print("seed", seed)
    dice = random.Random(seed)
    reached = 0
    for _ in range(40):
        parts = dice.choices(["a", "b.c", "<x{}>", "<int:y{}>"], k=dice.randrange(4))
        parts += ["<path:rest>"] * dice.randrange(2)
        template = "/" + "/".join(part.format(number) for number, part in enumerate(parts))
        if dice.random() < 0.5 and not template.endswith("/"):
            template += "/"
        app = flask_app()
        app.route(template)(view())
        (match,) = matches(app)
        pattern = parse_pattern(match)
        adapter = app.url_map.bind("example.org")
        for _ in range(40):
            path = "/" + "/".join(dice.choices(["a", "b.c", "7", "x-y", ""], k=dice.randrange(5)))
            try:
                adapter.match(path)
            except HTTPException:  # not found, or a redirect to the same path with a slash
                continue
            reached += 1
            assert pattern.has_path(path), (template, path)
    assert reached > 50
