"""The sections of the one document: what each takes, and where a mistake in it is said to be."""

from pathlib import Path

import msgspec
import pytest

from holdfast.config.document import Document
from holdfast.config.layers import from_file
from holdfast.config.mistakes import ConfigErrors
from holdfast.core.codes import Code
from holdfast.supervisor.configuration import make_schema
from holdfast.supervisor.settings import Settings

GOOD = """
[run]
app = "shop:app"
workers = 2
[admission]
concurrency = { target = "20ms" }
clients = { rate = "5/s", burst = 4 }
[[routes]]
match = "POST /orders"
rate_limit = { rate = "50/s", key = "header:x-tenant" }
[errors]
"shop:OutOfStock" = "failed_precondition"
[pipelines]
ship = [{ timeout = "2s" }, "breaker"]
[settings]
currency = "EUR"
"""

MISTAKES = """[run]
workers = "x"
[admission]
concurrency = { targt = "20ms" }
[[routes]]
match = "GET /x"
retry = 3
bulkhead = 0
[[routes]]
match = "GET /y"
rate_limit = { rate = "5/s", brst = 4 }
[errors]
"shop:Out" = "faild_precondition"
"shop:Bad" = { code = "internal", tel = true }
[pipelines]
ship = [{ timeout = "2s" }, { retry = { attempt = 3 } }]
"a b" = ["breker"]
[rotes]
"""

TOLD = [
    ("18 rotes", "did you mean routes?"),
    ("2 run.workers", 'expected "auto" or a whole number'),
    ("4 admission.concurrency.targt", "did you mean target?"),
    ("7 routes[0].retry", "a request's body can be read once"),
    ("8 routes[0].bulkhead.limit", "got 0, expected a whole number, at least 1"),
    ("11 routes[1].rate_limit.brst", "did you mean burst?"),
    ('13 errors."shop:Out"', "did you mean failed_precondition?"),
    ('14 errors."shop:Bad".tel', "did you mean tell?"),
    ("16 pipelines.ship[1].retry.attempt", "did you mean attempts?"),
    ('17 pipelines."a b"[0].breker', "did you mean breaker?"),
]


def refusal(text: str, directory: Path) -> ConfigErrors:
    file = directory / "holdfast.toml"
    file.write_text(text)
    with pytest.raises(ConfigErrors) as caught:
        make_schema().read(from_file(file))
    return caught.value


def test_each_section_has_its_type(tmp_path: Path) -> None:
    file = tmp_path / "holdfast.toml"
    file.write_text(GOOD)
    snapshot = make_schema().read(from_file(file))
    assert (snapshot.run.app, snapshot.run.workers) == ("shop:app", 2)
    assert snapshot.admission.limit.target == 0.02
    assert [str(route.pattern()) for route in snapshot.routes] == ["POST /orders"]
    assert snapshot.errors["shop:OutOfStock"].code is Code.FAILED_PRECONDITION
    assert snapshot.pipelines == {"ship": [{"timeout": "2s"}, "breaker"]}
    assert snapshot.settings == {"currency": "EUR"}


def test_a_document_that_says_nothing_has_every_default() -> None:
    snapshot = make_schema().read(Document())
    assert snapshot.run == Settings()
    assert (snapshot.routes, snapshot.errors, snapshot.pipelines, snapshot.settings) == ([], {}, {}, {})
    assert snapshot.admission.limit is None


def test_every_mistake_in_every_section_has_its_path_and_line(tmp_path: Path) -> None:
    errors = refusal(MISTAKES, tmp_path).errors
    assert len(errors) == len(TOLD)
    for error, (place, words) in zip(errors, TOLD, strict=True):
        assert str(error).startswith(f"{tmp_path / 'holdfast.toml'}:{place}: ")
        assert words in str(error)


def test_routes_that_cannot_be_told_apart_are_refused_where_the_second_one_is(tmp_path: Path) -> None:
    twice = '[[routes]]\nmatch = "GET /x"\n[[routes]]\nmatch = "GET /x"\n'
    assert "holdfast.toml:4 routes[1].match: got 'GET /x'" in str(refusal(twice, tmp_path))
    named = '[[routes]]\nmatch = "GET /x"\nname = "a"\n[[routes]]\nmatch = "GET /y"\nname = "a"\n'
    assert "holdfast.toml:6 routes[1].name: got 'a', expected names that differ" in str(refusal(named, tmp_path))


def test_the_apps_own_settings_are_read_into_its_own_type() -> None:
    class Shop(msgspec.Struct, frozen=True):
        currency: str = "EUR"

    schema = make_schema(Shop)
    assert schema.read(Document.of({"settings": {"currency": "USD"}})).settings == Shop("USD")
    with pytest.raises(ConfigErrors, match=r"settings\.curency: .*did you mean currency"):
        schema.read(Document.of({"settings": {"curency": "USD"}}))


def test_only_the_log_of_run_changes_without_a_new_generation() -> None:
    schema = make_schema()
    live = [name for name in Settings.__struct_fields__ if schema.is_live(("run", name))]
    assert live == ["log_format", "log_level"]
    for place in (("admission", "clients"), ("routes", 0, "bulkhead"), ("errors", "a:B"), ("settings", "x")):
        assert schema.is_live(place)
