import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.trees import NAMES, TABLES, VALUES, leaves_of, merged_leaves
from holdfast.config.document import (
    DEPTH_LIMIT,
    KEYS_LIMIT,
    NAME_LIMIT,
    TEXT_LIMIT,
    Document,
    Layer,
    checked,
    merged,
    same,
)
from holdfast.config.mistakes import Place, parse_place, place_text
from holdfast.core.errors import ConfigError

LAYERS: tuple[Layer, ...] = ("default", "file", "directory", "env", "flag")


def refusal(values: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        checked(values, "here")
    text = str(caught.value)
    assert "\n" not in text
    return text


@given(st.lists(TABLES, min_size=1, max_size=5))
def test_layers_merge_as_if_each_were_written_over_those_before(tables: list[dict[str, Any]]) -> None:
    documents = [Document.of(table, LAYERS[n], f"layer {n}") for n, table in enumerate(tables)]
    result = merged(*documents)
    expected = merged_leaves(*tables)
    found = leaves_of(dict(result.values))
    assert list(map(repr, sorted(found.items(), key=repr))) == list(
        map(repr, sorted(((place, value) for place, (_, value) in expected.items()), key=repr))
    )
    for place, (number, value) in expected.items():
        if value != {}:
            assert result.origin(place).place == f"layer {number}"
            assert result.origin(place).layer == LAYERS[number]


@given(TABLES, TABLES)
def test_merging_leaves_the_layers_as_they_were(one: dict[str, Any], other: dict[str, Any]) -> None:
    before = json.dumps([one, other])
    lower, upper = Document.of(one), Document.of(other)
    merged(lower, upper)
    assert json.dumps([lower.values, upper.values]) == before


@given(TABLES)
def test_nothing_and_itself_change_nothing(table: dict[str, Any]) -> None:
    document = Document.of(table)
    assert merged(document) == document
    assert merged(Document(), document, Document()) == document
    assert merged(document, document) == document


@given(st.lists(st.dictionaries(NAMES, st.integers(0, 9)), min_size=3, max_size=3))
def test_layers_without_conflicts_of_form_may_be_grouped_anyhow(tables: list[dict[str, Any]]) -> None:
    a, b, c = (Document.of({"t": table}) for table in tables)
    assert merged(merged(a, b), c) == merged(a, merged(b, c))


def test_lists_replace_and_tables_merge() -> None:
    lower = Document.of({"a": [1, 2, 3], "t": {"x": 1, "y": 2}})
    upper = Document.of({"a": [9], "t": {"y": 3}})
    assert merged(lower, upper).values == {"a": [9], "t": {"x": 1, "y": 3}}


def test_a_value_replaces_a_table_and_a_table_a_value() -> None:
    table, value = Document.of({"a": {"b": 1}}), Document.of({"a": False})
    assert merged(table, value).values == {"a": False}
    assert merged(value, table).values == {"a": {"b": 1}}


def test_what_a_table_lacks_is_looked_for_where_the_table_was_first_written() -> None:
    file = Document.of({"db": {"host": "h"}}, "file", "app.toml", {("db",): 3, ("db", "host"): 4})
    env = Document.of({"db": {"port": 1}}, "env", "HOLDFAST__DB__PORT")
    result = merged(Document.of({"db": {}}), file, env)
    assert str(result.origin(("db", "user"))) == "app.toml:3"
    assert str(result.origin(("db", "host"))) == "app.toml:4"
    assert str(result.origin(("db", "port"))) == "HOLDFAST__DB__PORT"


@given(TABLES, TABLES)
def test_a_document_comes_back_from_plain_values_with_its_origins(one: dict[str, Any], other: dict[str, Any]) -> None:
    lines: dict[Place, int] = {(name,): number for number, name in enumerate(one, 1)}
    document = merged(Document.of(one, "file", "a.toml", lines), Document.of(other, "env", "V"))
    restored = Document.restored(json.loads(json.dumps(document.plain())))
    assert restored == document
    assert restored.plain() == document.plain()
    for place in leaves_of(dict(document.values)):
        assert restored.origin(place) == document.origin(place)


@given(VALUES | st.fixed_dictionaries({"values": VALUES, "origins": VALUES}))
def test_junk_is_no_document(junk: Any) -> None:
    with contextlib.suppress(ConfigError):
        assert isinstance(Document.restored(junk), Document)


@given(VALUES, VALUES)
def test_same_means_the_same_json(one: Any, other: Any) -> None:
    def text(value: Any) -> str:
        return json.dumps(value, sort_keys=True)

    assert same(one, other) == (text(one) == text(other) or (one == other == 0.0 and type(one) is type(other) is float))
    assert same(one, json.loads(text(one)))


def test_kinds_of_numbers_are_told_apart_however_deep() -> None:
    assert not same({"a": [{"b": 1}]}, {"a": [{"b": True}]})
    assert not same([1], [1.0])
    assert same({"a": 1, "b": 2}, {"b": 2, "a": 1})


def test_bounds_hold_and_say_where() -> None:
    deep: Any = 1
    for _ in range(DEPTH_LIMIT):
        deep = [deep]
    assert f"at most {DEPTH_LIMIT} tables" in refusal({"a": deep})
    assert checked({"a": deep[0]}) == {"a": deep[0]}
    assert f"at most {KEYS_LIMIT} values" in refusal({"a": [0] * KEYS_LIMIT})
    assert len(checked({"a": [0] * (KEYS_LIMIT - 2)})["a"]) == KEYS_LIMIT - 2
    assert "here a.b: expected text of at most" in refusal({"a": {"b": "x" * (TEXT_LIMIT + 1)}})
    assert f"names of 1 to {NAME_LIMIT} characters" in refusal({"x" * (NAME_LIMIT + 1): 1})
    assert "names of 1 to" in refusal({"": 1})
    assert "names of 1 to" in refusal({3: 1})


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (2**64, "at most 64 bits"),
        (-(2**63) - 1, "at most 64 bits"),
        (10**4000, "at most 64 bits"),
        (float("nan"), "a finite number"),
        (float("inf"), "a finite number"),
        ("a\0b", "without NUL"),
        ("\ud800", "UTF-8"),
        (object(), "text, a number"),
        (b"x", "text, a number"),
    ],
)
def test_values_that_no_codec_carries_are_refused(value: Any, words: str) -> None:
    assert words in refusal({"a": [0, value]})
    assert "here a[1]: " in refusal({"a": [0, value]})


def test_a_document_does_not_show_its_values() -> None:
    assert "hunter2" not in repr(Document.of({"password": "hunter2"}))


@given(
    st.lists(NAMES | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6), min_size=1, max_size=5)
)
def test_a_path_is_read_as_it_was_written(names: list[str]) -> None:
    assert parse_place(place_text(tuple(names))) == tuple(names)
    assert "\n" not in place_text(tuple(names))


@given(st.text(max_size=12))
def test_any_text_is_a_path_or_a_value_error(text: str) -> None:
    try:
        names = parse_place(text)
    except ValueError:
        return
    assert names


@pytest.mark.parametrize("text", ["", ".", "a.", ".a", "a..b", "a b", '"a', "a.b!", "a[0]", ".".join("a" * 65)])
def test_what_is_no_path_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a path"):
        parse_place(text)
