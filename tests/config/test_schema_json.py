import dataclasses
import json
import re
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.sections import NO_ENV, SCHEMA
from config.trees import VALUES
from holdfast.config.document import Document
from holdfast.config.mistakes import ConfigErrors
from holdfast.config.schema import Schema
from holdfast.config.schema_json import DURATION_PATTERN, RATE_PATTERN, SIZE_PATTERN
from holdfast.core.duration import Duration, parse_duration
from holdfast.core.rate import parse_rate
from holdfast.core.settings import about
from holdfast.core.size import Size, parse_size
from holdfast.resilience.breaker import BreakerSettings
from holdfast.resilience.ratelimit import RateLimitSettings

TYPES = {"string": str, "boolean": bool, "object": dict, "array": list, "null": type(None)}
KNOWN = {
    "$schema",
    "$defs",
    "$ref",
    "type",
    "properties",
    "additionalProperties",
    "required",
    "anyOf",
    "enum",
    "const",
    "not",
    "items",
    "prefixItems",
    "minItems",
    "maxItems",
    "minLength",
    "maxLength",
    "pattern",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minProperties",
    "maxProperties",
    "description",
    "default",
    "title",
    "writeOnly",
    "format",
    "discriminator",
}


def fits(value: Any, schema: Any, root: dict[str, Any]) -> bool:
    """Whether ``value`` fits ``schema``: those words of draft 2020-12 that are written, and no others."""
    if isinstance(schema, bool):
        return schema
    assert set(schema) <= KNOWN, set(schema) - KNOWN
    if "$ref" in schema and not fits(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root):
        return False
    number = isinstance(value, int | float) and not isinstance(value, bool)
    tests: dict[str, Callable[[Any], bool]] = {
        "type": lambda kind: (
            number and (kind == "number" or float(value).is_integer())
            if kind in ("number", "integer")
            else isinstance(value, TYPES[kind])
        ),
        "anyOf": lambda options: any(fits(value, option, root) for option in options),
        "not": lambda other: not fits(value, other, root),
        "enum": lambda values: any(value == one and type(value) is type(one) for one in values),
        "const": lambda one: value == one and type(value) is type(one),
        "pattern": lambda pattern: not isinstance(value, str) or re.search(pattern, value) is not None,
        "minLength": lambda limit: not isinstance(value, str) or len(value) >= limit,
        "maxLength": lambda limit: not isinstance(value, str) or len(value) <= limit,
        "minimum": lambda limit: not number or value >= limit,
        "maximum": lambda limit: not number or value <= limit,
        "exclusiveMinimum": lambda limit: not number or value > limit,
        "exclusiveMaximum": lambda limit: not number or value < limit,
        "minItems": lambda limit: not isinstance(value, list) or len(value) >= limit,
        "maxItems": lambda limit: not isinstance(value, list) or len(value) <= limit,
        "minProperties": lambda limit: not isinstance(value, dict) or len(value) >= limit,
        "maxProperties": lambda limit: not isinstance(value, dict) or len(value) <= limit,
        "items": lambda item: not isinstance(value, list) or all(fits(one, item, root) for one in value),
        "required": lambda names: not isinstance(value, dict) or set(names) <= set(value),
    }
    if not all(tests[word](argument) for word, argument in schema.items() if word in tests):
        return False
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        for name, item in value.items():
            if not fits(item, properties.get(name, schema.get("additionalProperties", True)), root):
                return False
    return True


class Inner(msgspec.Struct, frozen=True):
    """What is inside.

    Not shown.
    """

    size: Size = Size(1024)


class Everything(msgspec.Struct, frozen=True, kw_only=True):
    needed: int
    wait: Annotated[Duration, about("How long.", gt=0, le=60)] = Duration(30.0)
    share: Annotated[float, about("Which part.", ge=0, lt=1)] = 0.5
    names: Annotated[list[str], msgspec.Meta(min_length=1, max_length=3)] = msgspec.field(default_factory=list)
    inner: Inner | bool = True
    by_name: dict[str, Inner] = msgspec.field(default_factory=dict)
    child: "Everything | None" = None
    pin: Annotated[str, about("Hidden.", secret=True)] = "0000"
    breaker: BreakerSettings = BreakerSettings()
    code: Annotated[str, msgspec.Meta(pattern="^[a-z]+$", max_length=5)] = "a"


class Model(pydantic.BaseModel):
    port: int = pydantic.Field(5, ge=1)
    inside: "list[Model]" = []


WIDE = Schema({**SCHEMA.types, "everything": Everything, "model": Model, "free": dict})
JSON = WIDE.json_schema()


def test_it_is_plain_json_that_names_its_dialect() -> None:
    assert json.loads(json.dumps(JSON)) == JSON
    assert JSON["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert JSON["additionalProperties"] is False
    assert JSON["required"] == ["everything"]


def test_settings_have_their_descriptions_defaults_choices_and_ranges() -> None:
    defs = JSON["$defs"]
    assert defs["Everything"]["required"] == ["needed"]
    assert defs["Everything"]["properties"]["share"] == {
        "type": "number",
        "minimum": 0,
        "exclusiveMaximum": 1,
        "description": "Which part.",
        "default": 0.5,
    }
    assert defs["Everything"]["properties"]["wait"] == {
        "anyOf": [
            {"type": "string", "pattern": DURATION_PATTERN},
            {"type": "number", "exclusiveMinimum": 0.0, "maximum": 60.0},
        ],
        "description": "How long.",
        "default": "30s",
    }
    assert defs["RouteSettings"]["properties"]["criticality"] == {
        "enum": ["critical_plus", "critical", "sheddable"],
        "description": "What it is worth.",
        "default": "critical",
    }
    assert defs["Inner"]["description"] == "What is inside."
    assert defs["Inner"]["properties"]["size"]["default"] == "1KiB"
    assert defs["Everything"]["properties"]["child"]["anyOf"][0] == {"$ref": "#/$defs/Everything"}
    assert JSON["properties"]["routes"] == {"type": "array", "items": {"$ref": "#/$defs/RouteSettings"}}


def test_a_secret_has_no_default_and_may_be_a_reference() -> None:
    pin = JSON["$defs"]["Everything"]["properties"]["pin"]
    assert pin["writeOnly"]
    assert "default" not in pin
    fitting: list[Any] = ["x", {"file": "/run/pin"}, {"env": "PIN"}]
    assert all(fits(value, pin, JSON) for value in fitting)
    others: list[Any] = [5, {}, {"file": "a", "env": "b"}, {"path": "a"}]
    assert not any(fits(value, pin, JSON) for value in others)


def test_what_can_only_be_given_in_code_is_left_out() -> None:
    properties = Schema({"limit": RateLimitSettings}).json_schema()["$defs"]["RateLimitSettings"]["properties"]
    assert "rate" in properties
    assert "key" not in properties


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ({"everything": {"needed": 1}}, {"everything": {}}),
        ({"everything": {"needed": 1, "wait": "30s"}}, {"everything": {"needed": 1, "wait": "1 fortnight"}}),
        ({"everything": {"needed": 1, "inner": {"size": "1KiB"}}}, {"everything": {"needed": 1, "inner": {"sice": 1}}}),
        ({"everything": {"needed": 1}, "routes": [{"match": "x"}]}, {"everything": {"needed": 1}, "routes": [{}]}),
        ({"everything": {"needed": 1}, "model": {"inside": [{"port": 1}]}}, {"everything": {"needed": 1}, "other": {}}),
        ({"everything": {"needed": 1, "names": ["a"]}}, {"everything": {"needed": 1, "names": []}}),
        ({"everything": {"needed": 1, "names": "a"}}, {"everything": {"needed": 1, "names": "a, b"}}),
        ({"everything": {"needed": 1, "code": "ab"}}, {"everything": {"needed": 1, "code": "AB"}}),
        ({"everything": {"needed": 1}, "model": {"port": 1}}, {"everything": {"needed": 1}, "model": {"port": 0}}),
    ],
)
def test_an_editor_accepts_and_refuses_what_holdfast_does(good: dict[str, Any], bad: dict[str, Any]) -> None:
    assert fits(good, JSON, JSON)
    WIDE.read(Document.of(good), env=NO_ENV)
    assert not fits(bad, JSON, JSON)
    with pytest.raises(ConfigErrors):
        WIDE.read(Document.of(bad), env=NO_ENV)


WAITS = st.sampled_from(["1s", "1.5", "500ms", " 1m 30s", ".5h", "1e-3s", 3, "60"])
SIZES = st.sampled_from(["1KiB", "5", 5, "1.5 mb", "1k", " 2 "])
EVERYTHING = st.fixed_dictionaries(
    {"needed": st.integers(-9, 9)},
    optional={
        "wait": VALUES | WAITS,
        "share": VALUES | st.floats(0, 1),
        "names": VALUES | st.lists(st.text("ab"), max_size=4),
        "inner": VALUES | st.fixed_dictionaries({"size": SIZES}),
        "by_name": VALUES,
        "child": VALUES | st.just({"needed": 2}),
        "pin": VALUES,
        "code": VALUES | st.text("abA", max_size=6),
    },
)
CLIENTS = st.fixed_dictionaries({}, optional={"clients": VALUES | st.just({"rate": "5/m"}), "lanes": VALUES})
ROUTES = st.lists(st.fixed_dictionaries({"match": st.text("a")}, optional={"token": VALUES}), max_size=2)
GOOD = st.fixed_dictionaries(
    {"everything": EVERYTHING},
    optional={"admission": VALUES | CLIENTS, "routes": VALUES | ROUTES, "errors": VALUES, "free": VALUES},
)


@given(GOOD)
def test_what_holdfast_accepts_an_editor_does(table: dict[str, Any]) -> None:
    try:
        WIDE.read(Document.of(table), env=NO_ENV)
    except ConfigErrors:
        return
    assert fits(table, JSON, JSON)


NUMBERS = st.sampled_from(["1", "0", "1.5", ".5", "1.", "1e3", "1E-3", ""])
UNITS = st.sampled_from(
    ["", "s", "ms", "m", "us", "µs", "h", "d", "kb", "KiB", "MB", "g", " s", "/s", "/m", "/10s", "/minute", "x", "-"]
)


@given(st.lists(st.tuples(NUMBERS, UNITS), min_size=1, max_size=2))
def test_the_patterns_match_what_the_parsers_read(parts: list[tuple[str, str]]) -> None:
    text = "".join(number + unit for number, unit in parts)
    for parse, pattern in ((parse_duration, DURATION_PATTERN), (parse_size, SIZE_PATTERN), (parse_rate, RATE_PATTERN)):
        try:
            parse(text)
        except ValueError:
            continue
        assert re.search(pattern, text), (text, pattern)


def test_two_types_of_one_name_have_definitions_of_their_own() -> None:
    @dataclasses.dataclass
    class Inner:
        other: int = 1

    schema = Schema({"a": Everything, "b": Inner}).json_schema()
    assert schema["properties"]["b"] == {"$ref": "#/$defs/Inner2"}
    assert set(schema["$defs"]["Inner2"]["properties"]) == {"other"}
    assert "description" not in schema["$defs"]["Inner2"]
