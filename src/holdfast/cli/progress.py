"""A sign of life on a terminal while a command waits."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

PATIENCE: Final = 1.0
"""Seconds after which a person wants to see that something is going on."""


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """Show a spinner with ``text`` on standard error, when that is a terminal and it takes longer than PATIENCE."""
    if not sys.stderr.isatty():
        yield
        return
    over = threading.Event()

    def show() -> None:
        if over.wait(PATIENCE):
            return
        from rich.console import Console

        with Console(stderr=True).status(text):
            over.wait()

    thread = threading.Thread(target=show, name="spinner", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
