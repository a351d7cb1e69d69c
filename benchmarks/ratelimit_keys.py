"""Ten million keys, each seen once: the memory of a keyed limit. ``python -m benchmarks.ratelimit_keys [--keys N]``."""

import argparse
import sys
import time

import psutil

from holdfast.core.clock import VirtualClock
from holdfast.core.pipeline import Pipeline
from holdfast.resilience.ratelimit import RateLimit

STEPS = 10
KEYS_A_SECOND = 100_000
"""New keys in a second of virtual time."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=10_000_000)
    keys = parser.parse_args().keys
    clock = VirtualClock()
    limit = RateLimit("1/s", burst=5, per="key")
    pipeline = Pipeline("keys", limit, clock=clock)
    memory = psutil.Process().memory_info
    start = memory().rss
    began = time.perf_counter()
    print("| keys seen | MiB more than at the start | keys held | refused | seconds |")
    print("|----------:|---------------------------:|----------:|--------:|--------:|")
    for step in range(STEPS):
        for number in range(step * keys // STEPS, (step + 1) * keys // STEPS):
            if number % KEYS_A_SECOND == 0:
                clock.advance(1.0)
            pipeline.bind(key=f"user-{number}").call(_nothing)
        held = limit.snapshot()["keys"]
        more = (memory().rss - start) / 2**20
        seen, spent = (step + 1) * keys // STEPS, time.perf_counter() - began
        print(f"| {seen:,} | {more:.1f} | {held:,} | {limit.refused} | {spent:.0f} |", flush=True)
    return 0


def _nothing() -> None:
    return None


if __name__ == "__main__":
    sys.exit(main())
