"""Files that a person saves, as opposed to what programs write beside them."""

import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import Final

SUFFIXES: Final = frozenset({".py", ".toml", ".yaml", ".yml", ".ini", ".cfg", ".html", ".jinja", ".jinja2", ".j2"})
"""What code, settings and templates are called. Not .json, .db or .log: apps write those while they run."""
NAMES: Final = frozenset({".env"})
IGNORED: Final = frozenset({"__pycache__", "node_modules", "site-packages", "venv"})
QUIET: Final = 100
"""Milliseconds without a further change after which a save is complete: editors write, rename and touch."""
LONGEST: Final = 1000
"""Milliseconds after which changes are told although more come."""


def matters(path: Path, roots: Iterable[Path]) -> bool:
    """Whether a change of ``path`` is a reason to reload. A virtual environment is known by its pyvenv.cfg.

    Only the part below a root counts: a project may itself live in a hidden directory.
    """
    if path.suffix not in SUFFIXES and path.name not in NAMES:
        return False
    for root in roots:
        if path.is_relative_to(root):
            above = path.relative_to(root).parts[:-1]
            if any(part in IGNORED or part.startswith(".") for part in above):
                return False
            folders = (root.joinpath(*above[:depth]) for depth in range(1, len(above) + 1))
            return not any((folder / "pyvenv.cfg").exists() for folder in folders)
    return False


async def saved(directories: Sequence[Path]) -> AsyncIterator[list[Path]]:
    """The files of each save below ``directories``, for ever. A cancellation ends it.

    What changes while the caller is busy comes with the next one.
    """
    from watchfiles import awatch

    logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it counts the changes, which are named elsewhere
    roots = [directory.resolve() for directory in directories]
    async for found in awatch(
        *roots,
        watch_filter=lambda _, path: matters(Path(path), roots),
        step=QUIET,
        debounce=LONGEST,
        raise_interrupt=False,
    ):
        yield sorted({Path(path) for _, path in found})
