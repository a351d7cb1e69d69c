"""One circuit for each key, and never more than a limit."""

from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Final

from holdfast.resilience.circuit.settings import BreakerSettings
from holdfast.resilience.circuit.states import CLOSED, Circuit

TRIES: Final = 32
"""Keys that are looked at to find one to forget."""
SHOWN: Final = 20
"""Keys that a snapshot describes."""


class Circuits:
    """Circuits by key. ``by_key`` may be read without the owner's lock; every method needs it.

    When there is no room, the key that was used the longest time ago makes way, nearly: this is the second-chance
    algorithm, in which a use costs one store. Keys whose circuit is not closed stay as long as there are others.
    """

    def __init__(self, make: Callable[[], Circuit], limit: int) -> None:
        self.by_key: OrderedDict[Hashable, Circuit] = OrderedDict()
        self._make = make
        self._limit = limit
        self._forgotten = self._opened = self._late = 0

    def find_or_make(self, key: Hashable) -> Circuit:
        """The circuit of ``key``."""
        circuit = self.by_key.get(key)
        if circuit is None:
            self._make_room(1)
            circuit = self.by_key[key] = self._make()
        return circuit

    def apply(self, settings: BreakerSettings, now: float) -> None:
        """Let all of them go by other settings."""
        self._limit = settings.keys
        self._make_room(0)
        for circuit in self.by_key.values():
            circuit.apply(settings, now)

    def snapshot(self, now: float) -> dict[str, Any]:
        """How many there are in each state, and those that are not closed, as far as there is room for them."""
        circuits = self.by_key.values()
        unwell = [(key, circuit) for key, circuit in self.by_key.items() if circuit.state is not CLOSED]
        return {
            "keys": len(self.by_key),
            "forgotten": self._forgotten,
            "states": dict(Counter(circuit.state.value for circuit in circuits)),
            "opened": self._opened + sum(circuit.opened for circuit in circuits),
            "late": self._late + sum(circuit.late for circuit in circuits),
            "unwell": {str(key): circuit.snapshot(now) for key, circuit in unwell[:SHOWN]},
        }

    def _make_room(self, needed: int) -> None:
        while len(self.by_key) > self._limit - needed:
            self._forget_one()

    def _forget_one(self) -> None:
        for _ in range(TRIES):
            key, circuit = next(iter(self.by_key.items()))
            if circuit.state is CLOSED and not circuit.used:
                break
            circuit.used = False
            self.by_key.move_to_end(key)
        key, circuit = self.by_key.popitem(last=False)
        self._forgotten += 1
        self._opened += circuit.opened
        self._late += circuit.late
