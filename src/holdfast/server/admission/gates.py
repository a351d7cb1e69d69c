"""The gates of routes: made of their settings, and kept with what they have learned when the settings change."""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from holdfast.core.clock import SYSTEM, Clock
from holdfast.core.context import Criticality
from holdfast.core.settings import GateSettings
from holdfast.server.admission.settings import AdmissionSettings, RouteSettings, check_names
from holdfast.server.admission.steps import Step

if TYPE_CHECKING:  # policies are imported with the first that is asked for: most services have none here
    from holdfast.core.policy import Gate

OTHERS: Final = "others"
"""What requests that no route fits are called. They pass the gates of the process."""


class Lane(msgspec.Struct, frozen=True, eq=False):
    """One route's way in: its name and gates, outermost first, its time limit and its criticality."""

    name: str
    gates: "tuple[Gate[Any], ...]"
    seconds: float | None = None
    criticality: Criticality | None = None
    must_finish: bool = False
    """Whether its handler goes on when its client has gone."""
    limited: bool = True
    """Whether it counts for the limit of handlers that run at a time."""


class Prepared(msgspec.Struct, frozen=True, eq=False):
    """What ``Gates.prepare`` has made: lanes that may be used once ``commit`` has been called."""

    lanes: tuple[Lane, ...]
    others: Lane
    shared: "dict[str, Gate[Any]]"
    changes: "tuple[tuple[Gate[Any], GateSettings], ...]"
    owned: "dict[str, tuple[Gate[Any], ...]]"


class Gates:
    """The gates that there are now: those of the process, and those of each route by its name.

    Belongs to one thread; the gates themselves may be used from any.
    """

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self._clock = clock
        self._shared: dict[str, Gate[Any]] = {}
        self._owned: dict[str, tuple[Gate[Any], ...]] = {}

    def prepare(self, settings: AdmissionSettings, routes: Sequence[RouteSettings]) -> Prepared:
        """Make what ``settings`` and ``routes`` ask for; of what there is nothing changes yet.

        A gate stays, with its state, when its route has the same name, and it has the same kind and name; of the
        process's gates the clients' rate limit and the adaptive limit. ``ConfigError`` for two routes of one name.
        """
        check_names(routes)
        changes: list[tuple[Gate[Any], GateSettings]] = []
        shared: dict[str, Gate[Any]] = {}
        clients = settings.per_client.limit()
        if clients is not None:
            from holdfast.resilience.ratelimit import RateLimit

            shared["clients"] = self._kept(self._shared.get("clients"), RateLimit, clients, changes)
        # Where requests wait for their turn the limit says how many may begin, and is no gate.
        if settings.limit is not None and not settings.queue:
            from holdfast.resilience.adaptive import AdaptiveLimit

            shared["concurrency"] = self._kept(self._shared.get("concurrency"), AdaptiveLimit, settings.limit, changes)
        owned: dict[str, tuple[Gate[Any], ...]] = {}
        lanes = []
        for route in routes:
            name = route.label
            before = self._owned.get(name, ())
            gates = [self._of_step(step, before, shared, changes) for step in route.steps]
            present = tuple(gate for gate in gates if gate is not None)
            owned[name] = tuple(gate for gate in present if gate is not shared.get("concurrency"))
            first = (shared["clients"],) if "clients" in shared else ()
            limited = any(step.policy is None for step in route.steps)
            lanes.append(Lane(name, (*first, *present), route.seconds, route.level, route.must_finish, limited))
        return Prepared(tuple(lanes), Lane(OTHERS, tuple(shared.values())), shared, tuple(changes), owned)

    def commit(self, prepared: Prepared) -> None:
        """Give the gates that stay their new settings, and forget those that are gone. Cannot fail.

        Requests that are under way exit the gates that they have entered.
        """
        for gate, settings in prepared.changes:
            gate.replace_settings(settings)
        self._shared = prepared.shared
        self._owned = prepared.owned

    def each(self) -> "Iterable[tuple[str, Gate[Any]]]":
        """All gates, with the name of their route; those of the process have an empty one."""
        for gate in self._shared.values():
            yield "", gate
        for name, gates in self._owned.items():
            for gate in gates:
                yield name, gate

    def _of_step(
        self,
        step: Step,
        before: "tuple[Gate[Any], ...]",
        shared: "dict[str, Gate[Any]]",
        changes: "list[tuple[Gate[Any], GateSettings]]",
    ) -> "Gate[Any] | None":
        if step.policy is None or step.settings is None:
            return shared.get("concurrency")
        name = step.settings.name or step.policy.kind
        # No two of a route are of one kind and name.
        old = next((gate for gate in before if type(gate) is step.policy and gate.name == name), None)
        return self._kept(old, step.policy, step.settings, changes)

    def _kept(
        self,
        old: "Gate[Any] | None",
        policy: "type[Gate[Any]]",
        settings: GateSettings,
        changes: "list[tuple[Gate[Any], GateSettings]]",
    ) -> "Gate[Any]":
        from holdfast.resilience.rates.settings import RateLimitSettings

        if isinstance(settings, RateLimitSettings) and settings.clock is None:
            settings = msgspec.structs.replace(settings, clock=self._clock)
        if old is None:
            make: Callable[[GateSettings], Any] = policy.from_settings
            gate: Gate[Any] = make(settings)
            return gate
        if old.settings != settings:
            changes.append((old, settings))
        return old
