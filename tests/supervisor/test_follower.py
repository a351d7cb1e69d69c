"""A worker's side of a change: read with the app's types, held until all agree, applied, and told."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from holdfast import Service
from holdfast.config.document import Document
from holdfast.config.mistakes import ConfigErrors
from holdfast.config.secret import Secret
from holdfast.core.codes import Code
from holdfast.supervisor.channel import (
    Agreed,
    Apply,
    Configure,
    Configured,
    Disagreed,
    Forget,
    Message,
)
from holdfast.supervisor.configuration import make_schema
from holdfast.supervisor.follower import Follower, with_routes
from holdfast.supervisor.parcel import Parcel, pack
from holdfast.supervisor.settings import Settings

PATIENCE = 30.0


class Shop(msgspec.Struct, frozen=True):
    currency: str = "EUR"
    dsn: Secret = Secret("")


async def answer(scope: Any, receive: Any, send: Any) -> None:
    raise NotImplementedError


def parcel(version: int, **sections: Any) -> Parcel:
    document = Document.of(sections, "file", "holdfast.toml")
    return pack(make_schema().read(document, version=version, key=b"k"), b"k")


class Engine:
    """What is told of admission."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, Any, Any]] = []

    def configure(self, admission: Any, routes: Any, errors: Any) -> None:
        self.told.append((admission, routes, errors))


class Talk:
    """A follower, and what it said."""

    def __init__(self, service: Service | None = None, **sections: Any) -> None:
        self.service = service or Service("shop", answer, settings=Shop)
        self.logs: list[Settings] = []
        self.follower = Follower(parcel(1, **sections), self.service, self.logs.append)
        self.engine = Engine()
        self.follower.engine = self.engine  # type: ignore[assignment]  # it is only told
        self.said: asyncio.Queue[Message] = asyncio.Queue()

    async def hear(self, message: Configure | Apply | Forget) -> Message:
        self.follower.hear(message, self.said.put_nowait)
        return await self.said.get()


def run(scene: Callable[[], Awaitable[Any]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(PATIENCE):
            await scene()

    asyncio.run(main())


def test_a_change_holds_only_once_it_is_applied_and_everybody_is_told() -> None:
    async def scene() -> None:
        talk = Talk()
        told: list[str] = []
        talk.follower.live.on_change(lambda snapshot: told.append(snapshot.settings.currency), "settings")
        new = parcel(2, settings={"currency": "USD"}, routes=[{"match": "GET /x"}], run={"log_level": "debug"})
        assert await talk.hear(Configure(5, new)) == Agreed(5, ())
        assert talk.service.settings.currency == "EUR"
        assert not talk.engine.told
        assert await talk.hear(Apply(5)) == Configured(5, 2, new.digest)
        assert talk.service.settings.currency == "USD"
        assert told == ["USD"]
        assert talk.follower.live.current.version == 2
        assert [route.match for route in talk.engine.told[0][1]] == ["GET /x"]
        assert talk.logs[-1].log_level == "debug"
        await talk.follower.close()

    run(scene)


def test_what_is_forgotten_changes_nothing_and_the_next_one_can_come() -> None:
    async def scene() -> None:
        talk = Talk()
        for ticket in (1, 2):
            await talk.hear(Configure(ticket, parcel(2, settings={"currency": "USD"})))
            assert isinstance(await talk.hear(Forget(ticket)), Disagreed)
        assert (talk.service.settings.currency, talk.follower.live.current.version) == ("EUR", 1)
        await talk.hear(Configure(3, parcel(2, settings={"currency": "SEK"})))
        await talk.hear(Apply(3))
        assert talk.service.settings.currency == "SEK"
        await talk.follower.close()

    run(scene)


def test_a_newer_question_forgets_the_one_before() -> None:
    async def scene() -> None:
        talk = Talk()
        await talk.hear(Configure(1, parcel(2, settings={"currency": "USD"})))
        first = await talk.hear(Configure(2, parcel(2, settings={"currency": "SEK"})))
        assert isinstance(first, Disagreed)
        assert first.ticket == 1
        assert await talk.said.get() == Agreed(2, ())
        await talk.hear(Apply(2))
        assert talk.service.settings.currency == "SEK"
        await talk.follower.close()

    run(scene)


def test_what_the_apps_types_and_checks_do_not_take_is_refused_with_its_place() -> None:
    async def scene() -> None:
        service = Service("shop", answer, settings=Shop)

        @service.check_change
        def known(settings: Shop) -> str | None:
            return None if settings.currency in ("EUR", "USD") else "no bank takes it"

        talk = Talk(service)
        wrong = await talk.hear(Configure(1, parcel(2, settings={"curency": "USD"})))
        assert isinstance(wrong, Disagreed)
        assert (wrong.mistakes[0].path, wrong.mistakes[0].hint) == ("settings.curency", "did you mean currency?")
        refused = await talk.hear(Configure(2, parcel(2, settings={"currency": "XYZ"})))
        assert isinstance(refused, Disagreed)
        assert refused.mistakes[0].hint == "no bank takes it"
        assert talk.follower.live.current.version == 1
        await talk.follower.close()

    run(scene)


def test_a_drained_or_late_worker_takes_it_at_once() -> None:
    async def scene() -> None:
        talk = Talk()
        new = parcel(7, settings={"currency": "USD"})
        assert await talk.hear(Configure(1, new, hold=False)) == Configured(1, 7, new.digest)
        assert talk.follower.live.current.version == 7
        await talk.follower.close()

    run(scene)


def test_a_version_in_which_nothing_changes_for_the_worker_is_agreed_to_and_had_too() -> None:
    async def scene() -> None:
        talk = Talk()
        new = parcel(2)
        assert isinstance(await talk.hear(Configure(1, new)), Agreed)
        assert await talk.hear(Apply(1)) == Configured(1, 2, new.digest)
        assert talk.follower.live.current.version == 2
        await talk.follower.close()

    run(scene)


def test_errors_by_name_are_looked_up_before_the_change_and_hold_after_it() -> None:
    async def scene() -> None:
        talk = Talk(errors={"builtins:LookupError": "not_found"})
        assert talk.follower.errors.failure_of(KeyError()).code is Code.NOT_FOUND
        wrong = await talk.hear(Configure(1, parcel(2, errors={"no.such:Error": "not_found"})))
        assert isinstance(wrong, Disagreed)
        assert wrong.mistakes[0].path == 'errors."no.such:Error"'
        assert "a module no.such that can be imported" in wrong.mistakes[0].expected
        await talk.hear(Configure(2, parcel(2, errors={"builtins:LookupError": "aborted"})))
        await talk.hear(Apply(2))
        assert talk.follower.errors.failure_of(KeyError()).code is Code.ABORTED
        assert talk.engine.told[-1][2] is talk.follower.errors
        await talk.follower.close()

    run(scene)


def test_a_worker_does_not_start_with_an_exception_that_there_is_not() -> None:
    with pytest.raises(ConfigErrors, match=r'errors."builtins:LokupError": .*did you mean LookupError'):
        Follower(parcel(1, errors={"builtins:LokupError": "not_found"}), Service("shop", answer))


def test_a_hook_that_fails_is_named_and_the_change_holds() -> None:
    async def scene() -> None:
        service = Service("shop", answer, settings=Shop)

        @service.on_change
        def resize(settings: Shop) -> None:
            raise RuntimeError("no")

        talk = Talk(service)
        await talk.hear(Configure(1, parcel(2, settings={"currency": "USD"})))
        applied = await talk.hear(Apply(1))
        assert isinstance(applied, Configured)
        assert [name.rpartition(".")[2] for name in applied.deaf] == ["resize"]
        assert service.settings.currency == "USD"
        await talk.follower.close()

    run(scene)


def test_the_places_of_secrets_that_only_the_app_knows_are_told_and_not_their_texts() -> None:
    async def scene() -> None:
        talk = Talk(settings={"dsn": "pw-one"})
        assert talk.follower.secrets == (("settings", "dsn"),)
        agreed = await talk.hear(Configure(1, parcel(2, settings={"dsn": "pw-two"})))
        assert agreed == Agreed(1, (("settings", "dsn"),))
        await talk.follower.close()

    run(scene)


def test_routes_of_the_code_come_below_those_of_the_file_which_win() -> None:
    code = [
        {"match": "GET /orders/{id}", "timeout": "9s"},
        {"match": "POST /orders", "name": "create", "timeout": "9s"},
        {"match": "GET /new", "timeout": "9s"},
    ]
    given = Document.of(
        {"routes": [{"match": "GET /orders/{order}", "timeout": "1s"}, {"match": "PUT /x", "name": "create"}]},
        "file",
        "holdfast.toml",
    )
    found = with_routes(given, code)
    assert [route["match"] for route in found.get(("routes",))] == ["GET /orders/{order}", "PUT /x", "GET /new"]
    assert str(found.origin(("routes", 0, "timeout"))) == "holdfast.toml"
    assert str(found.origin(("routes", 2, "timeout"))) == "the code"
    assert with_routes(given, []) is given
    assert with_routes(Document(), code).get(("routes",)) == code
    assert given.get(("routes",)) != found.get(("routes",))
