"""What became of one item."""

from dataclasses import dataclass
from typing import Generic, TypeVar, cast

T_co = TypeVar("T_co", covariant=True)
R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T_co, R_co]):
    """An item with its result, or with the error that came instead; then ``value`` is None."""

    item: T_co
    value: R_co | None = None
    error: Exception | None = None

    @property
    def ok(self) -> bool:
        """Whether there is a result, which may be None."""
        return self.error is None

    def result(self) -> R_co:
        """The value; raises the error when there is one."""
        if self.error is not None:
            raise self.error
        return cast("R_co", self.value)
