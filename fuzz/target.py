"""What is fuzzed: a function of bytes, inputs to begin with, and a way to change one that keeps its structure."""

import random
from collections.abc import Callable
from typing import Final, NamedTuple

CHANGES: Final = (1, 1, 2, 3, 5, 8)
"""How many changes lie between a seed and an input: few reach further in, many further away."""


class Broken(AssertionError):
    """A promise that was not kept."""


class Target(NamedTuple):
    """``run`` raises for an input that breaks something, and returns for all others; it keeps nothing that would make
    the next run another one, but where it says so. ``mutate`` gives a new input, the same for the same randomness."""

    name: str
    about: str
    seeds: tuple[bytes, ...]
    run: Callable[[bytes], None]
    mutate: Callable[[bytes, random.Random], bytes]


def hold(condition: object, what: str) -> None:
    """Raise ``Broken`` unless ``condition`` is true: unlike ``assert``, also under ``python -O``."""
    if not condition:
        raise Broken(what)


def inputs(target: Target, seed: int, count: int) -> list[bytes]:
    """So many inputs, the seeds among them."""
    rng = random.Random(seed)
    return [*target.seeds, *(another(target, rng) for _ in range(count - len(target.seeds)))]


def another(target: Target, rng: random.Random) -> bytes:
    """One of the seeds, changed a few times."""
    data = rng.choice(target.seeds)
    for _ in range(rng.choice(CHANGES)):
        data = target.mutate(data, rng)
    return data
