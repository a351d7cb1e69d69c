import asyncio
import dataclasses
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import msgspec
import pydantic
import pytest

from holdfast.config.document import Document
from holdfast.config.live import Live
from holdfast.config.schema import Schema
from holdfast.config.snapshot import Snapshot
from holdfast.core.clock import VirtualClock
from holdfast.core.errors import BootError, ConfigError
from holdfast.service.changes import SECTIONS
from holdfast.service.lifecycle import Lifecycle
from holdfast.service.service import Service
from holdfast.supervisor.configuration import make_schema

EUR = {"settings": {"currency": "EUR"}}
USD = {"settings": {"currency": "USD"}}
XYZ = {"settings": {"currency": "XYZ"}}


class Shop(msgspec.Struct, frozen=True):
    currency: str = "EUR"
    pool: int = 4


class Strict(msgspec.Struct, frozen=True):
    currency: str
    country: str


def bound(service: Service, values: dict[str, Any], clock: VirtualClock | None = None) -> Live:
    live = Live(make_schema(service.settings_type), Document.of(values), clock=clock or VirtualClock(), env={})
    service.bind(live)
    return live


async def changed(live: Live, values: dict[str, Any]) -> tuple[str, ...]:
    return (await live.propose(Document.of(values), who="ann")).deaf


async def refused(live: Live, values: dict[str, Any]) -> str:
    before = live.current
    with pytest.raises(ConfigError) as caught:
        await changed(live, values)
    assert live.current is before
    return str(caught.value)


def run(scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
    VirtualClock().run(scene())


def test_the_sections_that_a_service_knows_are_those_of_the_document() -> None:
    assert tuple(make_schema().sections) == SECTIONS


def test_settings_are_the_defaults_until_they_are_bound_and_then_what_holds() -> None:
    service = Service("shop", settings=Shop)
    assert service.settings_type is Shop
    assert service.settings == Shop()
    assert service.settings is service.settings

    async def scene() -> None:
        live = bound(service, USD)
        assert service.settings == Shop("USD")
        await changed(live, EUR | {"settings": {"pool": 9}})
        assert service.settings == Shop("EUR", 9)
        service.unbind()
        assert service.settings == Shop("EUR", 9)

    run(scene)


@dataclasses.dataclass(frozen=True)
class Data:
    currency: str = "EUR"


class Model(pydantic.BaseModel):
    currency: str = "EUR"


@pytest.mark.parametrize("kind", [Data, Model])
def test_settings_may_be_a_dataclass_or_a_model(kind: type[Any]) -> None:
    service = Service("shop", settings=kind)
    assert service.settings == kind()

    async def scene() -> None:
        live = bound(service, USD)
        assert service.settings == kind(currency="USD")
        assert "settings.currency" in await refused(live, {"settings": {"currency": 5}})

    run(scene)


def test_a_service_without_a_type_has_its_settings_as_a_table() -> None:
    service = Service("shop")
    assert service.settings == {}

    async def scene() -> None:
        bound(service, USD)
        assert service.settings == {"currency": "USD"}

    run(scene)


def test_settings_that_must_be_given_are_missed_before_the_start() -> None:
    service = Service("shop", settings=Strict)
    with pytest.raises(ConfigError, match=r"settings\.currency, settings\.country: expected a value; .* when the serv"):
        _ = service.settings


def test_a_type_that_no_document_can_fill_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match=r"Service settings: .* give a msgspec struct"):
        Service("shop", settings=socket_like)


def socket_like() -> None: ...


def test_settings_that_were_read_as_another_type_are_not_bound() -> None:
    service = Service("shop", settings=Shop)
    with pytest.raises(BootError, match=r"Service\('shop'\) were read as another type than Shop"):
        service.bind(Live(make_schema(), Document(), env={}))
    assert service.settings == Shop()


def test_a_live_without_the_sections_is_not_bound() -> None:
    with pytest.raises(BootError, match="no section pipelines"):
        Service("shop").bind(Live(Schema({"settings": dict}), Document(), env={}))


# -- checks


def test_a_check_gets_its_section_and_its_resources_and_may_refuse() -> None:
    service = Service("shop", settings=Shop)
    asked: list[Any] = []

    @service.resource
    async def bank() -> AsyncIterator[frozenset[str]]:
        yield frozenset({"EUR", "USD"})

    @service.check_change
    async def currency_is_known(settings: Shop, bank: frozenset[str]) -> str | None:
        asked.append(settings)
        return None if settings.currency in bank else f"no bank takes {settings.currency}"

    async def scene() -> None:
        live = bound(service, EUR)
        lifecycle = Lifecycle(service, clock=VirtualClock())
        await lifecycle.start()
        await live.verify()
        assert asked == [Shop("EUR")]
        assert "settings: expected what currency_is_known agrees to; no bank takes XYZ" in await refused(live, XYZ)
        assert service.settings == Shop("EUR")
        await changed(live, USD)
        assert asked == [Shop("EUR"), Shop("XYZ"), Shop("USD")]
        await lifecycle.stop()
        await changed(live, XYZ)  # the service has stopped: it is asked no more

    run(scene)


def test_at_boot_a_check_that_refuses_is_heard_by_verify() -> None:
    service = Service("shop", settings=Shop)

    @service.check_change
    def refuse(settings: Shop) -> bool:
        return settings.currency == "EUR"

    async def scene() -> None:
        live = bound(service, XYZ)
        with pytest.raises(ConfigError, match="expected what refuse agrees to"):
            await live.verify()

    run(scene)


def test_a_check_whose_resource_is_not_open_refuses() -> None:
    service = Service("shop", settings=Shop)

    @service.resource
    async def bank() -> AsyncIterator[None]:
        yield

    @service.check_change
    def known(settings: Shop, bank: None) -> None: ...

    @service.check_change
    async def known_too(settings: Shop, bank: None) -> None: ...

    async def scene() -> None:
        text = await refused(bound(service, EUR), USD)
        assert text.count("bank is not open; try again") == 2

    run(scene)


def test_a_check_is_asked_about_its_sections_only() -> None:
    service = Service("shop")
    asked: list[str] = []

    @service.check_change("routes")
    def of_routes() -> None:
        asked.append("routes")

    @service.check_change
    def of_errors(errors: Any) -> None:
        asked.append("errors")

    @service.check_change
    def of_all(snapshot: Snapshot) -> None:
        asked.append("all")

    @service.check_change
    def of_settings() -> None:
        asked.append("settings")

    async def scene() -> None:
        live = bound(service, {})
        await changed(live, {"routes": [{"match": "/a"}]})
        assert sorted(asked) == ["all", "routes"]
        asked.clear()
        await changed(live, {"errors": {"KeyError": "not_found"}, "settings": {"a": 1}})
        assert sorted(asked) == ["all", "errors", "routes", "settings"]  # that the routes are gone is a change too

    run(scene)


# -- hooks


def test_a_hook_is_told_of_changes_after_they_took_hold() -> None:
    service = Service("shop", settings=Shop)
    told: list[Any] = []

    @service.on_change
    def plain(settings: Shop) -> None:
        told.append((settings, service.settings))

    @service.on_change("settings", "errors", timeout="2s")
    async def asynchronous() -> None:
        told.append("asynchronous")

    async def scene() -> None:
        live = bound(service, EUR)
        assert told == []
        await changed(live, USD)
        assert told == [(Shop("USD"), Shop("USD")), "asynchronous"]
        await changed(live, USD | {"errors": {"KeyError": "not_found"}})
        assert told[2:] == ["asynchronous"]

    run(scene)


def test_a_hook_that_fails_is_named_and_the_others_are_told(caplog: pytest.LogCaptureFixture) -> None:
    service = Service("shop")
    told: list[str] = []

    @service.on_change
    def fails(settings: Any) -> None:
        raise KeyError("oops")

    @service.on_change
    def works(settings: Any) -> None:
        told.append("works")

    async def scene() -> None:
        assert await changed(bound(service, EUR), USD) == ("fails",)
        assert told == ["works"]

    with caplog.at_level(logging.CRITICAL, "holdfast.config.hooks"):
        run(scene)


def test_a_hook_that_missed_a_change_while_resources_were_opened_is_told_of_the_newest_before_the_app_starts() -> None:
    service = Service("shop", settings=Shop)
    opened = asyncio.Event()
    go = asyncio.Event()
    told: list[tuple[str, str]] = []

    @service.resource
    async def pool() -> AsyncIterator[str]:
        made = service.settings.currency
        opened.set()
        await go.wait()
        yield made

    @service.on_change
    async def resize(settings: Shop, pool: str) -> None:
        told.append((pool, settings.currency))

    @service.on_change
    def without_a_pool(settings: Shop) -> None:
        told.append(("", settings.currency))

    async def scene() -> None:
        live = bound(service, EUR)
        lifecycle = Lifecycle(service, clock=VirtualClock())
        async with asyncio.TaskGroup() as group:
            start = group.create_task(lifecycle.start())
            await opened.wait()
            await changed(live, XYZ)
            await changed(live, USD)
            assert told == [("", "XYZ"), ("", "USD")]
            go.set()
            await start
        assert told[2:] == [("EUR", "USD")]
        await changed(live, XYZ)
        assert told[3:] == [("EUR", "XYZ"), ("", "XYZ")]
        await lifecycle.stop()

    run(scene)


def test_a_service_that_is_bound_while_it_runs_tells_its_hooks_at_once() -> None:
    service = Service("shop", settings=Shop)
    told: list[str] = []

    @service.resource
    async def pool() -> AsyncIterator[str]:
        yield "pool"

    @service.on_change
    def resize(settings: Shop, pool: str) -> None:
        told.append(settings.currency)

    async def scene() -> None:
        lifecycle = Lifecycle(service, clock=VirtualClock())
        await lifecycle.start()
        await changed(bound(service, EUR), USD)
        assert told == ["USD"]
        await lifecycle.stop()

    run(scene)


def test_bound_again_it_follows_the_new_one_only() -> None:
    service = Service("shop", settings=Shop)
    told: list[str] = []

    @service.on_change
    def hear(settings: Shop) -> None:
        told.append(settings.currency)

    async def scene() -> None:
        old, new = bound(service, EUR), bound(service, EUR)
        await changed(old, XYZ)
        assert service.settings == Shop("EUR")
        await changed(new, USD)
        assert told == ["USD"]

    run(scene)


# -- what is refused


def test_wrong_declarations_of_hooks_are_refused_at_once() -> None:
    service = Service("shop")
    with pytest.raises(ConfigError, match=r"on_change 'hook' section: got 'setings', .* did you mean 'settings'"):
        service.on_change("setings")(hook)
    with pytest.raises(ConfigError, match="on_change 'hook' timeout: got 'soon'"):
        service.on_change(timeout="soon")(hook)
    with pytest.raises(ConfigError, match=r"check_change 'spread' .* a plain parameter named after a resource"):
        service.check_change(spread)
    assert service.on_change(hook) is hook
    bound(service, {})
    with pytest.raises(RuntimeError, match="on_change is declared after the service was bound"):
        service.on_change(hook)


def hook(settings: Any) -> None: ...


def spread(*args: Any) -> None: ...


def test_a_hook_that_needs_what_nobody_declares_stops_the_start() -> None:
    service = Service("shop")

    @service.on_change
    def resize(settings: Any, pol: Any) -> None: ...

    @service.resource
    async def pool() -> AsyncIterator[None]:
        yield

    with pytest.raises(BootError, match=r"on_change 'resize' needs the resource 'pol', .* did you mean 'pool'"):
        VirtualClock().run(Lifecycle(service).start())


def test_a_resource_and_a_section_of_one_name_stop_the_start() -> None:
    service = Service("shop")

    @service.check_change
    def check(settings: Any) -> None: ...

    @service.resource(name="settings")
    async def opened() -> AsyncIterator[None]:
        yield

    with pytest.raises(BootError, match="'check' asks for 'settings', which is a resource and a part of the config"):
        VirtualClock().run(Lifecycle(service).start())
