"""What callers get from a dependency that is down for twenty seconds, without a fallback and with one."""

import random

import style

from holdfast import Fallback, Pipeline
from holdfast.core.clock import VirtualClock

SEED = 7
SECONDS = 60
RATE = 40
KEYS = 60
DOWN = (20, 40)
LAST_GOOD = 10.0


def answers(*policies: Fallback) -> dict[str, list[float]]:
    """Kind of answer -> calls a second."""
    clock = VirtualClock(start=0.0)
    chance = random.Random(SEED)
    pipeline = Pipeline("prices", *policies, clock=clock)
    seen = {kind: [0.0] * SECONDS for kind in ("real", "old", "spare", "error")}

    @pipeline
    def price(sku: int) -> tuple[str, float]:
        if DOWN[0] <= clock.now() < DOWN[1]:
            raise ConnectionError
        return "real", clock.now()

    for number in range(SECONDS * RATE):
        clock.move_to(number / RATE)
        second = number // RATE
        try:
            answer = price(int(chance.paretovariate(0.8)) % KEYS)
        except ConnectionError:
            seen["error"][second] += 1
        else:
            kind = "spare" if answer is None else "real" if answer[1] == clock.now() else "old"
            seen[kind][second] += 1
    return seen


def draw(axes: object, seen: dict[str, list[float]], labels: dict[str, tuple[str, str]]) -> None:
    kinds = list(labels)
    axes.stackplot(  # type: ignore[attr-defined]
        range(SECONDS),
        [seen[kind] for kind in kinds],
        labels=[labels[kind][0] for kind in kinds],
        colors=[labels[kind][1] for kind in kinds],
        step="post",
    )
    axes.set_ylabel("calls a second")  # type: ignore[attr-defined]
    axes.legend(loc="lower left", ncols=4, frameon=True)  # type: ignore[attr-defined]


def main() -> None:
    made, (above, below) = style.figure(2, height=2.2)
    blue, red, green, amber = style.COLOURS[:4]
    draw(above, answers(), {"real": ("answered", blue), "error": ("error", red)})
    above.set_title("without", loc="left")
    labels = {"real": ("answered", blue), "old": ("last good result", green), "spare": ("value", amber)}
    draw(below, answers(Fallback(None, last_good=LAST_GOOD)), labels)
    below.set_title(f"Fallback(value=None, last_good={LAST_GOOD:g})", loc="left")
    below.set_xlabel("time, s")
    style.save(made, "fallback")


if __name__ == "__main__":
    main()
