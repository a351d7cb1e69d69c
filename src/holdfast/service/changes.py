"""Functions of an app that are asked before its configuration changes, and told when it has."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec

from holdfast.core.errors import BootError, ConfigError
from holdfast.service.declaration import Needs, is_async, named, needs_of, offer, seconds

if TYPE_CHECKING:  # whoever binds a service has these; importing them takes longer than the rest of this room
    from holdfast.config.live import Live
    from holdfast.config.snapshot import Snapshot

SECTIONS: Final = ("run", "admission", "routes", "errors", "pipelines", "settings")
"""The sections of a configuration. A parameter of one of these names gets that section."""
SNAPSHOT: Final = "snapshot"
"""The parameter that gets all of them."""
ROUNDS_LIMIT: Final = 100
"""How often those that missed a change are told of newer ones before they are told with everybody else."""


class Listener(msgspec.Struct, frozen=True):
    """A declaration: for which ``sections``, and what its parameters ``want``, by name; ``needs`` are resources."""

    name: str
    function: Callable[..., Any]
    sections: tuple[str, ...]
    wants: tuple[str, ...]
    needs: Needs
    timeout: float

    def arguments(self, snapshot: "Snapshot", resources: Mapping[str, Any]) -> dict[str, Any]:
        """What it is called with. ``resources`` must have all that it needs."""
        found = {name: snapshot if name == SNAPSHOT else snapshot[name] for name in self.wants}
        return found | self.needs.arguments(resources)

    def closed(self, resources: Mapping[str, Any]) -> tuple[str, ...]:
        """The resources that it needs and that are not open."""
        return tuple(name for name in self.needs.required if name not in resources)


def listener(function: Callable[..., Any], sections: tuple[str, ...], timeout: str | float, kind: str) -> Listener:
    """The declaration that ``function`` makes. ``ConfigError`` when it is wrong.

    Without ``sections`` it is for those that its parameters name, ``snapshot`` being all; with none of them, for
    ``settings``.
    """
    own = named(function, None, kind)
    who = f"{kind} {own!r}"
    for section in sections:
        if section not in SECTIONS:
            raise ConfigError("section", section, "a section of the configuration", who, offer(section, SECTIONS)[2:])
    needs = needs_of(function, who)
    parameters = needs.required + needs.optional
    wants = tuple(name for name in parameters if name in SECTIONS or name == SNAPSHOT)
    asked = SECTIONS if SNAPSHOT in wants else wants
    return Listener(
        name=own,
        function=function,
        sections=sections or asked or ("settings",),
        wants=wants,
        needs=Needs(_without(needs.required, wants), _without(needs.optional, wants)),
        timeout=seconds(timeout, "timeout", who),
    )


def check_needs(kind: str, declared: Listener, resources: Mapping[str, Any]) -> None:
    """``BootError`` when ``declared`` needs a resource that nobody declares, or one with the name of a section."""
    declared.needs.check(resources, f"{kind} {declared.name!r}")
    for name in declared.wants:
        if name in resources:
            raise BootError(
                f"{kind} {declared.name!r} asks for {name!r}, which is a resource and a part of the configuration; "
                "give the resource another name"
            )


class Listeners:
    """Ties declarations to a ``Live``. Belongs to one event loop.

    Resources come and go. A check that needs one which is not open refuses: nobody can say whether the change is good.
    What is told and needs one waits: ``opened`` tells it of what holds then, in case it has missed a change.
    """

    def __init__(
        self,
        checks: list[Listener],
        told: list[Listener],
        resources: Callable[[], Mapping[str, Any]],
        *,
        opened: bool,
    ) -> None:
        self._checks = checks
        self._told = told
        self._resources = resources
        self._missed: list[Listener] = []
        self._open = opened

    def register(self, live: "Live") -> list[Callable[[], None]]:
        """Have all of them asked and told. Returns what ends that."""
        ends = [live.check(self._asking(one), *one.sections, timeout=one.timeout) for one in self._checks]
        ends += [live.on_change(self._telling(one), *one.sections, timeout=one.timeout) for one in self._told]
        return ends

    async def opened(self, live: "Live") -> None:
        """All resources are open: tell those of the newest configuration that have missed it."""
        from holdfast.config.hooks import Hook

        for _ in range(ROUNDS_LIMIT):
            missed, self._missed = self._missed, []
            if not missed:
                break
            for one in missed:
                call = self._call(one)
                await Hook(call, one.sections, one.timeout).told(live.current)
        self._open = True

    def _asking(self, one: Listener) -> Callable[["Snapshot"], Any]:
        call = self._call(one)

        def refuse(snapshot: "Snapshot") -> None:
            if closed := one.closed(self._resources()):
                hint = f"the service is starting or ending: {', '.join(closed)} is not open; try again"
                place = one.sections[0] if len(one.sections) == 1 else ""
                raise ConfigError(place, None, f"what {one.name} agrees to", hint=hint)

        if is_async(one.function):

            async def ask_async(snapshot: "Snapshot") -> Any:
                refuse(snapshot)
                return await call(snapshot)

            return _called(ask_async, one)

        def ask(snapshot: "Snapshot") -> Any:
            refuse(snapshot)
            return call(snapshot)

        return _called(ask, one)

    def _telling(self, one: Listener) -> Callable[["Snapshot"], Any]:
        call = self._call(one)

        def tell(snapshot: "Snapshot") -> Any:
            if (one.needs.required or one.needs.optional) and not self._open:
                if one not in self._missed:
                    self._missed.append(one)
                return None
            return call(snapshot)

        return _called(tell, one)

    def _call(self, one: Listener) -> Callable[["Snapshot"], Any]:
        return _called(lambda snapshot: one.function(**one.arguments(snapshot, self._resources())), one)


def _called(call: Callable[["Snapshot"], Any], one: Listener) -> Callable[["Snapshot"], Any]:
    """``call`` under the name by which messages call it."""
    call.__qualname__ = one.name
    return call


def _without(names: tuple[str, ...], others: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in names if name not in others)
