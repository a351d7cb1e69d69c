"""Runs asyncio code in every order in which its tasks might take their turns.

An event loop runs what is ready in the order in which it became so. Real traffic makes other orders. Here
the loop asks at each turn which of the ready callbacks goes first; one run after the other, the answers go
through all combinations (depth first, as stateless model checkers do: Godefroid, "Model Checking for Programming
Languages using VeriSoft", POPL 1997), or, past a limit, through random ones.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVarTuple, Unpack

import msgspec

from holdfast.core.clock import JumpingSelector, VirtualClock, VirtualLoop

Ts = TypeVarTuple("Ts")

ORDERS_LIMIT: Final = 2_000
"""Orders that are tried unless the test says otherwise."""
CHOICES_LIMIT: Final = 10_000
"""Choices in one run; a run with more is probably endless."""


class Explored(msgspec.Struct, frozen=True):
    """``orders`` were run; ``complete`` when those were all there are."""

    orders: int
    complete: bool


class OrderFailed(AssertionError):
    """The scenario failed in one order: ``schedule`` brings it back, as ``every_order(..., schedule=...)``."""

    def __init__(self, schedule: tuple[int, ...], order: int) -> None:
        self.schedule = schedule
        super().__init__(f"failed in order {order}; run it again alone with schedule={schedule}")


def every_order(
    scenario: Callable[[], Coroutine[Any, Any, object]],
    *,
    limit: int = ORDERS_LIMIT,
    seed: int = 0,
    schedule: tuple[int, ...] | None = None,
) -> Explored:
    """Run ``scenario()`` once for each order of its tasks' turns, on a virtual clock of its own each time.

    Up to half of ``limit`` the orders are gone through one by one; if there are more, the other half is
    chosen at random from ``seed``. A scenario must do the same thing in the same order: no real time, no
    threads, no randomness of its own. Raises ``OrderFailed`` from the first exception. ``schedule`` runs one order.
    """
    if schedule is not None:
        _run(scenario, _Choices(schedule), 0)
        return Explored(1, complete=False)
    done = 0
    following: tuple[int, ...] | None = ()
    while following is not None and done < max(1, limit // 2):
        choices = _Choices(following)
        _run(scenario, choices, done)
        done += 1
        following = choices.following()
    if following is None:
        return Explored(done, complete=True)
    while done < limit:
        _run(scenario, _Choices((), random.Random(f"{seed}/{done}")), done)  # noqa: S311 - an order, not a secret
        done += 1
    return Explored(done, complete=False)


class _Choices:
    """The answers of one run: given ones first, then always the first, or random ones."""

    def __init__(self, given: tuple[int, ...], chance: random.Random | None = None) -> None:
        self.given = given
        self.made: list[tuple[int, int]] = []
        self._chance = chance

    def choose(self, count: int) -> int:
        number = len(self.made)
        if number == CHOICES_LIMIT:
            self.made.append((0, 1))
            raise RuntimeError(f"more than {CHOICES_LIMIT} turns; is the scenario endless?")
        if number > CHOICES_LIMIT:  # the loop is ending what is left
            return 0
        if number < len(self.given):
            choice = min(self.given[number], count - 1)
        else:
            choice = self._chance.randrange(count) if self._chance else 0
        self.made.append((choice, count))
        return choice

    @property
    def schedule(self) -> tuple[int, ...]:
        return tuple(choice for choice, _ in self.made)

    def following(self) -> tuple[int, ...] | None:
        """The next order, depth first; None after the last."""
        made = list(self.made)
        while made:
            choice, count = made.pop()
            if choice + 1 < count:
                return (*(earlier for earlier, _ in made), choice + 1)
        return None


def _run(scenario: Callable[[], Coroutine[Any, Any, object]], choices: _Choices, order: int) -> None:
    clock = VirtualClock()
    try:
        clock.run(scenario(), loop=lambda clock, selector: _ChoosingLoop(clock, selector, choices))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # whatever was wrong; a leaked cancellation and pytest's own are no ``Exception``
        raise OrderFailed(choices.schedule, order) from error


class _ChoosingLoop(VirtualLoop):
    """Runs one ready callback a turn: the chosen one."""

    def __init__(self, clock: VirtualClock, selector: JumpingSelector, choices: _Choices) -> None:
        super().__init__(clock, selector)
        self._choices = choices

    def call_at(
        self, when: float, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Any = None
    ) -> asyncio.TimerHandle:
        # A timer that falls due becomes ready like all else, so that those of one moment run in every order too.
        def run() -> None:
            if not timer.cancelled():
                callback(*args)

        timer = super().call_at(when, lambda: self.call_soon(run, context=context), context=context)
        return timer

    def _run_once(self) -> None:
        ready: deque[asyncio.Handle] = self._ready  # type: ignore[attr-defined]
        waiting: list[asyncio.Handle] = []
        if len(ready) > 1:
            chosen = self._choices.choose(len(ready))
            waiting = [handle for number, handle in enumerate(ready) if number != chosen]
            first = ready[chosen]
            ready.clear()
            ready.append(first)
        super()._run_once()  # type: ignore[misc]
        ready.extendleft(reversed(waiting))
