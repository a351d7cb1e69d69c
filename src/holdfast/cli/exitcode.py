"""Exit statuses that scripts can rely on, and the error that carries one to the end of the program."""

from typing import Final

DONE: Final = 0
FAILED: Final = 1
USAGE: Final = 2
START: Final = 3
ABSENT: Final = 4
TIMEOUT: Final = 5
INTERRUPTED: Final = 130
"""128 + SIGINT, as shells have it."""

MEANING: Final = {
    DONE: "done",
    FAILED: "refused or failed",
    USAGE: "wrong usage or settings",
    START: "the service could not start",
    ABSENT: "no such supervisor is running",
    TIMEOUT: "timed out",
}


class CommandError(Exception):
    """A command ends here: ``reason`` is one line, ``detail`` may be the whole error of an app."""

    def __init__(self, status: int, reason: str, detail: str = "") -> None:
        super().__init__(status, reason, detail)
        self.status = status
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return self.reason
