import pickle
from typing import Any

import pytest

import holdfast
from holdfast.core import errors
from holdfast.core.errors import (
    SHOWN_LIMIT,
    VALUE_LIMIT,
    BootError,
    CallCancelled,
    CircuitOpen,
    ConfigError,
    DeadlineExceeded,
    Draining,
    HoldfastError,
    RateLimited,
    Rejected,
)


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("workers", "four", "a whole number", source="holdfast.toml [run]", hint="did you mean 4?"),
        BootError("the app could not be imported", "Traceback"),
        Rejected("limit", "full", 1.5),
        Draining(),
        DeadlineExceeded("timeout", "took longer than 2 s", 2, {"seconds": 2.0}),
        CallCancelled("client left"),
    ],
)
def test_an_error_survives_pickling(error: HoldfastError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)
    assert copy.args == error.args


def test_a_config_error_is_one_line_with_place_value_and_advice() -> None:
    error = ConfigError("workers", "four", "a whole number", source="holdfast.toml [run]", hint="write 4")
    assert str(error) == "holdfast.toml [run] workers: got 'four', expected a whole number; write 4"
    assert str(ConfigError("--workers", None, "a whole number")) == "--workers: expected a whole number"


def test_a_huge_value_does_not_flood_the_message() -> None:
    assert len(str(ConfigError("a", "x" * 10_000, "less"))) < VALUE_LIMIT + 50
    assert "huge int" in str(ConfigError("a", 1 << 100_000, "less"))


def test_a_refusal_says_who_why_and_when_to_come_back() -> None:
    error = RateLimited("limit", "full", 1.5, {"burst": 10})
    assert (error.policy, error.reason, error.retry_after) == ("limit", "full", 1.5)
    assert error.snapshot == {"burst": 10}
    assert (Rejected("limit", "full").retry_after, Rejected("limit", "full").snapshot) == (None, {})
    assert str(error) == "limit: full; retry after 1.5 s"
    assert str(Draining()) == "drain: the process is going away"


def test_a_refusal_without_arguments_can_be_shown() -> None:
    error = CircuitOpen()  # type: ignore[call-arg]
    assert (str(error), error.policy, error.reason, error.retry_after) == ("", "", "", None)
    assert str(CircuitOpen("stock")) == "stock"  # type: ignore[call-arg]


def test_a_mistake_without_a_place_begins_with_what_it_says() -> None:
    assert str(ConfigError("", None, "a table", hint="it is a list")) == "expected a table; it is a list"
    assert str(ConfigError("", 5, "a table", "holdfast.toml")) == "holdfast.toml: got 5, expected a table"


def test_a_boot_error_keeps_the_detail_below_the_reason() -> None:
    assert str(BootError("cannot import", "Traceback")) == "cannot import\nTraceback"
    assert str(BootError("cannot import")) == "cannot import"


def test_the_package_exports_the_tree() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, HoldfastError)]
    assert len(kinds) == 12
    for kind in kinds:
        assert getattr(holdfast, kind.__name__) is kind


def test_a_deadline_that_passed_is_a_timeout_to_code_that_knows_nothing_of_us() -> None:
    assert isinstance(DeadlineExceeded(), TimeoutError)
    assert str(DeadlineExceeded("timeout", "took longer than 2 s")) == "timeout: took longer than 2 s"
    assert DeadlineExceeded().args[:2] == ("deadline", "the deadline has passed")


def _seen(limit: int) -> dict[str, int]:
    return {"limit": limit}


def test_a_refusal_shows_what_its_policy_went_by_and_not_how_that_is_made() -> None:
    error = RateLimited("limit", "full", 1.5, (_seen, 7), "stock")
    assert repr(error) == "RateLimited('limit', 'full', retry_after=1.5, snapshot={'limit': 7}, operation='stock')"
    assert repr(Rejected("limit", "full")) == "Rejected('limit', 'full')"
    assert repr(Draining()) == "Draining('drain', 'the process is going away')"


def test_a_refusal_can_be_shown_whatever_it_was_made_of() -> None:
    class Unshown:
        def __repr__(self) -> str:
            raise LookupError("no")

    wrong: Any = Unshown()
    assert repr(CircuitOpen()) == "CircuitOpen('', '')"  # type: ignore[call-arg]
    assert repr(RateLimited("limit", "full", wrong)) == "RateLimited('limit', 'full', retry_after=?)"
    assert repr(RateLimited("limit", "full", None, (_seen,))) == "RateLimited('limit', 'full', snapshot=?)"
    assert repr(RateLimited("limit", "full", None, {"x": wrong})) == "RateLimited('limit', 'full', snapshot=?)"
    assert len(repr(RateLimited("limit", "x" * 10_000))) < 2 * SHOWN_LIMIT


def test_a_refusal_rounds_the_time_it_tells_and_keeps_the_exact_one() -> None:
    error = RateLimited("limit", "full", 4.99957)
    assert (str(error), error.retry_after) == ("limit: full; retry after 5 s", 4.99957)
    assert str(RateLimited("limit", "full", 2.19e-05)) == "limit: full; retry after 0.0000219 s"
