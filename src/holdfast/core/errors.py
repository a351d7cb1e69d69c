"""Every error that Holdfast raises on purpose.

::

    HoldfastError
    ├── ConfigError          a setting is wrong: place, value, what is expected
    ├── BootError            a service could not start
    ├── CallCancelled        whoever asked for this work does not want it any more
    └── Rejected             a policy refused a call: policy, reason, when to come back
        ├── Draining         this process is going away
        └── DeadlineExceeded the time given for the call is over

Each keeps its constructor's values in ``args``, so that it survives pickling between processes.
"""

from typing import Final

VALUE_LIMIT: Final = 80
"""Characters of a wrong value that a message shows."""


class HoldfastError(Exception):
    """The root of the tree."""


class ConfigError(HoldfastError):
    """A setting is wrong. ``str()`` is one line that says where, what, and what to do.

    ``source`` and ``path`` together are the place (``holdfast.toml [run]`` and ``workers``, or no source and
    ``--workers``). ``value`` is shown unless it is None: give None for secrets and for what has no value.
    """

    def __init__(self, path: str, value: object, expected: str, source: str = "", hint: str = "") -> None:
        super().__init__(path, value, expected, source, hint)
        self.path = path
        self.value = value
        self.expected = expected
        self.source = source
        self.hint = hint

    def __str__(self) -> str:
        place = " ".join(part for part in (self.source, self.path) if part)
        got = "" if self.value is None else f"got {_shortened(self.value)}, "
        hint = f"; {self.hint}" if self.hint else ""
        return f"{place}: {got}expected {self.expected}{hint}"


class BootError(HoldfastError):
    """A service could not start. ``reason`` is one line; ``detail`` may be a whole stack."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}\n{self.detail}" if self.detail else self.reason


class CallCancelled(HoldfastError):
    """The work was called off through its ``Cancellation``; an answer, not ``asyncio.CancelledError``."""

    def __init__(self, reason: str = "cancelled") -> None:
        super().__init__(reason)
        self.reason = reason


class Rejected(HoldfastError):
    """``policy`` refused the call because of ``reason``; ``retry_after`` is seconds, None when unknown."""

    def __init__(self, policy: str, reason: str, retry_after: float | None = None) -> None:
        super().__init__(policy, reason, retry_after)
        self.policy = policy
        self.reason = reason
        self.retry_after = retry_after

    def __str__(self) -> str:
        later = "" if self.retry_after is None else f"; retry after {self.retry_after:g} s"
        return f"{self.policy}: {self.reason}{later}"


class Draining(Rejected):
    """This process takes no new work; another one does."""

    def __init__(
        self,
        policy: str = "drain",
        reason: str = "the process is going away",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(policy, reason, retry_after)


class DeadlineExceeded(Rejected):
    """The call's deadline passed before it was done."""

    def __init__(
        self,
        policy: str = "deadline",
        reason: str = "the deadline has passed",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(policy, reason, retry_after)


STATUS: Final[dict[type[HoldfastError], int]] = {
    HoldfastError: 500,
    ConfigError: 500,
    BootError: 503,
    CallCancelled: 499,  # nginx's "client closed request"; nobody reads the answer
    Rejected: 503,
    Draining: 503,
    DeadlineExceeded: 504,
}
"""The HTTP status of each error; a class that is not listed has that of its nearest listed parent."""


def http_status(exc: BaseException) -> int:
    """The HTTP status that answers ``exc``; 500 for an error that is not Holdfast's."""
    for kind in type(exc).__mro__:
        if kind in STATUS:
            return STATUS[kind]
    return 500


def _shortened(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # an int of more digits than Python prints
        text = f"a huge {type(value).__name__}"
    return text if len(text) <= VALUE_LIMIT else f"{text[: VALUE_LIMIT - 3]}..."
