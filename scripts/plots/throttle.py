"""A dependency that can take less, then nothing, then everything again: what a throttle lets through to it."""

import random

import style

from holdfast.core.clock import VirtualClock
from holdfast.core.errors import Overloaded
from holdfast.core.pipeline import Pipeline
from holdfast.resilience.throttle import Throttle

SEED = 9
OFFERED = 100
"""Calls a second that callers want."""
SECONDS = 150


def capacity(second: int) -> int:
    """How many calls the dependency accepts in a second; it fails the others."""
    if 20 <= second < 60:
        return 30
    return 0 if 60 <= second < 90 else 1000


class Failed(Exception):
    """The dependency did not accept the call."""


def run(throttle: Throttle) -> tuple[list[int], list[int]]:
    """Calls that reached the dependency, and those it accepted, in each second."""
    clock = VirtualClock(start=0.0)
    pipeline = Pipeline("stock", throttle, clock=clock)
    chance = random.Random(SEED)
    sent, accepted = [0] * SECONDS, [0] * SECONDS

    def serve() -> None:
        second = int(clock.now())
        sent[second] += 1
        if accepted[second] >= capacity(second):
            raise Failed
        accepted[second] += 1

    for second in range(SECONDS):
        for at in sorted(second + chance.random() for _ in range(OFFERED)):
            clock.move_to(at)
            try:
                pipeline.call(serve)
            except (Failed, Overloaded):
                continue
    return sent, accepted


def main() -> None:
    made, axes = style.figure(2)
    for panel, k, place in zip(axes, (2.0, 1.1), ("lower right", "center right"), strict=True):
        sent, accepted = run(Throttle(k, seed=SEED))
        panel.plot([OFFERED] * SECONDS, label="wanted", color=style.COLOURS[5], ls="--", lw=1)
        panel.plot(sent, label=f"sent, Throttle({k:g})", color=style.COLOURS[0])
        panel.plot(accepted, label="accepted", color=style.COLOURS[2])
        panel.set_ylabel("calls, 1/s")
        panel.legend(loc=place)
    axes[1].set_xlabel("time, s; the dependency takes 30/s from 20 s on, nothing from 60 s to 90 s")
    style.save(made, "throttle")


if __name__ == "__main__":
    main()
