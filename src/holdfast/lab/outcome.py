"""What became of the calls of a simulation, and what could have become of them at best."""

from typing import Final, NamedTuple

from holdfast.core.context import Criticality

GOOD: Final = "good"
REFUSED: Final = "refused"
LATE: Final = "late"


class Outcome(NamedTuple):
    """What became of one logical call; ``born`` when it was first sent, ``ended`` when its client knew."""

    born: float
    ended: float
    kind: str
    criticality: Criticality
    user: int


class Result:
    """The outcomes, in the order in which clients learnt of them, and the latency of everything that was served."""

    def __init__(self, capacity: float) -> None:
        self.capacity = capacity
        self.outcomes: list[Outcome] = []
        self.served: list[tuple[float, float]] = []

    def goodput(self, begin: float, end: float, criticality: Criticality | None = None) -> float:
        """Good answers between the two times, as a share of what the server could have given."""
        good = sum(
            begin <= one.ended < end and one.kind == GOOD and criticality in (None, one.criticality)
            for one in self.outcomes
        )
        return good / ((end - begin) * self.capacity)

    def success(self, begin: float, end: float, criticality: Criticality | None = None) -> float:
        """The share of good ones among the calls that were first sent between the two times; 1.0 of none."""
        asked = [one for one in self.outcomes if begin <= one.born < end and criticality in (None, one.criticality)]
        return sum(one.kind == GOOD for one in asked) / len(asked) if asked else 1.0

    def series(self, step: float, end: float) -> list[float]:
        """The goodput of each ``step`` seconds."""
        counts = [0] * round(end / step)
        for one in self.outcomes:
            slot = int(one.ended / step)
            if one.kind == GOOD and slot < len(counts):
                counts[slot] += 1
        return [count / (step * self.capacity) for count in counts]

    def latency(self, begin: float, end: float, share: float) -> float:
        """The ``share`` quantile of the seconds that calls served between the two times took; 0.0 of none."""
        took = sorted(latency for ended, latency in self.served if begin <= ended < end)
        return took[min(len(took) - 1, int(share * len(took)))] if took else 0.0


def ceiling(load: float, refusal: float = 0.05) -> float:
    """The most goodput that the price of refusals leaves, as a share of the capacity, at ``load`` times the capacity.

    ``refusal`` is what a refusal costs, as a share of what a served call costs. Let ``g`` be the goodput. The loop
    spends ``g`` of its time on good answers, and ``(load - g) * refusal`` on refusing the rest; at best that is
    all of its time: ``g + (load - g) * refusal = 1``, so ``g = (1 - load * refusal) / (1 - refusal)``.
    """
    return min(load, max(0.0, (1 - load * refusal) / (1 - refusal)))
