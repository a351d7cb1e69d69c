"""Six algorithms at 10 calls a second, asked 40 times a second after a second of silence."""

import style

from holdfast import Pipeline, RateLimit, RateLimited
from holdfast.core.clock import VirtualClock

SECONDS = 5.0
ASKED = 40
ALGORITHMS = ("token_bucket", "gcra", "sliding_counter", "sliding_log", "leaky_bucket", "warm_up")


def admitted(algorithm: str) -> tuple[list[float], list[int]]:
    """The times at which calls passed, and how many had by then."""
    clock = VirtualClock(start=0.0)
    pipeline = Pipeline("x", RateLimit("10/s", algorithm=algorithm), clock=clock)
    clock.advance(1.0)
    times, counts = [0.0], [0]
    for _ in range(int(SECONDS * ASKED)):
        try:
            pipeline.call(lambda: None)
        except RateLimited:
            pass
        else:
            times.append(clock.now() - 1.0)
            counts.append(counts[-1] + 1)
        clock.advance(1 / ASKED)
    return [*times, SECONDS], [*counts, counts[-1]]


def main() -> None:
    made, plot = style.figure(height=3.4)
    plot.plot([0, SECONDS], [0, 10 * SECONDS], linestyle=":", color="#57606a", label="10 a second")
    for algorithm in ALGORITHMS:
        plot.step(*admitted(algorithm), where="post", linewidth=1.2, label=algorithm)
    plot.set_xlabel("time, s")
    plot.set_ylabel("calls admitted so far")
    plot.legend(loc="upper left", ncols=2)
    style.save(made, "rate-limit")


if __name__ == "__main__":
    main()
