"""Pipelines from plain data, as TOML or JSON give it: ``[{timeout = "2s"}, {retry = {attempts = 3}}, "breaker"]``.

A policy is an entry with one name, its kind. The value is a table of settings, the one setting that may be given
by position, or ``true`` for the defaults; a bare kind means the same. ``{classify = {ignore = ["KeyError"]}}``
says which exceptions count. Everything is checked before anything is made or changed.
"""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from holdfast.core.classify import DEFAULT, Classifier
from holdfast.core.clock import SYSTEM, Clock
from holdfast.core.errors import ConfigError
from holdfast.core.fields import Field
from holdfast.core.kinds import Refused, nearest
from holdfast.core.pipeline import POLICIES_LIMIT, Pipeline
from holdfast.core.policy import Policy
from holdfast.core.settings import ERRORS, PolicySettings, placed, read_table, settings_of
from holdfast.resilience.adaptive import AdaptiveLimit
from holdfast.resilience.breaker import Breaker
from holdfast.resilience.bulkhead import Bulkhead
from holdfast.resilience.cache import Cache
from holdfast.resilience.fallback import Fallback
from holdfast.resilience.fault import Fault
from holdfast.resilience.hedge import Hedge
from holdfast.resilience.ratelimit import RateLimit
from holdfast.resilience.retry import Retry
from holdfast.resilience.singleflight import SingleFlight
from holdfast.resilience.throttle import Throttle
from holdfast.resilience.timeout import Timeout

PLAIN: Final = (str, int, float, tuple, list, Mapping, msgspec.Struct, type(None))
"""What a setting may be that comes from data; anything else was given by code."""
CLASSIFY: Final = "classify"
"""The entry that is no policy."""


class Catalog:
    """The kinds of policies that data may name. Immutable.

    ``TypeError`` for what is no class of policies, has no ``kind``, or no settings that data could give; ``ValueError``
    for two classes of one kind.
    """

    def __init__(self, policies: Iterable[type[Policy[Any]]]) -> None:
        self._kinds: dict[str, type[Policy[Any]]] = {}
        for policy in policies:
            if not (isinstance(policy, type) and issubclass(policy, Policy)):
                raise TypeError(f"{policy!r} is no class of policies; give one, such as Timeout")
            if not policy.kind:
                raise TypeError(f"{policy.__name__} has no kind, by which data could name it; write kind = ... in it")
            policy.settings_type()  # which data is read by: better known now than at the first file
            taken = self._kinds.setdefault(policy.kind, policy)
            if taken is not policy:
                raise ValueError(
                    f"{policy.__name__} has the kind {policy.kind!r}, which is that of {taken.__name__}; "
                    "write another kind in it, or make a Catalog without the other"
                )

    @property
    def kinds(self) -> Mapping[str, type[Policy[Any]]]:
        """Kind -> policy."""
        return dict(self._kinds)

    def adding(self, *policies: type[Policy[Any]]) -> "Catalog":
        """A catalog that has these kinds too. Raises as the constructor does."""
        return Catalog([*self._kinds.values(), *policies])

    def find(self, kind: str, where: str, source: str = "") -> type[Policy[Any]]:
        """The policy of that kind. ``ConfigError`` when there is none."""
        if kind not in self._kinds:
            near = nearest(kind, [*self._kinds, CLASSIFY])
            hint = f"did you mean {near}?" if near else f"there are {', '.join(sorted(self._kinds))}"
            raise ConfigError(where, kind, "the kind of a policy", source=source, hint=hint)
        return self._kinds[kind]


CATALOG: Final = Catalog(
    (
        Timeout,
        Retry,
        Breaker,
        Throttle,
        RateLimit,
        Bulkhead,
        AdaptiveLimit,
        Hedge,
        Fallback,
        Cache,
        SingleFlight,
        Fault,
    )
)
"""Every policy of this package."""


class Written(Classifier, frozen=True):
    """A classifier that data describes. It goes with its row, and then ``instead_of`` counts again."""

    instead_of: Classifier = DEFAULT


class Plan(msgspec.Struct, frozen=True):
    """What data asks for, read and checked: the settings of each policy, outermost first, and the classifier."""

    entries: tuple[tuple[type[Policy[Any]], PolicySettings], ...]
    classifier: Written | None
    """None when the data does not say."""


def read(data: object, *, where: str = "pipeline", source: str = "", catalog: Catalog = CATALOG) -> Plan:
    """Check ``data`` and read it. ``ConfigError`` names the path (``pipeline[1].retry.attempts``) and the value.

    A ``Plan`` comes back as it is.
    """
    if isinstance(data, Plan):
        return data
    if not isinstance(data, Sequence) or isinstance(data, str | bytes):
        raise ConfigError(where, data, "a list of policies", source=source, hint=_EXAMPLE)
    if len(data) > POLICIES_LIMIT:
        raise ConfigError(where, len(data), f"at most {POLICIES_LIMIT} policies", source=source)
    entries = []
    classifier: Written | None = None
    for number, item in enumerate(data):
        place = f"{where}[{number}]"
        kind, value = _entry(item, place, source)
        place = f"{place}.{kind}"
        if kind == CLASSIFY:
            if classifier is not None:
                raise ConfigError(place, None, "one classify in a pipeline", source=source)
            classifier = _classifier(value, place, source)
            continue
        policy = catalog.find(kind, place, source)
        entries.append((policy, _settings(policy.settings_type(), value, place, source)))
    return Plan(tuple(entries), classifier)


def build(
    name: str,
    data: object,
    *,
    clock: Clock = SYSTEM,
    where: str = "",
    source: str = "",
    catalog: Catalog = CATALOG,
) -> Pipeline:
    """A pipeline from ``data``. ``ConfigError`` as ``read``; by default its path begins with ``pipelines.<name>``."""
    plan = read(data, where=where or f"pipelines.{name}", source=source, catalog=catalog)
    policies = [policy.from_settings(settings) for policy, settings in plan.entries]
    return Pipeline(name, *policies, classify=plan.classifier or DEFAULT, clock=clock)


class Change(msgspec.Struct, frozen=True):
    """What a pipeline is going to be, by ``prepare``. Good as long as nobody else changes the pipeline meanwhile."""

    pipeline: Pipeline
    policies: tuple[Policy[Any], ...]
    settings: tuple[tuple[Policy[Any], PolicySettings], ...]
    classifier: Classifier

    def apply(self) -> None:
        """Make it so, while calls are under way. Not for two threads at once."""
        for policy, settings in self.settings:
            policy.replace_settings(settings)
        self.pipeline.replace(*self.policies, classify=self.classifier)


def prepare(
    pipeline: Pipeline,
    data: object,
    *,
    where: str = "",
    source: str = "",
    catalog: Catalog = CATALOG,
    origin: Sequence[tuple[Policy[Any], PolicySettings]] = (),
) -> Change:
    """What ``reconfigure`` would do, which does it at once. Changes nothing; ``ConfigError`` as ``read``."""
    plan = read(data, where=where or f"pipelines.{pipeline.name}", source=source, catalog=catalog)
    given = {id(policy): settings for policy, settings in origin}
    left = list(pipeline.policies)
    left += [policy for policy, _ in origin if not any(policy is other for other in left)]
    chosen: list[Policy[Any]] = []
    changed: list[tuple[Policy[Any], PolicySettings]] = []
    for kind, settings in plan.entries:
        name = settings.name or kind.kind
        old = next((policy for policy in left if type(policy) is kind and policy.name == name), None)
        if old is None:
            chosen.append(kind.from_settings(settings))
        else:
            left.remove(old)
            chosen.append(old)
            changed.append((old, _with_code_of(given.get(id(old), old.settings), settings)))
    judge = pipeline.classifier
    if isinstance(judge, Written):
        judge = judge.instead_of
    if plan.classifier is not None:
        judge = msgspec.structs.replace(plan.classifier, failed=judge.failed, instead_of=judge)
    return Change(pipeline, tuple(chosen), tuple(changed), judge)


def reconfigure(
    pipeline: Pipeline,
    data: object,
    *,
    where: str = "",
    source: str = "",
    catalog: Catalog = CATALOG,
    origin: Sequence[tuple[Policy[Any], PolicySettings]] = (),
) -> None:
    """Make ``pipeline`` what ``data`` says, while calls are under way.

    A policy that stays, by kind and name, keeps its state and takes the new settings; of several alike the first
    stays the first. What only code can give (functions, shared budgets, clocks) stays unless the data says something
    else in its place; so does the classifier, where one was given by code. One that came from data goes when its row
    does. ``origin`` are policies that code gave once, and their settings then: one that data took out comes back with
    its state, and what only code can give is taken from there. ``ConfigError`` as ``read``, nothing has changed then.
    Not for two threads at once.
    """
    prepare(pipeline, data, where=where, source=source, catalog=catalog, origin=origin).apply()


_EXAMPLE: Final = 'write for example [{ timeout = "2s" }, { retry = 3 }, "breaker"]'


def _entry(item: object, place: str, source: str) -> tuple[str, object]:
    if isinstance(item, str):
        return item, True
    if isinstance(item, Mapping) and len(item) == 1:
        ((kind, value),) = item.items()
        if isinstance(kind, str):
            return kind, value
    raise ConfigError(place, item, "one policy, by its kind", source=source, hint=_EXAMPLE)


def _settings(schema: type[PolicySettings], value: object, place: str, source: str) -> PolicySettings:
    if value is True:
        value = {}
    elif not isinstance(value, Mapping):
        value = {schema.positional(): value}
    try:
        return read_table(schema, value)
    except ConfigError as error:
        wrong = placed(error, place)
        raise ConfigError(wrong.path, wrong.value, wrong.expected, source=source, hint=wrong.hint) from None


def _with_code_of(old: PolicySettings, new: PolicySettings) -> PolicySettings:
    """``new``, with what is at its default there and was given by code in ``old``."""
    for field in settings_of(type(old)):
        given = getattr(old, field.name)
        if getattr(new, field.name) == field.default and not isinstance(given, PLAIN):
            with contextlib.suppress(ConfigError):  # the data says something else in its place
                new = msgspec.structs.replace(new, **{field.name: given})
    return new


def _classifier(value: object, place: str, source: str) -> Written:
    if not isinstance(value, Mapping):
        raise ConfigError(place, value, 'a table such as { ignore = ["KeyError"] }', source=source)
    read: dict[str, tuple[type[BaseException], ...]] = {}
    for name, listed in value.items():
        if name not in ("ignore", "record"):
            near = nearest(str(name), ("ignore", "record"))
            hint = f"did you mean {near}?" if near else ""
            raise ConfigError(f"{place}.{name}", None, "ignore or record", source=source, hint=hint)
        try:
            read[name] = ERRORS.read(listed)
        except Refused as refused:
            raise ConfigError(f"{place}.{name}", listed, refused.expected, source=source) from None
        except ValueError:
            raise ConfigError(f"{place}.{name}", listed, ERRORS.expected, source=source) from None
    return Written(read.get("ignore", DEFAULT.ignore), read.get("record", DEFAULT.record))


def fields(kind: str, catalog: Catalog = CATALOG) -> list[Field]:
    """The settings of a kind of policy, for tables and schemas. ``ConfigError`` when there is no such kind."""
    return settings_of(catalog.find(kind, "kind").settings_type())
