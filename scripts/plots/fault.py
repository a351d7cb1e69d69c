"""An experiment: faults are turned up step by step, and the breaker around the dependency answers."""

import random

import style

from holdfast import Breaker, CircuitOpen, Fault, Pipeline
from holdfast.core.clock import VirtualClock

SEED = 7
SECONDS = 80
RATE = 50
STEPS = ((0, 0.0), (15, 0.2), (30, 0.6), (55, 0.0))


def run() -> dict[str, list[int]]:
    """What became of the calls of each second."""
    clock = VirtualClock(start=0.0)
    chance = random.Random(SEED)
    fault = Fault(abort=ConnectionResetError, random=SEED)
    pipeline = Pipeline("inventory", Breaker(), fault, clock=clock)
    seen = {kind: [0] * SECONDS for kind in ("answered", "fault", "refused")}
    steps = list(STEPS)
    while clock.now() < SECONDS:
        second = int(clock.now())
        if steps and clock.now() >= steps[0][0]:
            fault.update(rate=steps.pop(0)[1])
        try:
            pipeline.call(lambda: None)
            seen["answered"][second] += 1
        except CircuitOpen:
            seen["refused"][second] += 1
        except ConnectionResetError:
            seen["fault"][second] += 1
        clock.advance(chance.expovariate(RATE))
    return seen


def main() -> None:
    made, plot = style.figure(height=2.8)
    seen = run()
    kinds = {"answered": style.COLOURS[0], "fault": style.COLOURS[1], "refused": style.COLOURS[3]}
    labels = ("answered", "fault injected", "refused by the breaker")
    plot.stackplot(
        range(SECONDS), [seen[kind] for kind in kinds], labels=labels, colors=list(kinds.values()), step="post"
    )
    for (at, rate), (until, _) in zip(STEPS, (*STEPS[1:], (SECONDS, 0.0)), strict=True):
        plot.text((at + until) / 2, RATE * 1.4, f"rate={rate:g}", ha="center")
        plot.axvline(at, color="#57606a", linewidth=0.8, linestyle=":")
    plot.set_ylim(0, RATE * 1.9)
    plot.set_ylabel("calls a second")
    plot.set_xlabel("time, s")
    plot.legend(loc="upper center", ncols=3)
    style.save(made, "fault")


if __name__ == "__main__":
    main()
