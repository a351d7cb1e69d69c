import threading
from collections.abc import Callable
from typing import Annotated, Any

import pytest
from msgspec import Meta

from holdfast.core.call import Call
from holdfast.core.duration import Duration
from holdfast.core.errors import ConfigError, DeadlineExceeded, RateLimited
from holdfast.core.event import Event
from holdfast.core.pipeline import Pipeline
from holdfast.core.policy import CallRefused, Gate, accepts
from holdfast.core.settings import FUNCTION, Errors, GateSettings, Seconds, about


class DoorSettings(GateSettings, frozen=True):
    width: Annotated[int, about("How wide.", ge=1, le=10)] = 2
    wait: Annotated[Seconds, about("How long.", gt=0)] = Duration(1.0)
    on: Annotated[Errors, about("Which.")] = OSError
    key: Annotated[Callable[[Call], Any] | None, Meta(extra={"reader": FUNCTION})] = None

    def check(self) -> None:
        if self.width > self.wait * 10:
            raise self.wrong("width", "at most ten times the wait")


class Door(Gate[DoorSettings]):
    kind = "door"

    @accepts(DoorSettings)
    def __init__(self, settings: DoorSettings) -> None:
        self.applied: list[int] = []
        super().__init__(settings)

    def apply(self, settings: DoorSettings) -> None:
        self.applied.append(settings.width)

    def enter(self, call: Call) -> None:
        self.refuse(call, RateLimited(self.name, "shut", 1.0))


def test_settings_are_the_parameters_of_the_policy_the_first_by_position() -> None:
    door = Door(3, wait=2.0, name="front")
    assert (door.settings.width, door.settings.wait, door.name) == (3, 2.0, "front")
    assert Door().name == "door"
    with pytest.raises(
        TypeError, match=r"Door\(\) takes from 0 to 1 positional arguments but 2 were given; name all but the first"
    ):
        Door(3, 2.0)
    with pytest.raises(TypeError, match="height"):
        Door(height=3)  # type: ignore[call-arg]


def test_settings_are_read_as_people_write_them() -> None:
    settings = DoorSettings(wait="500ms", on=["OSError", "holdfast.core.errors.DeadlineExceeded"])  # type: ignore[arg-type]
    assert settings.wait == 0.5
    assert type(settings.wait) is float
    assert settings.on == (OSError, DeadlineExceeded)
    assert DoorSettings().on == (OSError,)


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("width", 0, "Door width: got 0, expected a whole number, at least 1, at most 10"),
        ("width", True, "Door width: got True, expected a whole number"),
        ("wait", 0, "Door wait: got 0, expected a duration such as 500ms or 1m30s, more than 0"),
        ("wait", "soon", "Door wait: got 'soon', expected a duration"),
        ("on", "NoSuchError", "Door on: got 'NoSuchError', expected the name of an exception"),
        ("on", ".relative.Error", "Door on: got '.relative.Error', expected the name of an exception"),
        ("on", 5, "Door on: got 5, expected exceptions"),
        ("on", int, "Door on: got <class 'int'>, expected exceptions"),
        ("key", "tenant", "Door key: got 'tenant', expected a function; it can only be given in code"),
        ("observe", "yes", "Door observe: got 'yes', expected true or false"),
        ("width", 10, "Door width: got 10, expected at most ten times the wait"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value_and_what_was_expected(setting: str, value: Any, message: str) -> None:
    values = {"wait": 0.5, setting: value} if message.endswith("the wait") else {setting: value}
    with pytest.raises(ConfigError) as caught:
        Door(**values)
    assert message in str(caught.value)


def test_an_update_keeps_what_it_does_not_name_and_a_wrong_one_changes_nothing() -> None:
    door = Door(3, wait=2.0)
    door.update(width=4)
    assert (door.settings.width, door.settings.wait, door.applied) == (4, 2.0, [3, 4])
    with pytest.raises(ConfigError, match="width"):
        door.update(width=99)
    with pytest.raises(TypeError, match="height"):
        door.update(height=1)
    assert (door.settings.width, door.applied) == (4, [3, 4])


def test_from_settings_takes_them_as_they_are() -> None:
    settings = DoorSettings(width=5)
    assert Door.from_settings(settings).settings is settings


def test_a_refusal_is_counted_raised_and_told() -> None:
    door = Door(name="front")
    told: list[Event] = []
    fn = Pipeline("orders", door)(lambda: 1)
    with pytest.raises(RateLimited):
        fn()
    door.listeners.subscribe(told.append)
    with pytest.raises(RateLimited):
        fn()
    assert (door.refused, door.observed, door.snapshot()) == (2, 0, {"refused": 2, "observed": 0})
    assert isinstance(told[0], CallRefused)
    assert (told[0].policy, told[0].kind, told[0].operation, told[0].reason, told[0].observed) == (
        *("front", "door", "orders", "shut"),
        False,
    )


def test_a_gate_that_observes_counts_tells_and_lets_pass() -> None:
    door = Door(observe=True)
    told: list[Event] = []
    door.listeners.subscribe(told.append)
    assert door.call(lambda: 1) == 1
    assert (door.refused, door.observed) == (0, 1)
    assert isinstance(told[0], CallRefused)
    assert told[0].observed
    door.update(observe=False)
    with pytest.raises(RateLimited):
        door.call(lambda: 1)


def test_updates_from_two_threads_do_not_undo_each_other() -> None:
    others: list[threading.Thread] = []

    class MeetingSettings(GateSettings, frozen=True):
        width: int = 1
        height: int = 1

        def check(self) -> None:
            if self.width == 2 and not others:
                others.append(threading.Thread(target=lambda: meeting.update(height=2)))
                others[0].start()
                others[0].join(0.05)  # it may come first now, or has to wait

    class Meeting(Gate[MeetingSettings]):
        kind = "meeting"

        @accepts(MeetingSettings)
        def __init__(self, settings: MeetingSettings) -> None:
            super().__init__(settings)

        def enter(self, call: Call) -> None: ...

    meeting = Meeting()
    meeting.update(width=2)
    others[0].join(10)
    assert (meeting.settings.width, meeting.settings.height) == (2, 2)


def test_arguments_may_be_called_what_a_policy_calls_its_own() -> None:
    def fn(fn: int, self: int) -> int:
        return fn + self

    assert Door(observe=True).call(fn, fn=1, self=2) == 3
