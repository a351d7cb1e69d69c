"""What editors are told of ``[errors]`` and ``[pipelines]`` agrees with what is read there."""

from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.config.document import Document
from holdfast.core.codes import Code
from holdfast.core.errors import ConfigError
from holdfast.core.settings import settings_of
from holdfast.resilience.catalog import CATALOG
from holdfast.supervisor.configuration import PIPELINES_LIMIT, make_schema

SCHEMA = make_schema()
WRITTEN = SCHEMA.json_schema()
EDITOR = jsonschema.Draft202012Validator(WRITTEN)
CODES = [code.value for code in Code if code is not Code.OK]
SETTINGS = {
    kind: [field.name for field in settings_of(policy.settings_type())] for kind, policy in CATALOG.kinds.items()
}


def reads(values: dict[str, Any]) -> bool:
    """Whether Holdfast takes it."""
    try:
        SCHEMA.read(Document.of(values), env={})
    except ConfigError:
        return False
    return True


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(WRITTEN)


@pytest.mark.parametrize(
    "rule",
    [
        "not_found",
        "Not_Found",
        404,
        599,
        {"code": "unavailable"},
        {"status": 409},
        {"code": "ABORTED", "status": 418, "reason": "TOO_SLOW", "message": "later", "tell": False},
        {"code": "internal", "tell": True},
    ],
    ids=repr,
)
def test_a_rule_that_is_read_is_one_for_an_editor(rule: Any) -> None:
    values = {"errors": {"shop.errors:OutOfStock": rule}}
    assert reads(values)
    assert EDITOR.is_valid(values)


@pytest.mark.parametrize(
    "rule",
    [
        "not-found",
        "ok",
        "",
        399,
        600,
        404.5,
        True,
        None,
        [],
        {},
        {"message": "no code"},
        {"code": 404},
        {"code": "not_found", "status": 200},
        {"code": "not_found", "reason": "too slow"},
        {"code": "not_found", "reason": "A" * 64},
        {"code": "not_found", "message": ""},
        {"code": "not_found", "message": "a" * 1001},
        {"code": "not_found", "tell": "yes"},
        {"code": "not_found", "resaon": "SLOW"},
    ],
    ids=lambda rule: repr(rule)[:50],
)
def test_a_rule_that_is_refused_is_none_for_an_editor(rule: Any) -> None:
    values = {"errors": {"shop.errors:OutOfStock": rule}}
    assert not reads(values)
    assert not EDITOR.is_valid(values)


@pytest.mark.parametrize("name", ["Exception", "BaseException"])
def test_the_texts_of_all_exceptions_are_told_in_neither(name: str) -> None:
    for tell, fits in ((True, False), (False, True)):
        values = {"errors": {name: {"code": "internal", "tell": tell}}}
        assert reads(values) is EDITOR.is_valid(values) is fits
    assert reads({"errors": {name: "internal"}})
    assert EDITOR.is_valid({"errors": {name: "internal"}})


@pytest.mark.parametrize(
    "pipeline",
    [
        [],
        [{"timeout": "2s"}, {"retry": 3}, "breaker"],
        [{"timeout": 2.5}, {"timeout": {"seconds": "500ms", "name": "attempt"}}],
        [{"retry": {"attempts": 5, "backoff": "200ms", "on": ["OSError"], "budget": {"ratio": 0.2}}}],
        [{"breaker": True}, {"breaker": 0.3}, {"breaker": {"failure_rate": "off", "consecutive": 5}}],
        [{"rate_limit": "100/s"}, {"rate_limit": {"rate": "5/m", "burst": 10, "algorithm": "gcra"}}],
        [{"bulkhead": 20}, {"adaptive_limit": "vegas"}, "throttle", {"hedge": "50ms"}, {"cache": {"ttl": "1m"}}],
        [{"fallback": "nothing"}, {"fallback": {"value": {"items": []}}}, {"single_flight": True}, {"fault": 0.1}],
        [{"classify": {"ignore": ["KeyError"], "record": "OSError"}}, "retry"],
    ],
    ids=lambda pipeline: repr(pipeline)[:50],
)
def test_a_pipeline_that_is_read_is_one_for_an_editor(pipeline: Any) -> None:
    values = {"pipelines": {"payments": pipeline}}
    assert reads(values)
    assert EDITOR.is_valid(values)


@pytest.mark.parametrize(
    "pipeline",
    [
        "breaker",
        {"breaker": True},
        ["braeker"],
        ["timeout"],
        ["classify"],
        [3],
        [{}],
        [{"timeout": "2s", "retry": 3}],
        [{"timeout": "soon"}],
        [{"timeout": 0}],
        [{"timeout": True}],
        [{"timeout": {"name": "no seconds"}}],
        [{"retry": 0}],
        [{"retry": "3"}],
        [{"retry": False}],
        [{"retry": {"atempts": 3}}],
        [{"retry": {"attempts": "many"}}],
        [{"breaker": 2}],
        [{"breaker": {"per_key": "yes"}}],
        [{"rate_limit": True}],
        [{"rate_limit": {"burst": 10}}],
        [{"rate_limit": {"rate": "5/s", "algorithm": "guess"}}],
        [{"bulkhead": {"order": "random"}}],
        [{"single_flight": "by_user"}],
        [{"single_flight": {"key": "by_user"}}],
        [{"cache": {"ttl": "1m", "key": 3}}],
        [{"classify": {"ignored": []}}],
        [{"classify": ["KeyError"]}],
        [{"classify": {"ignore": "KeyError"}}, {"classify": {"record": "KeyError"}}],
        ["retry"] * 65,
    ],
    ids=lambda pipeline: repr(pipeline)[:50],
)
def test_a_pipeline_that_is_refused_is_none_for_an_editor(pipeline: Any) -> None:
    values = {"pipelines": {"payments": pipeline}}
    assert not reads(values)
    assert not EDITOR.is_valid(values)


def test_so_many_pipelines_and_no_more_are_one_for_both() -> None:
    for count, fits in ((PIPELINES_LIMIT, True), (PIPELINES_LIMIT + 1, False)):
        values: dict[str, Any] = {"pipelines": {f"p{number}": [] for number in range(count)}}
        assert reads(values) is EDITOR.is_valid(values) is fits


def test_each_policy_has_its_settings_described() -> None:
    for kind, policy in CATALOG.kinds.items():
        entry = next(one for one in WRITTEN["$defs"]["Policy"]["anyOf"] if one.get("required") == [kind])
        assert {"$ref": f"#/$defs/{policy.settings_type().__name__}"} in entry["properties"][kind]["anyOf"]
    attempts = WRITTEN["$defs"]["RetrySettings"]["properties"]["attempts"]
    assert (attempts["type"], attempts["minimum"], attempts["default"]) == ("integer", 1, 3)


SCALARS = st.one_of(
    st.booleans(),
    st.integers(-2, 700),
    st.floats(-1, 2).map(lambda number: round(number, 2)),
    st.sampled_from(["2s", "500ms", "100/s", "off", "OSError", "key", "lifo", "gcra", "full", "", "x", *CODES]),
)
VALUES = (
    SCALARS | st.lists(SCALARS, max_size=2) | st.dictionaries(st.sampled_from(["on", "ratio"]), SCALARS, max_size=2)
)
RULES = SCALARS | st.dictionaries(st.sampled_from(["code", "status", "reason", "message", "tell", "told"]), SCALARS)


@st.composite
def policies(draw: st.DrawFn) -> Any:
    kind = draw(st.sampled_from([*SETTINGS, "classify"]))
    names = SETTINGS.get(kind, ["ignore", "record"])
    return draw(
        st.one_of(
            st.just(kind),
            st.fixed_dictionaries({kind: SCALARS}),
            st.fixed_dictionaries({kind: st.dictionaries(st.sampled_from(names), VALUES, max_size=3)}),
        )
    )


@settings(max_examples=400, deadline=None)
@given(policies())
def test_whatever_policy_is_read_is_one_for_an_editor(policy: Any) -> None:
    values = {"pipelines": {"payments": [policy]}}
    assert EDITOR.is_valid(values) or not reads(values)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["LookupError", "Exception", "shop.errors:Gone"]), RULES)
def test_whatever_rule_is_read_is_one_for_an_editor(name: str, rule: Any) -> None:
    values = {"errors": {name: rule}}
    assert EDITOR.is_valid(values) or not reads(values)
