import logging
import threading

import msgspec
import pytest

from holdfast.core.component import Component
from holdfast.core.event import Event, Listeners


class Opened(Event, frozen=True):
    name: str


def _opened() -> Event:
    return Opened(at=1.0, name="a")


def test_an_event_is_a_frozen_fact_that_carries_its_kind() -> None:
    event = Opened(at=1.5, name="db")
    with pytest.raises(AttributeError):
        event.name = "other"  # type: ignore[misc]
    assert msgspec.json.decode(msgspec.json.encode(event)) == {"type": "Opened", "at": 1.5, "name": "db"}


def test_with_nobody_listening_the_event_is_not_built() -> None:
    listeners = Listeners()
    built: list[Event] = []

    def build() -> Event:
        built.append(_opened())
        return built[-1]

    listeners.emit(build)
    assert built == []
    assert not listeners
    assert not listeners.active


def test_every_listener_gets_the_same_event_built_once() -> None:
    listeners = Listeners()
    first: list[Event] = []
    second: list[Event] = []
    built: list[Event] = []
    listeners.subscribe(first.append)
    listeners.subscribe(second.append)

    def build() -> Event:
        built.append(_opened())
        return built[-1]

    listeners.emit(build)
    assert listeners.active
    assert len(built) == 1
    assert first == second == built


def test_unsubscribing_ends_that_subscription_only_and_only_once() -> None:
    listeners = Listeners()
    heard: list[Event] = []
    callback = heard.append
    stop = listeners.subscribe(callback)
    listeners.subscribe(callback)
    stop()
    stop()
    listeners.emit(_opened)
    assert len(heard) == 1


def test_a_listener_that_raises_is_logged_and_disturbs_nobody(caplog: pytest.LogCaptureFixture) -> None:
    listeners = Listeners()
    heard: list[Event] = []

    def broken(event: Event) -> None:
        raise LookupError("listener broke")

    listeners.subscribe(broken)
    listeners.subscribe(heard.append)
    with caplog.at_level(logging.ERROR):
        listeners.emit(_opened)
    assert len(heard) == 1
    assert "Opened" in caplog.text
    assert "listener broke" in caplog.text


def test_an_event_that_cannot_be_built_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    listeners = Listeners()
    listeners.subscribe(lambda event: None)

    def build() -> Event:
        raise LookupError("no such fact")

    listeners.emit(build)
    assert "no such fact" in caplog.text


def test_a_listener_may_unsubscribe_while_it_is_told() -> None:
    listeners = Listeners()
    heard: list[Event] = []
    stop = listeners.subscribe(lambda event: stop())
    listeners.subscribe(heard.append)
    listeners.emit(_opened)
    listeners.emit(_opened)
    assert len(heard) == 2


def test_a_coroutine_function_is_no_listener() -> None:
    async def listen(event: Event) -> None: ...

    with pytest.raises(TypeError, match="coroutine function"):
        Listeners().subscribe(listen)


def test_no_subscription_is_lost_between_threads() -> None:
    listeners = Listeners()
    heard: list[Event] = []
    start = threading.Barrier(8)

    def subscribe() -> None:
        start.wait(10)
        for _ in range(200):
            listeners.subscribe(heard.append)

    threads = [threading.Thread(target=subscribe) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    listeners.emit(_opened)
    assert len(heard) == 1600


def test_a_component_is_whatever_has_a_name_a_start_and_a_stop() -> None:
    class Pool:
        name = "pool"

        async def start(self) -> None: ...

        async def stop(self) -> None: ...

    assert isinstance(Pool(), Component)
    assert not isinstance(object(), Component)
