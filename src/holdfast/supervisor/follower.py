"""The configuration of one worker: what the supervisor sent, read with the app's types, changed with all others.

A change has two phases. ``Configure``: it is read, the app's checks are asked, and nothing changes; the answer goes to
the supervisor. ``Apply``, once every worker has agreed: it holds, and those who follow are told.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from holdfast.config.document import Document, Mark, Origin
from holdfast.config.history import History
from holdfast.config.live import Live
from holdfast.config.mistakes import Place, all_of, each, place_text
from holdfast.config.snapshot import Snapshot
from holdfast.core.errors import VALUE_LIMIT, BootError, ConfigError, HoldfastError
from holdfast.core.errortable import ErrorTable
from holdfast.server.http.engine import HttpEngine
from holdfast.service.service import Service
from holdfast.supervisor.channel import (
    Agreed,
    Apply,
    Configure,
    Configured,
    Disagreed,
    Forget,
    Message,
    Mistake,
)
from holdfast.supervisor.configuration import make_schema
from holdfast.supervisor.parcel import Parcel, unpack
from holdfast.supervisor.settings import Settings

logger = logging.getLogger("holdfast.worker")

HOLD_LIMIT: Final = 60.0
"""Seconds that what was agreed to waits for the word to apply it."""
MISTAKES_LIMIT: Final = 50
"""Mistakes of one refusal that are sent."""
WORDS_LIMIT: Final = 500
"""Characters of an unforeseen error."""
SECRETS_LIMIT: Final = 2000
"""Places of secrets that are sent."""

_CODE: Final = Origin("default", "the code")


class Follower:
    """Follows the supervisor. ``configure_log`` is called when the settings of the log have changed.

    Making one reads files, and belongs before the event loop; the rest belongs on it. Raises ``ConfigErrors`` for a
    configuration that the app's types do not take or that names exceptions that there are not, ``BootError`` for
    types that no configuration can fill.
    """

    def __init__(
        self, parcel: Parcel | None, service: Service, configure_log: Callable[[Settings], object] = lambda _: None
    ) -> None:
        try:
            schema = make_schema(service.settings_type)
        except TypeError as error:
            raise BootError(f"the settings of {service!r} cannot be read: {error}") from None
        self._routes = service.routes_from_code()
        self._configure_log = configure_log
        version, key = (parcel.version, parcel.key) if parcel is not None else (0, b"")
        document = self._document(parcel) if parcel is not None else with_routes(Document(), self._routes)
        self.live = Live(schema, document, history=History(keep=1), version=version, key=key)
        self._named = self.live.current.errors, error_table(self.live.current)
        self._checked = self._named
        service.bind(self.live)
        self.live.check(self._check_errors, "errors")
        self.live.on_change(self._take, "run", "admission", "routes", "errors")
        self.engine: HttpEngine | None = None
        """What is told of changes, once it is there."""
        self._decisions: dict[int, asyncio.Future[bool]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def errors(self) -> ErrorTable:
        """The table of errors that holds now."""
        return self._named[1]

    @property
    def secrets(self) -> tuple[Place, ...]:
        """The places of what the app's types know to be secret."""
        return _secrets(self.live.current)

    def hear(self, message: Configure | Apply | Forget, say: Callable[[Message], object]) -> None:
        """Do what the supervisor asks for, in the background; ``say`` takes the answers."""
        if not isinstance(message, Configure):
            decision = self._decisions.get(message.ticket)
            if decision is not None and not decision.done():
                decision.set_result(isinstance(message, Apply))
            return
        for decision in self._decisions.values():
            if not decision.done():  # the supervisor has gone on, and its word of that is lost
                decision.set_result(False)
        task = asyncio.get_running_loop().create_task(self._configure(message, say), name="configuration")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Follow no more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.live.close()

    async def _configure(self, order: Configure, say: Callable[[Message], object]) -> None:
        ticket, parcel = order.ticket, order.configuration
        decision: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        async def confirm(snapshot: Snapshot, _: object) -> None:
            if order.hold:
                say(Agreed(ticket, _secrets(snapshot)))
                async with asyncio.timeout(HOLD_LIMIT):
                    applied = await decision
                if not applied:
                    raise ConfigError("", None, "what all workers agree to")

        self._decisions[ticket] = decision
        try:
            applied = await self.live.propose(
                lambda: self._document(parcel), who="supervisor", version=parcel.version, confirm=confirm
            )
        except (HoldfastError, TimeoutError) as error:
            say(Disagreed(ticket, _mistakes(error)))
        except Exception as error:  # the types and checks of the app are its own code, and the answer is awaited
            logger.exception("a configuration could not be read")
            say(Disagreed(ticket, _mistakes(error)))
        else:
            say(Configured(ticket, parcel.version, parcel.digest, applied.deaf))
        finally:
            del self._decisions[ticket]

    def _document(self, parcel: Parcel) -> Document:
        return with_routes(unpack(parcel), self._routes)

    def _check_errors(self, snapshot: Snapshot) -> None:
        self._checked = snapshot.errors, error_table(snapshot)

    def _take(self, snapshot: Snapshot) -> None:
        if snapshot.errors is self._checked[0]:
            self._named = self._checked
        self._configure_log(snapshot.run)
        if self.engine is not None:
            self.engine.configure(snapshot.admission, snapshot.routes, self.errors)


def error_table(snapshot: Snapshot) -> ErrorTable:
    """The table that ``[errors]`` says. Imports the classes that it names; ``ConfigErrors`` for those there are not."""
    table = ErrorTable(snapshot.errors, source="")
    mistakes = []
    for one in table.mistakes():
        place: Place = ("errors", one.path.strip('"'))
        source = str(snapshot.origin(place))
        mistakes.append(ConfigError(place_text(place), one.value, one.expected, source, one.hint))
    if mistakes:
        raise all_of(mistakes)
    return table


def with_routes(document: Document, routes: Sequence[Mapping[str, Any]]) -> Document:
    """``document`` with the ``routes`` that code gives below its own; one with the same match or name wins there."""
    own = document.get(("routes",), [])
    if not routes or not isinstance(own, list):
        return document
    taken = {mark for route in own if isinstance(route, Mapping) for mark in _marks(route)}
    added = [route for route in routes if not taken & _marks(route)]
    if not added:
        return document
    mark = document.mark.of("routes") if "routes" in document.values else Mark(_CODE)
    inside: dict[str | int, Mark] = dict(mark.inside)
    for number, route in enumerate(added, len(own)):
        inside[number] = Mark(Origin("default", getattr(route, "where", _CODE.place)))
    marks = {**document.mark.inside, "routes": Mark(mark.origin, inside)}
    return Document({**document.values, "routes": [*own, *map(dict, added)]}, Mark(document.mark.origin, marks))


def _marks(route: Mapping[str, Any]) -> set[Any]:
    """What two entries for one route have in common: what it is for, or its name."""
    from holdfast.service.routes import condition  # most services give no routes in code

    return {condition(route), *([route["name"]] if route.get("name") else [])}


def _secrets(snapshot: Snapshot) -> tuple[Place, ...]:
    # Of the other sections, the supervisor knows it itself.
    return tuple(place for place in snapshot.secrets if place[0] == "settings")[:SECRETS_LIMIT]


def _mistakes(error: Exception) -> tuple[Mistake, ...]:
    if not isinstance(error, ConfigError):
        words = f"{type(error).__name__}: {' '.join(str(error).split())[:WORDS_LIMIT]}"
        error = ConfigError("", None, "a configuration that can take hold", hint=words)
    return tuple(
        Mistake(one.path, None if one.value is None else _shown(one.value), one.expected, one.source, one.hint)
        for one in each(error)[:MISTAKES_LIMIT]
    )


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # an int of more digits than Python prints
        text = f"a huge {type(value).__name__}"
    return text if len(text) <= VALUE_LIMIT else f"{text[: VALUE_LIMIT - 3]}..."
