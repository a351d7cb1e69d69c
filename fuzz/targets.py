"""All targets, by name. Each is imported when it is asked for: under atheris that is when it is instrumented."""

from importlib import import_module
from typing import Final

from fuzz.target import Target

NAMES: Final = ("connection", "documents", "matching", "identity")


def target_of(name: str) -> Target:
    """The target of this name; ``KeyError`` when there is none."""
    if name not in NAMES:
        raise KeyError(name)
    found: Target = import_module(f"fuzz.{name}").TARGET
    return found
