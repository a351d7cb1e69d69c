"""One target under atheris, in a process of its own: libFuzzer never returns, and ends with the first failure.

``python -m fuzz.guided TARGET [libFuzzer's options] CORPUS``, started by ``fuzz.__main__``.
"""

import random
import sys

import atheris

from fuzz.mutation import LONGEST

OWN: float = 0.75
"""The share of mutations that know the structure; the others are libFuzzer's, which go by what has been compared."""


def main() -> None:
    name, *options = sys.argv[1:]
    with atheris.instrument_imports(include=["holdfast"], enable_loader_override=False):
        from fuzz.targets import target_of

        target = target_of(name)

    def mutate(data: bytes, size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if rng.random() < OWN:
            return target.mutate(data, rng)[:size]
        changed: bytes = atheris.Mutate(data, size)
        return changed

    atheris.Setup([sys.argv[0], f"-max_len={LONGEST}", *options], target.run, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
