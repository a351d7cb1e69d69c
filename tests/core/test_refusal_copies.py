"""A refusal that names its operation is the same on the other side of a pickle, whatever its class."""

import copy
import pickle
from typing import Any

import pytest

from holdfast.core import errors
from holdfast.core.errors import CircuitOpen, Rejected

OURS: list[Any] = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Rejected)]


class MyRefusal(Rejected):
    pass


class Told(Rejected):
    def __init__(self, policy: str, reason: str) -> None:
        super().__init__(policy, reason)
        self.tenant = "t"


@pytest.mark.parametrize(
    "error",
    [
        *(kind("gate", "why", 1.5, {"a": 1}) for kind in OURS),
        Told("gate", "why"),
        MyRefusal("gate", "why"),
        CircuitOpen(),  # type: ignore[call-arg]
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_refusal_that_names_its_operation_survives_copies_too(error: Rejected) -> None:
    error.add_note("a note")
    error.of("stock")
    for again in (*(pickle.loads(pickle.dumps(error, level)) for level in range(6)), copy.copy(error)):
        assert type(again) is type(error)
        assert (again.args, vars(again), str(again)) == (error.args, vars(error), str(error))
        assert again.operation == "stock"


def test_an_operation_takes_nothing_away() -> None:
    more: tuple[Any, ...] = ("gate", "why", None, None, "", "more")
    assert Rejected(*more).of("stock").args == ("gate", "why", None, None, "stock", "more")
