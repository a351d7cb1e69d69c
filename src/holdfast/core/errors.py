"""Every error that Holdfast raises on purpose.

::

    HoldfastError
    ├── ConfigError          a setting is wrong: place, value, what is expected
    ├── BootError            a service could not start
    ├── CallCancelled        whoever asked for this work does not want it any more
    ├── FaultInjected        an experiment made this call fail
    ├── ServiceError         what an app tells its client (in core/failure)
    └── Rejected             a policy refused a call: policy, reason, when to come back
        ├── Draining         this process is going away
        ├── DeadlineExceeded the time given for the call is over
        ├── CircuitOpen      a breaker keeps calls away from something that fails
        ├── RateLimited      too many calls in too short a time
        ├── BulkheadFull     too many calls at the same time
        └── Overloaded       an adaptive limit or throttle sheds load

Each survives pickling between processes. What a client is told of them is in core/errortable.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Self

from holdfast.core.duration import rounded

VALUE_LIMIT: Final = 80
"""Characters of a wrong value that a message shows."""
SHOWN_LIMIT: Final = 500
"""Characters of one argument that the ``repr`` of a refusal shows."""


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
        return f"{f'{place}: ' if place else ''}{got}expected {self.expected}{hint}"


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


class FaultInjected(HoldfastError):
    """An experiment made this call fail; nothing is wrong with the dependency."""

    def __init__(self, policy: str, reason: str = "a fault was injected") -> None:
        super().__init__(policy, reason)
        self.policy = policy
        self.reason = reason


class Rejected(HoldfastError):
    """``policy`` refused the call because of ``reason``; ``retry_after`` is seconds, None when unknown.

    ``snapshot`` is what the policy went by, as plain values; or a tuple of a module's function and its arguments,
    which makes them when somebody asks. ``operation`` is what was refused. Arguments are by position only. One that is
    made without any, as tests do, has empty texts.
    """

    # There is no __init__ at run time: refusals have to be cheap, for that is when they are needed, and the
    # interpreter's own constructor keeps the arguments five times faster than one written here.
    if TYPE_CHECKING:

        def __init__(
            self,
            policy: str,
            reason: str,
            retry_after: float | None = None,
            snapshot: Mapping[str, Any] | tuple[Any, ...] | None = None,
            operation: str = "",
            /,
        ) -> None: ...

    @property
    def policy(self) -> str:
        """The name of the policy that refused."""
        return str(self.args[0] or "") if self.args else ""

    @property
    def reason(self) -> str:
        """Why, for people."""
        return str(self.args[1] or "") if len(self.args) > 1 else ""

    @property
    def retry_after(self) -> float | None:
        """Seconds after which it may be worth trying again."""
        return self.args[2] if len(self.args) > 2 else None

    @property
    def snapshot(self) -> Mapping[str, Any]:
        """What the policy went by; empty when there is nothing to tell."""
        facts = self.args[3] if len(self.args) > 3 else None
        if isinstance(facts, tuple):
            make, *arguments = facts
            facts = make(*arguments)
        return facts or {}

    @property
    def operation(self) -> str:
        """What was refused: the name of the pipeline, or of the function; empty when unknown."""
        return str(self.args[4]) if len(self.args) > 4 else ""

    def __str__(self) -> str:
        later = "" if self.retry_after is None else f"; retry after {rounded(self.retry_after)} s"
        # A policy that is used alone gives its name to the operation.
        parts = dict.fromkeys(part for part in (self.operation, self.policy, self.reason) if part)
        return f"{': '.join(parts)}{later}"

    def __repr__(self) -> str:
        # The arguments as they are tell how to make a snapshot, and not what is in it.
        parts: list[str] = []
        for name in ("policy", "reason", "retry_after", "snapshot", "operation"):
            try:
                value = getattr(self, name)
                text = "" if value is None or (name == "snapshot" and not value) else repr(value)
            except Exception:  # the function that makes the snapshot, or a value's own repr, may raise anything
                text = "?"
            if text and not (name == "operation" and text == "''"):
                text = text if len(text) <= SHOWN_LIMIT else f"{text[: SHOWN_LIMIT - 3]}..."
                parts.append(text if len(parts) < 2 else f"{name}={text}")
        return f"{type(self).__name__}({', '.join(parts)})"

    def of(self, operation: str) -> Self:
        """This error, which names ``operation`` unless it names one already."""
        if not self.operation:
            policy, reason, retry_after, snapshot = (*self.args, None, None, None, None)[:4]
            self.args = (policy, reason, retry_after, snapshot, operation, *self.args[5:])
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        # Without the constructor: that of a class of somebody's own need not take an operation.
        return _restored, (type(self), self.args), self.__dict__ or None


class Draining(Rejected):
    """This process takes no new work; another one does."""

    def __init__(
        self,
        policy: str = "drain",
        reason: str = "the process is going away",
        retry_after: float | None = None,
        snapshot: Mapping[str, Any] | None = None,
        operation: str = "",
        /,
    ) -> None:
        self.args = (policy, reason, retry_after, snapshot, operation)


class DeadlineExceeded(Rejected, TimeoutError):
    """The call's deadline passed before it was done. Also a ``TimeoutError``, which most code catches already."""

    def __init__(
        self,
        policy: str = "deadline",
        reason: str = "the deadline has passed",
        retry_after: float | None = None,
        snapshot: Mapping[str, Any] | None = None,
        operation: str = "",
        /,
    ) -> None:
        self.args = (policy, reason, retry_after, snapshot, operation)


class CircuitOpen(Rejected):
    """A breaker keeps calls away from a dependency that fails."""


class RateLimited(Rejected):
    """Too many calls in too short a time."""


class BulkheadFull(Rejected):
    """Too many calls at the same time."""


class Overloaded(Rejected):
    """There is more work than can be done in time; an adaptive limit or a throttle sheds it."""


def _restored(kind: type[Rejected], args: tuple[Any, ...]) -> Rejected:
    made = kind.__new__(kind)
    made.args = args
    return made


def _shortened(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # an int of more digits than Python prints
        text = f"a huge {type(value).__name__}"
    return text if len(text) <= VALUE_LIMIT else f"{text[: VALUE_LIMIT - 3]}..."
