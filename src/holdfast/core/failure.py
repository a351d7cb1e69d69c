"""What is told of an error: ``Failure``, and ``ServiceError``, which an app raises to tell one.

What a programmer writes (code, reason, status) is checked at once. What data brings (messages, details, hints) is cut
to size and never refused: an error must not fail because its text is long.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from holdfast.core.codes import Code
from holdfast.core.errors import HoldfastError

REASON_LIMIT: Final = 63
"""Characters of a reason, as AIP-193 has it."""
MESSAGE_LIMIT: Final = 1000
"""Characters of a message."""
RETRY_AFTER_LIMIT: Final = 86400.0
"""Seconds that a client may be told to stay away: a day. It may ask, and be told again."""
DETAILS_LIMIT: Final = 64
"""Values in all that details hold, those inside of others included."""
DEPTH_LIMIT: Final = 4
"""How deep details are nested."""
TEXT_LIMIT: Final = 500
"""Characters of one text in details, and of a key."""
CHARACTERS_LIMIT: Final = 4000
"""Characters of all texts in details, keys included."""
WHOLE_LIMIT: Final = 2**53
"""The whole numbers below it survive JavaScript; those above are told as text."""

REASON: Final = re.compile(r"[A-Z][A-Z0-9_]+[A-Z0-9]")
"""What a reason looks like (AIP-193)."""


def rounded_up(seconds: float) -> float:
    """``seconds`` with as many digits as somebody who waits can use: three, or milliseconds. Early by 1 us at most."""
    parts = 1000 if seconds < 1.0 else 100 if seconds < 10.0 else 10 if seconds < 100.0 else 1
    # Or the noise of an addition would cost a second: 2.0000000000000004.
    return math.ceil(seconds * parts - 1e-6) / parts


class Failure(msgspec.Struct, frozen=True):
    """What is told of an error, whatever the protocol. Immutable; everything in it is bounded.

    ``reason`` is for machines: UPPER_SNAKE, at most 63 characters, never changed once clients know it; the code's name
    when none is given. ``message`` is for people and may change at any time; the code's sentence when it is empty.
    ``retry_after`` is seconds, None when unknown. ``details`` are plain values, copied. ``status`` is the HTTP status;
    the code's own when it is 0.

    Raises ``ValueError`` for ``Code.OK``, for a reason of another form, for a status outside of 400 to 599.
    """

    code: Code
    reason: str = ""
    message: str = ""
    retry_after: float | None = None
    details: Mapping[str, Any] = {}
    status: int = 0

    def __post_init__(self) -> None:
        code = self.code
        check(code, self.reason, self.status)
        put = msgspec.structs.force_setattr
        if not self.reason:
            put(self, "reason", code.name)
        if not self.status:
            put(self, "status", code.http)
        if not self.message:
            put(self, "message", code.sentence)
        elif len(self.message) > MESSAGE_LIMIT or not self.message.isascii():
            put(self, "message", shortened(self.message, MESSAGE_LIMIT))
        if self.retry_after is not None:
            put(self, "retry_after", _seconds(self.retry_after))
        if self.details:
            put(self, "details", bounded(self.details))

    @property
    def retryable(self) -> bool:
        """Whether the same call may be sent again: by its code, or because there is a hint when to."""
        return self.code.retryable or self.retry_after is not None


class ServiceError(HoldfastError):
    """An error that an app tells its client: ``raise ServiceError(Code.NOT_FOUND, "no such order")``.

    ``message``, ``reason`` and ``details`` are what the client gets to see: put no secrets in. ``reason``,
    ``retry_after`` (seconds) and ``status`` are as in ``Failure``. A subclass may have any constructor that
    calls this one; it survives pickling. Raises ``ValueError`` as ``Failure`` does.
    """

    def __init__(
        self,
        code: Code,
        message: str = "",
        *,
        reason: str = "",
        details: Mapping[str, Any] | None = None,
        retry_after: float | None = None,
        status: int = 0,
    ) -> None:
        check(code, reason, status)
        super().__init__(message)
        self.code = code
        self.message = str(message)  # people do hand over the exception that they caught
        self.reason = reason
        self.details = details
        self.retry_after = retry_after
        self.status = status

    @property
    def failure(self) -> Failure:
        """What is told of this error."""
        return Failure(self.code, self.reason, self.message, self.retry_after, self.details or {}, self.status)

    def __repr__(self) -> str:
        named = (("reason", self.reason), ("details", self.details), ("retry_after", self.retry_after))
        more = [f", {name}={value!r}" for name, value in named if value not in ("", None)]
        status = f", status={self.status}" if self.status else ""
        return f"{type(self).__name__}({self.code!r}, {self.message!r}{''.join(more)}{status})"

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions are pickled as a call of their class with args. That fails for named arguments, and for each
        # subclass whose constructor takes others.
        return _restored, (type(self), self.args), self.__dict__


def check(code: object, reason: str, status: int) -> None:
    """Raises ``ValueError`` for what cannot be a failure's code, reason or status (where empty and 0 mean none)."""
    if type(code) is not Code or code is Code.OK:
        raise ValueError(f"{code!r} is no code of an error; give one such as Code.NOT_FOUND")
    if reason and (len(reason) > REASON_LIMIT or not REASON.fullmatch(reason)):
        raise ValueError(
            f"{shortened(reason, 80)!r} is no reason; give at most {REASON_LIMIT} of A-Z, 0-9 and _, as in OUT_OF_STOCK"
        )
    if status and not 400 <= status <= 599:
        raise ValueError(f"{status!r} is not an error status; give 400 to 599")


def bounded(details: Mapping[Any, Any]) -> dict[str, Any]:
    """A copy of ``details`` that any codec can write: plain values, at most so many, so deep, so long.

    What is no plain value is told as the name of its class, for its ``repr`` may hold anything. What is too much is
    left out, and ``"..."`` stands for it.
    """
    return _Copy().mapping(details, DEPTH_LIMIT)


def shortened(text: str, limit: int) -> str:
    """``text`` of at most ``limit`` characters, in valid Unicode."""
    # A lone surrogate comes from undecodable bytes in a path or header, and cannot be written as UTF-8.
    cut = str(text) if len(text) <= limit else f"{text[: limit - 3]}..."
    return cut if cut.isascii() else cut.encode("utf-8", "replace").decode()


class _Copy:
    """One copy of details, and what it may still hold."""

    def __init__(self) -> None:
        self.values = DETAILS_LIMIT
        self.characters = CHARACTERS_LIMIT

    def mapping(self, mapping: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        plain: dict[str, Any] = {}
        for key, value in mapping.items():
            if not self.values:
                plain["..."] = "..."
                break
            plain[self.key(key)] = self.value(value, depth - 1)
        return plain

    def sequence(self, items: Sequence[Any], depth: int) -> list[Any]:
        plain: list[Any] = []
        for item in items:
            if not self.values:
                plain.append("...")
                break
            plain.append(self.value(item, depth - 1))
        return plain

    def value(self, value: Any, depth: int) -> Any:
        self.values -= 1
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, int):
            return int(value) if abs(value) < WHOLE_LIMIT else _digits(value)
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else str(float(value))
        if isinstance(value, Mapping):
            return self.mapping(value, depth) if depth else "..."
        if isinstance(value, list | tuple):
            return self.sequence(value, depth) if depth else "..."
        return f"<{self.text(type(value).__name__)}>"

    def key(self, key: object) -> str:
        return self.text(key if isinstance(key, str) else _digits(key) if isinstance(key, int) else type(key).__name__)

    def text(self, text: str) -> str:
        kept = shortened(text, max(len("..."), min(TEXT_LIMIT, self.characters)))
        self.characters -= len(kept)
        return kept


def _digits(value: int) -> str:
    return str(value) if value.bit_length() <= 128 else f"<int of {value.bit_length()} bits>"


def _seconds(value: object) -> float | None:
    if not isinstance(value, int | float) or value != value:  # math.isnan fails for a huge int
        return None
    return float(min(max(value, 0.0), RETRY_AFTER_LIMIT))


def _restored(kind: type[ServiceError], args: tuple[Any, ...]) -> ServiceError:
    error = kind.__new__(kind)
    error.args = args
    return error
