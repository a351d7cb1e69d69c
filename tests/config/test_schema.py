import dataclasses
import json
import pickle
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.sections import NO_ENV, SCHEMA, AdmissionSettings, ClientSettings, RouteSettings, document, values
from config.trees import VALUES
from holdfast.config.document import Document, merged
from holdfast.config.layers import from_environment
from holdfast.config.mistakes import ERRORS_LIMIT, SHOWN_LIMIT, ConfigErrors
from holdfast.config.schema import Schema
from holdfast.config.snapshot import Snapshot
from holdfast.core.duration import Duration
from holdfast.core.errors import ConfigError
from holdfast.core.settings import Seconds, Settings, about
from holdfast.core.size import Size


def mistakes(schema: Schema, given_document: Document, **env: str) -> list[str]:
    with pytest.raises(ConfigErrors) as caught:
        schema.read(given_document, env=env)
    assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args or caught.value.errors
    told = [str(error) for error in caught.value.errors]
    assert not any("\n" in text for text in told)
    return told


def test_sections_are_read_into_their_types(tmp_path: Path) -> None:
    text = """
        [admission]
        trusted_proxies = ["10.0.0.0/8"]
        clients = { rate = "100/s" }
        [[routes]]
        match = "POST /orders"
        timeout = "1m30s"
        [[routes]]
        match = "GET /"
        [errors]
        "shop:OutOfStock" = "failed_precondition"
    """
    snapshot = SCHEMA.read(document(text, tmp_path), version=7, env=NO_ENV)
    assert snapshot.version == 7
    assert snapshot.admission == AdmissionSettings(
        trusted_proxies=("10.0.0.0/8",), clients=ClientSettings(rate="100/s")
    )
    assert snapshot["routes"] == [RouteSettings(match="POST /orders", timeout=90.0), RouteSettings(match="GET /")]
    assert snapshot.errors == {"shop:OutOfStock": "failed_precondition"}
    assert snapshot.settings.currency == "EUR"
    assert str(snapshot.origin(("routes", 1, "match"))).endswith("holdfast.toml:9")


def test_an_empty_document_is_all_defaults() -> None:
    snapshot = SCHEMA.read(Document(), env=NO_ENV)
    assert snapshot.admission == AdmissionSettings()
    assert snapshot.routes == []
    assert snapshot.errors == {}


def test_all_mistakes_are_told_at_once_with_place_value_and_advice(tmp_path: Path) -> None:
    text = """[admission]
trusted_proxis = ["a"]
clients = { rate = "10/q", burst = 0 }
[[routes]]
match = "GET /"
timeout = "-1s"
criticality = "critcal"
[[routes]]
timeout = "2s"
bulkhead = "many"
[[routes]]
match = "x"
bulkhead = 2
criticality = "sheddable"
[errors]
"a:B" = 5
[erors]
x = "hunter2"
"""
    file = tmp_path / "holdfast.toml"
    assert mistakes(SCHEMA, document(text, tmp_path)) == [
        f"{file}:17 erors: expected the name of a setting; did you mean errors?",
        f"{file}:2 admission.trusted_proxis: expected the name of a setting; did you mean trusted_proxies?",
        f"{file}:3 admission.clients.rate: got '10/q', expected a rate such as 100/s, 5/m or 1/10s",
        f"{file}:3 admission.clients.burst: got 0, expected a whole number, at least 1",
        f"{file}:6 routes[0].timeout: got '-1s', expected a duration such as 500ms or 1m30s, more than 0s",
        f'{file}:7 routes[0].criticality: got \'critcal\', expected "critical_plus" or "critical" or "sheddable"; '
        "did you mean critical?",
        f"{file}:10 routes[1].bulkhead: got 'many', expected a whole number, at least 1",
        f"{file}:8 routes[1].match: expected text; it must be given",
        f"{file}:13 routes[2].bulkhead: got 2, expected no bulkhead where criticality is sheddable",
        f'{file}:16 errors."a:B": got 5, expected text',
    ]


def test_a_mistake_names_the_variable_that_it_came_from(tmp_path: Path) -> None:
    file = document('[[routes]]\nmatch = "x"\n', tmp_path)
    env = from_environment({"HOLDFAST__ADMISSION__LANES": "none", "HOLDFAST__ADMISSION__LENES": "1"})
    assert mistakes(SCHEMA, merged(file, env)) == [
        "HOLDFAST__ADMISSION__LANES admission.lanes: got 'none', expected a whole number, at least 1, at most 64",
        "HOLDFAST__ADMISSION__LENES admission.lenes: expected the name of a setting; did you mean lanes?",
    ]


def test_the_number_of_mistakes_is_bounded_and_counted() -> None:
    with pytest.raises(ConfigErrors) as caught:
        SCHEMA.read(values(routes=[{"match": 1}] * 500))
    assert caught.value.total == 500
    assert len(caught.value.errors) == ERRORS_LIMIT
    lines = str(caught.value).splitlines()
    assert lines[0] == "500 mistakes"
    assert lines[-1] == f"  and {500 - SHOWN_LIMIT} more"
    assert len(lines) == SHOWN_LIMIT + 2


def test_one_mistake_is_one_line_and_a_config_error() -> None:
    with pytest.raises(ConfigError) as caught:
        SCHEMA.read(values(routes=[{"match": 1}]))
    assert str(caught.value) == "holdfast.toml routes[0].match: got 1, expected text"
    assert caught.value.path == "routes[0].match"
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_of_tables_and_lists_only_the_form_is_shown() -> None:
    told = mistakes(SCHEMA, values(admission=[["hunter2"]], routes={"a": "hunter2"}, errors={"x": ["hunter2"]}))
    assert told == [
        "holdfast.toml admission: got a list of 1, expected a table",
        "holdfast.toml routes: expected a list of tables",
        "holdfast.toml errors.x: got a list of 1, expected text",
    ]


class Inner(msgspec.Struct, frozen=True):
    size: Size = Size(1)


class Wide(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a struct may hold."""

    wait: Annotated[Duration, about("w", gt=0, le=60)] = Duration(1)
    also: Seconds = Duration(2)
    size: Size = Size(1)
    share: Annotated[float, about("s", ge=0, le=1)] = 0.5
    names: Annotated[list[str], msgspec.Meta(min_length=1, max_length=3)] = msgspec.field(default_factory=lambda: ["a"])
    numbers: tuple[int, ...] = ()
    unique: frozenset[int] = frozenset()
    inner: Inner | None = None
    either: Inner | Literal[False] | None = None
    many: list[Inner] | Literal["all"] = "all"
    by_name: dict[str, Inner] = msgspec.field(default_factory=dict)
    anything: dict[str, Any] = msgspec.field(default_factory=dict)
    renamed: int = msgspec.field(default=0, name="reNamed")
    child: "Wide | None" = None


WIDE = Schema({"wide": Wide})


def wide(env: dict[str, str] | None = None, **given_values: Any) -> Any:
    found = merged(values(wide=given_values), from_environment(env or {}))
    return WIDE.read(found, env=NO_ENV)["wide"]


def test_structs_lists_and_tables_in_each_other() -> None:
    found = wide(
        wait="500ms",
        also=3,
        size="1KiB",
        names=["x", "y"],
        numbers=[1, 2],
        unique=[1, 1],
        inner={"size": "2KiB"},
        either=False,
        many=[{"size": 3}],
        by_name={"a b": {"size": 4}},
        anything={"x": [1, {"y": None}]},
        reNamed=5,
        child={"child": {"wait": "1s"}},
    )
    assert found.wait == 0.5
    assert found.also == 3.0
    assert found.size == 1024
    assert found.names == ["x", "y"]
    assert found.numbers == (1, 2)
    assert found.unique == frozenset({1})
    assert found.inner == Inner(Size(2048))
    assert found.either is False
    assert found.many == [Inner(Size(3))]
    assert found.by_name == {"a b": Inner(Size(4))}
    assert found.anything == {"x": [1, {"y": None}]}
    assert found.renamed == 5
    assert found.child.child.wait == 1.0


def test_bare_text_means_what_the_type_says() -> None:
    found = wide(
        {
            "HOLDFAST__WIDE__WAIT": "500ms",
            "HOLDFAST__WIDE__NAMES": "5, 6",
            "HOLDFAST__WIDE__NUMBERS": "[1, 2]",
            "HOLDFAST__WIDE__UNIQUE": "3,4",
            "HOLDFAST__WIDE__INNER": "",
            "HOLDFAST__WIDE__EITHER": "off",
            "HOLDFAST__WIDE__MANY": "[{size = 1}]",
            "HOLDFAST__WIDE__BY_NAME__A__SIZE": "1KiB",
            "HOLDFAST__WIDE__CHILD": "{size = 7}",
        }
    )
    assert found.wait == 0.5
    assert found.names == ["5", "6"]
    assert found.numbers == (1, 2)
    assert found.unique == frozenset({3, 4})
    assert found.inner is None
    assert found.either is False
    assert found.many == [Inner(Size(1))]
    assert found.by_name == {"a": Inner(Size(1024))}
    assert found.child.size == 7
    assert wide({"HOLDFAST__WIDE__EITHER": "{size = 2}"}).either == Inner(Size(2))
    assert wide({"HOLDFAST__WIDE__MANY": "all"}).many == "all"
    assert wide({"HOLDFAST__WIDE__NAMES": "[::1]:80,b"}).names == ["[::1]:80", "b"]


def test_one_text_stands_for_a_list_of_it() -> None:
    assert wide(names="a").names == ["a"]
    assert wide(names=" [::1]:80 ").names == [" [::1]:80 "]
    with pytest.raises(ConfigErrors, match=r"wide.numbers: got '1', expected a list"):
        wide(numbers="1")


def test_text_in_a_file_is_not_bare() -> None:
    with pytest.raises(ConfigErrors, match=r"wide.share: got '0.5', expected a number"):
        wide(share="0.5")


@pytest.mark.parametrize(
    ("given_values", "told"),
    [
        ({"wait": "0s"}, "wide.wait: got '0s', expected a duration such as 500ms or 1m30s, more than 0s, at most 1m"),
        ({"names": []}, "wide.names: got a list of 0, expected a list, each text, at least 1 of them"),
        ({"names": ["a"] * 4}, "wide.names: got a list of 4, expected a list, each text, at most 3 of them"),
        ({"names": ["a", 5]}, "wide.names[1]: got 5, expected text"),
        ({"names": 5}, "wide.names: got 5, expected a list, each text"),
        ({"names": "a, b"}, 'wide.names: got \'a, b\', expected a list, each text; write a list: ["a", "b"]'),
        ({"names": " "}, "wide.names: got ' ', expected a list, each text; write a list: []"),
        ({"inner": {"sice": 5}}, "wide.inner.sice: expected the name of a setting; did you mean size?"),
        ({"inner": 5}, "wide.inner: got 5, expected a table"),
        ({"either": True}, "wide.either: got True, expected a table or False"),
        ({"many": "none"}, "wide.many: got 'none', expected a list of tables or \"all\""),
        ({"many": [1]}, "wide.many[0]: got 1, expected a table"),
        ({"by_name": {"a b": 5}}, 'wide.by_name."a b": got 5, expected a table'),
        ({"child": {"child": {"child": {"size": -1}}}}, "wide.child.child.child.size: got -1, expected a size"),
        ({"renamed": 5}, "wide.renamed: expected the name of a setting; did you mean reNamed?"),
    ],
)
def test_a_mistake_inside_says_where(given_values: dict[str, Any], told: str) -> None:
    found = mistakes(WIDE, values(wide=given_values))
    assert len(found) == 1
    assert found[0].startswith(f"holdfast.toml {told}")


JUNK = st.fixed_dictionaries(
    {},
    optional={
        "admission": VALUES
        | st.fixed_dictionaries(
            {}, optional={"trusted_proxies": VALUES, "clients": VALUES, "lanes": VALUES, "x": VALUES}
        ),
        "routes": VALUES
        | st.lists(
            st.fixed_dictionaries(
                {}, optional={"match": VALUES, "timeout": VALUES, "bulkhead": VALUES, "token": VALUES, "y": VALUES}
            ),
            max_size=3,
        ),
        "errors": VALUES,
        "settings": VALUES | st.fixed_dictionaries({}, optional={"pin": VALUES, "database": VALUES}),
        "wide": VALUES
        | st.fixed_dictionaries(
            {}, optional=dict.fromkeys(("names", "inner", "either", "many", "by_name", "unique", "child"), VALUES)
        ),
        "other": VALUES,
    },
)
ALL = Schema({**SCHEMA.types, "wide": Wide})


@given(JUNK)
def test_any_document_is_a_snapshot_or_a_list_of_mistakes(junk: dict[str, Any]) -> None:
    try:
        told = json.dumps(ALL.read(Document.of(junk, "file", "f"), env=NO_ENV).redacted())
    except ConfigErrors as error:
        told = str(error)
    assert told


@given(
    st.dictionaries(
        st.sampled_from(["WIDE", "WIDE__NAMES", "WIDE__MANY", "WIDE__INNER", "ROUTES", "SETTINGS__PIN"]),
        st.text(max_size=12),
    )
)
def test_any_bare_text_is_a_value_or_a_mistake(env: dict[str, str]) -> None:
    try:
        layer = from_environment({f"HOLDFAST__{name}": text for name, text in env.items()})
        found = ALL.read(layer, env=NO_ENV)
    except ConfigError:
        return
    assert found.digest


def test_a_section_cannot_hide_a_part_of_a_snapshot() -> None:
    for name in ("version", "redacted", "not a name"):
        with pytest.raises(TypeError, match="a section cannot be called"):
            Schema({name: dict})


def test_types_that_no_file_can_give_are_refused_when_the_schema_is_made() -> None:
    @dataclasses.dataclass
    class Bad:
        handler: threading_lock

    with pytest.raises(TypeError, match="cannot be of type"):
        Schema({"a": Bad})


class threading_lock:  # noqa: N801  # stands for any class that is not data
    pass


class Moody(Settings, frozen=True):
    mood: str = "good"

    def check(self) -> None:
        if self.mood == "bad":
            raise OSError("no mood")
        if self.mood == "odd":
            raise ValueError("an even mood")


def test_whatever_a_check_of_settings_raises_is_a_mistake() -> None:
    schema = Schema({"moody": Moody})
    assert mistakes(schema, values(moody={"mood": "bad"})) == [
        "holdfast.toml moody: expected values that go together; OSError: no mood"
    ]
    assert mistakes(schema, values(moody={"mood": "odd"})) == ["holdfast.toml moody: expected an even mood"]


def test_what_has_not_changed_is_taken_over() -> None:
    before = SCHEMA.read(values(routes=[{"match": "a"}, {"match": "b"}], admission={"lanes": 3}), env=NO_ENV)
    after = SCHEMA.read(
        values(routes=[{"match": "a"}, {"match": "c"}], admission={"lanes": 3}), env=NO_ENV, previous=before
    )
    assert after.admission is before.admission
    assert after.routes[0] is before.routes[0]
    assert after.routes[1] == RouteSettings(match="c")
    assert len(SCHEMA.read(values(routes=[{"match": "a"}]), env=NO_ENV, previous=before).routes) == 1


@given(JUNK, JUNK)
def test_reading_anew_and_taking_over_give_the_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    def read(junk: dict[str, Any], previous: Snapshot | None) -> Any:
        try:
            found = ALL.read(Document.of(junk), env=NO_ENV, previous=previous)
        except ConfigErrors as error:
            return None, str(error)
        return found, (found.digest, [repr(found[name]) for name in found], dict(found.secrets))

    first, _ = read(one, None)
    assert read(other, first)[1] == read(other, None)[1]


def test_the_same_text_with_another_meaning_is_not_taken_over() -> None:
    schema = Schema({"wide": Wide})
    bare = schema.read(from_environment({"HOLDFAST__WIDE__SHARE": "0.5"}), env=NO_ENV)
    assert bare["wide"].share == 0.5
    with pytest.raises(ConfigErrors):
        schema.read(values(wide={"share": "0.5"}), env=NO_ENV, previous=bare)


def test_settings_that_need_a_new_generation_are_known_by_their_place() -> None:
    assert SCHEMA.is_live(("admission", "trusted_proxies"))
    assert not SCHEMA.is_live(("admission", "lanes"))
    assert SCHEMA.is_live(("routes", 3, "timeout"))
    assert not SCHEMA.is_live(("errors", "a"))
    assert not SCHEMA.is_live(("errors",))
    assert SCHEMA.is_live(("nowhere", "at", "all"))
