"""Routes found in the tables of Django."""

import functools
import types
from typing import Any

import django
import pytest
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, HttpResponse
from django.test import override_settings
from django.urls import include, path, re_path, register_converter, resolve
from django.views import View
from django.views.decorators.csrf import csrf_exempt

from holdfast.core.errors import BootError
from holdfast.server.admission.patterns import parse_pattern
from holdfast.server.admission.settings import read_routes
from holdfast.service.marks import route
from holdfast.service.service import Service

if not settings.configured:
    settings.configure(SECRET_KEY="test", ALLOWED_HOSTS=["*"])
    django.setup()


def view(match: str = "") -> Any:
    def made(request: HttpRequest, **arguments: Any) -> HttpResponse:
        return HttpResponse()

    return route(match, timeout="2s")(made)


def unmarked(request: HttpRequest, **arguments: Any) -> HttpResponse:
    return HttpResponse()


def urls(*patterns: Any) -> types.ModuleType:
    made = types.ModuleType("urls")
    made.urlpatterns = list(patterns)  # type: ignore[attr-defined]
    return made


def matches(*patterns: Any, handler: Any = ASGIHandler) -> list[str]:
    with override_settings(ROOT_URLCONF=urls(*patterns), MIDDLEWARE=[]):
        tables = Service("shop", handler()).routes_from_code()
    read_routes(tables)
    return [table["match"] for table in tables]


def test_paths_and_converters_of_django() -> None:
    found = matches(
        path("", view()),
        path("orders/<int:id>/", view()),
        path("api/", include([path("v1/", include([path("files/<slug:name>/<path:rest>", view())]))])),
        path("plain/<name>", view()),
        path("unmarked/<int:id>", unmarked),
    )
    assert found == ["/", "/orders/{id}", "/api/v1/files/{name}/{rest...}", "/plain/{name}"]


def test_django_under_wsgi_has_the_same_table() -> None:
    assert matches(path("orders", view()), handler=WSGIHandler) == ["/orders"]


def test_decorators_and_classes_of_views_of_django() -> None:
    class Orders(View):  # type: ignore[misc]  # Django has no types
        def get(self, request: HttpRequest) -> HttpResponse:
            return HttpResponse()

        @route(timeout="2s")
        def post(self, request: HttpRequest) -> HttpResponse:
            return HttpResponse()

    @route(timeout="2s")
    class Items(View):  # type: ignore[misc]  # Django has no types
        def get(self, request: HttpRequest) -> HttpResponse:
            return HttpResponse()

        @route(timeout="3s")
        def put(self, request: HttpRequest) -> HttpResponse:
            return HttpResponse()

    found = matches(
        path("orders", Orders.as_view()),
        path("items", csrf_exempt(Items.as_view())),
        path("exempt", csrf_exempt(view())),
        path("partial", functools.partial(view(), name="x")),
    )
    assert found == ["POST /orders", "PUT /items", "/items", "/exempt", "/partial"]


def test_a_regular_expression_asks_for_a_match() -> None:
    with pytest.raises(BootError, match=r"made: .*x/.* is no path\(\) with converters; say it: match="):
        matches(re_path(r"^x/(?P<id>\d+)$", view()))
    with pytest.raises(BootError, match=r"is no path\(\) with converters; say it: match="):
        matches(re_path(r"^api/", include([path("a", view())])))
    assert matches(re_path(r"^x/(?P<id>\d+)$", view("GET /x/{id}"))) == ["GET /x/{id}"]
    assert matches(re_path(r"^x/(?P<id>\d+)$", unmarked)) == []


class TwoSegments:
    regex = "[a-z]+/[a-z]+"

    def to_python(self, value: str) -> str:
        return value

    def to_url(self, value: str) -> str:
        return value


def test_a_converter_of_the_apps_own_asks_for_a_match() -> None:
    if "two" not in django.urls.converters.get_converters():
        register_converter(TwoSegments, "two")
    with pytest.raises(BootError, match="nobody knows what <two:pair> takes; say it: match="):
        matches(path("f/<two:pair>", view()))


@pytest.mark.parametrize("template", ["", "a/", "a/<x>", "<int:x>/b", "f/<path:rest>", "<slug:x>/<uuid:y>/<str:z>/"])
def test_each_path_that_django_gives_to_a_marked_handler_is_the_routes(template: str) -> None:
    handler = view()
    (match,) = matches(path(template, handler))
    pattern = parse_pattern(match)
    reached = 0
    with override_settings(ROOT_URLCONF=urls(path(template, handler))):
        for parts in PATHS:
            given = f"/{parts}"
            try:
                resolve(given)
            except django.urls.Resolver404:
                continue
            reached += 1
            assert pattern.has_path(given), (template, given)
    assert reached


UUID = "0b1f5c8e-55d2-4d1c-9d49-5d1d7a2f6c11"
PATHS = ("", "a", "a/", "a/7", "a/7/", "7/b", "f/a", "f/a/b/c", "f/a/", f"a-b/{UUID}/z/", f"7/{UUID}/z")
