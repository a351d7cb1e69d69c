import inspect
import json
import pydoc
from typing import Any

import msgspec
import pytest

from holdfast.core.call import Call
from holdfast.core.classify import DEFAULT, Classifier
from holdfast.core.clock import VirtualClock
from holdfast.core.errors import ConfigError, Rejected
from holdfast.core.pipeline import Pipeline
from holdfast.core.policy import Gate, Policy, accepts
from holdfast.core.settings import SYNONYMS, GateSettings
from holdfast.resilience.catalog import CATALOG, Catalog, build, fields, read, reconfigure
from holdfast.resilience.fallback import Fallback
from holdfast.resilience.fault import Fault
from holdfast.resilience.hedge import Hedge
from holdfast.resilience.ratelimit import RateLimit
from holdfast.resilience.retry import Retry
from holdfast.resilience.retrying.budget import RetryBudget
from holdfast.resilience.timeout import Timeout


class Own(Timeout):
    kind = "own"


MORE = CATALOG.adding(Own)


def test_a_pipeline_is_built_from_plain_data_in_every_form() -> None:
    clock = VirtualClock()
    data: list[Any] = [{"timeout": "2s"}, {"timeout": {"seconds": 0.5, "name": "attempt"}}]
    pipeline = build("inventory", data, clock=clock)
    assert [type(policy) for policy in pipeline.policies] == [Timeout, Timeout]
    assert [policy.settings.seconds for policy in pipeline.policies] == [2.0, 0.5]
    assert [policy.name for policy in pipeline.policies] == ["timeout", "attempt"]
    assert (pipeline.name, pipeline.clock) == ("inventory", clock)
    assert pipeline.call(lambda: 7) == 7


def test_exceptions_are_classified_as_the_data_says() -> None:
    pipeline = build("x", [{"classify": {"ignore": ["KeyError"], "record": "OSError"}}, {"timeout": 1}])
    assert pipeline.classifier.ignore == (KeyError,)
    assert pipeline.classifier.record == (OSError,)
    assert len(pipeline.policies) == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("timeout", "pipeline: got 'timeout', expected a list of policies; write for example"),
        ({"timeout": 1}, "pipeline: got {'timeout': 1}, expected a list of policies"),
        ([5], "pipeline[0]: got 5, expected one policy, by its kind"),
        ([{"timeout": 1, "retry": 3}], "pipeline[0]: got {'timeout': 1, 'retry': 3}, expected one policy"),
        (
            [{"timeout": 1}, {"timeuot": 1}],
            "pipeline[1].timeuot: got 'timeuot', expected the kind of a policy; did",
        ),
        (["zzz"], "pipeline[0].zzz: got 'zzz', expected the kind of a policy; there are"),
        ([{"timeout": "soon"}], "pipeline[0].timeout.seconds: got 'soon', expected a duration"),
        ([{"timeout": {"seconds": -1}}], "pipeline[0].timeout.seconds: got -1, expected a duration"),
        (
            [{"timeout": {"secondz": 1}}],
            "pipeline[0].timeout.secondz: expected the name of a setting; did you",
        ),
        (["timeout"], "pipeline[0].timeout.seconds: expected a duration such as 500ms or 1m30s, more than 0s; it must"),
        ([{"timeout": False}], "pipeline[0].timeout.seconds: got False, expected a duration"),
        ([{"classify": 5}], "pipeline[0].classify: got 5, expected a table"),
        ([{"classify": {"only": []}}], "pipeline[0].classify.only: expected ignore or record"),
        ([{"classify": {"ignor": []}}], "pipeline[0].classify.ignor: expected ignore or record; did you mean ignore?"),
        (
            [{"timeout": None}],
            "pipeline[0].timeout.seconds: expected a duration such as 500ms or 1m30s, more than 0s; it",
        ),
        ([{"retry": {"budget": {"ratoi": 1}}}], "pipeline[0].retry.budget.ratoi: expected the name of a setting; did"),
        ([{"breaker": {"open": 600}}], "pipeline[0].breaker.open_max: got 60s, expected at least open, which is 600s"),
        ([{"classify": {"ignore": ["Nope"]}}], "pipeline[0].classify.ignore: got ['Nope'], expected the name of an"),
        ([{"classify": {"ignore": 5}}], "pipeline[0].classify.ignore: got 5, expected exceptions"),
        ([{"classify": {}}, {"classify": {}}], "pipeline[1].classify: expected one classify in a pipeline"),
        ([{"timeout": 1}] * 65, "pipeline: got 65, expected at most 64 policies"),
    ],
)
def test_a_mistake_is_named_by_its_path_value_and_what_was_expected(data: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(data)
    assert message in str(caught.value)


def test_a_pipeline_is_named_in_the_path_of_a_mistake() -> None:
    with pytest.raises(ConfigError, match=r"pipelines\.pay\[1\]\.retry\.attempts: got 0"):
        build("pay", ["breaker", {"retry": {"attempts": 0}}])
    with pytest.raises(ConfigError, match=r"pipelines\.pay\[0\]\.timeout\.seconds: got 0"):
        reconfigure(build("pay", []), [{"timeout": 0}])


def test_a_classifier_given_in_code_outlives_data_that_has_none() -> None:
    pipeline = build("x", [{"timeout": 2}])
    mine = Classifier(ignore=(KeyError,), failed=bool)
    pipeline.replace(*pipeline.policies, classify=mine)
    reconfigure(pipeline, [{"timeout": 1}])
    assert pipeline.classifier is mine
    reconfigure(pipeline, [{"classify": {"ignore": "OSError"}}])
    assert pipeline.classifier.ignore == (OSError,)


def test_a_classifier_from_data_goes_with_its_row() -> None:
    pipeline = build("x", [{"timeout": 2}, {"classify": {"ignore": "KeyError"}}])
    reconfigure(pipeline, [{"timeout": 2}, {"classify": {"ignore": "OSError"}}])
    assert pipeline.classifier.ignore == (OSError,)
    reconfigure(pipeline, [{"timeout": 2}])
    assert pipeline.classifier is DEFAULT


def test_a_classifier_given_in_code_is_back_once_data_has_none_any_more() -> None:
    mine = Classifier(ignore=(KeyError,), failed=bool)
    pipeline = Pipeline("x", classify=mine)
    for kind in (OSError, ValueError):
        reconfigure(pipeline, [{"classify": {"ignore": kind.__name__}}])
        assert (pipeline.classifier.ignore, pipeline.classifier.failed) == ((kind,), bool)
    reconfigure(pipeline, [])
    assert pipeline.classifier is mine


def test_what_only_code_can_give_stays_when_data_changes_the_rest() -> None:
    budget = RetryBudget(0.5)
    limit = RateLimit("1/h", key=lambda call: call.key)
    judge = Classifier(failed=lambda result: result > 5)
    pipeline = Pipeline("x", Retry(3, budget=budget), limit, classify=judge)
    reconfigure(pipeline, [{"retry": 2}, {"rate_limit": "2/h"}, {"classify": {"ignore": "KeyError"}}])
    retry = pipeline.policies[0]
    assert isinstance(retry, Retry)
    assert (retry.budget, retry.settings.attempts) == (budget, 2)
    assert [pipeline.bind(key=key).call(lambda: 1) for key in ("a", "a", "b", "b")] == [1] * 4
    assert (pipeline.classifier.ignore, pipeline.classifier.failed) == ((KeyError,), judge.failed)
    reconfigure(pipeline, [{"retry": {"attempts": 2, "budget": False}}])
    assert retry.budget is None


def test_the_place_of_the_data_is_told() -> None:
    with pytest.raises(ConfigError, match=r"holdfast\.toml pipelines\.pay\[0\]\.timeout\.seconds: got 0"):
        read([{"timeout": 0}], where="pipelines.pay", source="holdfast.toml")


def test_a_policy_that_stays_keeps_its_state_and_takes_the_new_settings() -> None:
    pipeline = build("x", [{"timeout": "2s"}, {"timeout": {"seconds": 1, "name": "attempt"}}])
    total, attempt = pipeline.policies
    reconfigure(pipeline, [{"own": 9}, {"timeout": {"seconds": 3, "name": "attempt"}}, {"timeout": 5}], catalog=MORE)
    own, second, third = pipeline.policies
    assert isinstance(own, Own)
    assert (second, third) == (attempt, total)
    assert (second.settings.seconds, third.settings.seconds) == (3.0, 5.0)


def test_a_mistake_changes_nothing() -> None:
    pipeline = build("x", [{"timeout": 2}, {"classify": {"ignore": "KeyError"}}])
    before = pipeline.policies, pipeline.classifier, pipeline.run
    with pytest.raises(ConfigError):
        reconfigure(pipeline, [{"timeout": 7}, {"timeout": "soon"}])
    assert (pipeline.policies, pipeline.classifier, pipeline.run) == before
    assert pipeline.policies[0].settings.seconds == 2.0


def test_a_catalog_is_added_to_and_never_changed() -> None:
    assert "own" not in CATALOG.kinds
    assert MORE.kinds["own"] is Own
    assert Catalog([Timeout]).adding(Own).find("timeout", "here") is Timeout


class Nameless(Gate[GateSettings]):
    @accepts(GateSettings)
    def __init__(self, settings: GateSettings) -> None:
        super().__init__(settings)

    def enter(self, call: Call) -> None:
        return None


class Unread(Nameless):
    kind = "unread"

    def __init__(self) -> None:
        super().__init__()


class Second(Timeout):
    """It forgets that its kind is its parent's."""


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (int, TypeError, "<class 'int'> is no class of policies; give one, such as Timeout"),
        (Timeout(1.0), TypeError, "is no class of policies"),
        (Nameless, TypeError, "Nameless has no kind, by which data could name it"),
        (Unread, TypeError, "Unread.__init__ is not decorated with accepts"),
        (Second, ValueError, "Second has the kind 'timeout', which is that of Timeout"),
    ],
)
def test_what_data_could_not_name_is_not_added(given: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        CATALOG.adding(given)


def test_a_kind_may_be_added_again() -> None:
    assert CATALOG.adding(Timeout).kinds == CATALOG.kinds


@pytest.mark.parametrize(
    ("kind", "theirs", "ours"),
    [
        ("retry", "retries", "attempts"),
        ("retry", "tries", "attempts"),
        ("retry", "max_attempts", "attempts"),
        ("breaker", "reset_timeout", "open"),
        ("breaker", "recovery_timeout", "open"),
        ("breaker", "fail_max", "consecutive"),
        ("breaker", "failure_threshold", "consecutive"),
        ("cache", "maxsize", "entries"),
        ("cache", "stale_while_revalidate", "stale"),
        ("fallback", "default", "value"),
        ("bulkhead", "max_concurrent", "limit"),
    ],
)
def test_the_names_of_other_libraries_lead_to_ours(kind: str, theirs: str, ours: str) -> None:
    with pytest.raises(TypeError, match=f"has no setting {theirs}; did you mean {ours}?"):
        CATALOG.kinds[kind](**{theirs: 5})
    with pytest.raises(ConfigError, match=f"{kind}.{theirs}: expected the name of a setting; did you mean {ours}?"):
        read([{kind: {theirs: 5}}])


def test_every_synonym_leads_somewhere() -> None:
    assert set(SYNONYMS.values()) <= {field.name for kind in CATALOG.kinds for field in fields(kind)}


def test_a_synonym_for_what_this_policy_does_not_have_is_not_suggested() -> None:
    with pytest.raises(TypeError, match="has no setting retries; there are seconds, name"):
        Timeout(retries=5)  # type: ignore[call-arg]


@pytest.mark.parametrize("kind", sorted(CATALOG.kinds))
def test_every_kind_has_documented_settings_and_can_be_described(kind: str) -> None:
    policy: type[Policy[Any]] = CATALOG.kinds[kind]
    assert policy.kind == kind
    for field in fields(kind):
        assert field.description, field.name
        assert field.expected, field.name


def test_kinds_without_a_kind_are_refused() -> None:
    with pytest.raises(ConfigError, match="the kind of a policy"):
        fields("nothing")


def fail() -> None:
    raise OSError


USED: list[tuple[str, dict[str, Any]]] = [
    ("timeout", {"seconds": "2s"}),
    ("retry", {"backoff": ["1ms", 0.002], "budget": {"window": "30s"}, "retry_after_limit": "1m"}),
    ("breaker", {"window": "30s", "open": "2s", "slow_call": "1s", "consecutive": 1}),
    ("breaker", {"open": "2s", "per_key": True, "consecutive": 1}),
    ("breaker", {"last": 2, "min_calls": 2, "half_open_timeout": "3s"}),
    ("throttle", {"window": "30s", "pass_every": "2s", "min_calls": 1}),
    ("rate_limit", {"rate": "5/m", "burst": 2, "max_wait": "1s"}),
    ("rate_limit", {"rate": "5/m", "per": "key", "tiers": {"a": "1/s"}, "tier": "key"}),
    ("rate_limit", {"rate": "5/s", "algorithm": "warm_up", "warm_up": "1m"}),
    ("bulkhead", {"limit": 2, "queue": 2, "max_wait": "1s", "partitions": {"a": 0.5}}),
    ("adaptive_limit", {"target": "20ms", "window": "200ms"}),
    ("hedge", {"delay": "50ms", "budget": {"window": "20s"}, "window": "2m"}),
    ("hedge", {"window": "2m", "min_delay": "2ms"}),
    ("fallback", {"value": 0, "last_good": "1h"}),
    ("cache", {"ttl": "5m", "stale": "1m", "negative": "OSError", "negative_ttl": "2s"}),
    ("single_flight", {}),
    ("fault", {"rate": 0.5, "delay": ["1ms", "2ms"], "random": 1}),
]
"""Kinds with settings that are durations given as text."""


def plain(value: object, place: str) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            assert type(key) is str, place
            plain(item, f"{place}.{key}")
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            plain(item, f"{place}[{number}]")
    else:
        assert value is None or type(value) in (bool, int, float, str), f"{place}: {value!r}"


def test_every_kind_is_used_below() -> None:
    assert {kind for kind, _ in USED} == set(CATALOG.kinds)


@pytest.mark.parametrize(("kind", "settings"), USED)
def test_a_snapshot_is_plain_values_which_any_json_can_hold(kind: str, settings: dict[str, Any]) -> None:
    pipeline = build("x", [{kind: settings}], clock=VirtualClock())
    seen = [pipeline.policies[0].snapshot()]
    for fn in (int, fail, int):
        for key in ("a", 5, ("tuple",)):
            try:
                pipeline.bind(key=key).call(fn)
            except Rejected as refusal:
                seen.append(dict(refusal.snapshot))
            except (OSError, ConnectionError):
                seen.append({})
            seen.append(pipeline.policies[0].snapshot())
    for snapshot in seen:
        plain(snapshot, kind)
        text = json.dumps(snapshot, allow_nan=False)
        assert json.loads(text) == msgspec.json.decode(msgspec.json.encode(snapshot))


@pytest.mark.parametrize(("kind", "settings"), USED)
def test_every_kind_shows_its_parameters_and_itself(kind: str, settings: dict[str, Any]) -> None:
    policy: type[Policy[Any]] = CATALOG.kinds[kind]
    seen = inspect.signature(policy)
    known = fields(kind)
    assert list(seen.parameters) == [field.name for field in known]
    by_position = [parameter for parameter in seen.parameters.values() if parameter.kind is not parameter.KEYWORD_ONLY]
    assert by_position == [seen.parameters[policy.settings_type().positional()]]
    for field in known:
        parameter = seen.parameters[field.name]
        assert (parameter.default is inspect.Parameter.empty) is field.required
        if isinstance(parameter.default, str | float):
            shown = policy(**{**settings, field.name: parameter.default}).settings
            meant = policy(**{**settings, field.name: field.default}).settings
            assert getattr(shown, field.name) == getattr(meant, field.name)
    text = pydoc.render_doc(policy, renderer=pydoc.plaintext)  # type: ignore[attr-defined]  # typeshed lacks it
    assert f"{known[0].name}: {known[0].description}" in text
    described = repr(policy(**settings))
    assert described.startswith(f"{policy.__name__}(")
    for inner in ("Annotated[", "Meta(", "Duration(", "(settings)", "object at"):
        assert inner not in f"{seen}{text}{described}"


@pytest.mark.parametrize(("kind", "settings"), USED)
def test_an_update_that_is_wrong_in_one_setting_changes_none(kind: str, settings: dict[str, Any]) -> None:
    policy = CATALOG.kinds[kind](**settings)
    before, shown, state = policy.settings, repr(policy), policy.snapshot()
    name = type(policy).__name__
    for field in fields(kind):
        if field.name == "value":
            continue  # anything is an answer
        with pytest.raises(ConfigError) as caught:
            policy.update(**{"name": "changed", field.name: object()})
        assert str(caught.value).startswith(f"{name} {field.name}: got <object")
        assert caught.value.expected
    with pytest.raises(TypeError, match=f"^{name} has no setting naem; did you mean name"):
        policy.update(name="changed", naem="x")
    assert (policy.settings, repr(policy), policy.name, policy.snapshot()) == (
        before,
        shown,
        before.name or kind,
        state,
    )


@pytest.mark.parametrize("kind", sorted(CATALOG.kinds))
def test_a_misspelt_setting_is_put_right_in_data_as_in_code(kind: str) -> None:
    for field in fields(kind):
        wrong = f"{field.name[:-1]}q" if len(field.name) > 3 else f"{field.name}q"
        with pytest.raises(ConfigError) as data:
            read([{kind: {wrong: 1}}])
        with pytest.raises(TypeError) as code:
            CATALOG.kinds[kind](**{wrong: 1})
        assert str(data.value).startswith(f"pipeline[0].{kind}.{wrong}: expected the name of a setting; did you mean ")
        hint = str(data.value).partition("; ")[2]
        assert str(code.value) == f"{CATALOG.kinds[kind].__name__} has no setting {wrong}; {hint}"


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        (Retry(5, backoff="50ms"), 'Retry(attempts=5, backoff=Constant("50ms"))'),
        (Retry(budget=RetryBudget(0.2)), "Retry(budget=RetryBudget(ratio=0.2))"),
        (Retry(budget=None), "Retry(budget=None)"),
        (Retry(rules=[{"on": "KeyError", "attempts": 2}]), "Retry(rules=(Rule(KeyError, attempts=2),))"),
        (
            RateLimit("100/s", tiers={"a": "5/m"}, tier="key"),
            'RateLimit("100/s", tiers={"a": Tier("5/m")}, tier="key")',
        ),
        (Fallback([0] * 1000), "Fallback(value=<list>)"),
        (Fallback("x" * 100), f'Fallback(value="{"x" * 37}...")'),
        (Fallback({"token": "abc", "uses": 5}), 'Fallback(value={"token": ..., "uses": 5})'),
        (Fault(0.1, delay=["1ms", 2], keys=("a",)), 'Fault(rate=0.1, delay=(0.001, 2.0), keys=("a",))'),
        (Hedge(), "Hedge()"),
    ],
)
def test_a_policy_shows_what_lies_in_it_within_bounds(policy: Policy[Any], text: str) -> None:
    assert repr(policy) == text
