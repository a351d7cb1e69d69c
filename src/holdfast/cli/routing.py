"""Routes as the commands tell of them: what each matches, the gates in their order, and which one a request takes."""

from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import msgspec

from holdfast.core.duration import Duration
from holdfast.core.errors import (
    BulkheadFull,
    CircuitOpen,
    DeadlineExceeded,
    Overloaded,
    RateLimited,
    Rejected,
)
from holdfast.core.errortable import ErrorTable
from holdfast.core.fields import Field
from holdfast.core.settings import PolicySettings, Settings, settings_of
from holdfast.resilience.limits.settings import AdaptiveLimitSettings
from holdfast.server.admission.gates import OTHERS
from holdfast.server.admission.identity import Key
from holdfast.server.admission.patterns import ANY, Headers, Pattern
from holdfast.server.admission.routes import RouteTable, rank
from holdfast.server.admission.settings import AdmissionSettings, RouteSettings
from holdfast.server.admission.steps import CONCURRENCY

CLIENTS: Final = "clients"
TIMEOUT: Final = "timeout"
QUEUE: Final = "queue"
CRITICALITY: Final = "critical"
"""What a request is that nobody has said anything else of."""
REFUSALS: Final[Mapping[str, type[Rejected]]] = {
    CLIENTS: RateLimited,
    "rate_limit": RateLimited,
    CONCURRENCY: Overloaded,
    "throttle": Overloaded,
    "breaker": CircuitOpen,
    "bulkhead": BulkheadFull,
    TIMEOUT: DeadlineExceeded,
    QUEUE: Overloaded,
}
"""What each gate refuses with."""
PLAIN: Final = ("rate", "limit")
"""Settings whose values say by themselves what they are."""


class GateRow(msgspec.Struct, frozen=True):
    """One gate. ``settings`` are those that say what it allows, as people write them."""

    kind: str
    name: str
    settings: Mapping[str, str]
    status: int
    reason: str
    shared: bool = False

    def __str__(self) -> str:
        shown = [value if name in PLAIN else f"{name}={value}" for name, value in self.settings.items()]
        label = self.kind if self.name == self.kind else f"{self.kind}:{self.name}"
        return f"{label}({', '.join(shown)})" if shown else label


class RouteRow(msgspec.Struct, frozen=True):
    """One route. ``origin`` is where it is written, ``timeout`` a text, empty when there is none."""

    name: str
    match: str
    host: str
    headers: Mapping[str, str]
    gates: tuple[GateRow, ...]
    timeout: str
    criticality: str
    origin: str
    must_finish: bool = False
    queued: bool = False
    """Whether it waits for its turn behind the gates."""


class Why(msgspec.Struct, frozen=True):
    """What one route says to a request."""

    route: str
    match: str
    origin: str
    fits: bool
    why: str


class Explanation(msgspec.Struct, frozen=True):
    """The route that a request takes, what it meets there, and what the others say.

    ``fits``: there is such a route. ``late`` is what it is told when its time is over, ``queue`` where it waits for its
    turn behind the gates, None for nowhere.
    """

    method: str
    path: str
    host: str
    headers: Mapping[str, str]
    fits: bool
    route: RouteRow
    why: str
    late: str
    queue: GateRow | None
    others: tuple[Why, ...]


class Routing:
    """All routes of one configuration. ``origins`` has one place for each of ``routes``."""

    def __init__(
        self,
        admission: AdmissionSettings,
        routes: Sequence[RouteSettings],
        origins: Sequence[str],
        errors: ErrorTable | None = None,
    ) -> None:
        """Raises ``ConfigError`` for routes that cannot be told apart."""
        self.admission = admission
        self._errors = errors or ErrorTable()
        self._rows: dict[Pattern, RouteRow] = {}
        patterns = [route.pattern() for route in routes]
        self._table: RouteTable[None] = RouteTable((pattern, None) for pattern in patterns)
        self.shared = self._shared()
        self.queue: GateRow | None = None
        if admission.queue:
            told = {"fair_by": str(admission.fair_key)}
            if admission.limit is not None:
                told[CONCURRENCY] = _table(_settings(admission.limit))
            elif admission.concurrency is False:
                told[CONCURRENCY] = "false"
            self.queue = GateRow(QUEUE, QUEUE, told, *self.refusal(QUEUE), shared=True)
        for pattern, route, origin in zip(patterns, routes, origins, strict=True):
            self._rows[pattern] = self._row(pattern, route, origin)

    @property
    def rows(self) -> list[RouteRow]:
        """The routes, the most specific first; of those that do not meet, in the order of their texts."""
        order = sorted(self._rows, key=lambda pattern: (pattern.host, pattern.text.split()[-1]))
        return [self._rows[pattern] for pattern in sorted(order, key=_specific, reverse=True)]

    @property
    def others(self) -> RouteRow:
        """What requests get that no route fits."""
        return RouteRow(OTHERS, ANY, "", {}, self.shared, "", CRITICALITY, "", queued=self.queue is not None)

    def explain(self, method: str, path: str, host: str = "", headers: Headers = ()) -> Explanation:
        """Which route such a request takes, and why the others are not it. ``path`` is decoded."""
        reasons = self._table.explain(method, path, host, headers)
        taken = next((reason for reason in reasons if reason.taken), None)
        others = []
        for reason in reasons:
            if reason is not taken:
                row = self._rows[reason.pattern]
                others.append(Why(row.name, str(reason.pattern), row.origin, reason.fits, reason.why))
        others.sort(key=lambda why: not why.fits)  # stable: those that fit are what people look for
        route = self.others if taken is None else self._rows[taken.pattern]
        return Explanation(
            method,
            path,
            host,
            {name.decode("latin-1"): value.decode("latin-1") for name, value in headers},
            taken is not None,
            route,
            "no route fits it" if taken is None else taken.why,
            "{} {}".format(*self.refusal(TIMEOUT)),
            self.queue if route.queued else None,
            tuple(others),
        )

    def _shared(self) -> tuple[GateRow, ...]:
        clients, limit = self.admission.per_client.limit(), self.admission.limit
        found = [self._gate(CLIENTS, clients, shared=True)] if clients is not None else []
        if limit is not None and not self.admission.queue:  # with a queue it says how many may leave that
            found.append(self._gate(CONCURRENCY, limit, shared=True))
        return tuple(found)

    def _row(self, pattern: Pattern, route: RouteSettings, origin: str) -> RouteRow:
        shared = {gate.kind: gate for gate in self.shared}
        gates = [shared[CLIENTS]] if CLIENTS in shared else []
        for step in route.steps:
            if step.policy is not None:
                gates.append(self._gate(step.policy.kind, step.settings))
            elif CONCURRENCY in shared:
                gates.append(shared[CONCURRENCY])
        level = CRITICALITY if route.level is None else route.level.name.lower()
        return RouteRow(
            route.label,
            pattern.text,
            pattern.host,
            {name.decode(): ANY if value is None else value.decode() for name, value in pattern.headers},
            tuple(gates),
            "" if route.seconds is None else str(Duration(route.seconds)),
            level,
            origin,
            route.must_finish,
            self.queue is not None and any(step.policy is None for step in route.steps),
        )

    def _gate(self, kind: str, settings: PolicySettings | None, *, shared: bool = False) -> GateRow:
        status, reason = self.refusal(kind)
        told = {} if settings is None else _settings(settings)
        name = settings.name if settings is not None and not shared else ""
        if kind == CLIENTS:
            del told["key"]  # which is the client, always
        return GateRow(kind, name or kind, told, status, reason, shared)

    def refusal(self, kind: str) -> tuple[int, str]:
        """The status and the reason with which a gate of ``kind`` refuses, by the table of errors."""
        failure = self._errors.failure_of(REFUSALS[kind](kind, "refused"))
        return failure.status, failure.reason


def target(path: str, host: str = "") -> tuple[str, str]:
    """The path that routes look at, and the host, of a path or an address as people have it at hand.

    What follows ? or # is cut off, and the rest is decoded, as a server does. ``host`` goes before that of an address.
    """
    if "://" in path:
        parts = urlsplit(path)
        host, path = host or parts.netloc.rpartition("@")[2], parts.path or "/"
    return unquote(path.partition("#")[0].partition("?")[0]), host


def _specific(pattern: Pattern) -> tuple[Any, ...]:
    host, path, _, demand = rank(pattern, "")
    return host, path, bool(pattern.methods), demand


def _settings(settings: PolicySettings) -> dict[str, str]:
    """What ``settings`` allow: what is given by position first, and then all that is not at its default."""
    first = "target" if isinstance(settings, AdaptiveLimitSettings) else settings.positional()
    fields = {field.name: field for field in settings_of(type(settings))}
    told = {first: _text(fields[first], getattr(settings, first))}
    for name, field in fields.items():
        value = getattr(settings, name)
        if name not in (first, "name") and value != field.default and value != {} and not field.secret:
            told[name] = _text(field, value)
    return told


def _text(field: Field, value: Any) -> str:
    show = next((kind.reader.show for kind in field.kinds if kind.reader and kind.reader.show), None)
    if show is not None and type(value) is float:
        return str(show(value))
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and type(value) is float and value.is_integer():
        return str(int(value))
    if isinstance(value, Mapping):
        return _table({name: _inner(inner) for name, inner in value.items()})
    if callable(value) and not isinstance(value, Key):
        return "given in code"
    return str(value)


def _table(texts: Mapping[str, str]) -> str:
    return f"{{{', '.join(f'{name}={text}' for name, text in texts.items())}}}"


def _inner(value: Any) -> str:
    """One of several in a table: a tier of a rate limit, a partition of a bulkhead."""
    if isinstance(value, Settings):
        parts = [getattr(value, field.name) for field in settings_of(type(value))]
        return " ".join(str(part) for part in parts if part is not None)
    return str(value)
