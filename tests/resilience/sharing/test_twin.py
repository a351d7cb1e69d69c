import traceback

import pytest

from holdfast.core.errors import CircuitOpen, DeadlineExceeded
from holdfast.resilience.sharing.twin import twin


class Detailed(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code
        self.extra = ""


class Wordy(Exception):
    """Keeps other arguments than it takes."""

    def __init__(self, code: int) -> None:
        super().__init__(f"code {code}")


class Strict(Exception):
    def __init__(self, *, code: int) -> None:
        super().__init__(code)


class Alone(Exception):
    def __copy__(self) -> "Alone":
        return self


def raised(error: Exception, *, caused: bool = True) -> Exception:
    try:
        try:
            raise KeyError("first")
        except KeyError:
            if caused:
                raise error from ValueError("cause")
            raise error  # noqa: B904 - it is what users write
    except Exception as caught:
        return caught


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a", 1),
        OSError(2, "gone", "file"),
        UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"),
        ExceptionGroup("several", [ValueError()]),
        CircuitOpen("breaker", "open", 1.5, {"state": "open"}),
        DeadlineExceeded(),
        Detailed(7),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_twin_says_the_same_and_is_another_object(error: Exception) -> None:
    error = raised(error)
    error.add_note("a note")
    made = twin(error, error.__traceback__)
    assert made is not None
    assert made is not error
    assert type(made) is type(error)
    assert str(made) == str(error)
    assert traceback.format_exception(made) == traceback.format_exception(error)
    assert vars(made).keys() == vars(error).keys()
    made.add_note("mine")
    assert error.__notes__ == ["a note"]


def test_a_twin_was_raised_from_the_same_errors() -> None:
    caused, plain = raised(ValueError()), raised(ValueError(), caused=False)
    hidden = ValueError()
    hidden.__suppress_context__ = True
    for error in (caused, plain, hidden):
        made = twin(error)
        assert made is not None
        for name in ("__cause__", "__context__", "__suppress_context__"):
            assert getattr(made, name) is getattr(error, name)
    assert isinstance(plain.__context__, KeyError)


def test_what_else_an_exception_holds_is_copied() -> None:
    error = Detailed(7)
    error.extra = "later"
    made = twin(error)
    assert isinstance(made, Detailed)
    assert (made.code, made.extra, made.__traceback__) == (7, "later", None)


@pytest.mark.parametrize("error", [Wordy(7), Strict(code=7), Alone()], ids=lambda error: type(error).__name__)
def test_an_exception_that_cannot_be_copied_faithfully_has_no_twin(error: Exception) -> None:
    assert twin(error) is None
