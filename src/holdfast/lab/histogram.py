"""A histogram of durations whose error is bounded and whose size does not grow with the count."""

import msgspec

# 64 linear steps in each power of two, as in HdrHistogram: a reading is at most 1/64 (1.6 %) too high.
STEP_BITS = 6
_LINEAR = 1 << (STEP_BITS + 1)
LONGEST = 4096.0
"""Durations above this many seconds are counted in the last bucket; ``worst`` stays exact."""


class Histogram(msgspec.Struct):
    """Counts of durations in log buckets. Not thread-safe; each thread or process keeps its own and merges.

    ``counts`` maps a bucket to how many durations fell into it; ``worst`` is exact, in seconds.
    """

    counts: dict[int, int] = {}
    total: int = 0
    worst: float = 0.0

    def record(self, seconds: float) -> None:
        """Count one duration. Negative ones count as 0."""
        micros = int(seconds * 1e6) if seconds < LONGEST else int(LONGEST * 1e6)
        if micros < _LINEAR:
            bucket = max(micros, 0)
        else:
            shift = micros.bit_length() - STEP_BITS - 1
            bucket = (shift << STEP_BITS) + (micros >> shift)
        counts = self.counts
        counts[bucket] = counts.get(bucket, 0) + 1
        self.total += 1
        self.worst = max(self.worst, seconds)

    def add(self, other: "Histogram") -> None:
        """Add the counts of another histogram to this one."""
        for bucket, count in other.counts.items():
            self.counts[bucket] = self.counts.get(bucket, 0) + count
        self.total += other.total
        self.worst = max(self.worst, other.worst)

    def quantile(self, share: float) -> float:
        """The duration, in seconds, that ``share`` (0 to 1) of all do not exceed; 0.0 when there are none.

        It is the upper edge of a bucket, so never too low; and never above ``worst``.
        """
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"a quantile is between 0 and 1, not {share!r}")
        wanted = share * self.total
        seen = 0
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            if seen >= wanted:
                return min(_upper_edge(bucket), self.worst)
        return self.worst


def _upper_edge(bucket: int) -> float:
    if bucket < _LINEAR:
        return (bucket + 1) / 1e6
    shift = (bucket >> STEP_BITS) - 1
    return ((bucket - (shift << STEP_BITS) + 1) << shift) / 1e6
