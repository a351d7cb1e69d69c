"""Configurations written for people are TOML that means the same."""

import tomllib
from typing import Any

import pytest
from hypothesis import given, settings

from config.trees import TABLES
from effort import examples
from holdfast.cli.written import Line, inline, plain, quoted, written
from holdfast.config.document import same
from holdfast.config.mistakes import Place


def nowhere(place: Place) -> str:
    return ""


def without_null(value: Any) -> Any:
    """TOML has none."""
    if isinstance(value, dict):
        return {name: without_null(item) for name, item in value.items() if item is not None}
    return [without_null(item) for item in value if item is not None] if isinstance(value, list) else value


def number(place: Place) -> str:
    """An origin that differs between some places, so that tables are written in both forms."""
    return f"file.toml:{len(str(place)) % 3}"


@settings(max_examples=examples(300))
@given(TABLES)
def test_what_is_written_means_the_same(values: dict[str, Any]) -> None:
    bare = without_null(values)
    for origin in (nowhere, number):
        text = plain(written(bare, origin))
        assert same(tomllib.loads(text), bare), text


def test_each_value_has_its_origin_behind_it() -> None:
    lines: dict[Place, str] = {("run", "app"): "holdfast.toml:2", ("run", "workers"): "HOLDFAST_WORKERS"}
    text = plain(written({"run": {"app": "shop:app", "workers": 4}}, lambda place: lines.get(place, "")))
    assert text.splitlines() == [
        "[run]",
        'app = "shop:app"  # holdfast.toml:2',
        "workers = 4       # HOLDFAST_WORKERS",
    ]


def test_a_table_from_one_place_is_one_line_and_one_from_several_is_not() -> None:
    values = {"routes": [{"match": "/a", "rate_limit": {"rate": "5/s", "burst": 2}}]}
    one = plain(written(values, nowhere))
    assert one == '[[routes]]\nmatch = "/a"\nrate_limit = { rate = "5/s", burst = 2 }'
    several = plain(written(values, lambda place: "HOLDFAST__X" if place[-1] == "burst" else "a.toml:1"))
    assert several.splitlines()[-3:] == [
        "[routes.rate_limit]",
        'rate = "5/s"  # a.toml:1',
        "burst = 2     # HOLDFAST__X",
    ]


def test_a_long_table_is_not_one_line() -> None:
    values = {"settings": {"shops": {f"shop{count}": "x" * 20 for count in range(5)}}}
    text = plain(written(values, nowhere))
    assert text.startswith("[settings.shops]\n")
    assert max(map(len, text.splitlines())) < 40


def test_nothing_is_written_as_a_comment() -> None:
    assert plain(written({"a": {"b": None}}, nowhere)) == "[a]\n# b = null"
    assert inline([None]) == "[null]"


def test_an_empty_table_is_there_with_its_origin() -> None:
    assert written({"settings": {}}, lambda place: "a.toml:1") == [Line("[settings]", "a.toml:1", head=True)]
    assert written({}, nowhere) == []


@pytest.mark.parametrize("text", ["\x1b[2J", "a\nb", "\x7f", "\x9b", "\u202e", '"\\', "\U000e0001"])
def test_what_a_terminal_would_obey_is_escaped(text: str) -> None:
    assert quoted(text).isprintable()
    assert tomllib.loads(f"x = {quoted(text)}") == {"x": text}
