"""``[admission]`` and ``[[routes]]``: what is read from data, and what is refused with advice."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeAlias, TypeVar

from holdfast.core.context import Criticality
from holdfast.core.duration import Duration
from holdfast.core.errors import ConfigError
from holdfast.core.kinds import Reader
from holdfast.core.rate import RATE, Rate
from holdfast.core.settings import SecondsText, Settings, about, placed, read_table
from holdfast.resilience.limits.settings import AdaptiveLimitSettings
from holdfast.server.admission.identity import Field, Key, Trust, parse_key
from holdfast.server.admission.patterns import Pattern, parse_pattern
from holdfast.server.admission.pressure import PressureSettings
from holdfast.server.admission.routes import ROUTES_LIMIT, RouteTable
from holdfast.server.admission.run_queue import PATIENCE
from holdfast.server.admission.steps import ADVICE, CONCURRENCY, ORDER, POLICIES, Step, read_policy, read_step

if TYPE_CHECKING:
    from holdfast.resilience.rates.settings import RateLimitSettings

T = TypeVar("T")

NAME_LIMIT: Final = 128
"""Characters of a route's name: it is a label of metrics."""
CLIENT_CONNECTIONS_LIMIT: Final = 1_000_000
"""The most connections that settings may allow one client."""


def _reader(kind: str) -> Reader:
    def read(value: object) -> object:
        return value if value is None or isinstance(value, Step) else read_step(kind, value)

    return Reader(read, f"the settings of a {kind}")


def _read_headers(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise ValueError
    return dict(value)


HEADERS: Final = Reader(_read_headers, 'a table such as { "x-version" = "2" }')

Given: TypeAlias = Step | Mapping[str, Any] | str | float | bool | None
"""What a setting that is a policy may be given as."""


class RouteSettings(Settings, frozen=True):
    """Settings of one entry of ``[[routes]]``. Raises ``ConfigError``; ``read_routes`` adds the entry's number."""

    match: Annotated[str, about("Methods and a path: POST /orders/{id}, GET /static/{path...}, /health, *.")]
    host: Annotated[str, about("The host, or *.example.org for all hosts below it; by default any.")] = ""
    headers: Annotated[
        Mapping[str, str], about("Headers that the request must have, and their values; * is any.", reader=HEADERS)
    ] = {}
    name: Annotated[str, about("What metrics and refusals call it; by default what it matches.")] = ""
    timeout: Annotated[SecondsText | None, about("How long a request may take, from its headers on.", gt=0)] = None
    criticality: Annotated[
        Literal["sheddable", "sheddable_plus", "critical", "critical_plus"] | None,
        about("How much it matters; trusted peers may ask for less. By default critical."),
    ] = None
    concurrency: Annotated[bool, about("Whether the process's limit counts it: not for streams that rest.")] = True
    must_finish: Annotated[bool, about("Its handler goes on when its client has gone.")] = False
    rate_limit: Annotated[Given, about("So many requests in so much time.", reader=_reader("rate_limit"))] = None
    throttle: Annotated[Given, about("Refuses some while many fail.", reader=_reader("throttle"))] = None
    breaker: Annotated[Given, about("Refuses all while most fail.", reader=_reader("breaker"))] = None
    bulkhead: Annotated[Given, about("So many requests at the same time.", reader=_reader("bulkhead"))] = None
    policies: Annotated[
        tuple[Any, ...] | Sequence[Any] | None,
        about("All of them in another order, outermost first; then none stands by itself.", reader=POLICIES),
    ] = None

    def check(self) -> None:
        self.pattern()
        if len(self.name) > NAME_LIMIT or not self.name.isprintable():
            raise self.wrong("name", f"at most {NAME_LIMIT} characters that can be printed")
        if self.policies is not None:
            for name in ("rate_limit", "throttle", "breaker", "bulkhead", "timeout"):
                if getattr(self, name) is not None:
                    raise self.wrong("policies", f"no {name} beside policies", hint="put it into the list")

    @classmethod
    def owner(cls) -> str:
        return "routes"

    def pattern(self) -> Pattern:
        """What it matches."""
        return parse_pattern(self.match, self.host, self.headers, f"{self.owner()} match")

    @property
    def level(self) -> Criticality | None:
        """Its criticality; None when it says nothing."""
        return None if self.criticality is None else Criticality[self.criticality.upper()]

    @property
    def label(self) -> str:
        """Its name, or what it matches."""
        return self.name or str(self.pattern())[:NAME_LIMIT]

    @property
    def steps(self) -> tuple[Step, ...]:
        """Its gates, outermost first."""
        if self.policies is not None:
            return tuple(step for step in self.policies if isinstance(step, Step))
        found = (getattr(self, kind) for kind in ORDER if kind != CONCURRENCY or self.concurrency)
        return tuple(Step() if step is True else step for step in found if step is not None)

    @property
    def seconds(self) -> float | None:
        """Its time limit."""
        if self.policies is not None:
            return next((step for step in self.policies if isinstance(step, float)), None)
        return None if self.timeout is None else float(self.timeout)


RATE_OR_NONE: Final = Reader(lambda value: None if value is None else RATE.read(value), RATE.expected)


class ClientsSettings(Settings, frozen=True):
    """What each client address may use; an IPv6 network of 64 bits is one client."""

    rate: Annotated[Rate | str | float | None, about("How many requests, and per what.", reader=RATE_OR_NONE)] = None
    burst: Annotated[float | None, about("How many at once; by default what the rate allows in its period.", ge=1)] = (
        None
    )
    connections: Annotated[
        int,
        about(
            "Open at the same time; behind a trusted proxy, requests under way. 0: no limit.",
            ge=0,
            le=CLIENT_CONNECTIONS_LIMIT,
        ),
    ] = 0

    def check(self) -> None:
        if self.burst is not None and self.rate is None:
            raise self.wrong("burst", "a rate to go with it")

    @classmethod
    def owner(cls) -> str:
        return "clients"

    def limit(self) -> "RateLimitSettings | None":
        """The rate limit that this is."""
        if self.rate is None:
            return None
        from holdfast.resilience.rates.settings import RateLimitSettings  # most services have no limit for clients

        return RateLimitSettings(rate=self.rate, burst=self.burst, key=parse_key("client"), name="clients")


def _read_clients(value: object) -> ClientsSettings:
    return read_table(ClientsSettings, value)


def _read_concurrency(value: object) -> AdaptiveLimitSettings | bool | None:
    if value is False or value is None:
        return value
    settings = read_policy(AdaptiveLimitSettings, value)
    assert isinstance(settings, AdaptiveLimitSettings)
    return settings


def _read_pressure(value: object) -> PressureSettings | bool:
    return value if isinstance(value, bool) else read_table(PressureSettings, value)


def _read_key(value: object) -> Key:
    if isinstance(value, Key):
        return value
    if not isinstance(value, str):
        raise ValueError
    return parse_key(value)


CLIENTS: Final = Reader(_read_clients, "a table with rate, burst and connections")
FAIR_BY: Final = Reader(_read_key, "client, tenant, route or header:x-api-key")
PRESSURE: Final = Reader(_read_pressure, "a table such as { memory = 0.9 }, true or false")
LIMIT: Final = Reader(_read_concurrency, "a table of settings of the adaptive limit, true or false")


class AdmissionSettings(Settings, frozen=True):
    """Settings of ``[admission]``."""

    trusted_proxies: Annotated[
        tuple[str, ...],
        about(
            "Networks, or unix, whose word on clients, deadlines and criticality counts; they must remove clients' own."
        ),
    ] = ()
    forwarded: Annotated[Field, about("Which header these proxies write.")] = "x-forwarded-for"
    tenant: Annotated[str, about("The header in which they name the tenant.")] = "x-tenant"
    concurrency: Annotated[
        AdaptiveLimitSettings | Mapping[str, Any] | str | bool | None,
        about(
            "How many requests are worked on at a time: by default found out while there is a queue; false: no limit.",
            reader=LIMIT,
        ),
    ] = None
    queue: Annotated[
        bool,
        about("Requests wait for their turn, fairly, and in an overload those that have waited too long are refused."),
    ] = True
    max_wait: Annotated[
        SecondsText,
        about(
            "How long a request may wait for its turn; then there is an overload, and others wait far shorter.", gt=0
        ),
    ] = Duration(PATIENCE)
    fair_by: Annotated[
        Key | str, about("Between whom the queue is fair: tenant, client, route or header:NAME.", reader=FAIR_BY)
    ] = Key("tenant")
    pressure: Annotated[
        PressureSettings | Mapping[str, Any] | bool,
        about("Refuse the least critical requests while the cgroup's memory is nearly used up.", reader=PRESSURE),
    ] = True
    clients: Annotated[
        ClientsSettings | Mapping[str, Any], about("What each client address may use.", reader=CLIENTS)
    ] = ClientsSettings()

    @property
    def fair_key(self) -> Key:
        """``fair_by``, as it has been read."""
        assert isinstance(self.fair_by, Key)
        return self.fair_by

    @property
    def per_client(self) -> ClientsSettings:
        """``clients``, as it has been read."""
        assert isinstance(self.clients, ClientsSettings)
        return self.clients

    @property
    def relief(self) -> PressureSettings | bool:
        """``pressure``, as it has been read; true when nobody has said anything of it."""
        assert isinstance(self.pressure, PressureSettings | bool)
        return self.pressure

    @property
    def limit(self) -> AdaptiveLimitSettings | None:
        """``concurrency``, as it has been read; None when no algorithm was chosen."""
        return self.concurrency if isinstance(self.concurrency, AdaptiveLimitSettings) else None

    def check(self) -> None:
        try:
            Trust(self.trusted_proxies, self.forwarded)
        except ConfigError as error:
            path = f"{self.owner()} {error.path}"
            raise ConfigError(path, error.value, error.expected, hint=error.hint) from None
        try:
            parse_key(f"header:{self.tenant}")
        except ValueError:
            raise self.wrong("tenant", "the name of a header") from None

    @classmethod
    def owner(cls) -> str:
        return "admission"


def read_admission(data: object = None, source: str = "") -> AdmissionSettings:
    """``[admission]`` from a table of plain values. ``ConfigError`` names the path (``admission.clients.rate``)."""
    if data is not None and not isinstance(data, Mapping | AdmissionSettings):
        raise ConfigError("admission", data, "a table", source=source)
    return _placed(lambda: read_table(AdmissionSettings, {} if data is None else data), "admission", source)


def read_routes(data: object = (), source: str = "") -> tuple[RouteSettings, ...]:
    """``[[routes]]`` from a list of tables. ``ConfigError`` names the path, such as ``routes[3].bulkhead.limit``.

    Also for routes that cannot be told apart, and for two of one name.
    """
    if not isinstance(data, Sequence) or isinstance(data, str | bytes):
        raise ConfigError("routes", data, "a list of tables", source=source)
    if len(data) > ROUTES_LIMIT:
        raise ConfigError("routes", len(data), f"at most {ROUTES_LIMIT} routes", source=source)
    routes: list[RouteSettings] = []
    for number, item in enumerate(data):
        place = f"routes[{number}]"
        if not isinstance(item, Mapping | RouteSettings):
            raise ConfigError(place, item, 'a table such as { match = "POST /orders" }', source=source)
        for kind in item if isinstance(item, Mapping) else ():
            if kind in ADVICE:
                raise ConfigError(f"{place}.{kind}", None, "a gate or a time limit", source, ADVICE[kind])
        routes.append(_placed(partial(read_table, RouteSettings, item), place, source))
    _placed(lambda: RouteTable((route.pattern(), None) for route in routes), "", source)
    _placed(lambda: check_names(routes), "", source)
    return tuple(routes)


def check_names(routes: Sequence[RouteSettings]) -> None:
    """Raises ``ConfigError`` for two routes of one name: their counters and gates could not be told apart."""
    names: dict[str, int] = {}
    for number, route in enumerate(routes):
        first = names.setdefault(route.label, number)
        if first != number:
            hint = f"routes[{first}] has it too"
            raise ConfigError(f"routes[{number}].name", route.label, "names that differ", hint=hint)


def _placed(make: Callable[[], T], where: str, source: str) -> T:
    """What ``make`` makes; its errors say where the settings stand."""
    try:
        return make()
    except ConfigError as error:
        path = error.path if not where else placed(error, where).path
        raise ConfigError(path, error.value, error.expected, source=source, hint=error.hint) from None
