"""Tells listeners of events in the order in which they happened, without a lock while it does."""

import functools
from collections import deque
from typing import Final

from holdfast.core.event import Event, Listeners

WAITING_LIMIT: Final = 1024
"""Events that wait while a listener is slow; the oldest are forgotten."""


class Announcer:
    """Between a policy that notes events while it holds its lock, and the listeners, who hear of them after that.

    While one thread tells, others leave their events to it, so nobody hears of two events at the same time or in
    the wrong order, also when a listener causes events itself. Safe from any thread, and without a lock from a
    finalizer or a signal handler: to look at ``_telling`` or ``_waiting`` and to store is one step (docs/adr/0002).
    """

    def __init__(self, listeners: Listeners) -> None:
        self._listeners = listeners
        self._waiting: deque[Event] = deque(maxlen=WAITING_LIMIT)
        self._telling = False

    def note(self, event: Event) -> None:
        """Keep ``event`` for the next ``tell``. Call it in the order in which events happen."""
        self._waiting.append(event)

    def tell(self) -> None:
        """Tell what was noted, unless somebody does so already. Hold no lock."""
        if not self._waiting or self._telling:
            return
        self._telling = True
        try:
            for _ in range(WAITING_LIMIT):
                if not self._waiting:
                    self._telling = False
                    return
                self._listeners.emit(functools.partial(_itself, self._waiting.popleft()))
        except BaseException:  # a listener was interrupted: the next one to tell goes on
            self._telling = False
            raise
        self._telling = False


def _itself(event: Event) -> Event:
    return event
