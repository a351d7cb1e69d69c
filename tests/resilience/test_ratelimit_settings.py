from typing import Any

import pytest

from holdfast.core.clock import VirtualClock
from holdfast.core.errors import ConfigError
from holdfast.core.rate import Rate
from holdfast.resilience.catalog import build, reconfigure
from holdfast.resilience.ratelimit import RateLimit, RateLimitSettings
from holdfast.resilience.rates.settings import MAX_KEYS, MAX_WAITING, TIERS_LIMIT, TierSettings


def test_everything_that_is_data_can_be_written_in_a_file() -> None:
    data = {
        "rate_limit": {
            "rate": "100/s",
            "burst": 200,
            "algorithm": "gcra",
            "max_wait": "500ms",
            "max_waiting": 10,
            "per": "key",
            "max_keys": 5000,
            "tiers": {"free": "5/s", "paid": {"rate": "50/s", "burst": 100}},
            "tier": "operation",
            "observe": True,
            "name": "api",
        }
    }
    (policy,) = build("x", [data]).policies
    assert isinstance(policy, RateLimit)
    assert policy.settings == RateLimitSettings(
        rate=Rate(100),
        burst=200.0,
        algorithm="gcra",
        max_wait=0.5,
        max_waiting=10,
        per="key",
        max_keys=5000,
        tiers={"free": TierSettings(rate="5/s"), "paid": TierSettings(rate=50, burst=100)},
        tier="operation",
        observe=True,
        name="api",
    )


@pytest.mark.parametrize("entry", [{"rate_limit": "5/m"}, {"rate_limit": {"rate": "5/m"}}])
def test_the_rate_alone_is_enough(entry: dict[str, Any]) -> None:
    (policy,) = build("x", [entry]).policies
    assert isinstance(policy, RateLimit)
    found = policy.settings
    assert (found.rate, found.burst, found.algorithm, found.max_wait) == (Rate(5, 60), None, "token_bucket", 0.0)
    assert (found.max_keys, found.max_waiting, found.per, found.key, found.tiers) == (
        *(MAX_KEYS, MAX_WAITING, None, None),
        {},
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rate": "often"}, "RateLimit rate: got 'often', expected a rate such as 100/s, 5/m or 1/10s"),
        ({"rate": "0/s"}, "RateLimit rate: got '0/s', expected a rate such as 100/s, 5/m or 1/10s"),
        ({"burst": -1}, "RateLimit burst: got -1, expected a number, at least 0"),
        ({"burst": "many"}, "RateLimit burst: got 'many', expected a number, at least 0"),
        ({"algorithm": "tokenbucket"}, "RateLimit algorithm: got 'tokenbucket', expected"),
        ({"max_wait": -1}, "RateLimit max_wait: got -1, expected a duration such as 500ms or 1m30s, at least 0"),
        ({"max_waiting": 0}, "RateLimit max_waiting: got 0, expected a whole number, at least 1"),
        ({"max_keys": 0}, "RateLimit max_keys: got 0, expected a whole number, at least 1"),
        ({"per": "user"}, 'RateLimit per: got \'user\', expected "key" or "operation"'),
        ({"key": "user"}, "RateLimit key: got 'user', expected a function; it can only be given in code"),
        ({"per": "key", "key": len}, "RateLimit per: got 'key', expected no per beside key"),
        ({"tier": "plan"}, 'RateLimit tier: got \'plan\', expected "key" or "operation", or in code a function'),
        ({"tier": "key"}, "RateLimit tiers: got {}, expected a table of tiers, each a rate or a table with rate and"),
        ({"tiers": {"a": 1}}, 'RateLimit tier: expected "key", "operation" or a function; tiers need something'),
        ({"tiers": "5/s", "tier": len}, "RateLimit tiers: got '5/s', expected a table of tiers"),
        ({"tiers": {"a": "x"}, "tier": len}, "RateLimit tiers.a.rate: got 'x', expected a rate such as"),
        ({"tiers": {"a": {"burst": 1}}, "tier": len}, "RateLimit tiers.a.rate: expected a rate such as 100/s"),
        (
            {"tiers": {"a": {"rate": 1, "bust": 1}}, "tier": len},
            "RateLimit tiers.a.bust: expected the name of a setting; did you mean burst?",
        ),
        ({"tiers": {"a": {"rate": 1, "burst": -1}}, "tier": len}, "RateLimit tiers.a.burst: got -1, expected a number"),
        ({"tiers": {5: 1}, "tier": len}, "expected names of tiers that are text; 5 is not"),
        ({"tiers": {"": 1}, "tier": len}, "expected names of tiers that are text; '' is not"),
        ({"tiers": {str(n): 1 for n in range(TIERS_LIMIT + 1)}, "tier": len}, f"expected at most {TIERS_LIMIT} tiers"),
        ({"burst": 5, "algorithm": "leaky_bucket"}, "RateLimit burst: got 5.0, expected no burst with leaky_bucket;"),
        (
            {"tiers": {"a": {"rate": 1, "burst": 2}}, "tier": len, "algorithm": "sliding_log"},
            "RateLimit tiers.a.burst: got 2.0, expected no burst with sliding_log",
        ),
        ({"warm_up": 0}, "RateLimit warm_up: got 0, expected a duration such as 500ms or 1m30s, more than 0"),
        ({"cold": 0.5}, "RateLimit cold: got 0.5, expected a number, at least 1"),
        ({"clock": "utc"}, "RateLimit clock: got 'utc', expected a clock; it can only be given in code"),
    ],
)
def test_a_mistake_names_the_place_the_value_and_what_was_expected(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RateLimit(**{"rate": "5/s", **settings})
    assert message in str(caught.value)


def test_the_rate_must_be_given() -> None:
    with pytest.raises(ConfigError, match=r"\[0\]\.rate_limit\.rate: expected a rate such as 100/s"):
        build("x", ["rate_limit"])


def test_a_new_file_keeps_what_was_used() -> None:
    clock = VirtualClock()
    pipeline = build("x", [{"rate_limit": {"rate": "10/h", "per": "key"}}], clock=clock)
    for _ in range(10):
        pipeline.bind(key="anna").call(lambda: 7)
    reconfigure(pipeline, [{"rate_limit": {"rate": "20/h", "per": "key"}}])
    (limit,) = pipeline.policies
    assert isinstance(limit, RateLimit)
    assert limit.usage("anna")["remaining"] == 0
    assert limit.usage("bert")["remaining"] == 20


def test_a_change_that_does_not_fit_changes_nothing() -> None:
    limit = RateLimit("10/h", burst=5)
    before = limit.settings
    with pytest.raises(ConfigError, match="no burst with sliding_log"):
        limit.update(algorithm="sliding_log")
    assert limit.settings is before
    assert limit.snapshot()["algorithm"] == "token_bucket"


def test_waiting_can_be_turned_on_and_off_while_calls_are_made() -> None:
    clock = VirtualClock()
    pipeline = build("x", [{"rate_limit": {"rate": "1/s", "burst": 1}}], clock=clock)
    fn = pipeline(lambda: clock.now())  # noqa: PLW0108 - a lambda is what is decorated
    limit = pipeline.policies[0]
    assert fn() == 1000
    limit.update(max_wait="5s")
    assert fn() == pytest.approx(1001)
    limit.update(observe=True)
    assert fn() == pytest.approx(1001)
    limit.update(observe=False, max_wait=0)
    with pytest.raises(Exception, match="more than 1/s"):
        fn()
