"""Facts that happened, and those who want to hear of them."""

import inspect
import logging
import threading
from collections.abc import Callable

import msgspec

logger = logging.getLogger(__name__)


class Event(msgspec.Struct, frozen=True, tag=True):
    """A frozen fact. Derive one class per kind; its name is the tag (``type``) when it is written out.

    ``at`` is Unix seconds (``clock.wall()``).
    """

    at: float


Callback = Callable[[Event], object]


class Listeners:
    """Whoever listens to one source of events. True when there is anybody. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Replaced, never changed: ``emit`` reads it without the lock. The object() makes each entry unique.
        self._entries: tuple[tuple[object, Callback], ...] = ()
        self.active = False
        """Whether anybody listens. An attribute, since refusals look at it."""

    def __bool__(self) -> bool:
        return self.active

    def subscribe(self, callback: Callback) -> Callable[[], None]:
        """Call ``callback`` with every later event, in the emitter's thread; it must not block.

        Returns what ends the subscription; calling that twice does no harm. A callback that is subscribed
        twice is called twice. ``TypeError`` for a coroutine function, which nobody would await.
        """
        if inspect.iscoroutinefunction(callback):
            raise TypeError(f"{callback!r} is a coroutine function; a listener is a plain function")
        entry = (object(), callback)
        with self._lock:
            self._entries = (*self._entries, entry)
            self.active = True

        def unsubscribe() -> None:
            with self._lock:
                self._entries = tuple(kept for kept in self._entries if kept is not entry)
                self.active = bool(self._entries)

        return unsubscribe

    def emit(self, build: Callable[[], Event]) -> None:
        """Tell everybody the event that ``build`` makes; with nobody there it is not even built.

        Never raises an ``Exception``: to observe must not disturb what is observed. Failures are logged.
        """
        entries = self._entries
        if not entries:
            return
        try:
            event = build()
        except Exception:  # a broken event must not break its emitter only when somebody listens
            logger.exception("an event could not be built by %r", build)
            return
        for _, callback in entries:
            try:
                callback(event)
            except Exception:  # one listener's fault is neither the emitter's nor the next listener's
                logger.exception("listener %r failed on %s", callback, type(event).__name__)
