"""The part of a service that follows its configuration: settings, pipelines, and who is asked and told.

::

    service = Service("shop", app, settings=Shop)
    payments = service.pipeline("payments", Timeout("2s"), Retry(3))

    @service.check_change
    async def currency_is_known(settings, bank): ...

    @service.on_change
    def resize(settings, pool): pool.resize(settings.pool)

``bind`` ties it to a ``Live``, which ``holdfast run`` makes. Under another server nothing is bound: then the settings
are their defaults, and the pipelines are what the code says.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload

from holdfast.core.clock import SYSTEM, Clock
from holdfast.core.errors import BootError, ConfigError
from holdfast.service.changes import Listener, Listeners, check_needs, listener

if TYPE_CHECKING:  # imported where they are needed: most services have no settings, and no pipelines
    from holdfast.config.live import Live
    from holdfast.config.schema import Schema
    from holdfast.config.snapshot import Snapshot
    from holdfast.core.classify import Classifier
    from holdfast.core.pipeline import Pipeline
    from holdfast.core.policy import Policy
    from holdfast.service.pipelines import Pipelines

CHECK_TIMEOUT: Final = "10s"
CHANGE_TIMEOUT: Final = "10s"

F = TypeVar("F", bound=Callable[..., Any])


class Configured(ABC):
    """What ``Service`` inherits. Declare in one thread. ``settings`` may be read from any.

    ``bind`` is for that thread before the event loop runs, or for the event loop.
    """

    def __init__(self, settings: Any = dict, clock: Clock = SYSTEM) -> None:
        self.settings_type: Final = settings
        self._defaults: Any = None
        if settings is not dict:
            _schema(settings)
        self._pipelines_clock = clock
        self._live: Live | None = None
        self._pipelines: Pipelines | None = None
        self._asked: list[Listener] = []
        self._told: list[Listener] = []
        self._listeners: Listeners | None = None
        self._ends: list[Callable[[], None]] = []
        self._opened = False

    # -- declarations

    @overload
    def check_change(self, function: F, /) -> F: ...
    @overload
    def check_change(self, *sections: str, timeout: str | float = ...) -> Callable[[F], F]: ...
    def check_change(self, *given: Any, timeout: str | float = CHECK_TIMEOUT) -> Any:
        """Declare a function that is asked before a change of ``sections`` takes hold, and about what holds at boot.

        It refuses by raising, or by returning a reason or False; then nothing changes, in no worker, and at boot the
        generation is refused. A parameter with the name of a section (``settings``, ``pipelines``, ...) gets it as it
        would be, ``snapshot`` gets them all, and any other names a resource. Without ``sections`` it is asked about
        those that it has as parameters, else about ``settings``. A plain function runs in a thread, so it may block.
        After ``timeout``, or while a resource that it needs is not open, the answer is no.
        """
        return self._declared(self._asked, "check_change", given, timeout)

    @overload
    def on_change(self, function: F, /) -> F: ...
    @overload
    def on_change(self, *sections: str, timeout: str | float = ...) -> Callable[[F], F]: ...
    def on_change(self, *given: Any, timeout: str | float = CHANGE_TIMEOUT) -> Any:
        """Declare a function that is told when a change of ``sections`` has taken hold; parameters as ``check_change``.

        It is not told at boot: its resources are opened with what holds then. A change before all resources are open is
        told once they are. A plain function runs on the event loop and must not block; an async one has ``timeout``.
        What it raises is logged.
        """
        return self._declared(self._told, "on_change", given, timeout)

    def pipeline(self, name: str, *policies: "Policy[Any]", classify: "Classifier | None" = None) -> "Pipeline":
        """The pipeline of that name, whose policies ``[pipelines]`` gives; ``policies`` hold when that has none for it.

        It can be used at once, and changes while calls are under way; a policy that stays, by kind and name, keeps its
        state. Ask for it again by the name alone. ``ConfigError`` for policies in a second place.
        """
        return self._all_pipelines().declare(name, policies, classify)

    def _declared(self, where: list[Listener], kind: str, given: tuple[Any, ...], timeout: str | float) -> Any:
        def declare(function: F) -> F:
            if self._listeners is not None:
                raise RuntimeError(f"{kind} is declared after the service was bound; declare it before")
            where.append(listener(function, sections, timeout, kind))
            return function

        if len(given) == 1 and not isinstance(given[0], str) and callable(given[0]):
            sections: tuple[str, ...] = ()
            return declare(given[0])
        sections = given
        return declare

    # -- while it runs

    @property
    def settings(self) -> Any:
        """The current ``[settings]``, of ``settings_type``: do not keep it, ask again. Before ``bind`` the defaults.

        ``ConfigError`` before ``bind`` when the type has settings that must be given.
        """
        if self._live is not None:
            return self._live.current["settings"]
        if self._defaults is None:
            from holdfast.config.document import Document
            from holdfast.config.mistakes import each

            try:
                self._defaults = _schema(self.settings_type).read(Document())["settings"]
            except ConfigError as error:
                names = ", ".join(one.path for one in each(error))
                hint = "the configuration is read when the service starts; give defaults to have them before"
                raise ConfigError(names, None, "a value", hint=hint) from None
        return self._defaults

    def bind(self, live: "Live") -> None:
        """Follow ``live``: its settings, pipelines, checks and hooks from now on, until the service stops.

        Before the resources are opened, since they are opened with these settings. The checks are not asked now:
        ``live.verify()`` does that once the resources are open. Raises ``ConfigErrors`` for pipelines that cannot be
        made, ``BootError`` when ``live`` has not read the settings as ``settings_type``; then nothing is bound.
        """
        missing = [name for name in self._sections() if name not in live.schema.sections]
        if missing:
            raise BootError(f"the configuration has no section {', '.join(missing)}, which {self!r} follows")
        if live.schema.types["settings"] is not self.settings_type:
            raise BootError(f"the settings of {self!r} were read as another type than {_named(self.settings_type)}")
        self._check_pipelines(live.current)
        self.unbind()
        self._follow_pipelines(live.current)
        self._live = live
        self._listeners = Listeners(self._asked, self._told, self._open_resources, opened=self._opened)
        # The pipelines first: those who are told afterwards find them as they are now.
        self._ends = [
            live.check(self._check_pipelines, "pipelines"),
            live.on_change(self._follow_pipelines, "pipelines"),
            *self._listeners.register(live),
        ]

    def unbind(self) -> None:
        """Follow no longer. Settings and pipelines stay as they are."""
        for end in self._ends:
            end()
        self._ends = []
        self._listeners = None

    # -- for the lifecycle

    async def resources_opened(self) -> None:
        """All resources are open: tell the hooks that need them what they have missed."""
        self._opened = True
        if self._listeners is not None and self._live is not None:
            await self._listeners.opened(self._live)

    def check_listeners(self, resources: Mapping[str, Any]) -> None:
        """``BootError`` when one needs a resource that is not among the declared ``resources``."""
        for kind, declared in (("check_change", self._asked), ("on_change", self._told)):
            for one in declared:
                check_needs(kind, one, resources)

    def resources_closing(self) -> None:
        """The resources are about to be closed: nobody is asked or told any more."""
        self._opened = False
        self.unbind()

    def _all_pipelines(self) -> "Pipelines":
        if self._pipelines is None:
            self._pipelines = self._new_pipelines()
        return self._pipelines

    def _new_pipelines(self) -> "Pipelines":
        from holdfast.service.pipelines import Pipelines

        return Pipelines(self._pipelines_clock)

    def _check_pipelines(self, snapshot: "Snapshot") -> None:
        if self._pipelines is not None or snapshot["pipelines"]:
            # In whatever thread: they become the service's only where they are followed.
            (self._pipelines or self._new_pipelines()).check(snapshot)

    def _follow_pipelines(self, snapshot: "Snapshot") -> None:
        if self._pipelines is not None or snapshot["pipelines"]:  # none so far, and none to come: nothing to remember
            self._all_pipelines().follow(snapshot)

    @abstractmethod
    def _open_resources(self) -> Mapping[str, Any]:
        """Those that the lifespan has opened, by their name."""

    def _sections(self) -> tuple[str, ...]:
        asked = (name for one in (*self._asked, *self._told) for name in one.sections)
        return tuple(dict.fromkeys(("settings", "pipelines", *asked)))


def _schema(kind: Any) -> "Schema":
    # Here, for the time it takes to import: most services have no settings.
    from holdfast.config.schema import Schema

    try:
        return Schema({"settings": kind})
    except TypeError as error:
        hint = f"{error}; give a msgspec struct, a dataclass or a pydantic model"
        raise ConfigError("settings", None, "a type that a configuration can fill", "Service", hint) from None


def _named(kind: Any) -> str:
    return getattr(kind, "__qualname__", None) or repr(kind)
