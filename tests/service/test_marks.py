import functools
from typing import Any

import pytest

import holdfast
from holdfast.core.errors import ConfigError
from holdfast.core.settings import settings_of
from holdfast.server.admission.settings import RouteSettings, read_routes
from holdfast.service.marks import MARK, RouteOptions, innermost, mark_of, route
from holdfast.service.service import Service


def handler() -> None: ...


def fresh() -> Any:
    def made() -> None: ...

    return made


def test_the_settings_of_a_route_in_code_are_those_of_the_file() -> None:
    assert ["match", *RouteOptions.__annotations__] == [field.name for field in settings_of(RouteSettings)]


def test_a_handler_is_handed_back_as_it_is_with_its_mark() -> None:
    function = fresh()
    assert holdfast.route(timeout="2s")(function) is function
    mark = mark_of(function)
    assert mark is not None
    assert mark.where == f"{__name__}:fresh.<locals>.made"
    assert mark.options == {"timeout": "2s"}


def test_a_mark_is_seen_through_decorators_partials_and_methods() -> None:
    function = fresh()
    route(timeout="2s")(function)
    wrapped = functools.wraps(function)(lambda: None)
    bare = fresh()
    bare.__wrapped__ = wrapped
    for endpoint in (wrapped, bare, functools.partial(wrapped)):
        assert mark_of(endpoint) is getattr(function, MARK)
        assert innermost(endpoint) is function

    class Views:
        @route(bulkhead=3)
        def get(self) -> None: ...

    assert mark_of(Views().get) is mark_of(Views.get) is not None


def test_a_bound_method_is_marked_by_its_function() -> None:
    class Views:
        def get(self) -> None: ...

    route(timeout="2s")(Views().get)
    mark = mark_of(Views.get)
    assert mark is not None
    assert mark.where.endswith("Views.get")


def test_a_decorator_that_goes_round_in_a_circle_ends() -> None:
    function = fresh()
    function.__wrapped__ = function
    assert mark_of(function) is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"timeout": "soon"}, "timeout: got 'soon', expected a duration"),
        ({"timeout": 0}, "timeout: got 0, expected a duration, more than 0s"),
        ({"rate_limit": "5/q"}, "rate_limit.rate: got '5/q', expected a rate"),
        ({"rate_limit": {"rate": "5/s", "brst": 3}}, "rate_limit.brst: .* did you mean burst?"),
        ({"bulkhead": {"limti": 3}}, "bulkhead.limti: .* did you mean limit?"),
        ({"breaker": {"open": -1}}, "breaker.open: got -1"),
        ({"criticality": "high"}, "criticality: got 'high', expected sheddable"),
        ({"concurrency": "no"}, "concurrency: got 'no', expected true or false"),
        ({"headers": "x"}, "headers: got 'x', expected a table"),
        ({"host": 5}, "host: got 5, expected the name of a host"),
        ({"policies": "bulkhead"}, "policies: got 'bulkhead', expected a list of policies"),
        ({"policies": ["concurrency", {"bulkhead": "x"}]}, r"policies\[1\]\.bulkhead\.limit: got 'x'"),
        ({"policies": [{"bulkhed": 3}]}, "did you mean bulkhead"),
        ({"bulkhead": {"limit": 3, "name": "a\0b"}}, "bulkhead.name: expected text without NUL"),
        ({}, "expected at least one setting"),
        ({"timeout": None}, "expected at least one setting"),
    ],
)
def test_a_wrong_setting_is_refused_where_it_stands(options: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=f"route on {__name__}:handler .*{words}"):
        route(**options)(handler)
    assert mark_of(handler) is None
    with pytest.raises(ConfigError, match=words):
        Service("shop").route("GET /", **options)(handler)


def test_a_setting_that_there_is_not_is_refused_with_advice() -> None:
    with pytest.raises(TypeError, match=r"no setting timout; did you mean timeout?"):
        route(timout="2s")(handler)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"no setting retry; put it around a call .* service\.pipeline"):
        route(retry=3)(handler)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"write @route\(\.\.\.\) with settings in parentheses"):
        route(handler)  # type: ignore[arg-type]


def test_one_handler_has_one_mark_and_a_subclass_may_have_its_own() -> None:
    function = fresh()
    route(timeout="2s")(function)
    with pytest.raises(ConfigError, match="one @route on a handler; put the settings into one"):
        route(bulkhead=3)(function)

    @route(timeout="2s")
    class Views: ...

    class More(Views): ...

    assert mark_of(More) is mark_of(Views)
    route(timeout="3s")(More)
    assert mark_of(More) is not mark_of(Views)
    with pytest.raises(ConfigError, match="one @route"):
        route(timeout="3s")(More)


def test_what_is_no_handler_is_not_marked() -> None:
    with pytest.raises(TypeError, match="stands on a handler, and 5 is no function and no class"):
        route(timeout="2s")(5)


def test_all_that_a_route_may_have_is_taken_here_and_by_the_server() -> None:
    function = fresh()
    options: RouteOptions = {
        "host": "shop.example.org",
        "headers": {"x-version": "2"},
        "name": "orders",
        "timeout": 2.5,
        "criticality": "critical_plus",
        "concurrency": False,
        "must_finish": True,
        "rate_limit": {"rate": "50/s", "key": "header:x-tenant"},
        "throttle": True,
        "breaker": {"open": "5s"},
        "bulkhead": 20,
    }
    route(**options)(function)
    mark = mark_of(function)
    assert mark is not None
    (read,) = read_routes([{"match": "GET /", **mark.options}])
    assert (read.label, read.seconds) == ("orders", 2.5)
    assert len(read.steps) == 4
    listed = fresh()
    route(policies=[{"rate_limit": {"rate": "5/s", "key": "client"}}, "concurrency", {"timeout": "2s"}])(listed)
    mark = mark_of(listed)
    assert mark is not None
    assert read_routes([{"match": "GET /", **mark.options}])[0].seconds == 2.0


def test_a_mark_keeps_its_settings_whatever_becomes_of_those_given() -> None:
    limit = {"rate": "5/s"}
    function = route(rate_limit=limit)(fresh())
    limit["rate"] = "9/s"
    mark = mark_of(function)
    assert mark is not None
    assert mark.options == {"rate_limit": {"rate": "5/s"}}
