from typing import Any

import pytest

from holdfast.core.context import Criticality
from holdfast.core.errors import ConfigError
from holdfast.core.pipeline import POLICIES_LIMIT
from holdfast.resilience.breaker import Breaker
from holdfast.resilience.bulkhead import Bulkhead, BulkheadSettings
from holdfast.resilience.limits.settings import AdaptiveLimitSettings
from holdfast.resilience.ratelimit import RateLimit, RateLimitSettings
from holdfast.resilience.throttle import Throttle
from holdfast.server.admission.identity import Key
from holdfast.server.admission.routes import ROUTES_LIMIT
from holdfast.server.admission.settings import (
    NAME_LIMIT,
    AdmissionSettings,
    ClientsSettings,
    RouteSettings,
    read_admission,
    read_routes,
)
from holdfast.server.admission.steps import ORDER, Step


def route(**settings: Any) -> RouteSettings:
    (read,) = read_routes([{"match": "/a", **settings}])
    return read


def test_admission_is_read_as_it_is_written() -> None:
    settings = read_admission(
        {
            "trusted_proxies": ["10.0.0.0/8", "unix"],
            "forwarded": "forwarded",
            "tenant": "X-Tenant-Id",
            "concurrency": {"target": "20ms"},
            "clients": {"rate": "100/s", "burst": 200, "connections": 100},
        }
    )
    assert settings.limit == AdaptiveLimitSettings(target=0.02)
    assert settings.per_client == ClientsSettings(rate="100/s", burst=200, connections=100)
    assert settings.per_client.limit() == RateLimitSettings(rate="100/s", burst=200, key=Key("client"), name="clients")
    assert settings.trusted_proxies == ("10.0.0.0/8", "unix")


def test_nothing_is_limited_and_nobody_believed_by_default() -> None:
    for settings in (read_admission(), read_admission({}), AdmissionSettings()):
        assert settings.trusted_proxies == ()
        assert settings.limit is None
        assert settings.per_client.limit() is None
        assert settings.per_client.connections == 0
    assert read_routes() == ()


def test_concurrency_has_its_shorthands() -> None:
    assert read_admission({"concurrency": True}).limit == AdaptiveLimitSettings()
    assert read_admission({"concurrency": False}).limit is None
    assert read_admission({"concurrency": False}).concurrency is False  # not the same as nothing said
    assert read_admission({}).concurrency is None
    assert read_admission({"concurrency": "vegas"}).limit == AdaptiveLimitSettings(algorithm="vegas")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"concurency": True}, "admission.concurency: expected the name of a setting; did you mean concurrency?"),
        ({"concurrency": {"targt": "1s"}}, "admission.concurrency.targt: expected the name of a setting; did you mean"),
        ({"concurrency": {"target": "soon"}}, "admission.concurrency.target: got 'soon', expected a duration"),
        ({"clients": {"rate": "fast"}}, "admission.clients.rate: got 'fast', expected a rate"),
        ({"clients": {"burst": 3}}, "admission.clients.burst: got 3.0, expected a rate to go with it"),
        ({"clients": {"connections": -1}}, "admission.clients.connections: got -1, expected a whole number"),
        ({"clients": 3}, "admission.clients: got 3, expected a table with rate, burst and connections"),
        ({"trusted_proxies": ["a"]}, "admission.trusted_proxies[0]: got 'a', expected an address"),
        ({"trusted_proxies": ["0.0.0.0/0"]}, "admission.trusted_proxies[0]: got '0.0.0.0/0'"),
        ({"forwarded": "x-real-ip"}, "admission.forwarded: got 'x-real-ip', expected \"x-forwarded-for\""),
        ({"tenant": "x tenant"}, "admission.tenant: got 'x tenant', expected the name of a header"),
        (3, "admission: got 3, expected a table"),
    ],
)
def test_a_mistake_in_admission_says_where_and_what(data: Any, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_admission(data, "holdfast.toml")
    assert str(caught.value).startswith(f"holdfast.toml {says}")


def test_a_route_is_read_as_it_is_written() -> None:
    settings = route(
        match="POST /orders",
        host="*.example.org",
        headers={"x-version": "2"},
        timeout="2s",
        criticality="critical_plus",
        rate_limit={"rate": "50/s", "key": "header:X-Tenant"},
        bulkhead=20,
    )
    assert settings.label == "POST /orders (host *.example.org, x-version: 2)"
    assert settings.seconds == 2.0
    assert settings.level is Criticality.CRITICAL_PLUS
    assert settings.steps == (
        Step(RateLimit, RateLimitSettings("50/s", key=Key("header", "x-tenant"))),
        Step(),
        Step(Bulkhead, BulkheadSettings(20)),
    )


def test_the_gates_have_an_order_of_their_own() -> None:
    settings = route(bulkhead=True, breaker=True, throttle=True, rate_limit="5/s")
    assert [step.policy for step in settings.steps] == [RateLimit, None, Throttle, Breaker, Bulkhead]
    assert ORDER == ("rate_limit", "concurrency", "throttle", "breaker", "bulkhead")
    assert route().steps == (Step(),)
    assert route().seconds is None
    assert route().level is None
    assert route(concurrency=False).steps == ()


def test_a_list_of_policies_gives_another_order() -> None:
    settings = route(policies=[{"bulkhead": 3}, "concurrency", {"rate_limit": {"rate": "5/s"}}, {"timeout": "1s"}])
    assert [step.policy for step in settings.steps] == [Bulkhead, None, RateLimit]
    assert settings.seconds == 1.0
    assert route(policies=["bulkhead"]).steps == (Step(Bulkhead, BulkheadSettings()),)
    assert route(policies=[]).steps == ()
    assert route(policies=["bulkhead"]).seconds is None
    two = route(policies=[{"bulkhead": {"limit": 3, "name": "a"}}, {"bulkhead": {"limit": 3, "name": "b"}}])
    assert len(two.steps) == 2


def test_a_list_of_policies_that_was_read_can_be_given_again() -> None:
    names = [{"bulkhead": {"name": f"b{number}"}} for number in range(POLICIES_LIMIT - 1)]
    settings = route(policies=[*names, {"timeout": "1s"}])
    assert RouteSettings(match="/b", policies=settings.policies).policies == settings.policies


def test_each_policy_of_the_default_order_may_stand_alone_in_the_list() -> None:
    for kind in ORDER:
        given = {kind: "5/s"} if kind == "rate_limit" else kind
        assert len(route(policies=[given]).steps) == 1


@pytest.mark.parametrize("kind", ["retry", "hedge", "cache", "fallback", "singleflight", "fault"])
def test_what_belongs_around_a_call_is_refused_with_that_advice(kind: str) -> None:
    given: tuple[dict[str, Any], ...] = ({kind: True}, {"policies": [kind]}, {"policies": [{kind: {}}]})
    for settings in given:
        with pytest.raises(ConfigError, match="put it around a call that the handler makes") as caught:
            route(**settings)
        assert caught.value.path == (f"routes[0].{kind}" if kind in settings else f"routes[0].policies[0].{kind}")


def test_a_route_has_no_adaptive_limit_of_its_own() -> None:
    for settings in ({"adaptive_limit": True}, {"policies": ["adaptive_limit"]}):
        with pytest.raises(ConfigError, match="capacity belongs to the process"):
            route(**settings)
    with pytest.raises(ConfigError, match="a request is classified by its status"):
        route(policies=[{"classify": {}}])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"bulkhed": 3}, "bulkhed: expected the name of a setting; did you mean bulkhead?"),
        ({"bulkhead": {"limit": 0}}, "bulkhead.limit: got 0, expected a whole number, at least 1"),
        ({"bulkhead": {"limt": 1}}, "bulkhead.limt: expected the name of a setting; did you mean limit?"),
        ({"bulkhead": {"queue": 3}}, "bulkhead.queue: got 3, expected 0: requests do not wait"),
        ({"rate_limit": {"rate": "1/s", "max_wait": "1s"}}, "rate_limit.max_wait: got 1s, expected 0: requests"),
        ({"rate_limit": {"rate": "1/s", "key": "cookie"}}, "rate_limit.key: got 'cookie', expected what clients"),
        ({"rate_limit": True}, "rate_limit.rate: expected a rate such as 100/s, 5/m or 1/10s; it must be given"),
        ({"match": "orders"}, "match: got 'orders', expected a path that begins with /"),
        ({"host": "a:80"}, "host: got 'a:80', expected a name"),
        ({"headers": {"x y": "1"}}, "headers: got 'x y', expected the name of a header"),
        ({"headers": "x"}, "headers: got 'x', expected a table such as"),
        ({"timeout": 0}, "timeout: got 0, expected a duration"),
        ({"criticality": "critcal"}, "criticality: got 'critcal', expected \"sheddable\""),
        ({"name": "a\nb"}, "name: got 'a\\nb', expected at most"),
        ({"name": "a" * (NAME_LIMIT + 1)}, "name: got 'aaa"),
        ({"policies": ["concurrency"], "bulkhead": 3}, "policies: got "),
        ({"policies": ["concurrency"], "timeout": 3}, "policies: got "),
        ({"policies": "bulkhead"}, "policies: got 'bulkhead', expected a list of policies"),
        ({"policies": [3]}, "policies[0]: got 3, expected one policy, by its kind"),
        ({"policies": [{"bulkhead": 1, "breaker": True}]}, "policies[0]: got {"),
        ({"policies": ["bulkhed"]}, "policies[0].bulkhed: got 'bulkhed', expected the kind of a policy; did you mean"),
        ({"policies": ["zzz"]}, "policies[0].zzz: got 'zzz', expected the kind of a policy; there are rate_limit"),
        ({"policies": [{"bulkhead": {"limit": -1}}]}, "policies[0].bulkhead.limit: got -1, expected a whole number"),
        ({"policies": [{"bulkhead": {"queue": 1}}]}, "policies[0].bulkhead.queue: got 1, expected 0"),
        ({"policies": [{"rate_limit": {"rate": "1/s", "key": "x"}}]}, "policies[0].rate_limit.key: got 'x', expected"),
        ({"policies": [{"timeout": 1}, {"timeout": 2}]}, "policies[1].timeout: got 2.0, expected one timeout in a"),
        ({"policies": [{"timeout": 1}, "bulkhead"]}, "policies[0].timeout: expected the timeout as the last policy"),
        ({"policies": ["bulkhead", {"bulkhead": 3}]}, "policies[1].bulkhead: expected each policy once; give them"),
        ({"policies": ["bulkhead", {"bulkhead": {"name": "bulkhead"}}]}, "policies[1].bulkhead: expected each policy"),
        ({"policies": ["concurrency", "concurrency"]}, "policies[1].concurrency: expected each policy once; it is one"),
        ({"policies": [{"concurrency": {"target": 1}}]}, "policies[0].concurrency: got {'target': 1}, expected true"),
        ({"policies": ["bulkhead"] * (POLICIES_LIMIT + 1)}, "policies: got ["),
    ],
)
def test_a_mistake_in_a_route_says_where_and_what(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_routes([{"match": "/first"}, {"match": "/a", **settings}], "holdfast.toml")
    assert str(caught.value).startswith(f"holdfast.toml routes[1].{says}")


def test_a_name_may_be_as_long_as_it_may_be() -> None:
    assert route(name="a" * NAME_LIMIT).label == "a" * NAME_LIMIT
    assert len(route(match="/" + "a" * 300).label) == NAME_LIMIT


def test_a_route_must_say_what_it_is_for() -> None:
    with pytest.raises(ConfigError, match=r"routes\[0\]\.match: expected text; it must be given"):
        read_routes([{"bulkhead": 1}])


def test_routes_are_a_list_of_tables() -> None:
    for wrong in ({"match": "/"}, "x", 3):
        with pytest.raises(ConfigError, match="expected a list of tables"):
            read_routes(wrong)
    with pytest.raises(ConfigError, match=r"routes\[1\]: got 3, expected a table"):
        read_routes([{"match": "/"}, 3])
    with pytest.raises(ConfigError, match=f"at most {ROUTES_LIMIT} routes"):
        read_routes([{"match": "/"}] * (ROUTES_LIMIT + 1))


def test_routes_that_cannot_be_told_apart_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"toml routes\[1\]\.match.*/a/\{c\} and /a/\{b\} are equally specific"):
        read_routes([{"match": "/a/{b}"}, {"match": "/a/{c}"}], "toml")
    with pytest.raises(ConfigError, match=r"toml routes\[1\]\.name: got 'x'.*routes\[0\] has it too"):
        read_routes([{"match": "/a", "name": "x"}, {"match": "/b", "name": "x"}], "toml")


def test_settings_that_are_made_in_code_are_taken_as_they_are() -> None:
    made = RouteSettings(match="/a", bulkhead=3, timeout=1.5)
    assert read_routes([made]) == (made,)
    limit = AdaptiveLimitSettings(target=0.5)
    assert AdmissionSettings(concurrency=limit).limit is limit
    assert route(bulkhead=BulkheadSettings(7)).steps[1].settings == BulkheadSettings(7)
    settings = AdmissionSettings(concurrency=True)
    assert read_admission(settings) is settings
    assert RouteSettings(match="/a", bulkhead=Step(Bulkhead, BulkheadSettings(3))).steps == made.steps
