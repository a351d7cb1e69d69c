"""The policies of a route: gates and a time limit, and why it takes no others."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from holdfast.core.errors import ConfigError
from holdfast.core.kinds import Reader, Refused, nearest
from holdfast.core.settings import GateSettings, PolicySettings, placed, read_table
from holdfast.server.admission.identity import parse_key

if TYPE_CHECKING:  # a worker without policies in its file boots sooner
    from holdfast.core.policy import Gate

CONCURRENCY: Final = "concurrency"
"""In a list of policies: the place of the process's adaptive limit, which all routes share."""
ORDER: Final = ("rate_limit", CONCURRENCY, "throttle", "breaker", "bulkhead")
"""Outermost first, when a route does not say otherwise. Last comes the time limit."""
_AROUND_A_CALL: Final = "put it around a call that the handler makes, where the pipeline of that call is defined"
ADVICE: Final = {
    "retry": f"a request's body can be read once, and its client retries by itself; {_AROUND_A_CALL}",
    "hedge": f"a request runs once; {_AROUND_A_CALL}",
    "cache": f"answers are the app's; {_AROUND_A_CALL}",
    "fallback": f"answers are the app's; {_AROUND_A_CALL}",
    "singleflight": f"requests of different clients are different; {_AROUND_A_CALL}",
    "fault": f"it delays and raises inside of a call; {_AROUND_A_CALL}",
    "adaptive_limit": "capacity belongs to the process: there is one for all routes, [admission] concurrency",
    "classify": "a request is classified by its status",
}
"""Why a route does not take these, and what to do."""


class Step(msgspec.Struct, frozen=True):
    """One gate of a route: its class and settings. Without a class it is the process's adaptive limit."""

    policy: "type[Gate[Any]] | None" = None
    settings: GateSettings | None = None


def read_step(kind: str, value: object, place: str = "") -> Step | float:
    """One policy of a route, by its kind: a gate, or the seconds of a time limit. ``ConfigError`` says what is wrong.

    ``value`` is a table of settings, the one that may be given by position, or ``True`` for the defaults.
    """
    if kind == CONCURRENCY:
        if value is not True:
            raise ConfigError(place, value, "true", hint="its settings are in [admission]")
        return Step()
    if kind in ADVICE:
        raise ConfigError(place, None, "a gate or a time limit", hint=ADVICE[kind])
    from holdfast.core.policy import Gate
    from holdfast.resilience.catalog import CATALOG  # all policies
    from holdfast.resilience.timeout import TimeoutSettings

    if kind not in CATALOG.kinds:
        near = nearest(kind, [*ORDER, "timeout"])
        hint = f"did you mean {near}?" if near else f"there are {', '.join((*ORDER, 'timeout'))}"
        raise ConfigError(place, kind, "the kind of a policy", hint=hint)
    policy = CATALOG.kinds[kind]
    settings = read_policy(policy.settings_type(), value, place)
    if isinstance(settings, TimeoutSettings):
        return float(settings.seconds)
    assert issubclass(policy, Gate)  # what is none has advice
    assert isinstance(settings, GateSettings)
    for name in ("max_wait", "queue"):
        # Where nothing may queue the longest wait means nothing, and has a default.
        if (name == "queue" or kind == "rate_limit") and getattr(settings, name, None):
            hint = "a request that waits here keeps its connection and its memory, where nobody sees it"
            raise ConfigError(_inside(place, name), settings.shown(name), "0: requests do not wait", hint=hint)
    return Step(policy, settings)


def read_policy(schema: type[PolicySettings], value: object, place: str = "") -> PolicySettings:
    """The settings of one policy, from a table, its first setting, or ``True``; ``key`` of a rate limit as text."""
    if isinstance(value, schema):
        return value
    table = {} if value is True else dict(value) if isinstance(value, Mapping) else {schema.positional(): value}
    if isinstance(table.get("key"), str) and _is_rate_limit(schema):
        try:
            table["key"] = parse_key(table["key"])
        except ValueError:
            hint = 'write "client", "tenant", "route" or "header:x-api-key"'
            raise ConfigError(
                _inside(place, "key"), table["key"], "what clients are told apart by", hint=hint
            ) from None
    try:
        return read_table(schema, table)
    except ConfigError as error:
        raise placed(error, place) from None


def _is_rate_limit(schema: type[PolicySettings]) -> bool:
    from holdfast.resilience.rates.settings import RateLimitSettings

    return issubclass(schema, RateLimitSettings)


def _inside(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def _read_policies(value: object) -> tuple[Step | float, ...] | None:
    if value is None:
        return None
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise ValueError
    from holdfast.core.pipeline import POLICIES_LIMIT

    if len(value) > POLICIES_LIMIT:
        raise Refused(f"at most {POLICIES_LIMIT} policies")
    steps: list[Step | float] = []
    for number, item in enumerate(value):
        if isinstance(item, Step | float):
            steps.append(item)
            continue
        kind, inner = (item, True) if isinstance(item, str) else (None, None)
        if isinstance(item, Mapping) and len(item) == 1:
            ((kind, inner),) = item.items()
        if not isinstance(kind, str):
            raise ConfigError(f"[{number}]", item, "one policy, by its kind", hint=_POLICIES_EXAMPLE)
        steps.append(read_step(kind, inner, f"[{number}].{kind}"))
    _refuse_twice(steps)
    return tuple(steps)


def _refuse_twice(steps: Sequence[Step | float]) -> None:
    times = [number for number, step in enumerate(steps) if isinstance(step, float)]
    if len(times) > 1:
        hint = "a request has one end; the shorter one would always be it"
        raise ConfigError(f"[{times[1]}].timeout", steps[times[1]], "one timeout in a route", hint=hint)
    if times and times[0] != len(steps) - 1:
        hint = "nothing waits at the gates, so it begins with the request and goes last"
        raise ConfigError(f"[{times[0]}].timeout", None, "the timeout as the last policy", hint=hint)
    seen: set[tuple[str, str]] = set()
    for number, step in enumerate(steps):
        if not isinstance(step, float):
            kind = CONCURRENCY if step.policy is None else step.policy.kind
            mark = kind, (step.settings.name if step.settings else "") or kind
            if mark in seen:
                hint = "give them names that differ" if step.policy else "it is one for all"
                raise ConfigError(f"[{number}].{kind}", None, "each policy once", hint=hint)
            seen.add(mark)


_POLICIES_EXAMPLE: Final = 'write for example [{ rate_limit = "50/s" }, "concurrency", { bulkhead = 20 }]'
POLICIES: Final = Reader(_read_policies, "a list of policies")
