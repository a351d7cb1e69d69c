from typing import Any

import pytest

from holdfast.core.classify import Classifier
from holdfast.core.clock import VirtualClock
from holdfast.core.errors import ConfigError
from holdfast.core.pipeline import Pipeline
from holdfast.core.policy import Policy
from holdfast.resilience.catalog import CATALOG, Catalog, build, fields, read, reconfigure
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
