"""Constructors that take settings: what they show, and what they say about parameters that do not fit."""

import inspect
import pydoc
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.call import Call
from holdfast.core.duration import Duration
from holdfast.core.errors import ConfigError
from holdfast.core.policy import Gate, accepts
from holdfast.core.settings import FUNCTION, Errors, GateSettings, Seconds, SecondsText, about
from holdfast.core.size import Size

if TYPE_CHECKING:
    Later = int


class LiftSettings(GateSettings, frozen=True):
    wait: Annotated[Seconds, about("How long anybody waits.", gt=0, le=90)]
    floors: Annotated[int, about("How many floors there are.", ge=1)] = 3
    rest: Annotated[SecondsText | None, about("How long it rests.", gt=0)] = None
    mode: Annotated[Literal["up", "down"] | None, about("Where it goes.")] = None
    load: Annotated[Size, about("What it carries.")] = Size(2048)
    on: Annotated[Errors, about("What stops it.")] = OSError
    pin: Annotated[str, about("What opens it.", secret=True)] = "none"
    close: Annotated[Seconds, about("When it closes.")] = Duration(60)
    choose: Annotated[Callable[[Call], Any] | None, about("Who comes first.", reader=FUNCTION)] = None

    def check(self) -> None:
        if self.close > 100 * self.wait:
            raise self.wrong("close", f"at most a hundred times wait, which is {self.shown('wait')!r}")
        if self.pin == "0000":
            raise self.wrong("pin", "something that nobody guesses")


class Lift(Gate[LiftSettings]):
    """Carries calls."""

    kind = "lift"

    @accepts(LiftSettings)
    def __init__(self, settings: LiftSettings) -> None:
        self.applied: list[float] = []
        super().__init__(settings)

    def apply(self, settings: LiftSettings) -> None:
        self.applied.append(settings.wait)

    def enter(self, call: Call) -> None: ...


class FastLift(Lift):
    kind = "fast_lift"


@pytest.mark.parametrize(
    ("kind", "args", "named", "message"),
    [
        (Lift, (), {}, "Lift() missing 1 required argument: 'wait'"),
        (Lift, (1, 2), {}, "Lift() takes 1 positional argument but 2 were given; name all but the first"),
        (Lift, (1,), {"wait": 2}, "Lift() got multiple values for argument 'wait'"),
        (Lift, (1,), {"flors": 2}, "Lift has no setting flors; did you mean floors?"),
        (FastLift, (1,), {"flors": 2}, "FastLift has no setting flors; did you mean floors?"),
        (
            *(Lift, (1,), {"zzz": 2}),
            "Lift has no setting zzz; there are wait, floors, rest, mode, load, on, pin, close, choose, name, observe",
        ),
        (Lift(1).update, (1, 2), {}, "Lift.update() takes 1 positional argument but 2 were given; name all but the"),
        (Lift(1).update, (1,), {"wait": 2}, "Lift.update() got multiple values for argument 'wait'"),
        (Lift(1).update, (), {"flors": 2}, "Lift has no setting flors; did you mean floors?"),
    ],
)
def test_parameters_that_do_not_fit_are_a_type_error_in_the_words_of_python(
    kind: Callable[..., object], args: tuple[Any, ...], named: dict[str, Any], message: str
) -> None:
    with pytest.raises(TypeError, match="^" + re.escape(message)) as caught:
        kind(*args, **named)
    assert not isinstance(caught.value, ConfigError)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"wait": "soon"},
            "Lift wait: got 'soon', expected a duration such as 500ms or 1m30s, more than 0s, at most 90s",
        ),
        ({"wait": "2m"}, "Lift wait: got '2m', expected a duration such as 500ms or 1m30s, more than 0s, at most 90s"),
        ({"floors": None}, "Lift floors: expected a whole number, at least 1; it is None"),
        ({"rest": 0}, "Lift rest: got 0, expected a duration such as 500ms or 1m30s, more than 0s"),
        ({"mode": "upp"}, 'Lift mode: got \'upp\', expected "up" or "down"; did you mean up?'),
        ({"close": 600}, "Lift close: got 600s, expected at most a hundred times wait, which is 1s"),
        ({"close": "10m"}, "Lift close: got 600s, expected at most a hundred times wait, which is 1s"),
        ({"pin": 1234}, "Lift pin: expected text"),
        ({"pin": "0000"}, "Lift pin: expected something that nobody guesses"),
    ],
)
def test_a_wrong_value_is_shown_as_people_write_it_and_changes_nothing(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Lift(**{"wait": 1, **values})
    assert str(caught.value) == message
    lift = Lift(1)
    before = lift.settings
    with pytest.raises(ConfigError) as caught:
        lift.update(**{"floors": 9, **values})
    assert str(caught.value) == message
    assert (lift.settings, lift.applied) == (before, [1.0])


def test_a_wrong_default_says_its_unit_too() -> None:
    with pytest.raises(ConfigError, match="got 60s, expected at most a hundred times wait, which is 500ms"):
        Lift("500ms")


def test_an_update_takes_the_first_setting_by_position_and_durations_as_text() -> None:
    lift = Lift("2s", floors=5)
    lift.update("3s")
    lift.update(rest="1m")
    assert (lift.settings.wait, lift.settings.rest, lift.settings.floors) == (3.0, 60.0, 5)
    assert lift.applied == [2.0, 3.0, 3.0]
    lift.update()
    assert lift.settings == LiftSettings(3.0, rest=60.0, floors=5)


def test_the_signature_is_that_of_the_settings() -> None:
    seen = inspect.signature(Lift)
    assert str(seen.replace(parameters=list(seen.parameters.values())[:6])) == (
        "(wait: float | str, *, floors: int = 3, rest: float | str | None = None, "
        "mode: Optional[Literal['up', 'down']] = None, load: int | str = '2KiB', "
        "on: type[BaseException] | tuple[type[BaseException], ...] = <class 'OSError'>) -> None"
    )
    assert seen.parameters["close"].default == "1m"
    assert list(seen.parameters) == [*LiftSettings.__struct_fields__]
    assert inspect.signature(FastLift) == seen
    assert list(inspect.signature(Lift.__init__).parameters) == ["self", *seen.parameters]


def test_a_signature_binds_what_the_constructor_takes() -> None:
    seen = inspect.signature(Lift)
    bound = seen.bind("2s", floors=4)
    bound.apply_defaults()
    assert Lift(*bound.args, **bound.kwargs).settings == Lift("2s", floors=4).settings
    for args, named in (((), {}), ((1, 2), {}), ((1,), {"wait": 2}), ((1,), {"flors": 2})):
        with pytest.raises(TypeError):
            seen.bind(*args, **named)


def test_a_policy_as_a_decorator_keeps_a_signature_of_its_own() -> None:
    assert list(inspect.signature(Lift(1)).parameters) == ["fn"]


def test_help_names_each_setting_and_what_it_is() -> None:
    text = pydoc.render_doc(Lift, renderer=pydoc.plaintext)  # type: ignore[attr-defined]  # typeshed lacks it
    assert "class Lift(" in text
    # From 3.13 on a long signature takes a line for each parameter.
    dense = "".join("".join(line.removeprefix(" |") for line in text.splitlines()).split())
    assert dense.count("Lift(wait:float|str,*,floors:int=3,") == 1
    assert dense.count("__init__(self,/,wait:float|str,*,floors:int=3,") == 1
    assert "wait: How long anybody waits. Must be a duration such as 500ms or 1m30s, more than 0s, at most 90s." in text
    assert "floors: How many floors there are. Must be a whole number, at least 1." in text
    assert "Annotated" not in text
    assert "Meta(" not in text


def test_a_type_that_is_defined_further_down_only_costs_the_signature() -> None:
    class Early(GateSettings, frozen=True):
        depth: "Later" = 1

    class Diver(Gate[Early]):
        @accepts(Early)
        def __init__(self, settings: Early) -> None:
            super().__init__(settings)

        def enter(self, call: Call) -> None: ...

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "Later", int)
        assert Diver(2).settings.depth == 2


def pick(call: Call) -> int:
    return len(call.operation)


class Secretive:
    def __repr__(self) -> str:
        raise AssertionError("nobody asked")

    def __call__(self, call: Call) -> None: ...


@pytest.mark.parametrize(
    ("lift", "text"),
    [
        (Lift("2s"), 'Lift("2s")'),
        (Lift(wait=90), 'Lift("1m30s")'),
        (Lift(0.75, floors=3), 'Lift("750ms")'),
        (Lift(1, close=60.0, rest=None, on=(OSError,), load=Size(2048)), 'Lift("1s")'),
        (Lift(1, rest="5m", close=1), 'Lift("1s", rest="5m", close="1s")'),
        (Lift(1, mode="up", observe=True), 'Lift("1s", mode="up", observe=True)'),
        (Lift(1, on=KeyError), 'Lift("1s", on=KeyError)'),
        (Lift(1, on=(KeyError, OSError)), 'Lift("1s", on=(KeyError, OSError))'),
        (Lift(1, on=(OSError,) * 5), 'Lift("1s", on=<tuple>)'),
        (Lift(1, pin="1234"), 'Lift("1s", pin=...)'),
        (Lift(1, choose=pick), 'Lift("1s", choose=pick)'),
        (Lift(1, choose=lambda call: 1), 'Lift("1s", choose=<function>)'),
        (Lift(1, choose=Secretive()), 'Lift("1s", choose=<Secretive>)'),
        (Lift(1, load=Size(65536)), 'Lift("1s", load="64KiB")'),
        (Lift(1, name="x" * 100), 'Lift("1s", name="' + "x" * 37 + '...")'),
        (Lift(1, name='a"b'), """Lift("1s", name='a"b')"""),
        (FastLift(1, floors=10**50), 'FastLift("1s", floors=<int of 167 bits>)'),
    ],
)
def test_a_policy_shows_its_kind_and_what_is_not_at_its_default(lift: Lift, text: str) -> None:
    assert repr(lift) == text


def test_a_policy_whose_constructor_failed_can_be_shown() -> None:
    assert repr(Lift.__new__(Lift)) == "<Lift without settings>"


@given(st.floats(0.01, 90), st.integers(1, 10**6), st.none() | st.floats(0.001, 1e6), st.sampled_from([None, "up"]))
def test_what_a_policy_shows_makes_it_again(wait: float, floors: int, rest: float | None, mode: Any) -> None:
    lift = Lift(wait, floors=floors, rest=rest, mode=mode, close=0)
    assert eval(repr(lift), {"Lift": Lift}).settings == lift.settings
