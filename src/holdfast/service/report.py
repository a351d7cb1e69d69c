"""What became of everything when a service stopped, by name."""

from typing import Literal

import msgspec

Outcome = Literal["done", "failed", "overran", "stuck"]
"""``overran``: past its limit, ended by a cancellation. ``stuck``: not even the cancellation ended it."""


class TaskReport(msgspec.Struct, frozen=True):
    """Names of the tasks that were under way when the waiting began, by what became of them."""

    finished: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    cancelled: tuple[str, ...] = ()
    stuck: tuple[str, ...] = ()

    @property
    def clean(self) -> bool:
        """Whether every task came to its own end."""
        return not (self.failed or self.cancelled or self.stuck)


class StopStep(msgspec.Struct, frozen=True):
    """One step of a stop. ``seconds`` is how long it took; ``detail`` is one line, empty when all is well."""

    name: str
    outcome: Outcome
    seconds: float
    detail: str = ""


class StopReport(msgspec.Struct, frozen=True):
    """All steps of a stop in the order in which they ran."""

    steps: tuple[StopStep, ...] = ()
    background: TaskReport = TaskReport()
    spawned: TaskReport = TaskReport()

    @property
    def clean(self) -> bool:
        """Whether nothing failed and nothing was cut short. Cancelled background loops are no blemish."""
        loops = not (self.background.failed or self.background.stuck)
        return loops and self.spawned.clean and all(step.outcome == "done" for step in self.steps)

    @property
    def problems(self) -> tuple[str, ...]:
        """One line for everything that did not end well; empty when ``clean``."""
        lines = [f"{step.name}: {step.outcome}: {step.detail}" for step in self.steps if step.outcome != "done"]
        lines += [f"background {name}: failed" for name in self.background.failed]
        lines += [f"background {name}: stuck" for name in self.background.stuck]
        lines += [f"spawned {name}: failed" for name in self.spawned.failed]
        lines += [f"spawned {name}: cancelled" for name in self.spawned.cancelled]
        lines += [f"spawned {name}: stuck" for name in self.spawned.stuck]
        return tuple(lines)
