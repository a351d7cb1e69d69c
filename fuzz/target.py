"""What is fuzzed: a function of bytes, inputs to begin with, and a way to change one that keeps its structure."""

import random
from collections.abc import Callable
from typing import NamedTuple


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
    """So many inputs made of the seeds by up to eight mutations each, and the seeds themselves."""
    rng = random.Random(seed)
    made = list(target.seeds)
    while len(made) < count:
        data = rng.choice(target.seeds)
        for _ in range(rng.randint(1, 8)):
            data = target.mutate(data, rng)
        made.append(data)
    return made
